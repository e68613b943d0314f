"""One connection's way from its queue into its destination, for as long as this process holds its lease.

    queue ──> hold until due ──> shape (a thread) ──> one chunk waits ──> deliver ──> acknowledge

Shaping the next chunk and delivering the last one overlap; never more than two chunks are in memory. Every fault has the same
remedy: drop what is held, keep or take the lease again, open a new session, and begin with what the queue still has and what the
ledger says. So there is one path of recovery, and it is the path of every start.

The steps of a delivery are in `loader/deliver.py`; what makes a load due in `loader/collect.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from opentelemetry.trace import SpanKind

from loader.aside import Aside, aside_lane, read_aside
from loader.batch import ShapedBatch
from loader.collect import CHUNK_BODY_BYTES, CHUNK_BYTES, CHUNK_EVENTS, Bounds, Held, Holding, chunks
from loader.contract import Capabilities, Destination, LoadPlan, Session
from loader.deliver import Deliverer, Work
from loader.destinations import Destinations
from loader.plans import Plans
from loader.shape import Shaper
from shared import topology
from shared.dead import DeadLetter, bury, now
from shared.errors import Fenced, NotConnected, PenstockError, Permanent, Transient
from shared.frame import decode_frame
from shared.headers import Place, read_place, trace_of
from shared.jetstream import lease as leases
from shared.jetstream.queue_reader import QueueReader
from shared.jetstream.reader import Message
from shared.outcome import DeadReason
from shared.project import Connection, Site
from shared.service import ServiceContext
from shared.tasks import timeout, together
from shared.threads import ThreadGate

INLINE_EVENTS = 200
"""Up to here shaping takes less time than a thread costs latency."""

WAKE_SECONDS = 1.0
ASIDE_SECONDS = 10.0
RETRY_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 15.0)
SETUP_RETRY_SECONDS = (5.0, 15.0, 30.0, 60.0)

log = logging.getLogger(__name__)


class Shaped(NamedTuple):
    """The first `frames` frames of a chunk as a batch, and those among them that cannot be read, with the reason."""

    batch: ShapedBatch
    frames: int
    unreadable: list[tuple[Held, str]]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Work that is ready; `acks` are the sequences of its messages in `reader`'s stream."""

    work: Work
    reader: QueueReader
    acks: list[int]
    oldest_at: float
    traces: list[dict[str, str]]


class Definition(NamedTuple):
    """All that decides how a connection is loaded; another value means another start."""

    connection: Connection
    site: Site
    destination: dict[str, Any]


