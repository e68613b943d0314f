"""Frames of a site beyond what EVENTS keeps: the archive first, then EVENTS, as one reader.

Catching up, backfills and replays read through it. It gives each frame once, in the order of EVENTS' sequences. While it reads, EVENTS
may lose further frames. So it looks again before it goes over from the archive to EVENTS, and where frames of EVENTS may be
missing, it goes back to the archive for them: a reader may wait for days while a destination is down.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from itertools import pairwise
from typing import Self

from router.archive.wishes import Wishes
from shared.archive.lines import Stored
from shared.archive.note import read_note
from shared.archive.place import open_store
from shared.archive.reader import ArchiveReader
from shared.errors import PenstockError, Transient
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.identity import Identity, identify
from shared.jetstream.reader import Message, StreamReader
from shared.project.archive import ArchiveOptions
from shared.telemetry.health import Health
from shared.threads import ThreadGate

NEAR = 10_000
"""So many sequences from the beginning of EVENTS a reader looks at each step over others' frames whether EVENTS still begins before it."""
LOOK_SECONDS = 1.0
FAR = 1 << 40
"""How many frames are said to wait behind an archived one: EVENTS is far."""

log = logging.getLogger(__name__)


class ArchiveUnreadError(Transient):
    """The archive cannot be read now."""


class Older:
    """The archives of a project, for reading.

    Args:
        gate: for unpacking.
        options: returns where each archived site is archived now.
        wishes: what runs want of connections that read the past.
        health: is told of connections that cannot read the archive.
    """

    def __init__(
        self,
        gate: ThreadGate,
        options: Callable[[], Mapping[str, ArchiveOptions]],
        wishes: Wishes | None = None,
        health: Health | None = None,
    ) -> None:
        self.wishes = wishes or Wishes()
        self._health = health
        self._gate = gate
        self._options = options

    def tell(self, connection: str, why: str) -> None:
        """Tells in `/ready` why a connection cannot read the archive; empty: it can."""
        part = f"archive for {connection}"
        if self._health is not None and why:
            self._health.warn(part, f"the connection waits: {why}")
        elif self._health is not None:
            self._health.good(part)

    async def missed(self, broker: Broker, site: str, first: int, last: int) -> int:
        """Returns how many sequences of a range of the present EVENTS were gone from it before the archive of a site had read them.

        Raises:
            ArchiveUnreadError, NotConnected
        """
        events = await identify(broker, topology.EVENTS)
        note = await read_note(broker, site)
        try:
            async with self.reader(site) as reader:
                number = (await reader.index()).number(events.incarnation) if reader is not None else 0
                if reader is None or not number:
                    return 0
                found = [each.entry for each in await reader.objects(number, first=first, last=last)]
                missed = sum(entry.missed for entry in found if entry.after >= first - 1)
                # an older manifest that was put back names fewer objects
                missed += sum(max(0, after.after - before.last) for before, after in pairwise(found))
                newest = await reader.newest(events.incarnation)
        except PenstockError as exc:
            raise ArchiveUnreadError(str(exc)) from exc
        seen = max(newest.last if newest is not None else 0, note.seen if note is not None else 0)
        return missed + max(0, min(last, events.first_seq - 1) - max(seen, first - 1))

    def has(self, site: str) -> bool:
        """Whether a site is archived now."""
        return site in self._options()

    @contextlib.asynccontextmanager
    async def reader(self, site: str) -> AsyncIterator[ArchiveReader | None]:
        """Opens the archive of a site; gives None if it has none.

        Raises:
            SetupError: the store's driver is not installed, or the settings of the machine are wrong.
        """
        options = self._options().get(site)
        if options is None:
            yield None
            return
        store = await open_store(options, self._gate)
        try:
            yield ArchiveReader(store, site, self._gate)
        finally:
            await store.close()

    async def first(self, broker: Broker, site: str, *, seq: int = 1, since: float | None = None) -> tuple[int, float] | None:
        """Returns sequence and time of the first archived frame of the present EVENTS from a sequence or a time on.

        Raises:
            ArchiveUnreadError, NotConnected
        """
        incarnation = (await identify(broker, topology.EVENTS)).incarnation
        try:
            async with self.reader(site) as reader:
                number = (await reader.index()).number(incarnation) if reader is not None else 0
                if reader is None or not number:
                    return None
                async for stored in reader.frames(number, first=seq, since=since):
                    return stored.seq, stored.at_seconds
        except PenstockError as exc:
            raise ArchiveUnreadError(str(exc)) from exc
        return None

    async def last(self, broker: Broker, site: str, stream: str | None = None) -> tuple[int, datetime]:
        """Returns sequence and time of the newest archived frame of the present EVENTS; 0 if there is none. Raises as `first`.

        Args:
            stream: or of this incarnation of EVENTS.
        """
        incarnation = stream or (await identify(broker, topology.EVENTS)).incarnation
        try:
            async with self.reader(site) as reader:
                found = await reader.newest(incarnation) if reader is not None else None
                if found is not None:
                    return found.last, found.ends
        except PenstockError as exc:
            raise ArchiveUnreadError(str(exc)) from exc
        return 0, datetime(1970, 1, 1, tzinfo=UTC)


