"""Counts the names of a site's events, exactly and in bounded memory. Pure.

The edge and feeds write into each frame how many events of which name it has, so counting costs the router nothing for an event. A frame
that does not say it is counted from its heads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from router.rules.arrival import Arrival
from shared.catalogue.stored import NameCount, SiteNames

MOST_NAMES = 500
"""Names of a site; events of further names are counted together. A client can make up names."""
KEPT_DAYS = 30
DAY_SECONDS = 86_400
NAME_CHARACTERS = 200

Name = tuple[str, str]


class Names:
    """The names of a site up to a place in EVENTS."""

    def __init__(self, stored: SiteNames) -> None:
        self.incarnation = stored.incarnation
        self.position = stored.position
        self.others = stored.others
        self._counts: dict[Name, NameCount] = {(each.type, each.event): each for each in stored.names}

    def __contains__(self, name: Name) -> bool:
        return name in self._counts

    def note(self, arrival: Arrival) -> list[Name]:
        """Counts a frame, once; returns the names that are new.

        Raises:
            Permanent: the frame is damaged inside.
        """
        if arrival.seq <= self.position:
            return []
        names = arrival.names or _counted(arrival)
        at, day = arrival.at_seconds, int(arrival.at_seconds // DAY_SECONDS)
        fresh: list[Name] = []
        for type_, event, amount in names:
            count = self._counts.get((type_, event))
            if count is None:
                if len(self._counts) >= MOST_NAMES:
                    self.others += amount
                    continue
                count = self._counts[type_, event] = NameCount(type_, event, at, at, days={})
                fresh.append((type_, event))
            count.total += amount
            count.last_at = max(count.last_at, at)
            count.days[day] = count.days.get(day, 0) + amount
            if len(count.days) > KEPT_DAYS:
                count.days = {each: number for each, number in count.days.items() if each > day - KEPT_DAYS}
        self.position = arrival.seq
        return fresh

    def stored(self) -> SiteNames:
        """Returns the names as the bucket holds them."""
        return SiteNames(
            incarnation=self.incarnation, position=self.position, names=list(self._counts.values()), others=self.others
        )


def _counted(arrival: Arrival) -> Iterable[tuple[str, str, int]]:
    counts = Counter((head.type[:NAME_CHARACTERS], (head.event or "")[:NAME_CHARACTERS]) for head in arrival.heads)
    return [(type_, event, amount) for (type_, event), amount in counts.items()]
