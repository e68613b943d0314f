"""One session of a connection whose destination takes events one by one: from its queue into calls, until a failure or a drain.

    queue ──> hold until due ──> chunk ──> lines, by user ──> call ──> outcome ──> note ──> acknowledge
    RETRY ──> when due ─────────────────────┘                   └──> RETRY, dead letter

A line sends one call after the other; all events of a user go by the same line, so their order stays. A call that fails leaves
its line for RETRY (`loader/delivery/sending/later.py`). The fate of each event is noted as answers come
(`loader/delivery/sending/books.py`). A frame is acknowledged when all of its events, and of the frames before it, have ended or
are in RETRY.

The events of a call depend only on the frames of its chunk and on the options, so a successor makes the same calls for events
without a note, with the same idempotency keys. If calls hold several events, the end of a chunk is noted before it is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Sequence

from loader import registry
from loader.contract.events import EventDestination, Way
from loader.delivery.flow import Definition
from loader.delivery.hold import Holder
from loader.delivery.moving.former import Former
from loader.delivery.sending.books import Books, OpenChunk
from loader.delivery.sending.cut import cut
from loader.delivery.sending.job import Item, Job, Source, line_of
from loader.delivery.sending.later import MOST_WAITING, Later, Waiting
from loader.delivery.sending.pace import Pace
from loader.delivery.sending.send import JobSender
from loader.queue.account import Accounts
from loader.queue.collect import Held, bounds_of
from loader.watch.limit import Limit, TooManyDeadError
from shared.errors import NotConnected, Permanent
from shared.events.frame import decode_frame
from shared.events.headers import Place, is_live
from shared.events.outcome import DeadReason
from shared.jetstream import topology
from shared.jetstream.queue_reader import QueueReader
from shared.service import ServiceContext
from shared.streams.ended import Ended, Pending, counts_of_frame
from shared.tasks import timeout, together
from shared.telemetry.tracing.spans import read_trail

CHUNK_EVENTS = 1_000
"""Events of a chunk; more if calls hold many."""
MOST_CHUNK_EVENTS = 10_000
CHUNK_FRAMES = 300
CHUNK_BYTES = 2 * 1024 * 1024
OPEN_CHUNKS = 4
"""The most chunks in memory: several, so that one slow call does not hold up the other lines."""
CALLS_A_LINE = 4
"""The number of calls of each line for which a chunk should have events."""
SHOW_SECONDS = 1.0

log = logging.getLogger(__name__)


class EventFlow:
    """One session: from the queue to the destination."""

    def __init__(
        self,
        context: ServiceContext,
        name: str,
        definition: Definition,
        epoch: int,
        destination: EventDestination,
        accounts: Accounts,
        former: Former,
        works: Callable[[], None],
        limit: Limit,
    ) -> None:
        """Makes a session; `works` is called whenever frames have ended."""
        connection = definition.connection
        self._works = works
        self._limit = limit
        self._context = context
        self._name = name
        self._site = connection.site
        self._queue_name = definition.queue
        self._epoch = epoch
        self._destination = destination
        self._limits = destination.limits
        self._mask = registry.mask_of(definition.destination)
        self._accounts = accounts
        self._former = former
        bounds = bounds_of(connection, definition.site, context.settings.deliver_max_frames)
        self._holder = Holder(
            context=context, connection=name, site=connection.site, bounds=bounds, limit=limit, wanted=self._wanted
        )
        self._through: dict[str, int] = {}
        wished = CALLS_A_LINE * self._limits.calls_at_once * self._limits.events_per_call
        self._chunk_events = min(max(CHUNK_EVENTS, wished), MOST_CHUNK_EVENTS)
        self._lines: list[asyncio.Queue[Job]] = [asyncio.Queue() for _ in range(self._limits.calls_at_once)]
        self._width = 0
        """The number of lines that the chunks in memory use."""
        self._ended = asyncio.Event()
        """No call begins any more: the service drains, or the limit of dead letters is reached."""
        self._reached: TooManyDeadError | None = None
        self._pace = Pace(self._limits, self._ended, time.monotonic)
        self._space = asyncio.Event()
        self._under_way: set[int] = set()

    async def run(self, queue: QueueReader, aside: QueueReader, ready: Callable[[Later], None]) -> None:
        """Sends until the service drains.

        Args:
            ready: called with the events in RETRY once they are read.

        Raises:
            Fenced, NotConnected, Transient: the broker does not work, or another loader has the connection; open a new session.
            TooManyDeadError: the limit of dead letters is reached.
        """
        await self._accounts.read(self._is_committed)

        async def acknowledge(frames: Sequence[int], retried: Sequence[int]) -> None:
            with contextlib.suppress(NotConnected):  # they come again, and the books know them
                await queue.ack(list(frames))
            if retried:
                await aside.remove(list(retried))

        self._books = Books(self._accounts, acknowledge, self._finished)
        self._later = Later(
            reader=aside,
            publisher=self._context.broker.publisher,
            connection=self._name,
            queue=self._queue_name,
            epoch=self._epoch,
            limits=self._limits,
            unreadable=self._holder.bury_unreadable,
            replaced=self._replaced,
        )
        await self._later.read_all(self._books.early)
        self._set_aside = self._later.places()
        self._books.keep_waiting(self._set_aside)
        self._through = dict(self._accounts.counted_lanes)
        ready(self._later)
        way = Way(connection=self._name, site=self._site, mask=self._mask, note=self._note)
        async with self._destination.link(way) as link:
            self._link = link
            self._sender = JobSender(
                connection=self._name,
                site=self._site,
                destination=self._destination,
                link=link,
                pace=self._pace,
                later=self._later,
                books=self._books,
                limit=self._limit,
                publisher=self._context.broker.publisher,
                telemetry=self._context.telemetry,
                forgotten=self._context.forgotten,
            )
            await together(
                self._holder.run(queue, self._begin),
                self._work_all(),
                self._take_in(),
                self._retry_all(),
                self._books.keep(),
                self._show(),
                self._wake_at_drain(queue, aside),
            )

    async def _is_committed(self, ended: Ended, pending: Pending) -> bool:
        """Whether a load is committed that was pending when the connection had another kind of destination."""
        return self._accounts.is_elsewhere(ended) and await self._former.has(ended, pending, self._epoch)

    async def _wanted(self, place: Place) -> bool:
        if place.seq <= self._through.get(place.lane, 0):
            return False
        self._through[place.lane] = place.seq
        return True

    async def _begin(self, frames: list[Held]) -> None:
        """Gives the events of frames to the lines, chunk by chunk, as room allows."""
        for held in cut(
            frames=frames, cuts=self._books.cuts, max_events=self._chunk_events, max_bytes=CHUNK_BYTES, max_frames=CHUNK_FRAMES
        ):
            events = sum(max(1, each.place.events) for each in held)
            per_call = self._limits.events_per_call
            width = len(self._lines) if per_call == 1 else min(len(self._lines), math.ceil(events / per_call))
            # another number of lines gives users other lines, so all events under way must end before
            most = 0 if self._width not in (0, width) else self._chunk_events * (OPEN_CHUNKS - 1)
            if not await self._room(most):
                return
            self._width = width
            await self._give(held, width)

    async def _room(self, most: int) -> bool:
        """Waits until few enough events are under way; False: the service drains."""
        while self._books.open_events > most or len(self._later) > MOST_WAITING:
            if self._context.draining.is_set():
                return False
            self._space.clear()
            with contextlib.suppress(TimeoutError):
                async with timeout(SHOW_SECONDS):
                    await self._space.wait()
        return not self._context.draining.is_set()

    async def _give(self, frames: Sequence[Held], width: int) -> None:
        lane, per_call = frames[0].place.lane, self._limits.events_per_call
        chunk = OpenChunk(
            lane=lane,
            seqs=[held.place.seq for held in frames],
            acks=[held.message.seq for held in frames],
            left=0,
            sent=max(held.place.total for held in frames),
            oldest_at=frames[0].message.at_seconds,
        )
        lines: list[list[Item]] = [[] for _ in range(width)]
        for held in frames:
            seq = held.place.seq
            done = self._books.begun(lane, seq) | self._set_aside.get((lane, seq), 0)
            missed = self._set_aside.pop((lane, seq), 0) & ~self._books.begun(lane, seq)
            try:
                source = Source(lane, decode_frame(held.message.payload), read_trail(held.message.headers))
            except Permanent as exc:
                if not done:
                    await self._holder.bury_unreadable(
                        stream=topology.DELIVER,
                        seq=held.message.seq,
                        payload=held.message.payload,
                        why=str(exc),
                        events=held.place.events,
                    )
                    self._books.unreadable(lane, seq, max(1, held.place.events), DeadReason.FRAME_UNREADABLE)
                continue
            if missed:  # a former holder put them into RETRY and did not note it
                self._books.taken(lane, seq, missed)
            for index, head in enumerate(source.frame.heads):
                user = line_of(head, self._limits)
                line = lines[int(user[:4], 16) % width if self._limits.ordered else (seq + index) % width]
                line.append(Item(source=source, position=index, seq=seq, number=index, user=user))
            chunk.functions = chunk.functions.plus(counts_of_frame(source.frame, live=is_live(lane)))
            chunk.left += len(source.frame) - (done & ((1 << len(source.frame)) - 1)).bit_count()
        if per_call > 1:
            await self._books.plan(chunk)
        jobs = [
            # calls are made up before ended events are left out
            (number, [item for item in line[start : start + per_call] if not self._is_begun(item)])
            for number, line in enumerate(lines)
            for start in range(0, len(line), per_call)
        ]
        self._books.open(chunk)  # forgets at once what had begun of a chunk that is at its end
        for number, items in jobs:
            if items:
                self._lines[number].put_nowait(Job(items, chunk=chunk))

    def _is_begun(self, item: Item) -> bool:
        return bool(self._books.begun(item.source.lane, item.seq) >> item.number & 1)

    async def _work_all(self) -> None:
        await together(*(self._work(line) for line in self._lines))
        self._books.close()
        if self._reached is not None:  # every call was answered: note that before the others are cancelled
            await self._books.write()
            raise self._reached

    async def _work(self, line: asyncio.Queue[Job]) -> None:
        while not self._ended.is_set():
            job = await line.get()
            try:
                if not job.items or not await self._sender.work(job):
                    return
            except TooManyDeadError as exc:
                self._reached = exc
                self._end_calls()
                return
            if job.waiting is not None:
                self._under_way.discard(job.waiting.seq)
                self._later.changed.set()

    async def _take_in(self) -> None:
        """Takes in new messages of RETRY."""
        while not self._context.draining.is_set():
            await self._later.take_in(SHOW_SECONDS)
            self._later.changed.set()

    async def _retry_all(self) -> None:
        """Gives waiting events to the lines when they are due, a few at a time."""
        most = 2 * len(self._lines)
        while not self._context.draining.is_set():
            self._later.changed.clear()
            while len(self._under_way) < most and (one := self._later.take_due()) is not None:
                job = await self._later.job(one)
                if job is None:
                    self._books.unreadable_retry(one.lane, one.frames, DeadReason.FRAME_UNREADABLE)
                    self._later.end(one)
                    self._books.retried(one.seq, one.lane, dict(one.held))
                    continue
                self._under_way.add(one.seq)
                self._lines[one.order % len(self._lines)].put_nowait(job)
            with contextlib.suppress(TimeoutError):
                async with timeout(self._later.next_in() if len(self._under_way) < most else SHOW_SECONDS):
                    await self._later.changed.wait()

    def _note(self, result: str, seconds: float) -> None:
        self._context.telemetry.count("loader_calls_total", connection=self._name, result=result)
        self._context.telemetry.record("loader_call_seconds", seconds, connection=self._name)

    def _replaced(self, one: Waiting) -> None:
        self._books.retried(one.seq, one.lane, dict(one.held))

    def _finished(self, chunk: OpenChunk) -> None:
        self._space.set()
        self._works()
        latency = max(0.0, time.time() - chunk.oldest_at)
        self._context.telemetry.record("loader_latency_seconds", latency, connection=self._name)

    async def _show(self) -> None:
        """Shows in `/ready` whether the destination works."""
        part = f"connection {self._name}"
        while not self._context.draining.is_set():
            why, waiting = self._pace.why, len(self._later)
            if not why and self._link.trouble:
                self._context.health.bad(part, f"the destination does not answer: {self._link.trouble}")
            elif why:
                self._context.health.bad(
                    part, f"the destination does not take events, next try in {self._pace.paused_for:.0f} s: {why}"
                )
            else:
                self._context.health.good(part)
            if waiting:
                self._context.health.warn(
                    f"{part}: calls", f"{waiting} calls failed, or wait behind one that did; they are tried again"
                )
            else:
                self._context.health.good(f"{part}: calls")
            with contextlib.suppress(TimeoutError):
                async with timeout(SHOW_SECONDS):
                    await self._context.draining.wait()

    async def _wake_at_drain(self, *readers: QueueReader) -> None:
        await self._context.draining.wait()
        for reader in readers:
            reader.wake()
        self._end_calls()

    def _end_calls(self) -> None:
        self._ended.set()
        self._pace.wake()
        self._later.changed.set()
        for line in self._lines:
            line.put_nowait(Job([]))