class LongReader:
    """Reads a site's frames as `StreamReader` does, also frames that only the archive has.

    Args:
        older: None: only EVENTS is read.
        start_seq: the first sequence.
        start_seconds: or the first time (epoch). With `start_seq`: at the time, but not behind that sequence.
    """

    def __init__(
        self,
        broker: Broker,
        site: str,
        older: Older | None,
        *,
        start_seq: int | None = None,
        start_seconds: float | None = None,
    ) -> None:
        self._broker = broker
        self._site = site
        self._older = older
        self._start_seq = start_seq
        self._start_seconds = start_seconds
        self._stack = contextlib.AsyncExitStack()
        self._archive: ArchiveReader | None = None
        self._number = 0
        self._frames: AsyncIterator[Stored] | None = None
        self._stream: StreamReader | None = None
        self._next = 1
        self._after = 0
        """No frame up to here is still to come; 0: unknown."""
        self._first = 0
        self._look_at = 0.0
        self.last_seq = 0
        """As `StreamReader.last_seq`."""
        self.archived = 0
        """How many frames came from the archive."""

    async def __aenter__(self) -> Self:
        try:
            await self._open()
        except PenstockError as exc:
            await self._stack.aclose()
            raise ArchiveUnreadError(str(exc)) from exc
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._leave()
        await self._stack.aclose()

    async def _open(self) -> None:
        subject = topology.events_filter(self._site)
        if self._start_seconds is None and self._start_seq is not None:
            self._after = self._start_seq - 1
        if self._older is not None:
            events = await identify(self._broker, topology.EVENTS)
            if events.first_seq > 1 and not (self._start_seconds is None and (self._start_seq or 1) >= events.first_seq):
                await self._open_archive(events)
        if self._number:
            by_time = self._start_seconds is not None
            self._next = 1 if by_time else self._start_seq or 1
            await self._go_on()
        else:
            await self._follow(
                StreamReader(
                    self._broker,
                    topology.EVENTS,
                    subject,
                    start_seq=self._start_seq,
                    start_seconds=self._start_seconds,
                )
            )

    async def _open_archive(self, events: Identity) -> None:
        if self._archive is None and self._older is not None:
            self._archive = await self._stack.enter_async_context(self._older.reader(self._site))
        if self._archive is not None:
            self._number = (await self._archive.index()).number(events.incarnation)

    async def _go_on(self) -> None:
        """Opens what comes next: more of the archive, if EVENTS begins behind it, else EVENTS."""
        assert self._archive is not None  # noqa: S101  # only then
        events = await identify(self._broker, topology.EVENTS)
        last = events.first_seq - 1
        if self._next <= last:
            self._frames = self._archive.frames(self._number, first=self._next, last=last, since=self._start_seconds)
            self._next = last + 1
            return
        self._frames, self._after = None, max(self._after, self._next - 1)
        await self._follow(
            StreamReader(
                self._broker,
                topology.EVENTS,
                topology.events_filter(self._site),
                start_seq=self._next,
                start_seconds=None if self.archived else self._start_seconds,
            )
        )

    async def _follow(self, reader: StreamReader) -> None:
        self._stream = await reader.__aenter__()

    async def _leave(self) -> None:
        if self._stream is not None:
            stream, self._stream = self._stream, None
            await stream.__aexit__(None, None, None)

    async def _is_overtaken(self, message: Message) -> bool:
        """Whether EVENTS may have lost frames between the last one and this one. Then the archive is read again, if it has them."""
        if not self._after or message.seq == self._after + 1 or self._older is None or not self._older.has(self._site):
            return False
        now = time.monotonic()
        if now < self._look_at and self._after - self._first > NEAR:
            return False
        events = await identify(self._broker, topology.EVENTS)
        self._first, self._look_at = events.first_seq, now + LOOK_SECONDS
        if events.first_seq <= self._after + 1:
            return False
        try:
            await self._open_archive(events)
            if not self._number:
                return False
            log.warning("EVENTS lost frames that a reader waits for, it reads them from the archive", extra={"site": self._site})
            await self._leave()
            self._next, self._start_seconds = self._after + 1, None
            await self._go_on()
        except PenstockError as exc:
            raise ArchiveUnreadError(str(exc)) from exc
        return True

    def nudge(self) -> None:
        """As `StreamReader.nudge`."""
        if self._stream is not None:
            self._stream.nudge()

    async def next(self, timeout_seconds: float | None = None) -> Message | None:
        """Returns the next frame; None if none came within the time, or after `nudge`.

        Raises:
            ArchiveUnreadError: open another reader later.
            StreamReplaced
        """
        while True:
            if self._stream is not None:
                message = await self._stream.next(timeout_seconds)
                if message is not None:
                    if await self._is_overtaken(message):
                        continue
                    self.last_seq = self._after = message.seq
                return message
            try:
                stored = None if self._frames is None else await anext(self._frames, None)
                if stored is None:
                    await self._go_on()
                    continue
            except PenstockError as exc:
                raise ArchiveUnreadError(str(exc)) from exc
            self.archived += 1
            self.last_seq = self._after = stored.seq
            return Message(
                subject=topology.events_subject(self._site), payload=stored.payload, headers={}, seq=stored.seq,
                at_seconds=stored.at_seconds, waiting=FAR,
            )  # fmt: skip
