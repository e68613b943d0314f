"""Reads archived frames in order, by sequence or time, a few at a time.

A rewrite may replace an object while it is read: its name and checksum then no longer fit, so the reader looks at the manifest again
and goes on with the new object. It gives no frame twice.
"""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import zstandard

from shared.archive import layout, lines
from shared.archive.books import Books
from shared.archive.layout import Entry, Index
from shared.archive.lines import Stored
from shared.errors import Transient
from shared.stores.contract import Store
from shared.threads import ThreadGate

FRAMES_AT_ONCE = 32
READ_BYTES = 1024 * 1024
TRIES = 3


@dataclass(frozen=True, slots=True)
class Found:
    """An object of the archive, with its day."""

    day: str
    entry: Entry


class ArchiveReader:
    """The archive of one site. `gate`: for unpacking."""

    def __init__(self, store: Store, site: str, gate: ThreadGate) -> None:
        self.books = Books(store, site)
        self.site = site
        self._gate = gate

    async def index(self) -> Index:
        """Returns the index. Raises NotConnected, Transient, SetupError."""
        return await self.books.index()

    async def reach(self, incarnation: str) -> tuple[int, int]:
        """Returns the first and the last sequence of an incarnation of EVENTS that the archive has; zeros if it has none.

        The first may be reached with frames missing behind it; `missed` of entries tells.

        Raises:
            NotConnected, Transient, SetupError
        """
        index = await self.index()
        number = index.number(incarnation)
        if not number:
            return 0, 0
        newest, first = await self.newest(incarnation), 0
        for day in index.days:
            first = min((entry.first for entry in await self._of(day, number)), default=0)
            if first:
                break
        return first, newest.last if newest is not None else 0

    async def newest(self, incarnation: str) -> Entry | None:
        """Returns the newest object of an incarnation of EVENTS. Raises as `reach`."""
        index = await self.index()
        number = index.number(incarnation)
        for day in reversed(index.days) if number else ():
            if entries := await self._of(day, number):
                return entries[-1]
        return None

    async def objects(
        self, number: int, *, first: int = 1, last: int | None = None, since: float | None = None, until: float | None = None
    ) -> list[Found]:
        """Returns the objects that hold frames of a range, in order.

        Args:
            number: of the incarnation, as the index counts.
            first: the first sequence.
            last: the last, included.
            since: the earliest time (epoch).
            until: the latest, included.

        Raises:
            NotConnected, Transient, SetupError
        """
        index = await self.index()
        # an object is never in an earlier day than its frames
        begin = layout.hour_of(since)[0] if since is not None else ""
        days = [day for day in index.days if day >= begin]
        found: list[Found] = []
        for day in reversed(days):
            entries = await self._of(day, number)
            found[:0] = [Found(day, entry) for entry in entries]
            if entries and entries[0].first <= first:
                break  # earlier days hold earlier frames
        return [each for each in found if _overlaps(each.entry, first=first, last=last, since=since, until=until)]

    async def frames(
        self, number: int, *, first: int = 1, last: int | None = None, since: float | None = None, until: float | None = None
    ) -> AsyncIterator[Stored]:
        """Yields the frames of a range, in order; arguments as `objects`.

        Raises:
            NotConnected, Transient, SetupError
            Permanent: an object holds other things than an archive's lines.
        """
        for found in await self.objects(number, first=first, last=last, since=since, until=until):
            async for stored in self.frames_of(found):
                if stored.seq < first or (since is not None and stored.at_seconds < since):
                    continue
                if (last is not None and stored.seq > last) or (until is not None and stored.at_seconds > until):
                    return
                first = stored.seq + 1
                yield stored

    async def frames_of(self, found: Found) -> AsyncIterator[Stored]:
        """Yields the frames of one object. Raises as `frames`."""
        data = await self.bytes_of(found)
        if data is None:
            return
        batches = _Batches(self.site, data)
        while batch := await self._gate.run(batches.take):
            for stored in batch:
                yield stored

    async def bytes_of(self, found: Found) -> bytes | None:
        """Returns an object, or the one that took its place; None: its day was removed meanwhile.

        Raises:
            NotConnected, SetupError
            Transient: the manifest names an object that is not there, or is another.
        """
        entry: Entry | None = found.entry
        for _ in range(TRIES):
            if entry is None:
                return None
            data = await self.books.object(found.day, entry)
            if data is not None:
                return data
            if found.day not in (await self.index()).days:
                return None
            manifest = await self.books.day(found.day)
            same = (each for each in manifest.objects if (each.incarnation, each.first) == (entry.incarnation, entry.first))
            entry = next(same, None)
        raise Transient(
            f"archive of site {self.site}: {layout.folder(self.site, found.day)}{found.entry.name} is gone or damaged; put it back, or "
            f"go on without its {found.entry.events} events by `penstock archive repair --site {self.site}`"
        )

    async def _of(self, day: str, number: int) -> list[Entry]:
        return [entry for entry in (await self.books.day(day)).objects if entry.incarnation == number]


def unpack(data: bytes) -> Iterator[bytes]:
    """Yields the lines of an object, unpacked as they are taken."""
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True) as source:
        rest = b""
        while block := source.read(READ_BYTES):
            *whole, rest = (rest + block).split(b"\n")
            yield from whole
        if rest:
            yield rest


class _Batches:
    """Frames of an object, some at a time; `take` blocks and runs on a thread."""

    def __init__(self, site: str, data: bytes) -> None:
        self._frames = lines.read(site, unpack(data))

    def take(self) -> list[Stored]:
        batch: list[Stored] = []
        for stored in self._frames:
            batch.append(stored)
            if len(batch) == FRAMES_AT_ONCE:
                break
        return batch


def _overlaps(entry: Entry, *, first: int, last: int | None, since: float | None, until: float | None) -> bool:
    if entry.last < first or (last is not None and entry.first > last):
        return False
    if since is not None and entry.ends.timestamp() < since:
        return False
    return until is None or entry.begins.timestamp() <= until