class ConnectionLoader:
    """Loads one connection. `run` returns when the service drains; a change of the project cancels it."""

    def __init__(
        self,
        context: ServiceContext,
        name: str,
        definition: Definition,
        destinations: Destinations,
        gate: ThreadGate,
        lease_seconds: float,
    ) -> None:
        self._context = context
        self._name = name
        self._definition = definition
        self._destinations = destinations
        self._gate = gate
        self._lease_seconds = lease_seconds
        self._failures = 0
        self._free = asyncio.Event()
        self._free.set()

    async def run(self) -> None:
        """Takes the lease and loads, again and again, until the service drains."""
        with contextlib.suppress(_DrainedError):
            await together(self._load_while_held(), self._end_the_wait())

    async def _end_the_wait(self) -> None:
        await self._context.draining.wait()
        # only waiting for the lease is cut short; what is being loaded ends in order
        await self._free.wait()
        raise _DrainedError

    async def _load_while_held(self) -> None:
        name, owner = f"loader.{self._name}", self._context.instance
        while not self._context.draining.is_set():
            try:
                async with leases.hold(self._context.broker, name, owner, self._lease_seconds) as lease:
                    self._free.clear()
                    log.info("connection taken", extra={"connection": self._name, "epoch": lease.epoch})
                    self._context.health.bad(f"connection {self._name}", "its destination is being opened")
                    await self._while_held(lease)
            finally:
                self._free.set()
            self._context.health.good(f"connection {self._name}")  # whoever holds it now answers for it

    async def _while_held(self, lease: leases.Lease) -> None:
        work = asyncio.create_task(self._persist(lease.epoch))
        lost = asyncio.create_task(lease.lost.wait())
        try:
            await asyncio.wait({work, lost}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                await work
        finally:
            for task in (work, lost):
                task.cancel()
            await asyncio.gather(work, lost, return_exceptions=True)

    async def _persist(self, epoch: int) -> None:
        part = f"connection {self._name}"
        while not self._context.draining.is_set():
            try:
                await self._session(epoch)
            except Fenced as exc:
                log.warning("fenced by a newer holder", extra={"connection": self._name, "error": str(exc)})
                return
            except PenstockError as exc:
                transient = isinstance(exc, Transient)
                delays = RETRY_SECONDS if transient else SETUP_RETRY_SECONDS
                delay = delays[min(self._failures, len(delays) - 1)]
                self._failures += 1
                self._context.telemetry.count("loader_loads_total", connection=self._name, result="failed")
                self._context.health.bad(part, str(exc))
                level = logging.WARNING if transient else logging.ERROR
                log.log(level, "load failed, events wait", extra={"connection": self._name, "error": str(exc), "again_in": delay})
                with contextlib.suppress(TimeoutError):
                    async with timeout(delay):
                        await self._context.draining.wait()

    async def _session(self, epoch: int) -> None:
        connection, _, document = self._definition
        async with (
            self._destinations.use(connection.destination, document) as (destination, capabilities),
            _session(destination, self._name, epoch) as session,
        ):
            broker = self._context.broker
            queue = QueueReader(broker, topology.DELIVER, topology.deliver_subject(self._name), f"loader-{self._name}")
            retries = QueueReader(broker, topology.RETRY, topology.retry_subject("loader", self._name), f"loader-{self._name}")
            run = _Run(self._context, self._name, self._definition, session, capabilities)
            async with queue, retries:
                waiting = await run.prepare(retries)
                self._context.health.good(f"connection {self._name}")
                await together(run.shape_all(queue, self._gate), run.retry_all(retries, waiting), run.deliver_all(self._loaded))

    def _loaded(self) -> None:
        self._failures = 0
        self._context.health.good(f"connection {self._name}")


class _Run:
    """One session: from the queue to the destination."""

    def __init__(
        self, context: ServiceContext, name: str, definition: Definition, session: Session, capabilities: Capabilities
    ) -> None:
        connection = definition.connection
        self._context = context
        self._name = name
        self._site = connection.site
        self._session = session
        self._plans = Plans(context.broker, name)
        self._transactional = capabilities.transactional
        self._shaper = Shaper(name, connection, capabilities, connection.site)
        self._aside_shaper = Shaper(name, connection, capabilities, connection.site)
        self._bounds = _bounds(connection, definition.site, context.settings.deliver_max_frames)
        self._marks: dict[tuple[str, str], int] = {}
        self._aside: set[tuple[str, str, int]] = set()
        self._through: dict[str, int] = {}
        self._ready: asyncio.Queue[Chunk | None] = asyncio.Queue(maxsize=1)
        publisher = context.broker.publisher
        self._deliverer = Deliverer(name, connection.site, self._shaper.rules, session, publisher, context.telemetry)

    async def prepare(self, asides: QueueReader) -> list[Aside]:
        """Reads what is loaded already and what was put aside; returns the latter."""
        self._marks = dict(await self._session.marks())
        if not self._transactional:
            await self._plans.read()
            self._through = self._plans.loaded()
        waiting: list[Aside] = []
        more = await asides.count() > 0
        while more:
            message = await asides.next(ASIDE_SECONDS)
            if message is None:
                raise NotConnected("what was put aside cannot be read")
            if (aside := read_aside(message)) is not None:
                waiting.append(aside)
                self._aside.add((aside.table, aside.place.lane, aside.place.seq))
            more = message.waiting > 0
        return waiting

    async def shape_all(self, reader: QueueReader, gate: ThreadGate) -> None:
        """Holds frames until they are due and shapes them, until the service drains."""
        holding = Holding(self._bounds)
        while not self._context.draining.is_set():
            due = holding.due_in(time.time())
            if due == 0:
                await self._shape(holding.take(), reader, gate)
                continue
            message = await reader.next(WAKE_SECONDS if due is None else min(due, WAKE_SECONDS))
            if message is not None:
                await self._hold(holding, message, reader)
                while not holding.full and (more := reader.take_buffered(1)):
                    message = more[0]
                    await self._hold(holding, message, reader)
                self._context.telemetry.gauge("loader_waiting_frames", message.waiting + len(holding), connection=self._name)
            self._context.telemetry.gauge("loader_oldest_seconds", holding.oldest_seconds(time.time()), connection=self._name)
        await self._ready.put(None)

    async def retry_all(self, asides: QueueReader, waiting: list[Aside]) -> None:
        """Tries what was put aside again when it is due, until the service drains."""
        while not self._context.draining.is_set():
            due = [aside for aside in waiting if aside.due <= time.time()]
            for aside in due:
                if self._context.draining.is_set():  # nobody takes from the queue any more
                    return
                waiting.remove(aside)
                await self._ready.put(self._shape_aside(aside, asides))
            message = await asides.next(WAKE_SECONDS)
            found = read_aside(message) if message is not None else None
            if found is not None:
                waiting.append(found)

    async def deliver_all(self, loaded: Callable[[], None]) -> None:
        """Delivers shaped chunks in order and acknowledges them."""
        while (chunk := await self._ready.get()) is not None:
            plan = chunk.work.plan
            if not self._transactional:
                await self._plans.write(plan, done=False)
            with self._context.telemetry.span(f"load {self._name}", SpanKind.CONSUMER, links=chunk.traces):
                await self._deliverer.deliver(chunk.work)
            if not self._transactional:
                await self._plans.write(plan, done=True)
            with contextlib.suppress(NotConnected):  # they come again, and the ledger knows them
                await chunk.reader.ack(chunk.acks)
            self._context.telemetry.record(
                "loader_latency_seconds", max(0.0, time.time() - chunk.oldest_at), connection=self._name
            )
            self._context.telemetry.gauge("loader_last_load_seconds", time.time(), connection=self._name)
            loaded()

    async def _hold(self, holding: Holding, message: Message, reader: QueueReader) -> None:
        place = read_place(message.headers)
        if place is None:
            await self._bury_unreadable(message, "the message names no lane and sequence")
            await reader.ack([message.seq])
            return
        if place.seq <= self._through.get(place.lane, 0):
            self._context.telemetry.count("loader_events_repeated_total", place.events, connection=self._name)
            await reader.ack([message.seq])
            return
        self._through[place.lane] = place.seq
        holding.add(Held(message, place))

    async def _shape(self, frames: list[Held], reader: QueueReader, gate: ThreadGate) -> None:
        for chunk in chunks(frames, self._plans.unfinished()):
            while chunk:
                if sum(held.place.events for held in chunk) <= INLINE_EVENTS:
                    shaped = self._shape_chunk(chunk)
                else:
                    shaped = await gate.run(self._shape_chunk, chunk)
                for held, why in shaped.unreadable:
                    await self._bury_unreadable(held.message, why)
                part, chunk = chunk[: shaped.frames], chunk[shaped.frames :]
                places = [held.place for held in part]
                plan = LoadPlan(self._name, places[0].lane, places[0].seq, places[-1].seq)
                acks = [held.message.seq for held in part]
                traces = [trace for held in part if (trace := trace_of(held.message.headers))]
                await self._ready.put(Chunk(Work(plan, shaped.batch), reader, acks, part[0].message.at_seconds, traces))

    def _shape_chunk(self, chunk: list[Held]) -> Shaped:
        """Shapes the frames of a chunk, or its first ones where their events unpack to more than was to be expected."""
        unreadable: list[tuple[Held, str]] = []
        frames = 0
        for held in chunk:
            frames += 1
            try:
                self._shaper.add(decode_frame(held.message.payload), held.place.seq, partial(self._loaded, held.place))
            except Permanent as exc:
                unreadable.append((held, str(exc)))
            if self._shaper.full or self._shaper.body_bytes > CHUNK_BODY_BYTES:
                break
        return Shaped(self._shaper.take(), frames, unreadable)

    def _loaded(self, place: Place, table: str) -> int:
        """Returns the last sequence of the place's lane that needs no loading into `table` any more."""
        mark = self._marks.get((table, place.lane), 0)
        if (table, place.lane, place.seq) in self._aside or (table, aside_lane(place.lane, place.seq)) in self._marks:
            return place.seq
        return mark

    def _shape_aside(self, aside: Aside, asides: QueueReader) -> Chunk:
        place, lane = aside.place, aside.lane
        mark = self._marks.get((aside.table, lane), 0)
        self._aside_shaper.add(
            decode_frame(aside.message.payload), place.seq, lambda table: mark if table == aside.table else place.seq
        )
        plan = LoadPlan(self._name, lane, place.seq, place.seq)
        work = Work(plan, self._aside_shaper.take(), aside.attempt, place)
        return Chunk(work, asides, [aside.message.seq], aside.message.at_seconds, [])

    async def _bury_unreadable(self, message: Message, why: str) -> None:
        letter = DeadLetter(
            stage="loader",
            site=self._site,
            connection=self._name,
            reason=DeadReason.FRAME_UNREADABLE,
            detail=why,
            body=message.payload,
            at=now(),
            origin=f"{topology.DELIVER}:{message.seq}",
        )
        await bury(self._context.broker.publisher, "loader", self._name, [letter], f"loader.{self._name}.frame.{message.seq}")
        self._context.telemetry.count("loader_events_dead_total", connection=self._name, reason=DeadReason.FRAME_UNREADABLE)
        log.error("a frame cannot be read, it is in the dead letters", extra={"connection": self._name, "error": why})


class _DrainedError(Exception):
    """The service drains, and nothing is held."""


def _bounds(connection: Connection, site: Site, queue_frames: int) -> Bounds:
    frames = max(1, queue_frames // 2)
    if connection.mode == "stream":
        return Bounds(0.0, CHUNK_EVENTS, CHUNK_BYTES, frames)
    period = connection.batch.period if site.batch_period is None else site.batch_period
    return Bounds(float(period), connection.batch.max_rows, int(connection.batch.max_bytes), frames)


@contextlib.asynccontextmanager
async def _session(destination: Destination, connection: str, epoch: int) -> AsyncIterator[Session]:
    session = await destination.open_session(connection, epoch)
    try:
        yield session
    finally:
        await session.close()
