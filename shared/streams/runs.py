"""Runs: work that takes long and outlives the machine that asked for it. Today: `penstock rebuild`.

A run is a value of the bucket `state`. The command writes it, and wishes about it; one router at a time carries runs on
(`router/replay/runs.py`); the loader of each connection answers the run's request. So any of them may die, and the next goes on.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Literal

import msgspec

from shared.errors import UNREADABLE, Conflict
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket

RUNS = "run."
REQUESTS = "rebuild."
WISHES = "wish."
LOGGED = 100
"""Lines of a run's log that are kept."""
KEPT = 50
"""Ended runs that are kept."""

State = Literal["asked", "running", "paused", "cancelled", "done", "failed", "skipped"]
OVER: frozenset[str] = frozenset({"cancelled", "done", "failed", "skipped"})


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One connection of a run: frames `first` to `last` of its site are sent again, those before `place` are. `chunks` counts the
    looks at which it had come further. `why`: what a person must know of it."""

    queue: str
    site: str
    state: State = "asked"
    first: int = 0
    last: int = 0
    place: int = 0
    chunks: int = 0
    why: str = ""

    @property
    def done_ratio(self) -> float:
        """The part of the frames that is sent, 0 to 1."""
        if self.state == "done":
            return 1.0
        if self.state == "skipped":
            return 0.0
        return min(1.0, max(0.0, (self.place - self.first) / (self.last - self.first + 1))) if self.last else 0.0


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A run. `target`: what was asked for; `wish`: what its owner wants of it; times are epoch seconds."""

    id: str
    kind: Literal["rebuild"] = "rebuild"
    target: str
    state: State = "asked"
    wish: Literal["", "pause", "cancel"] = ""
    parts: dict[str, Part] = {}
    created_at: float = 0.0
    changed_at: float = 0.0
    log: list[tuple[float, str]] = []

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.state in OVER

    @property
    def done_ratio(self) -> float:
        """The part of all frames that is sent, 0 to 1."""
        return sum(part.done_ratio for part in self.parts.values()) / max(1, len(self.parts))

    def saying(self, *texts: str) -> Run:
        """Returns it with further lines in its log."""
        now = time.time()
        return msgspec.structs.replace(self, log=[*self.log, *((now, text) for text in texts)][-LOGGED:], changed_at=now)


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a run asks of a connection's loader, and its answer: it looks what its destination lacks, and asks the router for it.

    `lanes`: the rewinds by which it comes (`shared/streams/rewind.py`), by lane; none if nothing is missing. `replays`: the replays by
    which frames of replays, and of EVENTS streams that are gone, come.
    """

    run: str
    queue: str
    state: Literal["asked", "begun"] = "asked"
    lanes: dict[str, int] = {}
    replays: list[str] = []
    why: str = ""


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What a run wants of the router: it sends a connection nothing for now, or leaves out what is left up to `last`."""

    run: str
    wish: Literal["pause", "cancel"]
    last: int = 0


async def read_run(broker: Broker, run_id: str) -> tuple[Run, int] | None:
    """Returns a run and its revision.

    Raises:
        NotConnected: the broker does not answer.
    """
    entry = await Bucket(broker, topology.STATE_BUCKET).get(RUNS + run_id)
    return (msgspec.json.decode(entry.value, type=Run), entry.revision) if entry and entry.value else None


async def read_runs(broker: Broker) -> list[Run]:
    """Returns all runs, the oldest first. Raises as `read_run`."""
    found: list[Run] = []
    for entry in await Bucket(broker, topology.STATE_BUCKET).entries(RUNS):
        with contextlib.suppress(*UNREADABLE):  # of a later version
            if entry.value:
                found.append(msgspec.json.decode(entry.value, type=Run))
    return sorted(found, key=lambda run: run.created_at)


async def change_run(broker: Broker, run_id: str, change: Callable[[Run], Run]) -> Run | None:
    """Changes a run by compare-and-set; returns it as it is then, None if there is none.

    Raises:
        NotConnected, Transient: it may not be written.
    """
    bucket = Bucket(broker, topology.STATE_BUCKET)
    while (found := await read_run(broker, run_id)) is not None:
        run, revision = found
        after = change(run)
        if after == run:
            return run
        with contextlib.suppress(Conflict):
            await bucket.put(RUNS + run_id, msgspec.json.encode(after), revision=revision)
            return after
    return None


async def begin_run(broker: Broker, run: Run) -> None:
    """Writes a new run, and forgets the oldest that have ended. Raises as `change_run`."""
    bucket = Bucket(broker, topology.STATE_BUCKET)
    over = [each for each in await read_runs(broker) if each.is_over]
    for old in over[: max(0, len(over) - KEPT)]:
        if (found := await read_run(broker, old.id)) is not None:
            await bucket.remove(found[1])
    await bucket.put(RUNS + run.id, msgspec.json.encode(run), revision=0)


async def read_request(broker: Broker, connection: str) -> tuple[Request, int] | None:
    """Returns the request to a connection's loader, and its revision. Raises as `read_run`."""
    entry = await Bucket(broker, topology.STATE_BUCKET).get(REQUESTS + connection)
    return (decode_request(entry.value), entry.revision) if entry and entry.value else None


def decode_request(value: bytes) -> Request:
    """Reads a value."""
    return msgspec.json.decode(value, type=Request)


async def write_request(broker: Broker, connection: str, request: Request, revision: int | None = None) -> None:
    """Writes the request to a connection's loader. Raises as `change_run`, and Conflict."""
    await Bucket(broker, topology.STATE_BUCKET).put(REQUESTS + connection, msgspec.json.encode(request), revision=revision)


async def wish_for(broker: Broker, connection: str, wish: Wish | None) -> None:
    """Tells the router what a run wants of a connection; None: nothing any more. Raises as `change_run`."""
    bucket = Bucket(broker, topology.STATE_BUCKET)
    if wish is not None:
        await bucket.put(WISHES + connection, msgspec.json.encode(wish))
    elif await bucket.get(WISHES + connection) is not None:
        await bucket.delete(WISHES + connection)


def decode_wish(value: bytes) -> Wish:
    """Reads a value."""
    return msgspec.json.decode(value, type=Wish)
