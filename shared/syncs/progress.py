"""The progress of a sync: one value a sync in the bucket `state`, written by the loader behind its commit, read by all.

It says how far the destination is, and holds the states of the connector up to there. So states are never ahead of rows. Where the
loader dies between its commit and this note, the frames come again; it sees in the destination's ledger that they are loaded, and
notes it then. A runner begins a run only when no frame of an earlier one waits, so it begins from the newest state.
"""

from __future__ import annotations

import time

import msgspec

from shared.errors import UNREADABLE, Permanent
from shared.jetstream.kv import Bucket, Entry
from shared.syncs.frames import RowStream, State, Write

VERSION = 1


class StreamProgress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A stream in the newest run. `loaded`: rows that were taken from the queue and are in the table, or were merged into others;
    `dead`: rows that became dead letters. `failed`: why the loader gave up on the stream in this run; empty: it did not. `over`: all its rows are loaded."""

    loaded: int = 0
    dead: int = 0
    unmapped: int = 0
    """Values that fitted no column and went to `_unmapped_data`."""
    failed: str = ""
    over: bool = False
    table: str = ""
    """The table's name in the destination."""
    batch: int = 0
    """The newest batch of the run that left a mark for the table in the destination; 0: none did."""


class Kept(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the state of a stream rests on: rows that must still be in the destination (`loader/syncs/kept.py`).

    `wanted`: the table as the runner wants it, `table`: as the destination spells it. `run`, `batch`: the newest load into it; 0: none. `lost`: why
    the rows are not there any more, where a person must say what becomes of it.
    """

    wanted: str
    write: Write
    table: str = ""
    key: tuple[tuple[str, ...], ...] = ()
    run: int = 0
    batch: int = 0
    lost: str = ""

    @classmethod
    def of(cls, stream: RowStream, table: str = "") -> Kept:
        """Returns how a stream is stored now."""
        return cls(wanted=stream.table, write=stream.write, table=table, key=tuple(sorted(stream.key)))

    def serves(self, now: Kept) -> bool:
        """Whether the state still tells what is missing where rows are stored as `now`: not in another table, or by another key."""
        if self.wanted != now.wanted or (self.write == "replace" != now.write):
            return False
        # by a key each row has one place, and what was left out for another key, or by insert_only, is missing
        return not now.key or (self.write, self.key) == (now.write, now.key)


class SyncProgress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far a sync is. `run`, `batch`: the last batch that is loaded. `states`: of the connector. `streams`: by name, of this run."""

    version: int = VERSION
    destination: str = ""
    run: int = 0
    batch: int = 0
    last: bool = False
    """Whether the last batch of the run is loaded."""
    at: float = 0.0
    """Epoch seconds of the note."""
    rows_at: float = 0.0
    """When rows were loaded the last time (epoch seconds); 0: never."""
    states: tuple[State, ...] = ()
    streams: dict[str, StreamProgress] = {}
    kept: dict[str, Kept] = {}
    """What the states rest on, by stream."""
    again: dict[str, str] = {}
    """Why all rows of a stream are read again, by stream, until a run is over."""
    waits: str = ""
    """Why the loader cannot go on for now; empty: it can."""
    failed: str = ""
    """Why the loader leaves out what is left of the run, and notes no state of it; empty: it does not."""


def key_of(sync: str) -> str:
    """Returns the key of a sync's progress in the bucket `state`."""
    return f"synced.{sync}"


def number_key(sync: str) -> str:
    """Returns the key under which runners keep the highest number that they gave to a run in the queue."""
    return f"sync-number.{sync}"


def without_states(known: tuple[State, ...], forgets: tuple[str, ...] | None) -> tuple[State, ...]:
    """Returns the states that a batch does not forget (`BatchEnd.forgets`).

    A state of all streams together goes when one of them is forgotten: it cannot be taken apart.
    """
    if forgets is None:
        return ()
    return tuple(state for state in known if not forgets or (state.name is not None and named(state) not in forgets))


def named(state: State) -> str:
    """Returns the name of a state's stream as people write it; empty for a state of all streams."""
    return f"{state.namespace}.{state.name}" if state.namespace else state.name or ""


def with_states(known: tuple[State, ...], newer: tuple[State, ...]) -> tuple[State, ...]:
    """Returns states after newer ones came: one of all streams together replaces all, others that of their stream."""
    found = list(known)
    for state in newer:
        if state.name is None:
            found = [state]
        else:
            found = [each for each in found if (each.name, each.namespace) != (state.name, state.namespace)]
            found.append(state)
    return tuple(found)


async def read_progress(bucket: Bucket, sync: str) -> tuple[SyncProgress, int]:
    """Returns the progress of a sync and its revision; nothing and 0 if it has none yet.

    Raises:
        NotConnected: the broker does not answer.
        Permanent: a later version wrote it.
    """
    entry = await bucket.get(key_of(sync))
    return (SyncProgress(), 0) if entry is None else (progress_of(entry), entry.revision)


def progress_of(entry: Entry) -> SyncProgress:
    """Returns the progress in an entry; nothing if the entry was deleted.

    Raises:
        Permanent: a later version wrote it.
    """
    if entry.value is None:
        return SyncProgress()
    try:
        found = msgspec.msgpack.decode(entry.value, type=SyncProgress)
    except UNREADABLE as exc:
        raise Permanent(f"the progress under {entry.key} cannot be read: {exc}") from exc
    if found.version > VERSION:
        raise Permanent(
            f"the progress under {entry.key} is of version {found.version}, newer than {VERSION}; upgrade this service"
        )
    return found


async def next_number(bucket: Bucket, sync: str, above: int) -> int:
    """Returns a number for a run in the queue: above all before it, and given once. The clocks of the runners do not matter.

    Args:
        above: the highest number that the loader noted.

    Raises:
        Conflict: another runner took one at the same time.
        NotConnected, Transient: the broker does not answer.
    """
    entry = await bucket.get(number_key(sync))
    given = int(entry.value) if entry is not None and entry.value else 0
    # the clock keeps numbers growing where the bucket was lost, for ledgers that know earlier runs
    number = max(given + 1, above + 1, time.time_ns() // 1_000_000)
    await bucket.put(number_key(sync), str(number).encode(), revision=entry.revision if entry is not None else 0)
    return number


async def write_progress(bucket: Bucket, sync: str, progress: SyncProgress, revision: int) -> int:
    """Writes the progress of a sync; returns its revision.

    Args:
        revision: of the value that this one follows; 0: there is none.

    Raises:
        Conflict: another writer was there.
        NotConnected, Transient: not known to be written.
    """
    return await bucket.put(key_of(sync), msgspec.msgpack.encode(progress), revision=revision)
