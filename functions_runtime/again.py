"""Events that functions want to see again: they wait in RETRY, and what comes of them goes on in a lane of their own.

A message holds events of one frame that one function asked for again, as they entered the chain. When it is due they run through the
chain once more. Their lane's sequences must grow and a repeat must have the number it had, whenever a runtime dies: so which message
gets the next number is noted in the bucket `state` before anything is sent. The number is the time in milliseconds, or the last one
and one more: should the bucket be lost, or an older copy of it come back, no new number is one that a destination knows.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from functions_runtime.rules.outcome import STAGE, Later
from shared.errors import NotConnected
from shared.events.headers import DUE, FAILURES, Place, again_lane, read_place, trace_of, write_place
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket, value_of
from shared.jetstream.publisher import MSG_ID
from shared.jetstream.queue_reader import QueueReader
from shared.jetstream.reader import Message
from shared.streams.waiting import NOTES_OF_FUNCTIONS
from shared.telemetry.tracing.spans import current_headers

DELAYS = (10.0, 60.0, 600.0, 3600.0, 4 * 3600.0, 12 * 3600.0, 24 * 3600.0)
"""Seconds before each try again, where a function says nothing of it."""
MINUTE = 60.0
"""Functions give their delays in minutes, as Jitsu's do."""
FIRST_SECONDS = 10.0
WAKE_SECONDS = 1.0


class Policy(NamedTuple):
    """How often a function's events are tried again, and how many seconds later each time; the last delay repeats. `times`: None: as many as there are delays."""

    delays: tuple[float, ...] = DELAYS
    times: int | None = None

    def delay(self, failures: int) -> float | None:
        """Returns the seconds before the next try of an event that failed so often; None: there is none."""
        most = len(self.delays) if self.times is None else self.times
        return self.delays[min(failures, len(self.delays)) - 1] if failures <= most else None


def policy_of(config: Mapping[str, Any]) -> Policy:
    """Reads what a function says of its retries: `retries`, how often, and `delays` in minutes; the last one repeats."""
    given = tuple(float(delay) * MINUTE for delay in config.get("delays") or ())
    times = config.get("retries")
    return Policy(given or DELAYS, times if isinstance(times, int) else None)


