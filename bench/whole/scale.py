"""What a cluster for so many events a day needs, from costs measured here: `python -m bench.whole.scale measure | plan | day`.

measure: the whole path with 1, 10 and 100 events a request, and an outage of the loader; writes `bench/scaling/costs.json`. Takes two minutes.
plan: processes, brokers and disks for a load. day: the same load over a day in steps of a second, with a destination that is away for an hour.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import psutil

from bench import history
from bench.kit.events import bodies
from bench.kit.machine import Meter
from bench.kit.stack import KEY, Stack, finish, pump, stack
from bench.scaling.costs import FILE, Costs, Outage, Sample, read
from bench.scaling.day import curve, simulate, stages
from bench.scaling.model import COMPRESSION, SECONDS_A_DAY, Load, Machine, plan
from bench.whole.path import committed, wait_committed
from shared.jetstream.broker import Broker, connect
from tests.support.nats import nats_server
from tests.support.postgres import PostgresServer

NAMES = {"ingest": "ingest", "nats": "broker", "router": "router", "loader": "loader", "postgres": "destination"}


class _Place(NamedTuple):
    running: Stack
    server: PostgresServer

    def pids(self) -> dict[str, int]:
        own = self.running.pids
        return {name: own[name] for name in ("ingest", "router", "loader") if name in own} | {
            "nats": self.running.nats.pid,
            "postgres": self.server.pid,
        }


@contextlib.contextmanager
def _place(*services: str) -> Iterator[_Place]:
    with (
        tempfile.TemporaryDirectory() as folder,
        PostgresServer(settings={"shared_buffers": "256MB", "max_wal_size": "4GB"}) as server,
        stack(Path(folder), {}) as running,
    ):
        asyncio.run(
            running.apply(
                {
                    "sites": {"bench": {"keys": [{"id": KEY, "kind": "server"}]}},
                    "destinations": {"wh": {"type": "postgres", "dsn": server.dsn()}},
                    "connections": {
                        "bench-wh": {"site": "bench", "destination": "wh", "layout": "single_table", "deduplicate": False,
                                     "batch": {"period": "1s", "max_rows": 100_000}},
                    },
                }
            )
        )  # fmt: skip
        running.start_all(*services)
        yield _Place(running, server)


def _stored(running: Stack) -> int:
    """Returns how many messages the broker ever stored, in all streams and buckets."""

    async def ask() -> int:
        async with connect(running.nats.url, "bench") as broker:
            return sum(each.state.last_seq for each in await broker.js.streams_info())

    return asyncio.run(ask())


def _written(pid: int) -> int:
    return psutil.Process(pid).io_counters().write_bytes


def _costs(meter: Meter, events: int) -> dict[str, float]:
    return {NAMES[name]: round(1e6 * cost.cpu_seconds / events, 2) for name, cost in meter.costs.items()}


def _sample(per_request: int, events: int) -> Sample:
    with _place("ingest", "router", "loader") as place:
        running = place.running
        stored, written, began = _stored(running), _written(running.nats.pid), time.monotonic()
        with Meter(place.pids()) as meter:
            finish(pump(running, events=events, kind="flat", per_request=per_request, connections=64 if per_request == 1 else 16))
            wait_committed(running, events, 300)
        return Sample(
            per_request=per_request,
            cpu_us=_costs(meter, events),
            syncs=round((_stored(running) - stored) / events, 4),
            written=round((_written(running.nats.pid) - written) / events, 1),
            rate=round(events / (time.monotonic() - began)),
            others=round(meter.others_share, 2),
        )


def _outage(rate: int, seconds: int, away: float) -> Outage:
    with _place("ingest", "router", "loader") as place:
        running, events = place.running, rate * seconds
        running.stop("loader")
        pids = {name: pid for name, pid in place.pids().items() if name != "loader"}
        with Meter(pids) as meter:
            sender = pump(running, events=events, kind="flat", per_request=100, connections=16, rate=rate)
            time.sleep(away)
            running.start("loader")
            running.wait_ready("loader")
            began = time.monotonic()
            with Meter({"loader": running.pids["loader"]}) as loading:
                while _accepted(running) - committed(running) > 2 * rate:  # a load is made once a second
                    time.sleep(0.05)
                caught_up = time.monotonic() - began
                finish(sender)
                wait_committed(running, events, 300)
        return Outage(
            rate=rate,
            seconds=seconds,
            away=away,
            caught_up=round(caught_up, 1),
            cpu_us=_costs(meter, events) | _costs(loading, events),
            others=round(meter.others_share, 2),
        )


def _accepted(running: Stack) -> float:
    return running.metric("ingest", "ingest_events_accepted_total")


def _syncs(seconds: float = 3.0) -> float:
    """Returns how many small messages a second one stream syncs, with 16 on their way at once."""
    done = 0

    async def publish(broker: Broker, ends_at: float) -> None:
        nonlocal done
        while time.monotonic() < ends_at:
            await broker.js.publish("bench", bytes(1000))
            done += 1

    async def run(url: str) -> None:
        async with connect(url, "bench", patience_seconds=10) as broker:
            await broker.js.add_stream(name="BENCH", subjects=["bench"])
            await asyncio.gather(*(publish(broker, time.monotonic() + seconds) for _ in range(16)))

    with tempfile.TemporaryDirectory() as folder, nats_server(Path(folder)) as server:
        asyncio.run(run(server.url))
    return done / seconds


def _measure() -> None:
    samples = [_sample(1, 40_000), _sample(10, 150_000), _sample(100, 300_000)]
    found = Costs(
        at=datetime.datetime.now(datetime.UTC).date().isoformat(),
        machine=history.machine(),
        cores=psutil.cpu_count() or 1,
        body=sum(map(len, bodies("flat", 100, "RUNTOKEN"))) // 100,
        samples=samples,
        outage=_outage(8_000, 35, 20.0),
        synced_a_second=round(_syncs()),
    )
    FILE.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    for each in samples:
        print(
            f"{each.per_request:3} a request: {each.rate:,.0f} events/s, {each.syncs:.3f} syncs and {each.written:,.0f} bytes written an event"
        )
        print("    CPU s per million: " + ", ".join(f"{name} {cost:.1f}" for name, cost in each.cpu_us.items()))
    print(f"outage: {found.outage}; one broker syncs {found.synced_a_second:,.0f} messages/s")


def _plan(load: Load, machine: Machine) -> None:
    found = plan(load, read(), machine)
    print(f"{found.mean:,.0f} events/s on average, {found.peak:,.0f} at the peak")
    for stage, cores in found.cores.items():
        print(
            f"  {stage:12} {cores:7.1f} cores at the peak"
            + (f", {found.processes[stage]} processes" if stage in found.processes else "")
        )
    print(f"  services on {found.machines} machines of {machine.cores} cores, {100 * machine.busy:.0f} % of them in use")
    print(
        f"  {found.brokers} brokers: {found.syncs_a_broker:,.0f} syncs/s and {found.megabytes_a_broker:,.0f} MB/s written by each; "
        f"EVENTS of {load.keep_hours:g} hours: {found.stored_terabytes:,.1f} TB with {load.replicas} copies"
    )
    for limit in found.limits:
        print(f"  does not fit: {limit}")


def _day(load: Load, machine: Machine, away_seconds: int) -> None:
    costs = read()
    noon = SECONDS_A_DAY // 2
    path = stages(load, costs, plan(load, costs, machine), machine)
    found = simulate(curve(load), SECONDS_A_DAY, path, (noon, noon + away_seconds))
    print(f"loaded {found.loaded:,.0f} events, {found.left:,.0f} wait at midnight; the oldest was {found.oldest:,.0f} s old")
    print(f"destinations away at noon for {away_seconds:,} s: all caught up {found.caught_up:,.0f} s later")
    for name, most in found.most_waiting.items():
        print(f"  most that waited before {name}: {most:,.0f} events, {most * costs.body / COMPRESSION / 1e9:,.1f} GB in frames")


def main() -> None:
    """Parses the arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["measure", "plan", "day"])
    parser.add_argument("--events-a-day", type=float, default=1e10)
    parser.add_argument("--peak", type=float, default=2.5, help="the busiest minute over the mean")
    parser.add_argument("--per-request", type=float, default=10)
    parser.add_argument("--sites", type=int, default=100)
    parser.add_argument("--connections", type=int, default=2, help="of each site")
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--keep-hours", type=float, default=24, help="what EVENTS keeps")
    parser.add_argument("--cores", type=int, default=16, help="of each machine")
    parser.add_argument("--busy", type=float, default=0.6, help="share of them that is planned for")
    parser.add_argument("--away", type=int, default=3600, help="seconds that the destinations are away (day)")
    given = parser.parse_args()
    load = Load(
        given.events_a_day, given.peak, given.per_request, given.sites, given.connections, given.replicas, given.keep_hours
    )
    machine = Machine(given.cores, given.busy)
    if given.what == "measure":
        _measure()
    elif given.what == "plan":
        _plan(load, machine)
    else:
        _day(load, machine, given.away)


if __name__ == "__main__":
    main()
