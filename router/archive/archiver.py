"""The worker that archives one site: reads its frames of EVENTS, and puts them into the archive as objects.

It reads EVENTS by a reader of its own and holds up nobody: while the store is away, frames wait in EVENTS, `/ready` warns, and the
note says how many wait. If EVENTS' limits remove frames that it has not read, it counts them.

The archive's books are the position. What is in memory when a router dies is read from EVENTS again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence

from nats.js.errors import NotFoundError

from router.archive.draft import Draft
from router.archive.missed import Missed
from router.archive.writer import BooksChanged, Writer
from shared.archive.books import owner
from shared.archive.lines import Stored
from shared.archive.note import ArchiveNote, read_note, write_note
from shared.archive.place import document_of, open_store, where
from shared.archive.rewrite import is_asked_to_pause
from shared.backoff import Backoff
from shared.errors import Fenced, PenstockError, SetupError, Transient
from shared.jetstream import topology
from shared.jetstream.broker import asking
from shared.jetstream.identity import Identity, identify
from shared.jetstream.lease import Lease
from shared.jetstream.reader import Message, StreamReader, StreamReplaced
from shared.project.archive import ArchiveOptions
from shared.service import ServiceContext
from shared.streams.waiting import look_ahead
from shared.tasks import timeout
from shared.threads import ThreadGate

FAULT_SECONDS = (1.0, 30.0)
LOOK_SECONDS = 2.0
"""The time between two looks at what waits, and whether a rewrite wants the archive."""
EXPIRE_SECONDS = 3600.0
TOGETHER = 31
"""Most further frames that are packed by one call of a thread."""
CLOCK_SECONDS = 1.0
"""By so much the time of a frame may differ from what its entry says."""
LATE_SECONDS = 60.0
"""`/ready` warns if an event waits so much longer than two periods."""

log = logging.getLogger(__name__)


class Archiver:
    """The worker of one site."""

    def __init__(self, context: ServiceContext, gate: ThreadGate, site: str, options: ArchiveOptions) -> None:
        self._context = context
        self._gate = gate
        self._site = site
        self._options = options
        self._part = f"archive {site}"
        self._missed = Missed(context.telemetry, site)
        self._trouble = ""
        self._position = (0, "")
        self._first = 0
        self._look_at = 0.0
        self._expire_at = 0.0

    def change(self, definition: ArchiveOptions) -> bool:
        """See `Worker.change`: another archive is another start."""
        return definition == self._options

    async def work(self, lease: Lease, ending: asyncio.Event) -> None:
        """Archives until the lease is lost, the service drains, or a rewrite wants the lease."""
        pause = Backoff(*FAULT_SECONDS)
        try:
            while not ending.is_set():
                try:
                    return await self._session(lease, ending, pause)
                except PenstockError as exc:
                    if isinstance(exc, Fenced):
                        lease.check()  # raises if another router of this stack has the site
                        exc = SetupError(
                            f"another stack archives site {self._site} into {where(self._options)} (epoch {exc.newest}); give one of them another place. "
                            f"If none does, remove _penstock/{owner(self._site)} there"
                        )
                    await self._say(str(exc))
                    await _wait(ending, pause.next())
        finally:
            self._context.health.good(self._part)
            self._context.telemetry.forget("archive_lag_frames", "archive_oldest_seconds", site=self._site)

    async def _session(self, lease: Lease, ending: asyncio.Event, pause: Backoff) -> None:
        broker = self._context.broker
        if await is_asked_to_pause(broker, self._site):
            return
        events = await identify(broker, topology.EVENTS)
        note = await read_note(broker, self._site) or ArchiveNote()
        same = note.incarnation == events.incarnation
        self._position, self._first = (note.position if same else 0, events.incarnation), note.first if same else 0
        store = await open_store(self._options, self._gate)
        try:
            writer = Writer(store, self._site, lease, events.incarnation, gate=self._gate, kept_from=events.first_seq)
            await writer.open()
            await self._check_history(events, writer)
            self._position, self._first = (writer.position, events.incarnation), writer.first
            self._missed.begin(writer.position, note, events)
            self._look_at = 0.0
            log.info("site is archived from here", extra={"site": self._site, "position": writer.position})
            await self._say("")
            reader = StreamReader(broker, topology.EVENTS, topology.events_filter(self._site), start_seq=writer.position + 1)
            async with reader:
                waking = asyncio.create_task(_wake(ending, reader), name=f"wake-archive-{self._site}")
                try:
                    await self._read(reader, writer, ending, pause)
                finally:
                    waking.cancel()
        finally:
            await store.close()

    async def _check_history(self, events: Identity, writer: Writer) -> None:
        """Looks whether EVENTS is what was archived, and not an older copy that has gone on by itself: frames of it would be passed over.

        Raises:
            NotConnected
            SetupError: it is such a copy.
        """
        newest = writer.newest
        if newest is None:
            return
        if events.last_seq < newest.last:
            raise self._put_back(newest.last)
        with asking(f"cannot look at the stream {topology.EVENTS}"):
            try:
                message = await self._context.broker.js.get_msg(topology.EVENTS, newest.last, direct=True)
            except NotFoundError:
                return
        if message.time is not None and message.time.timestamp() > newest.ends.timestamp() + CLOCK_SECONDS:
            raise self._put_back(newest.last)

    def _put_back(self, last: int) -> SetupError:
        return SetupError(
            f"the archive has frames of EVENTS up to {last} that EVENTS has not, or has others instead: an older copy of the broker's store "
            'was put back, and new events are not archived. Take the store for lost: see "The broker\'s disk is lost" in docs/runbooks.md'
        )

    async def _read(self, reader: StreamReader, writer: Writer, ending: asyncio.Event, pause: Backoff) -> None:
        draft: Draft | None = None
        due, is_first = float("inf"), True
        while not ending.is_set():
            # before more is read: from what was read last, EVENTS may have lost frames
            if time.monotonic() >= self._look_at and await self._look(reader, writer):
                break
            try:
                message = await reader.next(max(0.01, min(LOOK_SECONDS, due - time.monotonic())))
            except StreamReplaced:
                if draft is not None:  # of a stream that is gone: these frames are nowhere else
                    await self._put(writer, draft, ending, pause)
                raise
            if message is not None:
                if is_first and (await identify(self._context.broker, topology.EVENTS)).incarnation != self._position[1]:
                    raise Transient("EVENTS was created again")
                is_first = False
                if draft is None:
                    due = time.monotonic() + float(self._options.period)
                draft = await self._add(
                    writer=writer,
                    draft=draft,
                    messages=[message, *reader.take_buffered(TOGETHER)],
                    ending=ending,
                    pause=pause,
                )
            if draft is not None and (draft.size >= self._options.max_bytes or time.monotonic() >= due):
                await self._put(writer, draft, ending, pause)
                draft = None
            if draft is None:
                due = float("inf")
        if draft is not None:
            await self._put(writer, draft, ending, pause)

    async def _add(
        self, writer: Writer, draft: Draft | None, messages: Sequence[Message], ending: asyncio.Event, pause: Backoff
    ) -> Draft | None:
        """Adds frames to the draft; puts it into the archive where an hour ends, and begins another."""
        some: list[Stored] = []
        for message in messages:
            self._missed.passed(message.seq)
            place = writer.place_for(message.at_seconds)
            if draft is not None and place > (draft.day, draft.hour):
                await self._gate.run(draft.add, some)
                await self._put(writer, draft, ending, pause)
                some, draft = [], None
            if draft is None:
                draft = Draft(
                    day=place[0],
                    hour=place[1],
                    after=writer.position,
                    incarnation=writer.number,
                    forgotten=self._context.forgotten,
                )
            some.append(Stored(message.seq, message.at_seconds, message.payload))
        if draft is not None:
            await self._gate.run(draft.add, some)
        return draft

    async def _put(self, writer: Writer, draft: Draft, ending: asyncio.Event, pause: Backoff) -> None:
        """Puts a draft into the archive, however long it takes; gives it up when the service drains and the store does not answer."""
        missed = self._missed.take()
        entry, data = await self._gate.run(draft.finish, missed)
        while True:
            try:
                await writer.write(draft.day, entry, data)
                break
            except Fenced:
                raise
            except PenstockError as exc:
                await self._say(str(exc))
                self._look_at = 0.0
                if ending.is_set() or isinstance(exc, BooksChanged):
                    self._missed.give_back(missed)
                    raise
                await _wait(ending, pause.next())
        pause.reset()
        telemetry = self._context.telemetry
        telemetry.count("archive_events_total", entry.events, site=self._site)
        telemetry.count("archive_bytes_total", entry.bytes, site=self._site)
        self._missed.written(missed)
        self._position, self._first = (writer.position, self._position[1]), writer.first
        await self._say("")

    async def _look(self, reader: StreamReader, writer: Writer) -> bool:
        """Measures what waits, tells it, and removes old days; returns whether a rewrite wants the archive."""
        now = time.monotonic()
        self._look_at = now + LOOK_SECONDS
        events = await identify(self._context.broker, topology.EVENTS)
        if events.incarnation == self._position[1]:
            if events.last_seq < writer.position:
                raise self._put_back(writer.position)
            last = max(reader.last_seq, writer.position)
            is_level = (await look_ahead(self._context.broker, self._site, last)).frames == 0
            self._missed.look(events, last, is_level=is_level)
        await self._say(self._trouble)
        if now >= self._expire_at:
            self._expire_at = now + EXPIRE_SECONDS
            if gone := await writer.expire(self._options):
                self._first = writer.first
                log.info("old days of the archive are removed", extra={"site": self._site, "days": gone})
        return await is_asked_to_pause(self._context.broker, self._site)

    async def _say(self, trouble: str) -> None:
        """Tells how far the archive is: in the note, as metrics, and in `/ready`."""
        health, telemetry = self._context.health, self._context.telemetry
        if trouble and trouble != self._trouble:
            log.error("archive does not move", extra={"site": self._site, "error": trouble})
        if trouble:
            telemetry.count("archive_errors_total", site=self._site)
        self._trouble = trouble
        position, incarnation = self._position
        with contextlib.suppress(Transient):
            waiting = await look_ahead(self._context.broker, self._site, position)
            now = time.time()
            age = 0.0 if waiting.oldest_at is None else max(0.0, now - waiting.oldest_at)
            telemetry.gauge("archive_lag_frames", waiting.frames, site=self._site)
            telemetry.gauge("archive_oldest_seconds", age, site=self._site)
            said = f"{waiting.events} events wait in EVENTS, the oldest for {age:.0f} s"
            if trouble:
                health.warn(self._part, f"{trouble}; {said}")
            elif age > 2 * float(self._options.period) + LATE_SECONDS:
                health.warn(self._part, f"the archive is behind: {said}")
            else:
                health.good(self._part)
            note = ArchiveNote(
                incarnation=incarnation,
                position=position,
                first=self._first,
                at=now,
                waiting_frames=waiting.frames,
                waiting_events=waiting.events,
                oldest_at=waiting.oldest_at,
                missed=self._missed.total,
                seen=self._missed.seen,
                trouble=trouble,
                where=where(self._options),
                local=document_of(self._options),
            )
            await write_note(self._context.broker, self._site, note)


async def _wake(ending: asyncio.Event, reader: StreamReader) -> None:
    await ending.wait()
    reader.wake()


async def _wait(ending: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with timeout(seconds):
            await ending.wait()
