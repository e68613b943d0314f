"""The way out for frames and dead letters: to JetStream, or to the local journal while the broker is away.

`publish` returns when the message is durable in one of the two. Without a journal, `publish` raises if the broker does not answer
within the deadline, and the waiting requests get 503. With a journal the deadline is short, and while the journal holds a record,
every new message goes behind it (`ingest/journal/spool.py`).

A full stream is not an absent broker: it means 503 at once, and the journal takes nothing while the broker refuses its records.
Otherwise the journal would hide the full stream until it is full as well.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from opentelemetry.trace import SpanKind

from ingest.journal.records import Record
from ingest.journal.spool import Spool
from shared.errors import NotConnected, QueueFull, Transient
from shared.jetstream import topology
from shared.telemetry.metrics import Telemetry
from shared.telemetry.tracing.messaging import describe
from shared.telemetry.tracing.spans import Trail

_REFUSED = {
    topology.EVENTS: "the stream is full, events are refused",
    topology.DEAD: "the stream is full, dead letters of refused events are not kept",
}

log = logging.getLogger(__name__)


class Publisher(Protocol):
    """The part of `shared.jetstream.publisher.Publisher` that the outlet uses."""

    async def publish(
        self,
        subject: str,
        payload: bytes,
        *,
        msg_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        deadline_seconds: float = 10.0,
    ) -> object: ...


class Outlet:
    """Publishes durably; any number of tasks may use it at once."""

    def __init__(
        self,
        publisher: Publisher,
        spool: Spool | None,
        telemetry: Telemetry,
        *,
        deadline_seconds: float,
        spool_after_seconds: float,
    ) -> None:
        self._publisher = publisher
        self._spool = spool
        self._telemetry = telemetry
        self._deadline_seconds = deadline_seconds
        self._spool_after_seconds = spool_after_seconds
        self.full: dict[str, str] = {}
        """Streams that refused the last message for want of room, with the broker's words."""
        self.refusal: str | None = None
        """Why the last message was not published; None: it was published."""

    async def send_frame(
        self,
        subject: str,
        payload: bytes,
        msg_id: str,
        events: int,
        waited_seconds: float = 0.0,
        trails: Sequence[Trail] = (),
    ) -> None:
        """Publishes a frame of `events` events.

        Args:
            waited_seconds: the part of the deadline that has passed. A frame that waited longer than that behind others is not tried
                at all, so its requests can be told for certain that nothing was stored.
            trails: of those of its requests that are traced.

        Raises:
            NotConnected, Transient, QueueFull: the frame may not be stored.
            Permanent: the broker can never take it.
        """
        self._telemetry.record("ingest_frame_events", events)
        stream, site, partition = subject.split(".")
        parent, *others = trails or (None,)
        with self._telemetry.span(f"send {stream}.{site}", SpanKind.PRODUCER, parent, [each for each in others if each]) as span:
            describe(span, destination=f"{stream}.{site}", operation="send", messages=events, partition=partition)
            span.set("messaging.message.body.size", len(payload))
            span.set("messaging.message.id", msg_id)
            await self._send(Record(subject, msg_id, events, payload, headers=span.headers or None), waited_seconds)

    async def publish(
        self, subject: str, payload: bytes, *, msg_id: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        """Publishes any other message; raises as `send_frame` does."""
        await self._send(
            Record(subject=subject, msg_id=msg_id or "", events=0, payload=payload, headers=dict(headers) if headers else None),
            0.0,
        )

    async def publish_stored(self, record: Record) -> None:
        """Publishes a record of the journal; for `Spool.empty`."""
        await self._publish(record, self._deadline_seconds)

    async def _send(self, record: Record, waited_seconds: float) -> None:
        spool = self._spool
        if spool is None:
            await self._publish(record, self._deadline_seconds - waited_seconds)
            return
        if spool.backlog:
            if refusal := self.full.get(_stream(record)):
                raise QueueFull(refusal)
            if await self._store(spool, record):
                return
        sent_at = time.time()
        try:
            await self._publish(record, self._spool_after_seconds - waited_seconds)
        except QueueFull:
            raise
        except Transient:
            if not await self._store(spool, record._replace(sent_at=sent_at)):
                await self.publish_stored(record)

    async def _publish(self, record: Record, deadline_seconds: float) -> None:
        if deadline_seconds <= 0:
            raise NotConnected(f"the broker took nothing on {record.subject} in time")
        try:
            await self._publisher.publish(
                record.subject,
                record.payload,
                msg_id=record.msg_id or None,
                headers=record.headers,
                deadline_seconds=deadline_seconds,
            )
        except QueueFull as exc:
            stream = _stream(record)
            if stream not in self.full:
                log.error(_REFUSED[stream], extra={"stream": stream, "error": str(exc)})
            self.full[stream] = self.refusal = str(exc)
            raise
        except Transient as exc:
            self.refusal = str(exc)
            self.full.pop(_stream(record), "")  # an absent broker is not a full stream
            raise
        self.refusal = None
        if self.full and self.full.pop(_stream(record), ""):
            log.info("the stream takes messages again", extra={"stream": _stream(record)})

    async def _store(self, spool: Spool, record: Record) -> bool:
        stored = await spool.store(record)
        if stored:
            self._telemetry.count("ingest_events_spooled_total", record.events, site=record.subject.split(".")[1])
        return stored


def _stream(record: Record) -> str:
    return record.subject.partition(".")[0].upper()
