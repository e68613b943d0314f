"""Reads the catalogue from the broker. Samples of people who are suppressed or forgotten are left out here too."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from shared.catalogue.stored import EVENTS, SITES, EventDetails, NameCount, SiteNames, unpack_details, unpack_names
from shared.errors import Permanent
from shared.forget.listing import read_forgotten
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket

DAY_SECONDS = 86_400


class SeenProperty(msgspec.Struct, frozen=True, kw_only=True):
    """A property in samples: in how many it was, and with which types."""

    path: str
    types: list[str]
    seen: int
    first_at: float
    last_at: float
    sample: Any = None


class SeenEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a site. `days`: events by day, the last 30 at most. `sampled`: how many the properties come from."""

    site: str
    type: str
    event: str
    total: int
    first_at: float
    last_at: float
    days: dict[str, int]
    sampled: int
    keys: list[str]
    libraries: list[str]
    properties: list[SeenProperty]
    left_out: int = 0
    """Sightings of properties beyond the bounds of the catalogue."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """The catalogue. `others`: by site, events of further names than it holds."""

    events: list[SeenEvent]
    others: dict[str, int]


async def read_catalogue(broker: Broker, site: str | None = None) -> Found:
    """Returns what sites have sent, the most frequent event first.

    Raises:
        NotConnected, Transient: the broker does not answer.
        Permanent: a later version wrote it.
    """
    bucket = Bucket(broker, topology.CATALOGUE_BUCKET)
    forgotten = await read_forgotten(broker)
    try:
        names: dict[str, list[SiteNames]] = {}
        for key, entry in (await bucket.get_many(await bucket.keys(SITES))).items():
            name = key.split(".")[1]
            if site in (None, name):
                names.setdefault(name, []).append(unpack_names(entry.value or b""))
        found: list[SeenEvent] = []
        others: dict[str, int] = {}
        for name, parts in names.items():
            keys = await bucket.keys(f"{EVENTS}{name}.")
            read = [unpack_details(entry.value or b"") for entry in (await bucket.get_many(keys)).values()]
            for each in read:
                if any(map(forgotten.has, each.people)):
                    each.sample = {}
            details = added_details(read)
            found += (_event(name, count, details.get((count.type, count.event))) for count in added_names(parts))
            if more := sum(part.others for part in parts):
                others[name] = more
    except ValueError as exc:
        raise Permanent(str(exc)) from exc
    return Found(events=sorted(found, key=lambda each: (each.site, -each.total, each.type, each.event)), others=others)


def added_names(parts: Sequence[SiteNames]) -> list[NameCount]:
    """Returns the counts of all shards of a site together."""
    found: dict[tuple[str, str], NameCount] = {}
    for each in (count for part in parts for count in part.names):
        had = found.get((each.type, each.event))
        if had is None:
            found[each.type, each.event] = each
            continue
        had.total += each.total
        had.first_at, had.last_at = min(had.first_at, each.first_at), max(had.last_at, each.last_at)
        had.days = {day: had.days.get(day, 0) + each.days.get(day, 0) for day in {*had.days, *each.days}}
    return list(found.values())


def added_details(read: Sequence[EventDetails]) -> dict[tuple[str, str], EventDetails]:
    """Returns what the samples of all shards of a site show together."""
    found: dict[tuple[str, str], EventDetails] = {}
    for each in read:
        had = found.setdefault((each.type, each.event), each)
        if had is each:
            continue
        had.sampled += each.sampled
        had.left_out += each.left_out
        had.keys, had.libraries = each.keys | had.keys, each.libraries | had.libraries
        had.sample = had.sample or each.sample
        for path, seen in each.properties.items():
            mine = had.properties.setdefault(path, seen)
            if mine is not seen:
                mine.seen += seen.seen
                mine.first_at, mine.last_at = min(mine.first_at, seen.first_at), max(mine.last_at, seen.last_at)
                mine.types = {kind: mine.types.get(kind, 0) + seen.types.get(kind, 0) for kind in {*mine.types, *seen.types}}
    return found


def _event(site: str, count: NameCount, details: EventDetails | None) -> SeenEvent:
    seen = details or EventDetails(count.type, count.event)
    return SeenEvent(
        site=site,
        type=count.type,
        event=count.event,
        total=count.total,
        first_at=count.first_at,
        last_at=count.last_at,
        days={_day(day): number for day, number in sorted(count.days.items())},
        sampled=seen.sampled,
        keys=sorted(seen.keys),
        libraries=sorted(seen.libraries),
        properties=[
            SeenProperty(
                path=path,
                types=sorted(each.types),
                seen=each.seen,
                first_at=each.first_at,
                last_at=each.last_at,
                sample=seen.sample.get(path),
            )
            for path, each in sorted(seen.properties.items())
        ],
        left_out=seen.left_out,
    )


def _day(number: int) -> str:
    return datetime.fromtimestamp(number * DAY_SECONDS, UTC).date().isoformat()