class _State(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The last sequence of the lane, and the message of RETRY that goes on under it; 0: none does."""

    last: int = 0
    moving: int = 0


class _Held(NamedTuple):
    """A message that waits."""

    due: float
    failures: int
    events: int
    msg_id: str
    trace: dict[str, str]


class Due(NamedTuple):
    """A message that goes on now, under a place of the lane. `failures`: how often its events were tried. `trace`: headers that carry
    the span in which they were put aside."""

    place: Place
    seq: int
    failures: int
    trace: Mapping[str, str]


class Again:
    """What waits of one connection.

    Args:
        reader: of the connection's part of RETRY; it must hold back nothing (`most_held=-1`).
        wall: epoch seconds.
    """

    def __init__(self, broker: Broker, reader: QueueReader, queue: str, wall: Callable[[], float] = time.time) -> None:
        self._broker = broker
        self._reader = reader
        self._queue = queue
        self._wall = wall
        self._bucket = Bucket(broker, topology.STATE_BUCKET)
        self._state = _State()
        self._revision = 0
        self._due: list[tuple[float, int]] = []
        """When messages are due, and their sequences, in order."""
        self._held: dict[int, _Held] = {}
        self._ids: set[str] = set()
        """Of the messages that wait: a frame that comes again after the broker forgot an id stores nothing twice."""

    @property
    def events(self) -> int:
        """Events that wait."""
        return sum(held.events for held in self._held.values())

    @property
    def lane(self) -> str:
        """The lane in which they go on."""
        return again_lane(self._queue)

    async def read_all(self) -> None:
        """Reads what former holders left.

        Raises:
            NotConnected: the broker does not answer.
            SetupError: the note of what waits cannot be read.
        """
        entry = await self._bucket.get(self._key)
        self._revision = entry.revision if entry else 0
        self._state = value_of(entry, _State) or _State()
        more = await self._reader.count() > 0
        while more:
            message = await self._reader.next(FIRST_SECONDS)
            if message is None:
                raise NotConnected("what waits for another try of its functions cannot be read")
            self._add(message)
            more = message.waiting > 0

    async def take_in(self) -> None:
        """Notes what is stored meanwhile, until it is cancelled.

        Raises:
            Fenced, NotConnected: the queue cannot be read.
        """
        while True:
            message = await self._reader.next(WAKE_SECONDS)
            if message is not None:
                self._add(message)

    async def put(self, place: Place, later: Later) -> None:
        """Stores events of the frame at `place` for later; returns when they are durable.

        Raises:
            NotConnected, Transient, QueueFull: not known to be stored.
        """
        if later.msg_id in self._ids:
            return
        headers = {
            **write_place(Place(place.lane, place.seq, later.events)),
            FAILURES: str(later.failures),
            DUE: f"{self._wall() + later.delay:.3f}",
            **current_headers(),
        }
        await self._broker.publisher.publish(
            topology.retry_subject(STAGE, self._queue), later.payload, msg_id=later.msg_id, headers=headers
        )

    def next_in(self) -> float | None:
        """Returns in how many seconds something is due; None: nothing waits."""
        if self._state.moving:
            return 0.0
        return max(0.0, self._due[0][0] - self._wall()) if self._due else None

    @property
    def moving(self) -> Due | None:
        """The message that a former holder was at when it died."""
        held = self._held.get(self._state.moving)
        if held is None:
            return None
        return Due(Place(self.lane, self._state.last, held.events), self._state.moving, held.failures, held.trace)

    async def take_due(self) -> Due | None:
        """Returns the due messages, numbered; `done` must follow, else the same comes again.

        Raises:
            Conflict: another runtime has the connection.
            NotConnected, Transient: not known to be noted; open a new session.
        """
        if self._state.moving and self._state.moving not in self._held:
            await self._note(_State(last=self._state.last))  # it went on, and the runtime died before it had noted that
        if not self._state.moving:
            if not self._due or self._due[0][0] > self._wall():
                return None
            number = max(self._state.last + 1, round(self._wall() * 1000))
            await self._note(_State(last=number, moving=self._due[0][1]))
        return self.moving

    async def payload(self, seq: int) -> bytes:
        """Returns what a message holds.

        Raises:
            NotConnected: the broker does not answer.
        """
        return await self._reader.payload(seq)

    async def done(self, due: Due) -> None:
        """Forgets what went on.

        Raises:
            Conflict, NotConnected, Transient: as `take_due`.
        """
        await self._reader.remove([due.seq])
        await self._note(_State(last=self._state.last))
        held = self._held.pop(due.seq)
        self._ids.discard(held.msg_id)
        del self._due[bisect.bisect_left(self._due, (held.due, due.seq))]

    @property
    def _key(self) -> str:
        return f"{NOTES_OF_FUNCTIONS[0]}{self._queue}"

    async def _note(self, state: _State) -> None:
        self._revision = await self._bucket.put(self._key, msgspec.json.encode(state), revision=self._revision)
        self._state = state

    def _add(self, message: Message) -> None:
        place = read_place(message.headers)
        try:
            failures, due = int(message.headers.get(FAILURES, "1")), float(message.headers.get(DUE, "0"))
        except ValueError:
            failures, due = 1, 0.0
        if message.seq not in self._held:
            msg_id = message.headers.get(MSG_ID, "")
            self._held[message.seq] = _Held(
                due=due, failures=failures, events=place.events if place else 1, msg_id=msg_id, trace=trace_of(message.headers)
            )
            self._ids.add(msg_id)
            bisect.insort(self._due, (due, message.seq))
