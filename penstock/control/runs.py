"""What can be done with runs: begin a rebuild, look at runs, pause, resume and cancel them."""

from __future__ import annotations

import time
import uuid

import msgspec

from loader import registry
from loader.contract.warehouse import Capabilities
from shared.devices.connections import IN_THE_BROWSER
from shared.errors import ConfigError, Problem
from shared.jetstream.broker import Broker
from shared.project.shards import shard_names
from shared.project.snapshot import ConfigSnapshot, current_snapshot
from shared.reading.decode import meant
from shared.streams.runs import Part, Run, begin_run, change_run, read_run, read_runs


def parts_of(config: ConfigSnapshot, target: str) -> dict[str, Part]:
    """Returns the parts of a rebuild: a connection, or all enabled connections of a destination.

    Raises:
        ConfigError: there is no such destination or connection, or it cannot be rebuilt; says why and what to do.
    """
    project = config.project
    if target in project.connections:
        names = shard_names(project.connections, target)
    elif target in project.destinations:
        names = [name for name, each in project.connections.items() if each.destination == target and each.enabled]
        if not names:
            raise ConfigError([Problem("", f"no enabled connection loads into {target!r}")])
    elif target in project.devices:
        raise ConfigError([Problem("", f"connection {target!r} {IN_THE_BROWSER}; there is nothing to load again")])
    else:
        known = sorted({*project.destinations, *project.connections})
        said = ", ".join(known) or "none"
        raise ConfigError([Problem("", f"no destination or connection is named {target!r};{meant(target, known)} known: {said}")])
    for name in names:
        _check(config, name)
    return {name: Part(queue=config.queue_of(name), site=project.connections[name].site) for name in names}


def _check(config: ConfigSnapshot, name: str) -> None:
    connection = config.project.connections[name]
    type_ = config.project.destinations[connection.destination]["type"]
    if not connection.enabled:
        raise ConfigError([Problem("", f"connection {name!r} is disabled; enable it first")])
    capabilities = registry.plugin(type_).CAPABILITIES
    if not isinstance(capabilities, Capabilities) or not capabilities.transactional:
        raise ConfigError(
            [
                Problem(
                    "",
                    f"connection {name!r} loads into {type_}, which keeps no ledger; send its events again with "
                    f"`penstock replay --site {connection.site} --from 30d --connection {name}`, which reads the archive too",
                )
            ]
        )


async def rebuild(broker: Broker, target: str) -> Run:
    """Begins a rebuild; services carry it on.

    Raises:
        ConfigError: as `parts_of`, or a run of one of the connections is under way; says which.
        NotConnected, Transient: the broker does not answer.
    """
    config = await current_snapshot(broker)
    parts = parts_of(config, target)
    for run in await read_runs(broker):
        if not run.is_over and (both := sorted(parts.keys() & run.parts.keys())):
            raise ConfigError(
                [Problem("", f"run {run.id} rebuilds {', '.join(both)} already; see `penstock runs show {run.id}`")]
            )
    now = time.time()
    run = Run(id=uuid.uuid4().hex[:12], target=target, parts=parts, created_at=now).saying(f"asked for {target}")
    await begin_run(broker, run)
    return run


async def find_run(broker: Broker, run_id: str) -> Run:
    """Returns a run.

    Raises:
        ConfigError: there is none.
        NotConnected: the broker does not answer.
    """
    found = await read_run(broker, run_id)
    if found is None:
        known = ", ".join(run.id for run in await read_runs(broker)) or "none"
        raise ConfigError([Problem("", f"no run is named {run_id!r}; known: {known}")])
    return found[0]


async def want(broker: Broker, run_id: str, wish: str) -> Run:
    """Pauses, resumes or cancels a run, and returns it. One that has ended stays as it is.

    Args:
        wish: `pause`, `resume` or `cancel`.

    Raises:
        ConfigError: there is no such run.
        NotConnected, Transient: the broker does not answer.
    """
    await find_run(broker, run_id)
    wished = {"pause": "pause", "cancel": "cancel"}.get(wish, "")

    def change(run: Run) -> Run:
        if run.is_over or run.wish in ("cancel", wished):
            return run
        return msgspec.structs.replace(run, wish=wished).saying(f"asked to {wish}")

    return await change_run(broker, run_id, change) or await find_run(broker, run_id)
