"""The writing end of a site's archive: where it stands, and how an object gets into it.

The steps of one object are: the index, if its day is new; the object; the manifest that names it. After a failure the same steps are
made again. A writer that finds the books other than it left them raises `BooksChanged`, and a new one begins from the books.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import msgspec

from shared.archive import layout
from shared.archive.books import Books, owner, put
from shared.archive.examine import entry_of
from shared.archive.expire import expire
from shared.archive.layout import Entry, Index, Manifest
from shared.errors import SetupError, Transient
from shared.jetstream.lease import Lease
from shared.project.archive import ArchiveOptions
from shared.stores.contract import Area, Store
from shared.threads import ThreadGate

log = logging.getLogger(__name__)


class BooksChanged(Transient):
    """The archive is not as its writer left it: begin from its books."""


class Writer:
    """Writes objects of one site, in order.

    Args:
        store: of the archive.
        lease: of the site's writer; its epoch fences former ones.
        incarnation: of EVENTS.
        gate: for unpacking.
        kept_from: the first sequence that EVENTS has.
    """

    def __init__(self, store: Store, site: str, lease: Lease, incarnation: str, *, gate: ThreadGate, kept_from: int = 1) -> None:
        self._books = Books(store, site)
        self._lease = lease
        self._incarnation = incarnation
        self._gate = gate
        self._kept_from = kept_from
        self._area: Area | None = None
        self._index = Index(site=site)
        self._manifest = Manifest(site=site, day="")
        self.position = 0
        """The last sequence of the incarnation that the archive has."""
        self.newest: Entry | None = None
        """The object that holds it, as `open` found it."""
        self.first = 0
        """Its first, 0 if it has nothing of the incarnation."""
        self.number = 0
        """Of the incarnation; it is in the index from the first object on."""

    async def open(self) -> None:
        """Fences former writers, reads where the archive stands, and settles what a dead writer left.

        Raises:
            Fenced, NotConnected, Transient, SetupError
        """
        self._area = await self._books.store.claim(owner(self._books.site), self._lease.epoch)
        self._index = await self._books.index()
        self.number = self._index.number(self._incarnation) or len(self._index.incarnations) + 1
        if not self._index.days:
            return
        self._manifest = await self._books.day(self._index.days[-1])
        await self._settle(self._area)
        await self._find_first()
        self.position = await self._position_of(self.number)

    async def _settle(self, area: Area) -> None:
        """Removes objects of the newest day that no manifest names, and takes up objects that EVENTS cannot give again.

        A writer that died between an object and its manifest left one; an older manifest that was put back may leave many.
        """
        await self._books.store.delete(await self._books.replaced(self._manifest))
        folder = layout.folder(self._books.site, self._manifest.day)
        left = [
            (name, key)
            for key in await self._books.strays(self._manifest)
            if (name := layout.parse_name(key.removeprefix(folder)))
        ]
        for name, key in sorted(left, key=lambda each: (each[0].incarnation, each[0].first)):
            position = await self._position_of(name.incarnation)
            if name.incarnation == self.number and self._kept_from <= position + 1:
                await self._books.store.delete([key])
            elif name.first > position:
                await self._take_up(area, key, position)

    async def _take_up(self, area: Area, key: str, position: int) -> None:
        data = await self._books.store.get(key)
        name = key.removeprefix(layout.folder(self._books.site, self._manifest.day))
        entry = await self._gate.run(entry_of, name, data, position) if data is not None else None
        if entry is None:
            log.error(
                "an object of the archive is damaged and no manifest names it", extra={"site": self._books.site, "object": key}
            )
            return
        manifest = msgspec.structs.replace(self._manifest, objects=[*self._manifest.objects, entry])
        await self._books.write_day(area, manifest)
        self._manifest = manifest
        log.warning(
            "an object that no manifest named is in the archive now: EVENTS has its events no longer",
            extra={"site": self._books.site, "object": key, "events": entry.events},
        )

    async def _position_of(self, number: int) -> int:
        for day in reversed(self._index.days):
            entries = (self._manifest if day == self._manifest.day else await self._books.day(day)).objects
            if (position := layout.position(entries, number)) or any(entry.incarnation < number for entry in entries):
                if number == self.number:
                    self.newest = next((entry for entry in entries if position and entry.last == position), None)
                return position
        return 0

    def place_for(self, at_seconds: float) -> tuple[str, str]:
        """Returns day and hour of a frame stored at a time. They never go back, although the broker's clock may."""
        newest = (self._manifest.day, self._manifest.objects[-1].name[3:5]) if self._manifest.objects else ("", "")
        return max(layout.hour_of(at_seconds), newest)

    async def write(self, day: str, entry: Entry, data: bytes) -> None:
        """Puts an object into the archive. After an error call it again with the same.

        Raises:
            Fenced: another writer holds the archive.
            BooksChanged: another hand changed it.
            NotConnected, Transient, SetupError
        """
        try:
            await self._write(await self._ready(day, entry), day, entry, data)
        except BaseException:
            area, self._area = self._area, None
            if area is not None:
                await area.discard()
            raise

    async def _ready(self, day: str, entry: Entry) -> Area:
        """Returns the area; after a failure a new one, and looks what became of the object."""
        if self._area is not None:
            return self._area
        self._area = await self._books.store.claim(owner(self._books.site), self._lease.epoch)
        index = await self._books.index()
        if index not in (self._index, self._with(day)):
            raise BooksChanged(f"archive of site {self._books.site}: its index was changed")
        self._index = index
        for known in {self._manifest.day, day} - {""}:
            before = self._manifest if self._manifest.day == known else Manifest(site=self._books.site, day=known)
            found = await self._books.day(known)
            if found.objects not in (before.objects, [*before.objects, entry]):
                raise BooksChanged(f"archive of site {self._books.site}: the manifest of {known} was changed")
        return self._area

    async def _write(self, area: Area, day: str, entry: Entry, data: bytes) -> None:
        self._lease.check()
        if self._index != (index := self._with(day)):
            if day not in self._index.days and (found := (await self._books.day(day)).objects) and found != [entry]:
                raise SetupError(
                    f"archive of site {self._books.site}: {layout.index_key(self._books.site)} is older than the manifest of {day}; put "
                    f"back the newest one, or make it of the objects with `penstock archive repair --site {self._books.site}`"
                )
            await self._books.write_index(area, index)
            self._index = index
        await put(area, layout.folder(self._books.site, day) + entry.name, data)
        before = self._manifest.objects if self._manifest.day == day else []
        manifest = Manifest(site=self._books.site, day=day, objects=[*before, entry], incarnations=self._index.incarnations)
        await self._books.write_day(area, manifest)
        self._manifest, self.position, self.first = manifest, entry.last, self.first or entry.first

    def _with(self, day: str) -> Index:
        index = self._index
        days = index.days if day in index.days else [*index.days, day]
        known = index.number(self._incarnation)
        incarnations = index.incarnations if known else [*index.incarnations, self._incarnation]
        return msgspec.structs.replace(index, days=days, incarnations=incarnations)

    async def expire(self, options: ArchiveOptions) -> list[str]:
        """Removes old days; returns them. Raises as `write`."""
        if self._area is None:
            return []
        gone = await expire(
            books=self._books,
            area=self._area,
            now=datetime.now(UTC),
            keep_seconds=float(options.keep),
            room_bytes=int(options.room),
        )
        if gone:
            self._index = await self._books.index()
            await self._find_first()
        return gone

    async def _find_first(self) -> None:
        for day in self._index.days:
            entries = (await self._books.day(day)).objects
            self.first = min((entry.first for entry in entries if entry.incarnation == self.number), default=0)
            if self.first:
                return
