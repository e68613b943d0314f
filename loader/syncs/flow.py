"""One session of a sync: from its queue to its destination, until something fails or the service drains.

    queue ──> gather a batch ──> shape (a thread) ──> one batch waits ──> load ──> note ──> acknowledge

While a batch is loaded, the next is gathered and shaped; no more than these two are in memory. The order of the last three steps
keeps the promise: a batch that is committed and not noted is known by its marks, and a batch that is noted is left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from opentelemetry.trace import SpanKind

from loader.contract.warehouse import Capabilities, Session
from loader.delivery.live_tables import LiveTables
from loader.syncs.dead import Graves
from loader.syncs.definition import lane_of
from loader.syncs.deliver import Deliverer
from loader.syncs.gather import Batch, Gatherer, LeftOut, Place, Waiting
from loader.syncs.note import Notes
from loader.syncs.shape import Ready, Shaper
from shared.errors import NotConnected, Permanent, SetupError
from shared.events.headers import read_place
from shared.jetstream import topology
from shared.jetstream.queue_reader import QueueReader
from shared.jetstream.reader import Message
from shared.syncs.frames import decode_rows
from shared.syncs.naming import known_as
from shared.syncs.progress import StreamProgress
from shared.telemetry.tracing.messaging import describe
from shared.telemetry.tracing.spans import read_trail
from shared.threads import ThreadGate

if TYPE_CHECKING:
    from shared.service import ServiceContext

WAKE_SECONDS = 1.0

log = logging.getLogger(__name__)


class Flow:
    """One session.

    Args:
        sync: its name.
        notes: read already.
        again: where frames were missing when the queue was read before.
    """

    def __init__(
        self,
        context: ServiceContext,
        sync: str,
        *,
        destination: str,
        session: Session,
        capabilities: Capabilities,
        notes: Notes,
        gate: ThreadGate,
        again: Place | None,
    ) -> None:
        self._context = context
        self._sync = sync
        self._subject = topology.deliver_subject(topology.sync_queue(sync))
        self._session = session
        self._capabilities = capabilities
        self._notes = notes
        self._gate = gate
        self._gatherer = Gatherer.behind(notes.progress, destination, again)
        self._shaper = Shaper(capabilities)
        self._graves = Graves(context.broker, context.telemetry, sync)
        self._marks: dict[tuple[str, str], int] = {}
        self._deliverer: Deliverer
        self._ready: asyncio.Queue[Ready | None] = asyncio.Queue(maxsize=1)
        self._taken = asyncio.Event()

    async def prepare(self) -> None:
        """Reads what the destination has of the newest run, and forgets the marks of earlier ones."""
        self._tell_loaded()
        await self._look_back()
        await self._forget(self._notes.progress.run)
        self._deliverer = Deliverer(
            sync=self._sync,
            session=self._session,
            capabilities=self._capabilities,
            graves=self._graves,
            telemetry=self._context.telemetry,
            gate=self._gate,
            marks=self._marks,
        )

    async def _look_back(self) -> None:
        """Reads what the destination has, and finds out what is not there any more."""
        self._marks.clear()
        self._marks.update(await self._session.marks())
        kept = {each.table for each in self._notes.progress.kept.values() if each.batch}
        live = LiveTables(self._session, known_as(self._sync), evolve=self._capabilities.evolve)
        await live.describe([*kept])
        absent = {table for table, schema in live.known.items() if schema is None}
        missing = await self._notes.look_back(self._marks if self._capabilities.transactional else None, absent)
        for name, why in {**missing.again, **missing.lost}.items():
            self._context.telemetry.count("loader_sync_went_back_total", sync=self._sync, stream=name)
            log.error("the destination lacks rows of a stream", extra={"sync": self._sync, "stream": name, "error": why})

    async def _forget(self, run: int) -> None:
        """Removes marks of runs before this one, but the newest of each stream: frames of these runs are left out by their number."""
        kept = {(each.table, lane_of(each.run)) for each in self._notes.progress.kept.values() if each.batch}
        old = [mark for mark in self._marks if mark not in kept and _run_of(mark[1]) < run]
        if old:
            await self._session.forget(old)
            for mark in old:
                del self._marks[mark]

    async def gather_all(self, reader: QueueReader) -> None:
        """Gathers and shapes batches until the service drains."""
        while not self._context.draining.is_set():
            message = await reader.next(WAKE_SECONDS)
            if message is None:
                continue
            out, batch = self._gatherer.add(self._read(message))
            for each in out:
                await self._leave_out(each, reader)
            if batch is not None:
                ready = await self._gate.run(self._shaper.shape, batch)
                self._taken.clear()
                await self._ready.put(ready)
                await self._taken.wait()
        await self._ready.put(None)

    def _read(self, message: Message) -> Waiting:
        try:
            frame = decode_rows(message.payload)
        except Permanent as exc:
            raise SetupError(f"message {message.seq} in the queue of sync {self._sync} is {exc}") from exc
        place = read_place(message.headers)
        number = place.seq if place is not None else 0
        return Waiting(
            seq=message.seq, frame=frame, at_seconds=message.at_seconds, number=number, trail=read_trail(message.headers)
        )

    async def _leave_out(self, left: LeftOut, reader: QueueReader) -> None:
        telemetry = self._context.telemetry
        telemetry.count("loader_sync_frames_left_out_total", len(left.seqs), sync=self._sync, reason=left.reason)
        log.info(
            "frames of a sync are left out",
            extra={"sync": self._sync, "frames": len(left.seqs), "rows": left.rows, "reason": left.reason},
        )
        with contextlib.suppress(NotConnected):  # they come again, and are left out again
            await reader.ack(left.seqs)

    async def deliver_all(self, reader: QueueReader, loaded: Callable[[], None]) -> None:
        """Loads batches in order, notes and acknowledges them."""
        while (ready := await self._next()) is not None:
            batch, began = ready.batch, time.monotonic()
            with self._context.telemetry.span(f"load {self._subject}", SpanKind.CONSUMER, links=batch.trails) as span:
                describe(span, destination=self._subject, operation="process", messages=len(batch.frames))
                span.set("penstock.sync", self._sync)
                span.set("penstock.run", batch.run)
                span.set("penstock.rows", batch.rows)
                is_new = batch.run != self._notes.progress.run
                if is_new:
                    await self._look_back()
                failed = self._notes.gave_up(batch.run) or batch.broken
                if failed:
                    streams = self._left_out(ready)
                else:
                    known, kept = self._notes.streams_of(batch.run), self._notes.progress.kept
                    streams = await self._deliverer.deliver(ready, known, kept)
                stored = {} if failed else {each.name: each.stored for each in ready.streams}
                await self._notes.loaded(batch, streams, stored, failed)
            if is_new:
                await self._forget(batch.run)
            with contextlib.suppress(NotConnected):  # they come again, and the note knows them
                await reader.ack(list(batch.seqs))
            self._tell(batch, time.monotonic() - began)
            loaded()

    async def _next(self) -> Ready | None:
        ready = await self._ready.get()
        self._taken.set()
        return ready

    def _left_out(self, ready: Ready) -> Mapping[str, StreamProgress]:
        """Counts the rows of a batch of a run that the loader gave up on."""
        batch = ready.batch
        if batch.broken:
            log.error("frames of a sync are missing, its run is given up", extra={"sync": self._sync, "error": batch.broken})
        for shaped in ready.streams:
            self._context.telemetry.count(
                "loader_sync_rows_left_out_total", shaped.rows, sync=self._sync, stream=shaped.name, reason="run_failed"
            )
        return {}

    def _tell_loaded(self) -> None:
        if at := self._notes.progress.rows_at:
            self._context.telemetry.gauge("loader_sync_last_load_seconds", at, sync=self._sync)

    def _tell(self, batch: Batch, seconds: float) -> None:
        self._context.telemetry.count("loader_sync_batches_total", sync=self._sync)
        self._tell_loaded()
        self._context.telemetry.record("loader_sync_batch_seconds", seconds, sync=self._sync)
        log.info(
            "a batch of a sync is loaded",
            extra={"sync": self._sync, "run": batch.run, "batch": batch.number, "rows": batch.rows, "seconds": round(seconds, 3)},
        )


def _run_of(lane: str) -> int:
    number = lane.rpartition("-")[2]
    return int(number) if number.isdigit() else 0
