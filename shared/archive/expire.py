"""Removes the oldest days of an archive: days older than it keeps, and days for which it has no room.

It takes a day from the index first, then removes its objects and its manifest. A reader that begins in between finds the day or no
trace of it. The next look removes what a crash left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta

import msgspec

from shared.archive import layout
from shared.archive.books import Books
from shared.stores.contract import Area


def days_to_remove(days: list[str], sizes: Mapping[str, int], now: datetime, keep_seconds: float, room_bytes: int) -> list[str]:
    """Returns the days that must go, the oldest first; never the newest. Pure.

    Args:
        days: of the archive, the oldest first.
        sizes: bytes by day.
        now: in UTC.
        keep_seconds: how long a day stays after its end; 0: for ever.
        room_bytes: for all days together; 0: any.
    """
    gone: list[str] = []
    total = sum(sizes.get(day, 0) for day in days)
    for day in days[:-1]:
        ended = datetime.fromisoformat(f"{day}T00:00:00+00:00") + timedelta(days=1)
        is_old = bool(keep_seconds) and (now - ended).total_seconds() > keep_seconds
        if not is_old and not (room_bytes and total > room_bytes):
            break
        gone.append(day)
        total -= sizes.get(day, 0)
    return gone


async def expire(books: Books, area: Area, now: datetime, keep_seconds: float, room_bytes: int) -> list[str]:
    """Removes days of a site's archive; returns them.

    Args:
        area: of the site's writer.
        now, keep_seconds, room_bytes: as in `days_to_remove`.

    Raises:
        Fenced, NotConnected, Transient, SetupError
    """
    if not keep_seconds and not room_bytes:
        return []
    index = await books.index()
    sizes: Counter[str] = Counter()
    for entry in await books.store.list(layout.home(books.site)):
        sizes[layout.day_of(entry.key)] += entry.size
    left = sorted(set(sizes) - {*index.days, ""}) if index.days else []
    days = [day for day in left if day < index.days[0]] + index.days
    gone = days_to_remove(days=days, sizes=sizes, now=now, keep_seconds=keep_seconds, room_bytes=room_bytes)
    if gone:
        await books.write_index(area, msgspec.structs.replace(index, days=[day for day in index.days if day not in gone]))
    for day in gone:
        folder = layout.folder(books.site, day)
        listed = [*await books.store.list(folder), *await books.store.list(layout.damaged_folder(books.site, day))]
        keys = [entry.key for entry in listed]
        await books.store.delete([key for key in keys if key != layout.manifest_key(books.site, day)])
        await books.store.delete([layout.manifest_key(books.site, day)])
    return gone
