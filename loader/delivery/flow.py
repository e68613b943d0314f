"""One session of a connection: from its queue to its destination, until something fails or the service drains.

    queue ──> hold until due ──> shape (a thread) ──> one chunk waits ──> deliver ──> acknowledge
    RETRY ──> rows set aside, when they are due ──────┘

Three tasks: `shape_all`, `retry_all` and `deliver_all`. `loader/delivery/connection.py` opens their resources and handles their
failure; `loader/delivery/shaping.py` makes batches, `loader/delivery/deliver.py` delivers one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from opentelemetry.trace import SpanKind

from loader.contract.warehouse import Capabilities, LoadPlan, Session
from loader.delivery.chunk import ReadyChunk
from loader.delivery.deliver import Deliverer, Work
from loader.delivery.hold import WAKE_SECONDS, Holder
from loader.delivery.moving.former import Former, further, is_known, leave_out
from loader.delivery.moving.rebuild import Rebuild
from loader.delivery.sending.moved import Calls
from loader.delivery.shaping import Shaping
from loader.queue.account import Accounts, Outcome, share_of_aside, share_of_lane
from loader.queue.aside import Aside, Failing, aside_lane, spent
from loader.queue.collect import Held, bounds_of, chunks
from loader.queue.look_back import LookBack
from loader.queue.memory import Memory
from loader.queue.plans import Plans
from loader.queue.progress import Progress
from loader.queue.retries import Retries
from loader.queue.troubles import DroppedTables
from loader.rows.batch import ShapedBatch
from loader.watch.limit import Limit
from shared.errors import NotConnected, Permanent, WentBack
from shared.events.headers import Place
from shared.events.outcome import DeadReason
from shared.jetstream import topology
from shared.jetstream.queue_reader import QueueReader
from shared.project.model import Connection, Site
from shared.service import ServiceContext
from shared.streams.ended import Ended, Pending
from shared.streams.waiting import CALLS, count_frames
from shared.tasks import timeout, together
from shared.telemetry.tracing.messaging import describe
from shared.telemetry.tracing.spans import Span, read_trail
from shared.threads import ThreadGate

LOOK_SECONDS = 60.0
"""How often an idle connection looks at its destination."""

EMPTY = ShapedBatch(
    tables={},
    dead=(),
    dropped=Counter(),
    notes=Counter(),
    events=0,
    frames=(),
    event_frames=np.empty(0, np.int32),
    event_indexes=np.empty(0, np.int32),
)

log = logging.getLogger(__name__)


class Definition(NamedTuple):
    """All that decides how a connection is loaded; a new value means a new start."""

    connection: Connection
    site: Site
    destination: dict[str, Any]
    queue: str = ""
    """Name of the connection's queue (`shared.jetstream.topology.queue_of`); another name is another connection."""


