"""Runs of syncs as people see them: the newest run, its log, the ones before, and what people ask for.

All is in the bucket `state`: `sync-run.<sync>` is the newest run, `sync-runs.<sync>` the `KEPT_RUNS` before it, `sync-log.<sync>.<slot>`
the logs of the last `KEPT_LOGS`, `sync-ask.<sync>` what a person asks for. Only the holder of a sync's lease writes the first three.
"""

from __future__ import annotations

import time
from typing import Literal, TypeVar

import msgspec

from shared.errors import Conflict
from shared.jetstream.kv import Bucket

KEPT_RUNS = 50
KEPT_LOGS = 10
LOG_LINES = 500
LOG_CHARACTERS = 1000

Status = Literal["running", "succeeded", "partial", "failed", "cancelled", "timed_out", "interrupted"]
StreamStatus = Literal["waiting", "running", "succeeded", "failed", "cancelled"]

T = TypeVar("T")


class StreamRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A stream in a run. `rows`, `bytes`: read from the connector; `loaded`, `dead`: what became of the rows in the destination."""

    mode: str = ""
    write: str = ""
    table: str = ""
    status: StreamStatus = "waiting"
    rows: int = 0
    bytes: int = 0
    estimate: int | None = None
    """Rows that the connector expects."""
    loaded: int = 0
    dead: int = 0
    unmapped: int = 0
    error: str = ""


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
    error: str = ""
    waits: str = ""
    """What the run waits for now; empty: nothing."""
    streams: dict[str, StreamRecord] = {}

    @property
    def seconds(self) -> float:
        """How long it took, or takes until now."""
        return (self.ended or time.time()) - self.began

    @property
    def rows(self) -> int:
        """Rows that were read."""
        return sum(each.rows for each in self.streams.values())


class LogLine(msgspec.Struct, array_like=True, frozen=True):
    """A line of a run's log; `at` in epoch seconds."""

    at: float
    level: str
    text: str


class Ask(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a person asks of a sync.

    run: read now. reset: forget the states, so that the next run reads all. cancel: end the run that goes on. `streams`: the ones it
    is about; empty: all. `afresh`: with `run`, forget their states first.
    """

    id: str
    what: Literal["run", "reset", "cancel"]
    at: float
    by: str = ""
    streams: tuple[str, ...] = ()
    afresh: bool = False


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


async def pending_ask(bucket: Bucket, sync: str) -> Ask | None:
    """Returns what a person asked for and nobody took yet. Raises as `newest_run`."""
    return await _read(bucket, ask_key(sync), Ask)


async def ask(bucket: Bucket, sync: str, wanted: Ask) -> None:
    """Asks for something.

    Raises:
        Conflict: something else is asked for already, and waits.
        NotConnected, Transient
    """
    waiting = await bucket.get(ask_key(sync))
    if waiting is not None and wanted.what != "cancel":
        found = decode(waiting.value or b"", Ask)
        raise Conflict(
            f"sync {sync}: {found.what if found else 'something'} is asked for already and waits for a runner of connectors"
        )
    await bucket.put(ask_key(sync), encode(wanted))


def encode(value: object) -> bytes:
    """Returns a record as it is stored."""
    return msgspec.json.encode(value)


def decode(value: bytes, type_: type[T]) -> T | None:
    """Returns a stored record; None if a later version wrote it so that it cannot be read."""
    try:
        return msgspec.json.decode(value, type=type_)
    except msgspec.MsgspecError:
        return None


async def _read(bucket: Bucket, key: str, type_: type[T]) -> T | None:
    entry = await bucket.get(key)
    return None if entry is None or entry.value is None else decode(entry.value, type_)
