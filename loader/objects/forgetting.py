"""Finds a person in the objects of a store, and writes each of these objects again without them.

    get ─▶ count ─▶ (told) ─▶ stage without the rows ─▶ look whether it is still the object that was read ─▶ publish under its key

The new object takes the place of the former one at once, so a reader sees one of them, whole; an object of which no row is left is
removed. It keeps its key, because a name is a plan (`names.py`): under another one a repeat of the plan would double the rows of others.
Objects are written by one holder at a time, under a claim of its own, so a frozen holder that wakes publishes nothing.

One object is in memory at a time, packed as it is in the store.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import partial
from io import BytesIO

from loader.contract.forgets import Changed, ObjectRows
from loader.objects import names as object_names
from loader.objects.people import Search, count, kind_of, without
from shared.errors import Fenced, Transient
from shared.stores.contract import Area, Entry, KeepsVersions, Store, walk
from shared.threads import ThreadGate

OWNER = "~forget"
"""Whose area it is; no connection has this name."""
MOST_BYTES = 512 * 2**20
"""Of an object that is read. A load that fits into a loader's memory makes smaller ones."""


class Rewriting:
    """One pass over the objects of a store.

    Args:
        store: the place of the objects.
        gate: for all that blocks.
        prefix: the template of keys below the store.
        names: ids of the person.
        columns: further columns that hold such ids.
        epoch: of the worker.
    """

    def __init__(
        self, *, store: Store, gate: ThreadGate, prefix: str, names: Sequence[str], columns: Sequence[str], epoch: int
    ) -> None:
        self._store = store
        self._gate = gate
        self._prefix = prefix
        self._names = names
        self._columns = columns
        self._epoch = epoch
        self._area: Area | None = None

    async def run(self, changed: Changed | None, *, delete: bool) -> AsyncIterator[ObjectRows]:
        """Yields objects as `ForgetsPeopleInObjects.forget_in_objects` says."""
        async for portion in walk(self._store, ""):  # also what was written under an earlier prefix
            for entry in portion:
                if changed is not None and entry.modified < changed.since and entry.key not in changed.keys:
                    continue
                if not object_names.is_ours(entry.key):
                    continue
                async for each in self._object(entry, delete=delete):
                    yield each

    async def _object(self, entry: Entry, *, delete: bool) -> AsyncIterator[ObjectRows]:
        key, kind = entry.key, kind_of(entry.key)
        if kind is None:
            return
        if entry.size > MOST_BYTES:
            yield ObjectRows(key, 0, f"not searched: it is larger than {MOST_BYTES >> 20} MiB; rewrite it by hand")
            return
        data = await self._store.get(key)
        if data is None:
            return  # removed since the list
        search = Search(object_names.table_in(key, self._prefix), self._names, self._columns)
        try:
            found, rows = await self._gate.run(count, BytesIO(data), kind, search)
        except Exception as error:  # noqa: BLE001 - what the readers of formats raise on damaged bytes is not one type
            yield ObjectRows(key, 0, f"not searched, because it cannot be read as {kind[0]} ({error}); look into it by hand")
            return
        if not found:
            return
        yield ObjectRows(key, found)
        if delete:
            await self._rewrite(entry, data, partial(without, kind=kind, search=search), whole=found == rows)
            yield ObjectRows(key, 0)

    async def _rewrite(self, entry: Entry, data: bytes, write: partial[None], *, whole: bool) -> None:
        """Puts the rest of an object into its place, or removes it where nothing is left (`whole`)."""
        area = self._area = self._area or await self._claim()
        if not whole:
            await area.stage(entry.key, lambda output: write(BytesIO(data), output))
        try:
            now = [each for each in await self._store.list(entry.key) if each.key == entry.key]
            if now != [entry]:
                raise Transient(f"{entry.key} was changed by another program while it was read; it is read again")
            if whole:
                await self._store.delete([entry.key])
            else:
                await area.publish()
        finally:
            await area.discard()

    async def _claim(self) -> Area:
        try:
            return await self._store.claim(OWNER, self._epoch)
        except Fenced as fenced:
            # the lease on the broker says who forgets; a note with a higher epoch is of another broker, or of this one before a restore
            return await self._store.claim(OWNER, fenced.newest + 1)


async def remains(store: Store) -> str:
    """Returns what a store keeps of rewritten objects, as `ForgetsPeopleInObjects.remains` says."""
    return await store.versions() if isinstance(store, KeepsVersions) else ""
