"""Looks at runs of syncs, and asks for one."""

from __future__ import annotations

import asyncio
import getpass
import math
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from shared.errors import ConfigError, Problem, SetupError
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.project.snapshot import current_snapshot
from shared.project.syncs import Sync
from shared.reading.decode import meant
from shared.syncs.records import Ask, Log, RunRecord, ask, earlier_runs, log_of, newest_run

POLL_SECONDS = 0.5
TAKEN_SECONDS = 15.0
"""How long a runner of connectors gets to take what is asked."""


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """A sync of the applied project. `newest`: its newest run; `due`: epoch seconds of the next one, None: it has no schedule."""

    name: str
    sync: Sync
    newest: RunRecord | None
    due: float | None


async def list_syncs(broker: Broker) -> list[Known]:
    """Returns the syncs of the applied project. Raises `NotConnected` if the broker does not answer."""
    snapshot = await current_snapshot(broker)
    bucket = Bucket(broker, topology.STATE_BUCKET)
    found: list[Known] = []
    for name, sync in snapshot.project.syncs.items() if snapshot is not None else ():
        newest = await newest_run(bucket, name)
        clock = sync.clock(name)
        due = clock.after(newest.began if newest is not None else time.time())
        found.append(Known(name=name, sync=sync, newest=newest, due=due if sync.enabled and due < math.inf else None))
    return found


async def known_sync(broker: Broker, name: str) -> Known:
    """Returns a sync of the applied project.

    Raises:
        ConfigError: it has none of this name.
        NotConnected: the broker does not answer.
    """
    syncs = {each.name: each for each in await list_syncs(broker)}
    if name not in syncs:
        hint = f"known: {', '.join(syncs)}" if syncs else "the applied project has none"
        raise ConfigError([Problem("syncs", f"no sync is named {name!r};{meant(name, syncs)} {hint}")])
    return syncs[name]


async def runs_of(broker: Broker, name: str) -> list[RunRecord]:
    """Returns the runs of a sync, the newest first. Raises as `known_sync`."""
    known = await known_sync(broker, name)
    earlier = await earlier_runs(Bucket(broker, topology.STATE_BUCKET), name)
    return [known.newest, *earlier] if known.newest is not None else earlier


async def log_of_run(broker: Broker, name: str, number: int | None) -> tuple[int, Log | None]:
    """Returns the number of a run and its log; of the newest run if `number` is None.

    Raises:
        SetupError: the sync never ran.
        ConfigError, NotConnected: as `known_sync`.
    """
    known = await known_sync(broker, name)
    if known.newest is None:
        raise SetupError(f"sync {name} never ran; start a run with `penstock sync run {name}`")
    wanted = known.newest.number if number is None else number
    return wanted, await log_of(Bucket(broker, topology.STATE_BUCKET), name, wanted)


async def ask_for(
    broker: Broker,
    name: str,
    what: Literal["run", "reset", "cancel"],
    streams: Sequence[str] = (),
    *,
    afresh: bool = False,
) -> Ask:
    """Asks for something; returns what was asked.

    Raises:
        Conflict: something else is asked for already.
        SetupError: the sync is off.
        ConfigError, NotConnected: as `known_sync`.
    """
    known = await known_sync(broker, name)
    if not known.sync.enabled:
        raise SetupError(f"sync {name} is off; set `enabled: true` in the project file and apply it")
    wanted = Ask(id=uuid.uuid4().hex, what=what, at=time.time(), by=getpass.getuser(), streams=tuple(streams), afresh=afresh)
    await ask(Bucket(broker, topology.STATE_BUCKET), name, wanted)
    return wanted


async def follow_run(broker: Broker, name: str, asked: Ask, seen: Callable[[RunRecord], None]) -> RunRecord:
    """Waits until a run that was asked for ends; `seen` is told how it goes on.

    Raises:
        SetupError: no runner of connectors takes it.
        NotConnected: the broker does not answer.
    """
    bucket, since = Bucket(broker, topology.STATE_BUCKET), time.monotonic()
    number = 0
    while True:
        record = await newest_run(bucket, name)
        if record is not None and (record.asked == asked.id or (number and record.number >= number)):
            number = record.number
            seen(record)
            if record.status not in ("running", "interrupted"):
                return record
        elif record is not None and record.status == "running":
            seen(record)  # the one before
            since = time.monotonic()
        elif time.monotonic() - since > TAKEN_SECONDS:
            raise SetupError(
                f"no runner of connectors took the run within {TAKEN_SECONDS:g} s; start `penstock up`, or `python -m connector_runner`. "
                "It runs as soon as one is there"
            )
        await asyncio.sleep(POLL_SECONDS)
