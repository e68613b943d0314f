"""Names of objects, and the manifests that list them. Pure.

`EVENTS` numbers frames, and starts again when it was created again. So a sequence belongs to an *incarnation* of EVENTS. Objects of
the archive's first incarnation have plain names; names of later ones bear the number of theirs, so that none overwrites another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

VERSION = 1
SUFFIX = ".ndjson.zst"
_NAME = re.compile(r"hr=(\d\d)/(\d{20})-(\d{20})(?:\.i(\d+))?(?:\.r(\d+))?\.ndjson\.zst")
_KEY = re.compile(r"raw/site=[^/]+/dt=\d{4}-\d\d-\d\d/" + _NAME.pattern)


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An object of a day.

    `name`: below the day's folder. `first` and `last`: sequences in EVENTS of its first and last frame, `begins` and `ends`: when these
    were stored. `after`: every frame of the site from there on, without it, to `first` is in an earlier object. The frames of
    `missed` are not: so many sequences of EVENTS were gone before the archive had read them, other sites' frames among them.
    `incarnation` counts from 1. `revision` counts rewrites. `bytes`: as stored.
    """

    name: str
    first: int
    last: int
    after: int
    begins: datetime
    ends: datetime
    frames: int
    events: int
    bytes: int
    sha256: str
    incarnation: int = 1
    missed: int = 0
    revision: int = 0


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The objects of one site and day, in order. `incarnations`: as in the index, which may be lost."""

    version: int = VERSION
    site: str
    day: str
    objects: list[Entry] = []
    incarnations: list[str] = []


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """The days that have objects, in the order of their beginning, and the incarnations of EVENTS that they come from."""

    version: int = VERSION
    site: str
    days: list[str] = []
    incarnations: list[str] = []

    def number(self, incarnation: str) -> int:
        """Returns the number of an incarnation, 0 if the archive has nothing of it."""
        return self.incarnations.index(incarnation) + 1 if incarnation in self.incarnations else 0


def home(site: str) -> str:
    """Returns the folder of a site, with its slash."""
    return f"raw/site={site}/"


def index_key(site: str) -> str:
    """Returns the key of a site's index."""
    return f"{home(site)}index.json"


def folder(site: str, day: str) -> str:
    """Returns the folder of a day, with its slash."""
    return f"{home(site)}dt={day}/"


def manifest_key(site: str, day: str) -> str:
    """Returns the key of a day's manifest."""
    return f"{folder(site, day)}manifest.json"


def hour_of(at_seconds: float) -> tuple[str, str]:
    """Returns day and hour of a time (epoch), in UTC."""
    at = datetime.fromtimestamp(at_seconds, UTC)
    return f"{at:%Y-%m-%d}", f"{at:%H}"


def name_of(hour: str, first: int, last: int, incarnation: int = 1, revision: int = 0) -> str:
    """Returns an object's name below its day."""
    incarnated = f".i{incarnation}" if incarnation > 1 else ""
    rewritten = f".r{revision}" if revision else ""
    return f"hr={hour}/{first:020d}-{last:020d}{incarnated}{rewritten}{SUFFIX}"


class Name(NamedTuple):
    """What the name of an object says, as `Entry` has it."""

    hour: str
    first: int
    last: int
    incarnation: int
    revision: int


def parse_name(name: str) -> Name | None:
    """Reads a name below a day's folder; None if it is not that of an object."""
    found = _NAME.fullmatch(name)
    return (
        Name(
            hour=found[1],
            first=int(found[2]),
            last=int(found[3]),
            incarnation=int(found[4] or 1),
            revision=int(found[5] or 0),
        )
        if found
        else None
    )


def is_name(name: str) -> bool:
    """Whether a name below a day's folder is that of an object."""
    return _NAME.fullmatch(name) is not None


def is_object(key: str) -> bool:
    """Whether a key is that of an object of a day."""
    return _KEY.fullmatch(key) is not None


def damaged_folder(site: str, day: str) -> str:
    """Returns where a repair puts the damaged objects of a day, with its slash."""
    return f"{home(site)}damaged/dt={day}/"


def rewritten(entry: Entry) -> str:
    """Returns the name of the next revision of an object."""
    hour = entry.name.removeprefix("hr=")[:2]
    return name_of(hour=hour, first=entry.first, last=entry.last, incarnation=entry.incarnation, revision=entry.revision + 1)


def day_of(key: str) -> str:
    """Returns the day of a key, empty if it belongs to none."""
    found = re.search(r"/dt=(\d{4}-\d\d-\d\d)/", key)
    return found[1] if found else ""


def position(entries: Iterable[Entry], incarnation: int) -> int:
    """Returns the last sequence of an incarnation that the entries hold, 0 if none."""
    return max((entry.last for entry in entries if entry.incarnation == incarnation), default=0)


def breaks(entries: Iterable[Entry]) -> list[str]:
    """Returns, in words, where objects in order do not follow on each other: an object of the chain is gone, or listed twice.

    Objects that overlap are no fault: a reader gives each frame once.
    """
    found: list[str] = []
    before: Entry | None = None
    for entry in entries:
        if entry.first > entry.last or entry.after >= entry.first:
            found.append(f"{entry.name}: its sequences are in no order")
        elif before is not None and before.incarnation == entry.incarnation:
            if entry.after > before.last:
                found.append(f"{entry.name} begins behind {entry.after}, and {before.name} before it ends with {before.last}")
            elif entry.last <= before.last:
                found.append(f"{entry.name}: its sequences are in {before.name} before it")
        before = entry
    return found
