"""From a load and the costs to processes, brokers and disks. Pure.

Assumptions, which `docs/scaling.md` repeats:

- the cost of a stage grows with its events, so it is the measured CPU an event times the events; nothing is shared between processes;
- a router costs once for each site, and queues, loaders and destinations cost once for each connection of it;
- a copy of a stream costs its broker what the first costs, in CPU, bytes and syncs; the copies lie on different machines;
- one router process works on a site, and one loader process on a connection, so no site and no connection may need more than one core;
- a machine is planned for `busy` of its cores.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from bench.scaling.costs import STAGES, Costs

SECONDS_A_DAY = 86_400
COMPRESSION = 5
"""How much smaller the broker's frames are than the JSON in them; measured bytes on disk hold it already."""


class Load(NamedTuple):
    """What comes. `peak`: events/s of the busiest minute over those of the mean. `sites` are of one size, with `connections` each."""

    events_a_day: float
    peak: float = 2.5
    per_request: float = 10
    sites: int = 100
    connections: int = 2
    replicas: int = 3
    keep_hours: float = 24


class Machine(NamedTuple):
    """One node of the cluster."""

    cores: int = 16
    busy: float = 0.6


class Plan(NamedTuple):
    """What the load needs at its peak. `limits`: what does not fit, in words with the remedy; empty when all does."""

    mean: float
    peak: float
    cores: dict[str, float]
    processes: dict[str, int]
    machines: int
    brokers: int
    syncs_a_broker: float
    megabytes_a_broker: float
    stored_terabytes: float
    limits: list[str]


def plan(load: Load, costs: Costs, machine: Machine) -> Plan:
    """Returns what a load needs."""
    mean = load.events_a_day / SECONDS_A_DAY
    peak = mean * load.peak
    of = {stage: costs.cpu_us(stage, load.per_request) / 1e6 for stage in STAGES}
    # the measured broker stored each event twice: in EVENTS, and in the queue of the one connection
    stored = (1 + load.connections) / 2 * load.replicas
    cores = {
        "ingest": peak * of["ingest"],
        "broker": peak * of["broker"] * stored,
        "router": peak * of["router"] * load.connections,
        "loader": peak * of["loader"] * load.connections,
        "destination": peak * of["destination"] * load.connections,
    }
    processes = {
        "ingest": math.ceil(cores["ingest"] / machine.busy),
        "router": min(load.sites, math.ceil(cores["router"] / machine.busy)),
        "loader": min(load.sites * load.connections, math.ceil(cores["loader"] / machine.busy)),
    }
    syncs = peak * costs.syncs(load.per_request) * stored
    # a broker syncs one message after the other, and its CPU is that of a machine
    brokers = max(
        load.replicas,
        math.ceil(syncs / (costs.synced_a_second * machine.busy)),
        math.ceil(cores["broker"] / (machine.cores * machine.busy)),
    )
    services = sum(cores[stage] for stage in ("ingest", "router", "loader"))
    written = peak * costs.written(load.per_request) * stored
    return Plan(
        mean=mean,
        peak=peak,
        cores=cores,
        processes=processes,
        machines=math.ceil(services / (machine.cores * machine.busy)),
        brokers=brokers,
        syncs_a_broker=syncs / brokers,
        megabytes_a_broker=written / brokers / 1e6,
        stored_terabytes=mean * costs.body / COMPRESSION * load.keep_hours * 3600 * load.replicas / 1e12,
        limits=_limits(load, of, peak, machine),
    )


def _limits(load: Load, of: dict[str, float], peak: float, machine: Machine) -> list[str]:
    found = []
    of_site = peak / load.sites
    if (share := of_site * of["router"] * load.connections / machine.busy) > 1:
        found.append(
            f"a site needs {share:.1f} routers and has one: at least {math.ceil(load.sites * share)} sites of one size are needed"
        )
    if (share := of_site * of["loader"] / machine.busy) > 1:
        found.append(
            f"a connection needs {share:.1f} loaders and has one: split each in {math.ceil(share)} by `where`, "
            f"or its site in {math.ceil(share)} sites"
        )
    return found