class Flow:
    """One session: from the queue to the destination."""

    def __init__(
        self,
        context: ServiceContext,
        name: str,
        definition: Definition,
        epoch: int,
        session: Session,
        capabilities: Capabilities,
        failing: Failing,
        accounts: Accounts,
        former: Former,
        limit: Limit,
    ) -> None:
        connection = definition.connection
        self._accounts = accounts
        self._former = former
        self._epoch = epoch
        self._share = share_of_lane("", 0, 0)
        self._waiting: Callable[[str, int], int] = lambda _lane, _seq: 0
        self._context = context
        self._name = name
        self._session = session
        self._plans = Plans(context.broker, name)
        self._transactional = capabilities.transactional
        self._shaping = Shaping(
            name, connection, capabilities, context.telemetry, ended=accounts.begun_of, forgotten=context.forgotten
        )
        bounds = bounds_of(connection, definition.site, context.settings.deliver_max_frames)
        self._holder = Holder(
            context=context, connection=name, site=connection.site, bounds=bounds, limit=limit, wanted=self.wanted
        )
        self.bury_unreadable = self._holder.bury_unreadable
        self._memory = Memory(context.broker, name, connection.destination, definition.destination)
        self._look_back = LookBack(
            broker=context.broker,
            telemetry=context.telemetry,
            health=context.health,
            site=connection.site,
            connection=name,
            queue=definition.queue,
        )
        merges = connection.deduplicate and capabilities.merge != "no"
        self._rebuild = Rebuild(context.broker, name, definition.queue, merges=merges)
        self._through: dict[str, int] = {}
        self._ready: asyncio.Queue[ReadyChunk | None] = asyncio.Queue(maxsize=1)
        publisher = context.broker.publisher
        self._queue = definition.queue
        self._span_name = f"load {topology.deliver_subject(name)}"
        self._destination = str(definition.destination.get("type", ""))
        self._key = self._shaping.rules.namer.key
        self._progress = self._shaping.progress
        self._dropped = DroppedTables(
            connection=name,
            site=connection.site,
            key=self._key,
            memory=self._memory,
            telemetry=context.telemetry,
            health=context.health,
        )
        self._deliverer = Deliverer(
            connection=name, site=connection.site, rules=self._shaping.rules, session=session, publisher=publisher, telemetry=context.telemetry, failing=failing,
            queue=definition.queue, epoch=epoch, before_load=self._before_load,
            before_aside=self._before_aside, dropped=self._dropped, limit=limit,
        )  # fmt: skip

    async def prepare(self, retries: Retries) -> bool:
        """Reads which frames are loaded and which rows are set aside. Returns whether a load was cut off: its frames come again."""
        if self._transactional:
            await self._rebuild.begin(self._session)
        marks = await self._session.marks()
        if self._transactional:
            await self._look_back.begin(self._memory, marks)
            await self._rebuild.answer(self._look_back.open, self._look_back.replays)
        else:
            await self._plans.read()
            self._through = self._plans.loaded()
        asides = await retries.read_all()
        waiting = {(self._key(aside.table), aside.place.lane, aside.place.seq) for aside in asides}
        if not self._transactional:
            waiting |= self._plans.asides()
        self._progress = self._shaping.progress = Progress(self._key, marks, waiting, self._look_back.rewinds)
        cut_off = await self._accounts.read(self._is_committed)
        if not self._transactional:
            self._through = further(self._through, self._accounts)
        else:
            await leave_out(
                accounts=self._accounts, asides=asides, memory=self._memory, rewound=self._look_back.open, progress=self._progress
            )
            lanes = {lane for _, lane in marks}
            self._accounts.note_moved(lambda lane: lane in lanes or self._memory.knows(lane))
        self._waiting = retries.bits
        self._accounts.keep_asides(asides)
        await Calls(
            connection_queue=self._queue,
            epoch=self._epoch,
            reader=retries.reader,
            publisher=self._context.broker.publisher,
            accounts=self._accounts,
            unreadable=self.bury_unreadable,
        ).turn(retries.calls, asides)
        self._shaping.know(self._progress.tables)
        if old := spent(marks, self._progress.marks, waiting, self._key):
            await self._session.forget(old)
        self._deliverer.buried = await self._look_back.buried(self._queue)
        self._dropped.begin(self._progress.tables)
        return cut_off

    @property
    def trouble(self) -> str:
        """The trouble with an older state of the destination or the broker; empty if all is well."""
        return self._look_back.trouble

    async def follow_rewinds(self, reader: QueueReader, settled: Callable[[], None]) -> None:
        """Watches until all missing frames are loaded again, or the service drains."""
        while self._look_back.waits and not self._context.draining.is_set():
            with contextlib.suppress(NotConnected):
                await self._look_back.settle(empty=await self._is_empty(reader))
            if self._look_back.waits:
                with contextlib.suppress(TimeoutError):
                    async with timeout(WAKE_SECONDS):
                        await self._context.draining.wait()
        settled()

    async def _is_empty(self, reader: QueueReader) -> bool:
        """Says whether nothing waits, in this order: what leaves the functions comes into the queue."""
        waiting = await count_frames(self._context.broker, topology.FUNCTIONS, topology.functions_subject(self._queue))
        return waiting == 0 and await reader.count() == 0

    async def _is_committed(self, ended: Ended, pending: Pending) -> bool:
        known = self._progress if self._transactional else self._plans
        if is_known(pending, known, self._memory, self._key):
            return True
        return self._accounts.is_elsewhere(ended) and await self._former.has(ended, pending, self._epoch)

    async def shape_all(self, reader: QueueReader, gate: ThreadGate) -> None:
        """Holds frames until they are due and shapes them, until the service drains."""
        await self._holder.run(reader, lambda frames: self._shape(frames, reader, gate))
        await self._ready.put(None)

    async def retry_all(self, retries: Retries, gate: ThreadGate) -> None:
        """Tries rows that were set aside when they are due, until the service drains."""
        await retries.run(lambda aside: self._attempt(aside, retries, gate), self._context.draining.is_set)

    async def _attempt(self, aside: Aside, retries: Retries, gate: ThreadGate) -> bool:
        payload = await retries.reader.payload(aside.seq)
        share = share_of_aside(aside, partial(retries.others, aside))
        try:
            work = await self._shaping.shape_aside(aside, payload, gate)
        except Permanent as exc:
            await self.bury_unreadable(topology.RETRY, aside.seq, payload, str(exc))
            outcome = Outcome({(0, index): DeadReason.FRAME_UNREADABLE for index in range(aside.bits.bit_count())})
            plan = LoadPlan(self._name, aside.lane, aside.place.seq, aside.place.seq)
            await self._accounts.done(self._accounts.pending(share, EMPTY, outcome, plan), time.time())
            await retries.reader.ack([aside.seq])
            return True
        if self._context.draining.is_set():  # no task takes from the queue now
            return False
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        await self._ready.put(
            ReadyChunk(
                work=work,
                share=share,
                reader=retries.reader,
                acks=[aside.seq],
                oldest_at=aside.at_seconds,
                trails=[aside.trail] if aside.trail else [],
                done=done,
            )
        )
        return await done

    async def load_only(self, due: Sequence[Held] | Aside, reader: QueueReader, retries: Retries, gate: ThreadGate) -> None:
        """Loads these frames, or these rows that were set aside, and nothing else."""

        async def shape() -> None:
            if isinstance(due, Aside):
                await self._attempt(due, retries, gate)
            else:
                await self._shape(list(due), reader, gate)
            await self._ready.put(None)

        await together(shape(), self.deliver_all(lambda: None))

    async def deliver_all(self, loaded: Callable[[], None]) -> None:
        """Delivers shaped chunks in order and acknowledges them."""
        while (chunk := await self._next_chunk()) is not None:
            plan = chunk.work.plan
            if not self._transactional and not chunk.work.aside:
                await self._plans.write(plan, done=False)
            self._share = chunk.share
            with self._context.telemetry.span(self._span_name, SpanKind.CONSUMER, links=chunk.trails) as span:
                self._describe(span, chunk)
                outcome = await self._deliverer.deliver(chunk.work)
            if outcome is not None:
                await self._accounts.done(self._pending(chunk.work, outcome), time.time())
            if chunk.done is not None and not chunk.done.done():
                chunk.done.set_result(outcome is not None)
            if outcome is None:
                continue
            for table in chunk.work.batch.tables if chunk.work.aside else ():
                self._progress.note(table, plan.lane, plan.last)
            if not self._transactional:
                await self._note_loaded(chunk.work)
            elif self._deliverer.committed:
                await self._remember(chunk)
            with contextlib.suppress(NotConnected):  # they come again, and the ledger knows them
                await chunk.reader.ack(chunk.acks)
            self._context.telemetry.record(
                "loader_latency_seconds", max(0.0, time.time() - chunk.oldest_at), connection=self._name
            )
            loaded()
        await self._accounts.flush()

    def _describe(self, span: Span, chunk: ReadyChunk) -> None:
        describe(span, destination=topology.deliver_subject(self._name), operation="process", messages=len(chunk.acks))
        span.set("penstock.connection", self._name)
        span.set("penstock.destination", self._destination)
        span.set("penstock.events", chunk.work.batch.events)
        span.set("penstock.tables", len(chunk.work.batch.tables))

    async def _before_load(self, work: Work, outcome: Outcome) -> None:
        await self._accounts.expect(self._pending(work, outcome))

    async def _before_aside(self, work: Work, bits: Mapping[int, int]) -> None:
        await self._accounts.expect_aside(self._share, work.plan.lane, bits)

    def _pending(self, work: Work, outcome: Outcome) -> Pending:
        return self._accounts.pending(self._share, work.batch, outcome, work.plan)

    async def _note_loaded(self, work: Work) -> None:
        plan = work.plan
        if not work.aside:
            await self._plans.write(plan, done=True)
        for table in work.batch.tables if work.aside else ():
            await self._plans.write_aside(self._key(table), plan.lane.removeprefix(aside_lane("", plan.last)), plan.last)

    async def _next_chunk(self) -> ReadyChunk | None:
        """Waits for work; meanwhile looks whether an older state of the destination was put back."""
        while True:
            try:
                async with timeout(LOOK_SECONDS):
                    return await self._ready.get()
            except TimeoutError:
                if self._transactional and self._memory.gaps(await self._session.marks()):
                    raise WentBack(f'connection "{self._name}": an older state of the destination was put back') from None

    async def _remember(self, chunk: ReadyChunk) -> None:
        """Notes outside of the destination how far it is loaded."""
        aside, plan = chunk.share.aside, chunk.work.plan
        if aside is not None:
            for table in chunk.work.batch.tables:
                if aside.table == CALLS:
                    continue
                await self._memory.note_aside(table, aside.place.lane, aside.run, aside.place.seq)
        else:
            await self._memory.note(plan.lane, plan.last)
            await self._look_back.passed(plan.lane, plan.last)

    async def wanted(self, place: Place) -> bool | None:
        """Whether to load a frame, which counts as taken then; None: the service drains."""
        superseded = False
        if self._progress.is_before_rewind(place):
            first = await self._first_again(place.lane)
            if first is None:
                return None
            superseded = place.seq >= first
        if superseded or place.seq <= self._through.get(place.lane, 0) or self._memory.is_elsewhere(place.lane, place.seq):
            return False
        self._through[place.lane] = place.seq
        return True

    async def _first_again(self, lane: str) -> int | None:
        """Waits until the router has begun to read again; None: the service drains."""
        while (first := await self._look_back.first_again(lane)) is None:
            with contextlib.suppress(TimeoutError):
                async with timeout(WAKE_SECONDS / 4):
                    await self._context.draining.wait()
                return None
        return first

    async def _shape(self, frames: list[Held], reader: QueueReader, gate: ThreadGate) -> None:
        # frames that come again although they are counted make a separate chunk
        ends = {**self._accounts.counted, **self._plans.unfinished()}
        for chunk in chunks(frames, ends, apart=self._progress.goes_aside):
            while chunk:
                shaped = await self._shaping.shape(chunk, gate)
                for held, why in shaped.unreadable:
                    await self.bury_unreadable(
                        stream=topology.DELIVER,
                        seq=held.message.seq,
                        payload=held.message.payload,
                        why=why,
                        events=held.place.events,
                    )
                part, chunk = chunk[: shaped.frames], chunk[shaped.frames :]
                places = [held.place for held in part]
                plan = LoadPlan(self._name, places[0].lane, places[0].seq, places[-1].seq)
                acks = [held.message.seq for held in part]
                trails = [trail for held in part if (trail := read_trail(held.message.headers))]
                unreadable = sum(
                    max(1, held.place.events) - self._accounts.begun_of(held.place.lane, held.place.seq).bit_count()
                    for held, _ in shaped.unreadable
                )
                sent = max(place.total for place in places)
                share = share_of_lane(
                    lane=plan.lane, through=plan.last, unreadable=unreadable, waiting=partial(self._waiting, plan.lane), sent=sent
                )
                run = partial(self._progress.run, plan.lane) if self._progress.goes_aside(places[-1]) else None
                work = Work(plan, shaped.batch, again=run)
                await self._ready.put(
                    ReadyChunk(
                        work=work, share=share, reader=reader, acks=acks, oldest_at=part[0].message.at_seconds, trails=trails
                    )
                )
