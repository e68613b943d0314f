"""Runs of syncs as people see them: the newest run, its log, the ones before, and what people ask for.

All is in the bucket `state`: `sync-run.<sync>` is the newest run, `sync-runs.<sync>` the `KEPT_RUNS` before it, `sync-log.<sync>.<slot>`
the logs of the last `KEPT_LOGS`, `sync-ask.<sync>` what a person asks for, `sync-cancel.<sync>` which run a person ends. Only the holder
of a sync's lease writes the first three, and a holder that was frozen meanwhile writes over none of its successor.
"""

from __future__ import annotations

import time
from typing import Literal, TypeVar

import msgspec

from shared.errors import UNREADABLE, Conflict
from shared.jetstream.kv import Bucket

KEPT_RUNS = 50
KEPT_LOGS = 10
LOG_LINES = 500
LOG_CHARACTERS = 1000
LOADER = "the loader"
"""What a run waits for while all is well: the loader is at work."""

Status = Literal["running", "succeeded", "partial", "failed", "cancelled", "timed_out", "interrupted"]
FAILED: tuple[Status, ...] = ("failed", "partial", "timed_out")
"""Ends that a person wants to know of."""
StreamStatus = Literal["waiting", "running", "read", "succeeded", "failed", "cancelled"]
"""waiting: no row came yet. read: all rows came, and not all are loaded."""

T = TypeVar("T")


class StreamRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A stream in a run. `rows`, `bytes`: read from the connector; `loaded`, `dead`: what became of the rows in the destination.

    `rows` are `filtered`, `unreadable`, `loaded`, `dead`, or on their way.
    """

    mode: str = ""
    write: str = ""
    table: str = ""
    status: StreamStatus = "waiting"
    rows: int = 0
    bytes: int = 0
    estimate: int | None = None
    """Rows that the connector expects."""
    filtered: int = 0
    """Rows that do not meet `where`."""
    removals: int = 0
    """Those of the filtered rows that were sent without their values, so that an earlier version of them goes."""
    unreadable: int = 0
    """Rows that are not JSON, where the stream has rules: they are not sent."""
    loaded: int = 0
    dead: int = 0
    unmapped: int = 0
    error: str = ""


class SourceBehind(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far a run is behind a source that keeps what is not stored yet, as `connector_runner.contract.Behind`."""

    bytes: int = 0
    kept: int = 0
    seconds: float = 0.0
    room: int | None = None


class RunRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A run. `number` counts a sync's runs from 1; `asked` is the id of what a person asked for, empty if the schedule did."""

    number: int
    sync: str
    connector: str
    destination: str
    began: float
    """Epoch seconds, as `ended`."""
    status: Status = "running"
    ended: float = 0.0
    attempts: int = 1
    asked: str = ""
    only: tuple[str, ...] = ()
    """The streams that are read; empty: all of the sync."""
    afresh: bool = False
    """Whether the states of these streams are still to be forgotten. A run that is cut off goes on as it was asked for."""
    error: str = ""
    waits: str = ""
    """What the run waits for now; empty: nothing. `LOADER`: for nothing out of order."""
    again_at: float = 0.0
    """When the next attempt begins, after one that failed (epoch seconds); 0: none waits."""
    silent_since: float = 0.0
    """Since when the connector says nothing although it is asked (epoch seconds); 0: it speaks."""
    person: bool = False
    """Whether the failure stays until a person changes something."""
    queued: tuple[int, int] = (0, 0)
    """The newest batch in the queue, and the number that its run has there."""
    streams: dict[str, StreamRecord] = {}
    behind: SourceBehind | None = None
    """How far it is behind its source; None: the connector does not say."""

    @property
    def is_open(self) -> bool:
        """Whether it did not end: a runner is at it, or it was cut off, and the next run goes on with it."""
        return self.status in ("running", "interrupted")

    def close(self, status: Status, error: str = "") -> None:
        """Ends it."""
        self.status, self.ended = status, time.time()
        self.waits, self.again_at, self.silent_since = "", 0.0, 0.0
        self.error = error or self.error
        for of in self.streams.values():
            if of.error:
                of.status = "failed"
            elif of.status != "succeeded":
                of.status = "failed" if status in ("failed", "partial", "succeeded") else "cancelled"

    @property
    def seconds(self) -> float:
        """How long it took, or takes until now."""
        return (self.ended or time.time()) - self.began

    @property
    def rows(self) -> int:
        """Rows that were read."""
        return sum(each.rows for each in self.streams.values())

    @property
    def filtered(self) -> int:
        """Rows that do not meet `where`."""
        return sum(each.filtered for each in self.streams.values())


