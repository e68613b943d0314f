"""The way out of a feed: packs events into frames, publishes these into EVENTS, and says which chunks are durable.

A *parcel* is a frame with the dead letters and the chunks that end in it. One parcel is under way at a time, and the next one is
filled meanwhile: so events keep the order of their partition whatever the broker refuses, and the runner, not the broker's disk, is
the limit.

The id of a frame is made of the positions of its records: a successor that publishes the same frame again stores nothing. Where its frames
begin elsewhere, EVENTS keeps both, and the router knows the repeats by the ids of the events, which are positions too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from opentelemetry.trace import SpanKind

from connector_runner.feeds.contract import Chunk, Record
from connector_runner.feeds.rules.letters import STAGE, letter_of
from connector_runner.feeds.rules.shape import Shaper
from shared.backoff import Backoff
from shared.errors import QueueFull, Transient
from shared.events.dead import DeadLetter, bury
from shared.events.frame import Head, RequestContext, encode_frame, pack, with_names
from shared.events.outcome import Dead, DeadReason
from shared.jetstream.publisher import Publisher
from shared.jetstream.topology import events_subject
from shared.service import ServiceContext
from shared.telemetry.tracing.messaging import describe

MAX_EVENTS = 500
MAX_BYTES = 512 * 1024
HEAD_BYTES = 200
"""Memory of an event beside its body, about."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Parcel:
    """A frame that is being filled."""

    heads: list[Head] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    dead: list[tuple[Record, Dead]] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)
    positions: list[str] = field(default_factory=list)
    size: int = 0
    since: float = 0.0
    """The time of its first record, on the loop's clock."""

    @property
    def empty(self) -> bool:
        """Whether it holds nothing."""
        return not (self.positions or self.chunks)

    @property
    def full(self) -> bool:
        """Whether it must go."""
        return len(self.positions) >= MAX_EVENTS or self.size >= MAX_BYTES


class Outlet:
    """The way out of one feed.

    Args:
        say: is told why nothing goes out.
    """

    def __init__(
        self, context: ServiceContext, *, feed: str, kind: str, site: str, shaper: Shaper, say: Callable[[str], None]
    ) -> None:
        self._context = context
        self._publisher: Publisher = context.broker.publisher
        self._feed = feed
        self._kind = kind
        self._site = site
        self._shaper = shaper
        self._say = say
        self._count = context.telemetry.counter("feeds_records_total", feed=feed)

    def fill(self, parcel: Parcel, chunk: Chunk, start: int) -> int:
        """Puts records of a chunk into a parcel until it is full; returns the index of the next record.

        The chunk itself goes into the parcel that holds its last record.
        """
        records, shape, position_of = chunk.records, self._shaper.shape, self._shaper.position
        if parcel.empty:
            parcel.since = asyncio.get_running_loop().time()
        index = start
        while index < len(records) and not parcel.full:
            record = records[index]
            try:
                shaped = shape(record)
            except Exception as exc:  # a defect of ours costs only the records that cause it
                log.exception("a record cannot be shaped", extra={"feed": self._feed})
                shaped = Dead(DeadReason.UNREADABLE_RECORD, f"it cannot be shaped: {type(exc).__name__}: {exc}")
            if isinstance(shaped, Dead):
                parcel.dead.append((record, shaped))
                parcel.size += len(record.value or b"") + HEAD_BYTES
            else:
                parcel.heads.append(shaped[0])
                parcel.bodies.append(shaped[1])
                parcel.size += len(shaped[1]) + HEAD_BYTES
            parcel.positions.append(position_of(record))
            index += 1
        if index == len(records):
            parcel.chunks.append(chunk)
        return index

    async def send(self, parcel: Parcel) -> None:
        """Makes a parcel durable, however long that takes.

        Raises:
            Permanent: the broker can never take it.
        """
        if not parcel.positions:
            return
        request = RequestContext(
            received_at=self._context.clock.now_ns() // 1000, protocol=self._kind, key=self._feed, kind="server"
        )
        id_ = _id_of(parcel.positions)
        if parcel.heads:
            payload = encode_frame(with_names(pack(self._site, [request], parcel.heads, parcel.bodies)))
            await self._publish(parcel, payload, f"feed-{id_}")
        if parcel.dead:
            await self._bury(parcel.dead, request, id_)
        self._count(len(parcel.positions))

    async def _publish(self, parcel: Parcel, payload: bytes, msg_id: str) -> None:
        subject = f"events.{self._site}"
        with self._context.telemetry.span(f"send {subject}", SpanKind.PRODUCER, may_begin=True) as span:
            describe(span, destination=subject, operation="send", messages=len(parcel.heads))
            span.set("messaging.message.body.size", len(payload))
            span.set("penstock.feed", self._feed)
            headers = span.headers or None
            await self._patiently(
                lambda: self._publisher.publish(events_subject(self._site), payload, msg_id=msg_id, headers=headers)
            )

    async def _bury(self, dead: Sequence[tuple[Record, Dead]], request: RequestContext, id_: str) -> None:
        at = self._context.clock.now()
        most = self._context.broker.nc.max_payload // 2
        letters: list[DeadLetter] = [
            letter_of(
                record=record,
                dead=each,
                site=self._site,
                position=self._shaper.position(record),
                request=request,
                at=at,
                most=most,
            )
            for record, each in dead
        ]
        await self._patiently(
            lambda: bury(publisher=self._publisher, stage=STAGE, name=self._site, letters=letters, msg_id=f"dead-feed-{id_}")
        )
        for letter in letters:
            self._context.telemetry.count("feeds_records_dead_total", feed=self._feed, reason=letter.reason)
        log.warning(
            "records became dead letters", extra={"feed": self._feed, "records": len(letters), "detail": letters[0].detail}
        )

    async def _patiently(self, publish: Callable[[], Awaitable[object]]) -> None:
        backoff = Backoff(0.25, 5.0)
        while True:
            try:
                await publish()
            except QueueFull as exc:
                self._say(f"waits because there is no room: {exc}; make room, or raise the limit; it goes on by itself")
            except Transient as exc:
                self._say(f"waits for the broker: {exc}; it goes on by itself")
            else:
                return
            await asyncio.sleep(backoff.next())


def _id_of(positions: Sequence[str]) -> str:
    return blake2b("\n".join(positions).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
