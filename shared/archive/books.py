"""Reads and writes the index and the manifests of one site in a store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import IO, TypeVar

import msgspec

from shared.archive import layout
from shared.archive.layout import Entry, Index, Manifest
from shared.errors import SetupError
from shared.stores.contract import Area, Store

T = TypeVar("T", Index, Manifest)

_encode = msgspec.json.Encoder().encode


class BookLostError(SetupError):
    """An index or a manifest is gone or damaged; a repair makes it again."""


class Books:
    """The books of one site."""

    def __init__(self, store: Store, site: str) -> None:
        self.store = store
        self.site = site
        self._newest = ""

    async def index(self) -> Index:
        """Returns the index; an empty one if the site has no archive yet.

        Raises:
            NotConnected, Transient
            SetupError: it is damaged, or gone although the site has objects; says how to mend it.
        """
        found = await self.read_index()
        if found is None:
            if any(layout.is_object(entry.key) for entry in await self.store.list(layout.home(self.site))):
                raise self._lost(layout.index_key(self.site), "is gone, although the site has objects")
            found = Index(site=self.site)
        self._newest = found.days[-1] if found.days else ""
        return found

    async def day(self, day: str) -> Manifest:
        """Returns the manifest of a day; an empty one if the day has no object yet. Raises as `index`.

        Call `index` before: only the newest day may have an object and no manifest, for a moment.
        """
        found = await self.read_day(day)
        if found is None:
            found = Manifest(site=self.site, day=day)
            objects = await self.strays(found)
            if len(objects) > (day == self._newest):
                raise self._lost(layout.manifest_key(self.site, day), f"is gone, although the day has {len(objects)} objects")
        return found

    async def read_index(self) -> Index | None:
        """Returns the index, None if there is none. Raises as `index`, but for an index that is gone."""
        return await self._read(layout.index_key(self.site), Index)

    async def read_day(self, day: str) -> Manifest | None:
        """Returns the manifest of a day, None if there is none. Raises as `day`, but for a manifest that is gone."""
        return await self._read(layout.manifest_key(self.site, day), Manifest)

    async def write_index(self, area: Area, index: Index) -> None:
        """Replaces the index. Raises as `Area.publish`."""
        await put(area, layout.index_key(self.site), _encode(index))

    async def write_day(self, area: Area, manifest: Manifest) -> None:
        """Replaces a manifest. Raises as `Area.publish`."""
        await put(area, layout.manifest_key(self.site, manifest.day), _encode(manifest))

    async def object(self, day: str, entry: Entry) -> bytes | None:
        """Returns the bytes of an object as stored; None if it is not there, or not the one of the manifest. Raises as `index`."""
        data = await self.store.get(layout.folder(self.site, day) + entry.name)
        return data if data is not None and digest(data) == entry.sha256 else None

    async def strays(self, manifest: Manifest) -> list[str]:
        """Returns the keys of a day's objects that the manifest does not name. Raises as `index`."""
        folder = layout.folder(self.site, manifest.day)
        named = {entry.name for entry in manifest.objects}
        names = [entry.key.removeprefix(folder) for entry in await self.store.list(folder)]
        return [folder + name for name in names if layout.is_name(name) and name not in named]

    async def replaced(self, manifest: Manifest) -> list[str]:
        """Returns the keys of a day's objects of which the manifest names another revision: a rewrite left them. Raises as `index`."""
        folder = layout.folder(self.site, manifest.day)
        named = {(entry.incarnation, entry.first) for entry in manifest.objects}
        names = [(key, layout.parse_name(key.removeprefix(folder))) for key in await self.strays(manifest)]
        return [key for key, name in names if name is not None and (name.incarnation, name.first) in named]

    def _lost(self, key: str, what: str) -> BookLostError:
        return BookLostError(
            f"archive of site {self.site}: {key} {what}; put it back, or make it of the objects with "
            f"`penstock archive repair --site {self.site}`"
        )

    async def _read(self, key: str, type_: type[T]) -> T | None:
        text = await self.store.get(key)
        if text is None:
            return None
        try:
            found = msgspec.json.decode(text, type=type_)
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            raise self._lost(key, f"is damaged: {exc}") from exc
        if found.version > layout.VERSION:
            raise SetupError(f"archive of site {self.site}: {key} is of version {found.version}; upgrade this service")
        return found


async def put(area: Area, key: str, data: bytes) -> None:
    """Writes one object of the holder. Raises as `Area.publish`."""
    await area.stage(key, _writer([data]))
    await area.publish()


async def put_parts(area: Area, key: str, parts: Sequence[bytes]) -> None:
    """As `put`, for an object in parts."""
    await area.stage(key, _writer(parts))
    await area.publish()


def digest(data: bytes) -> str:
    """Returns the checksum of an object, as manifests have it."""
    return hashlib.sha256(data).hexdigest()


def owner(site: str) -> str:
    """Returns the owner of a site's area in the store."""
    return f"archive-{site}"


def lease_name(site: str) -> str:
    """Returns the name of the lease of a site's writer."""
    return f"archive.{site}"


def _writer(parts: Sequence[bytes]) -> Callable[[IO[bytes]], object]:
    def write(output: IO[bytes]) -> None:
        for part in parts:
            output.write(part)

    return write