class LogLine(msgspec.Struct, array_like=True, frozen=True):
    """A line of a run's log; `at` in epoch seconds."""

    at: float
    level: str
    text: str


class Ask(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a person asks of a sync.

    run: read now. reset: forget the states, so that the next run reads all. cancel: end the run `number`. `streams`: the ones it
    is about; empty: all. `afresh`: with `run`, forget their states first.
    """

    id: str
    what: Literal["run", "reset", "cancel"]
    at: float
    by: str = ""
    streams: tuple[str, ...] = ()
    afresh: bool = False
    number: int = 0


def run_key(sync: str) -> str:
    """Returns the key of the newest run."""
    return f"sync-run.{sync}"


def runs_key(sync: str) -> str:
    """Returns the key of the runs before the newest."""
    return f"sync-runs.{sync}"


def log_key(sync: str, number: int) -> str:
    """Returns the key of a run's log."""
    return f"sync-log.{sync}.{number % KEPT_LOGS}"


def ask_key(sync: str) -> str:
    """Returns the key of what a person asks for."""
    return f"sync-ask.{sync}"


def cancel_key(sync: str) -> str:
    """Returns the key of which run a person ends."""
    return f"sync-cancel.{sync}"


class Log(msgspec.Struct, frozen=True):
    """The log of the run `number`; `left_out`: lines that had no room before these."""

    number: int
    lines: list[LogLine]
    left_out: int = 0


async def newest_run(bucket: Bucket, sync: str) -> RunRecord | None:
    """Returns the newest run of a sync; None if it never ran. Raises `NotConnected` if the broker does not answer."""
    return await _read(bucket, run_key(sync), RunRecord)


async def earlier_runs(bucket: Bucket, sync: str) -> list[RunRecord]:
    """Returns the runs before the newest, the newest of them first. Raises as `newest_run`."""
    return await _read(bucket, runs_key(sync), list[RunRecord]) or []


async def log_of(bucket: Bucket, sync: str, number: int) -> Log | None:
    """Returns the log of a run; None if it is no longer kept. Raises as `newest_run`."""
    found = await _read(bucket, log_key(sync, number), Log)
    return found if found is not None and found.number == number else None


async def pending_ask(bucket: Bucket, key: str) -> tuple[Ask | None, int]:
    """Returns what a person asked for and is not done yet, and its revision; nothing and 0 if all is. Raises as `newest_run`.

    Args:
        key: `ask_key` or `cancel_key` of a sync.
    """
    entry = await bucket.get(key)
    return (None, 0) if entry is None or entry.value is None else (decode(entry.value, Ask), entry.revision)


async def ask(bucket: Bucket, sync: str, wanted: Ask) -> None:
    """Asks for something.

    Raises:
        Conflict: something else is asked for already, and waits.
        NotConnected, Transient
    """
    if wanted.what == "cancel":
        await bucket.put(cancel_key(sync), encode(wanted))
        return
    try:
        await bucket.put(ask_key(sync), encode(wanted), revision=0)
    except Conflict as exc:
        found, revision = await pending_ask(bucket, ask_key(sync))
        if not revision:  # the mark of a deletion, which earlier versions left
            await bucket.put(ask_key(sync), encode(wanted))
            return
        raise Conflict(
            f"sync {sync}: {found.what if found else 'something'} is asked for already and waits for a runner of connectors"
        ) from exc


def encode(value: object) -> bytes:
    """Returns a record as it is stored."""
    return msgspec.json.encode(value)


def decode(value: bytes, type_: type[T]) -> T | None:
    """Returns a stored record; None if a later version wrote it so that it cannot be read."""
    try:
        return msgspec.json.decode(value, type=type_)
    except UNREADABLE:
        return None


async def _read(bucket: Bucket, key: str, type_: type[T]) -> T | None:
    entry = await bucket.get(key)
    return None if entry is None or entry.value is None else decode(entry.value, type_)
