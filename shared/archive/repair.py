"""Makes the books of a site's archive fit its objects again: `penstock archive repair`.

It makes a lost or damaged index or manifest of the objects, lists objects that no manifest names, and goes on without objects that
are gone or damaged: the next entry notes their frames as `missed`. It destroys nothing but what a rewrite had replaced. Damaged
objects are then below `raw/site=<site>/damaged/`.

It holds the lease of the site's writer, as a rewrite does. Killed in between, it is begun again.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import msgspec

from shared.archive import layout
from shared.archive.books import BookLostError, Books, lease_name, owner
from shared.archive.examine import entry_of
from shared.archive.layout import Entry, Index, Manifest, Name
from shared.archive.rewrite import asked_to_pause
from shared.jetstream.broker import Broker
from shared.jetstream.lease import Lease, hold
from shared.stores.contract import Area, Store
from shared.threads import ThreadGate

UNKNOWN = -1
"""`Entry.after` of an object that no manifest named."""


@dataclass(slots=True)
class Repaired:
    """The result for one site. `made`: keys of books that were written; `listed`: objects that no manifest named; `left_out`: objects
    that are gone or damaged, in words, with `events` and `frames` in them; `removed`: objects that a rewrite had replaced."""

    site: str
    made: list[str] = field(default_factory=list)
    listed: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    events: int = 0
    frames: int = 0


async def repair(*, broker: Broker, store: Store, gate: ThreadGate, site: str, holder: str, dry_run: bool = False) -> Repaired:
    """Repairs the archive of a site; `dry_run` only tells what it would do.

    Raises:
        Fenced: another writer took the lease.
        NotConnected, Transient, SetupError
    """
    async with asked_to_pause(broker, site), hold(broker, lease_name(site), holder) as lease:
        return await repair_held(store=store, gate=gate, site=site, lease=lease, dry_run=dry_run)


async def repair_held(*, store: Store, gate: ThreadGate, site: str, lease: Lease, dry_run: bool = False) -> Repaired:
    """As `repair`, for a holder of the lease."""
    area = None if dry_run else await store.claim(owner(site), lease.epoch)
    return await _Repair(store=store, gate=gate, site=site, lease=lease, area=area).run()


class _Repair:
    def __init__(self, *, store: Store, gate: ThreadGate, site: str, lease: Lease, area: Area | None) -> None:
        self._books = Books(store, site)
        self._gate = gate
        self._lease = lease
        self._area = area
        self._report = Repaired(site)
        self._last: dict[int, int] = {}
        self._incarnations: list[str] = []

    async def run(self) -> Repaired:
        days: dict[str, list[str]] = defaultdict(list)
        for each in await self._books.store.list(layout.home(self._books.site)):
            if layout.is_object(each.key):
                days[layout.day_of(each.key)].append(each.key)
        before = await self._read_index()
        manifests: dict[str, tuple[Manifest | None, list[Entry]]] = {}
        known = [*before.days, *sorted(set(days) - set(before.days))] if before is not None else sorted(days)
        if before is not None and days:  # days that come from elsewhere stand where they belong
            known.sort()
        for day in known:
            self._lease.check()
            found = await self._read_day(day)
            manifests[day] = (found, await self._entries(day, found, days[day]))
        highest = max((entry.incarnation for _, entries in manifests.values() for entry in entries), default=0)
        self._name_incarnations(before, [found for found, _ in manifests.values() if found is not None], highest)
        days_left: list[str] = []
        for day, (found, entries) in manifests.items():
            chained = await self._chain(day, entries)
            after = Manifest(site=self._books.site, day=day, objects=chained, incarnations=self._incarnations)
            if chained and (found is None or found.objects != after.objects):
                self._report.made.append(layout.manifest_key(self._books.site, day))
                if self._area is not None:
                    await self._books.write_day(self._area, after)
            if chained:
                days_left.append(day)
        index = Index(site=self._books.site, days=days_left, incarnations=self._incarnations)
        if before != index and (index.days or before is not None):
            self._report.made.append(layout.index_key(self._books.site))
            if self._area is not None:
                await self._books.write_index(self._area, index)
        return self._report

    async def _read_index(self) -> Index | None:
        try:
            return await self._books.read_index()
        except BookLostError:
            return None

    async def _read_day(self, day: str) -> Manifest | None:
        try:
            return await self._books.read_day(day)
        except BookLostError:
            return None

    async def _entries(self, day: str, found: Manifest | None, keys: list[str]) -> list[Entry]:
        """Returns the entries of a day's objects that are whole."""
        folder, entries = layout.folder(self._books.site, day), list[Entry]()
        for entry in found.objects if found is not None else ():
            if await self._books.object(day, entry) is not None:
                entries.append(entry)
                continue
            self._leave_out(f"{folder}{entry.name}: gone or damaged", entry)
            if folder + entry.name in keys:
                await self._put_aside(folder + entry.name)
        named = {folder + entry.name for entry in found.objects} if found is not None else set[str]()
        for key, name in _newest_first([key for key in keys if key not in named], folder):
            same = [entry for entry in entries if entry.incarnation == name.incarnation]
            if any(entry.first == name.first for entry in same):
                self._report.removed.append(key)
                if self._area is not None:
                    await self._books.store.delete([key])
            else:
                await self._list(key, key.removeprefix(folder), entries)
        return sorted(entries, key=lambda entry: (entry.incarnation, entry.first))

    async def _list(self, key: str, name: str, entries: list[Entry]) -> None:
        data = await self._books.store.get(key)
        entry = await self._gate.run(entry_of, name, data, UNKNOWN) if data is not None else None
        if entry is not None:
            entries.append(entry)
            self._report.listed.append(key)
        else:
            self._report.left_out.append(f"{key}: damaged, and no manifest names it")
            await self._put_aside(key)

    def _leave_out(self, text: str, entry: Entry) -> None:
        self._report.left_out.append(f"{text}: {entry.events} events, sequences {entry.first} to {entry.last}")
        self._report.events += entry.events
        self._report.frames += entry.frames

    async def _put_aside(self, key: str) -> None:
        if self._area is not None and (data := await self._books.store.get(key)) is not None:
            day = layout.day_of(key)
            folder = layout.folder(self._books.site, day)
            await self._books.store.put(layout.damaged_folder(self._books.site, day) + key.removeprefix(folder), data)
            await self._books.store.delete([key])

    def _name_incarnations(self, index: Index | None, manifests: list[Manifest], highest: int) -> None:
        known = [index.incarnations] if index is not None else []
        named = max([*known, *(each.incarnations for each in manifests)], key=len, default=[])
        self._incarnations = [*named, *(f"unknown-{number}" for number in range(len(named) + 1, highest + 1))]

    async def _chain(self, day: str, entries: list[Entry]) -> list[Entry]:
        """Returns entries that follow on each other; an entry notes what is missing before it."""
        chained: list[Entry] = []
        for entry in entries:
            last, key = self._last.get(entry.incarnation), layout.folder(self._books.site, day) + entry.name
            if last is not None and entry.last <= last:
                self._report.left_out.append(f"{key}: its sequences are in other objects")
                await self._put_aside(key)
                continue
            if entry.after == UNKNOWN:
                entry = msgspec.structs.replace(entry, after=min(last or 0, entry.first - 1))
            elif last is not None and entry.after > last:
                entry = msgspec.structs.replace(entry, after=last, missed=entry.missed + entry.after - last)
            self._last[entry.incarnation] = entry.last
            chained.append(entry)
        return chained


def _newest_first(keys: list[str], folder: str) -> list[tuple[str, Name]]:
    """Returns objects with what their names say; of several revisions of one the newest first."""
    named = [(key, name) for key in keys if (name := layout.parse_name(key.removeprefix(folder))) is not None]
    return sorted(named, key=lambda each: (each[1].incarnation, each[1].first, -each[1].revision))
