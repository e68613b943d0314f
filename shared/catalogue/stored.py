"""The catalogue as the bucket `catalogue` holds it: one value for the names of a site, and one for the properties of each event.

The router that has a site's lease writes both (`router/catalogue/`). Counts of names are exact: they are stored with the place in EVENTS up to
which they go. Properties come from samples.
"""

from __future__ import annotations

import hashlib
from typing import Any, TypeVar

import msgspec
import zstandard

T = TypeVar("T")

VERSION = 1
MOST_VALUE_BYTES = 16 << 20
SITES, EVENTS = "site.", "event."
ALL = "all"
"""The part of a site that has no shards."""


class NameCount(msgspec.Struct, array_like=True):
    """A name of a site: `days` has the number of events by day (days since 1970, UTC). `event` is empty where events have no name."""

    type: str
    event: str
    first_at: float
    last_at: float
    total: int = 0
    days: dict[int, int] = {}


class SiteNames(msgspec.Struct, array_like=True):
    """All names of a site, counted up to a place in EVENTS. `others`: events of further names than the catalogue holds."""

    version: int = VERSION
    incarnation: str = ""
    position: int = 0
    names: list[NameCount] = []
    others: int = 0


class Property(msgspec.Struct, array_like=True):
    """A property as samples show it: how often, and its types with how often each."""

    first_at: float
    last_at: float
    seen: int = 0
    types: dict[str, int] = {}


class EventDetails(msgspec.Struct, array_like=True):
    """What samples of one event show.

    `properties`: by path, `[]` for the elements of an array. `left_out`: there were more than the catalogue holds. `keys` and `libraries`: who sent
    it, and when last. `sample`: the masked values of one event, by path; `people`: digests of its ids, so that it goes when they are
    forgotten.
    """

    type: str
    event: str
    sampled: int = 0
    properties: dict[str, Property] = {}
    left_out: int = 0
    keys: dict[str, float] = {}
    libraries: dict[str, float] = {}
    sample: dict[str, Any] = {}
    people: list[str] = []


def site_key(site: str, part: str) -> str:
    """Returns where the names of a part of a site are: of a shard, or `ALL`."""
    return f"{SITES}{site}.{part}"


def event_key(site: str, part: str, name: tuple[str, str]) -> str:
    """Returns where the properties of an event are."""
    digest = hashlib.blake2b("\0".join(name).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
    return f"{EVENTS}{site}.{part}.{digest}"


def pack_value(value: SiteNames | EventDetails) -> bytes:
    """Returns a value as the bucket holds it."""
    return zstandard.ZstdCompressor(level=1).compress(msgspec.msgpack.encode(value))


def unpack_names(value: bytes) -> SiteNames:
    """Reads the names of a site.

    Raises:
        ValueError: a later version wrote it, or it is damaged.
    """
    found = _unpack(value, SiteNames)
    if found.version > VERSION:
        raise ValueError(f"the catalogue is of version {found.version}, newer than {VERSION}; upgrade")
    return found


def unpack_details(value: bytes) -> EventDetails:
    """Reads the properties of an event; raises ValueError as `unpack_names` does."""
    return _unpack(value, EventDetails)


def _unpack(value: bytes, type_: type[T]) -> T:
    try:
        return msgspec.msgpack.decode(
            zstandard.ZstdDecompressor().decompress(value, max_output_size=MOST_VALUE_BYTES), type=type_
        )
    except (zstandard.ZstdError, msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise ValueError(f"a value of the catalogue cannot be read: {exc}") from exc
