"""Publishes what became of each frame, so that a frame has one outcome however often its runtime dies.

    nothing for DEAD or RETRY:  DELIVER, acknowledge
    else:                       note, DEAD, RETRY, DELIVER, acknowledge

DELIVER comes last, so a frame that is there is done. A frame that comes again and is there is acknowledged and not run. If it is not
there but noted, the note is published; functions are not asked again, since they may decide otherwise. A frame of one message needs
no note.

The note is one value of the bucket `state`. A session writes it when it begins, so a former holder of the lease can note nothing more.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from functions_runtime.again import Again
from functions_runtime.rules.outcome import STAGE, Outcome, decode_outcome, encode_outcome
from shared.errors import UNREADABLE, Permanent
from shared.events.dead import bury, decode_dead
from shared.events.frame import Frame, decode_frame
from shared.events.headers import Place
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.streams.ended import decode_ended, ended_key
from shared.streams.waiting import NOTES_OF_FUNCTIONS, newest_places
from shared.telemetry.metrics import Telemetry
from shared.telemetry.tracing.spans import current_headers

NEWEST = 64
"""How many of the newest messages of DELIVER are looked at: a runtime that died had sent a frame or two and not acknowledged them."""

log = logging.getLogger(__name__)

Persist = Callable[[Callable[[], Awaitable[object]]], Awaitable[None]]
"""Does something until it is durable."""


class Outcomes:
    """The outcomes of one connection's frames, as long as this process holds its lease."""

    def __init__(self, broker: Broker, queue: str, connection: str, persist: Persist) -> None:
        self._broker = broker
        self.queue = queue
        self._connection = connection
        self._persist = persist
        self._bucket = Bucket(broker, topology.STATE_BUCKET)
        self._revision = 0
        self._noted: Outcome | None = None
        self._kept = self._published = False
        """Whether the bucket holds a note, and whether all of it is published."""
        self._sent: dict[str, tuple[int, int]] = {}
        """By lane: rewind and sequence of the last frame that former sessions sent."""

    async def begin(self) -> None:
        """Reads what former sessions noted and sent, and keeps them from noting more.

        Raises:
            Conflict: another runtime has the connection.
            NotConnected, Transient: not known to be noted; open a new session.
        """
        entry = await self._bucket.get(self._key)
        noted = _decoded(entry.value if entry else None)
        await self._read_sent()
        self._noted = None if noted is None or self.is_sent(noted.place) else noted
        value = encode_outcome(self._noted) if self._noted else b""
        self._kept = bool(value)
        self._revision = await self._bucket.put(self._key, value, revision=entry.revision if entry else 0)

    def is_sent(self, place: Place) -> bool:
        """Whether all of a frame's outcome was published before this session began."""
        return self._sent.get(place.lane, (0, 0)) >= (place.rewind, place.seq)

    def noted(self, place: Place) -> Outcome | None:
        """Returns what a former session had decided of a frame that it may not have sent."""
        return self._noted if self._noted is not None and _same(self._noted.place, place) else None

    async def publish(self, outcome: Outcome, again: Again) -> None:
        """Publishes an outcome; returns when all of it is durable.

        Raises:
            Conflict: another runtime has the connection.
        """
        if not outcome.is_one_message:
            await self.note(outcome)
            await self._bury(outcome)
            for later in outcome.later:
                await self._persist(lambda later=later: again.put(outcome.place, later))  # type: ignore[misc]
        place = outcome.place
        await self.deliver(outcome.headers, outcome.payload, f"functions.{self.queue}.{place.lane}.{place.seq}.{place.rewind}")
        self._published = self._kept

    async def tidy(self) -> None:
        """Clears the note of a frame whose outcome is published: it holds what the frame held. Called when nothing waits.

        Raises:
            Conflict: another runtime has the connection.
            NotConnected, Transient, QueueFull: it may not be cleared.
        """
        if self._published:
            self._kept = self._published = False
            self._revision = await self._bucket.put(self._key, b"", revision=self._revision)

    async def note(self, outcome: Outcome) -> None:
        """Makes an outcome the one that its frame has, also if this process dies before it is published.

        Raises:
            Conflict: another runtime has the connection.
        """
        if self._noted is not outcome:
            await self._persist(lambda: self._note(outcome))

    async def deliver(self, headers: dict[str, str], payload: bytes, msg_id: str) -> None:
        """Puts a frame into the connection's queue; returns when it is durable."""
        subject = topology.deliver_subject(self.queue)
        await self._persist(lambda: self._broker.publisher.publish(subject, payload, msg_id=msg_id, headers=headers))

    @property
    def _key(self) -> str:
        return f"{NOTES_OF_FUNCTIONS[1]}{self.queue}"

    async def _note(self, outcome: Outcome) -> None:
        self._revision = await self._bucket.put(self._key, encode_outcome(outcome), revision=self._revision)
        self._noted = outcome
        self._kept = True

    async def _bury(self, outcome: Outcome) -> None:
        if outcome.letters:
            publisher, letters = self._broker.publisher, decode_dead(outcome.letters)
            trace = current_headers()
            await self._persist(
                lambda: bury(
                    publisher=publisher,
                    stage=STAGE,
                    name=self._connection,
                    letters=letters,
                    msg_id=outcome.letters_id,
                    trace=trace,
                )
            )

    async def _read_sent(self) -> None:
        entry = await Bucket(self._broker, topology.STATS_BUCKET).get(ended_key(self.queue))
        ended = decode_ended(entry.value if entry else None)
        # what a loader has counted, or is about to, it took from the queue; under a rewind the same sequences come again
        self._sent = {lane: (0, seq) for lane, seq in ended.through.items()}
        if ended.pending is not None:
            lane, seq = ended.pending.source, ended.pending.through
            self._sent[lane] = max(self._sent.get(lane, (0, 0)), (0, seq))
        for place in await newest_places(self._broker, topology.DELIVER, topology.deliver_subject(self.queue), NEWEST):
            self._sent[place.lane] = max(self._sent.get(place.lane, (0, 0)), (place.rewind, place.seq))


def _same(one: Place, other: Place) -> bool:
    return (one.lane, one.seq, one.rewind) == (other.lane, other.seq, other.rewind)


def _decoded(value: bytes | None) -> Outcome | None:
    if not value:
        return None
    try:
        return decode_outcome(value)
    except UNREADABLE as exc:  # of a later version
        log.warning("a note of what became of a frame cannot be read", extra={"error": str(exc)})
        return None


def decoded(payload: bytes) -> Frame | None:
    """Returns a frame, its block read; None: its bytes are none."""
    try:
        frame = decode_frame(payload)
        frame.open()
    except Permanent:
        return None
    return frame


def count_frame(telemetry: Telemetry, connection: str, frame: Frame) -> None:
    """Counts the events of a frame that go on, and the others."""
    telemetry.count("functions_events_total", frame.source_events, connection=connection)
    telemetry.count("functions_events_out_total", len(frame), connection=connection)
    for reason, amount in frame.dropped.items():
        telemetry.count("functions_events_dropped_total", amount, connection=connection, reason=reason)
    for reason, amount in frame.dead.items():
        telemetry.count("functions_events_dead_total", amount, connection=connection, reason=reason)
