"""Looks at runs of syncs, and asks for one."""

from __future__ import annotations

import asyncio
import getpass
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from shared.errors import ConfigError, NotConnected, Problem, SetupError
from shared.jetstream import lease, topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.project.snapshot import current_snapshot
from shared.project.syncs import Sync
from shared.reading.decode import meant
from shared.streams.sync_state import SyncStatus, read_syncs
from shared.syncs.progress import named, read_progress
from shared.syncs.records import Ask, Log, RunRecord, ask, ask_key, earlier_runs, log_of, newest_run, pending_ask

POLL_SECONDS = 0.5
TAKEN_SECONDS = 15.0
"""How long a runner of connectors gets to take what is asked."""
LOOK_SECONDS = 5.0
"""How often it is looked whether a runner has the sync."""
PATIENCE_SECONDS = 60.0
"""How long a broker may be away while a run is followed."""


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """A sync of the applied project. `newest`: its newest run."""

    name: str
    sync: Sync
    newest: RunRecord | None
    status: SyncStatus


async def list_syncs(broker: Broker) -> list[Known]:
    """Returns the syncs of the applied project. Raises `NotConnected` if the broker does not answer."""
    project = (await current_snapshot(broker)).project
    states, newest = await read_syncs(broker, project, time.time())
    return [Known(name=each.sync, sync=project.syncs[each.sync], newest=newest.get(each.sync), status=each) for each in states]


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
        ConfigError: as `known_sync`, or there is nothing to reset of a stream.
        NotConnected: as `known_sync`.
    """
    known = await known_sync(broker, name)
    if what == "reset":
        await _check_known(broker, known, streams)
    if not known.sync.enabled:
        raise SetupError(f"sync {name} is off; set `enabled: true` in the project file and apply it")
    bucket = Bucket(broker, topology.STATE_BUCKET)
    wanted = Ask(id=uuid.uuid4().hex, what=what, at=time.time(), by=getpass.getuser(), streams=tuple(streams), afresh=afresh)
    if what == "cancel" and known.newest is not None:
        wanted = msgspec.structs.replace(wanted, number=known.newest.number)
    waiting, _ = await pending_ask(bucket, ask_key(name))
    if (
        what == "run"
        and waiting is not None
        and (waiting.what, waiting.streams, waiting.afresh) == (what, wanted.streams, afresh)
    ):
        return waiting  # the same that another person waits for
    await ask(bucket, name, wanted)
    return wanted


async def _check_known(broker: Broker, known: Known, streams: Sequence[str]) -> None:
    """Raises `ConfigError` for streams that have no state: a name that is not quite right must not pass for a reset."""
    progress, _ = await read_progress(Bucket(broker, topology.STATE_BUCKET), known.name)
    runs = known.newest.streams if known.newest is not None else {}
    read = {*runs, *progress.streams, *(named(state) for state in progress.states if state.name is not None)}
    for stream in streams:
        if stream not in read:
            hint = f"it read: {', '.join(sorted(read)) or 'none yet'}"
            raise ConfigError(
                [Problem("stream", f"sync {known.name} never read a stream {stream!r};{meant(stream, read)} {hint}")]
            )


async def follow_run(broker: Broker, name: str, asked: Ask, seen: Callable[[RunRecord, str], None]) -> RunRecord:
    """Waits until a run that was asked for ends.

    Args:
        seen: is told how it goes on, and what keeps it from that: no runner, a broker that does not answer; empty: nothing.

    Raises:
        SetupError: no runner of connectors takes it.
        NotConnected: the broker does not answer for `PATIENCE_SECONDS`.
    """
    bucket, since = Bucket(broker, topology.STATE_BUCKET), time.monotonic()
    answered, looked, runner = since, since, True
    record: RunRecord | None = None
    while True:
        try:
            record = await newest_run(bucket, name)
            found = None if record is None else await _answer_to(bucket, record, asked)
            if record is not None and record.is_open and time.monotonic() - looked > LOOK_SECONDS:
                looked, runner = time.monotonic(), await lease.holder(broker, f"sync.{name}") is not None
            answered = time.monotonic()
        except NotConnected as exc:
            if record is None or time.monotonic() - answered > PATIENCE_SECONDS:
                raise NotConnected(f"{exc}; a run that began goes on: penstock sync list") from exc
            seen(record, f"the broker does not answer: {exc}")
            await asyncio.sleep(POLL_SECONDS)
            continue
        trouble = "" if runner else "no runner works on it, it goes on as soon as one does; is connector_runner up?"
        if found is not None:
            seen(found, trouble if found.status == "running" else "")
            if not found.is_open:
                return found
        elif record is not None and record.status == "running":
            seen(record, trouble)  # the one before
            since = time.monotonic()
        elif time.monotonic() - since > TAKEN_SECONDS:
            raise SetupError(
                f"no runner of connectors took the run within {TAKEN_SECONDS:g} s; start `penstock up`, or `python -m connector_runner`. "
                "It runs as soon as one is there"
            )
        await asyncio.sleep(POLL_SECONDS)


async def _answer_to(bucket: Bucket, newest: RunRecord, asked: Ask) -> RunRecord | None:
    """Returns the run that was asked for, or the one that goes on with it where it was cut off; None: it did not begin.

    Another run may have followed it since the last look, as of a sync that is due every ten seconds.
    """
    if newest.asked == asked.id:
        return newest
    found: RunRecord | None = None
    for each in (*reversed(await earlier_runs(bucket, newest.sync)), newest):
        if each.asked == asked.id or (found is not None and found.is_open):
            found = each
    return found
