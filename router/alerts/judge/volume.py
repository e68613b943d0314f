"""Whether a site is silent or its traffic unusual, decided from the same hours of earlier days. Pure.

Of each site the counts of the last 28 days' hours (UTC) are kept, 672 numbers. The *like hours* of an hour are the hours at the same
time of the same weekday in the last four weeks; where fewer than three weeks are known, those at the same time of the last seven
days, if the same weekday is among them. Otherwise nothing is decided: so a new site's first weekend is not compared with working days.
Each like hour is taken with the hour before and the hour after it, so that a change to or from summer time, or a site that
wakes half an hour later, is not unusual.

- **Unusual**: the last whole hour had more than `factor` times the most, or less than the least divided by `factor`, of its like
  hours. Where these hold fewer than `FEWEST_EVENTS` at the median nothing is decided: small numbers vary by chance.
- **Silent**: no event came for at least ten minutes, in which `MISSED_EVENTS` would have come at a low rate of the like hours.
  Only time in which a router looked counts: while Penstock is away, no site can send.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

import msgspec

HOUR = 3600.0
WEEK_HOURS = 7 * 24
KEPT_HOURS = 4 * WEEK_HOURS
FEWEST_WEEKS = 3
FEWEST_DAYS = 3
FEWEST_EVENTS = 50
MISSED_EVENTS = 20
SILENT_SECONDS = 600.0
SLACK_SECONDS = 300.0
"""An hour that was not looked at for longer than this, at its beginning or end, is not known."""
UNKNOWN = -1


class History(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The counts of one site. `hour`: the hour that goes on, as hours since 1970; `accepted` was the site's total at `began_at`."""

    hour: int
    began_at: float
    accepted: int
    counts: list[int] = []
    """Of the hours before, the newest first; -1: unknown."""
    last_at: float = 0.0
    """When the newest event came that was seen at a change of the hour (epoch seconds)."""
    behind: bool = False
    """The count lagged in this hour: a router had not read what had come."""


class Usual(NamedTuple):
    """What is usual in an hour: the least and the most events, their median, and a low number to expect."""

    least: int
    most: int
    median: float
    low: float


def begin(accepted: int, now: float) -> History:
    """Returns the history of a site that is seen for the first time."""
    return History(hour=int(now // HOUR), began_at=now, accepted=accepted)


def note(history: History, accepted: int, now: float, last_at: float, *, behind: bool = False) -> History:
    """Returns the history at a later time; the same object while the hour goes on.

    Args:
        accepted: events of the site so far. It only grows; a lower one means that the broker's store is another.
        now: epoch seconds.
        last_at: when the newest event came.
        behind: events came that `accepted` does not count yet, for longer than the usual moment. Then neither this hour nor the
            one in which they are counted is known.
    """
    hour = int(now // HOUR)
    if hour == history.hour and accepted >= history.accepted:
        return history if history.behind or not behind else msgspec.structs.replace(history, behind=True)
    if accepted < history.accepted or hour < history.hour:
        return msgspec.structs.replace(begin(accepted, now), counts=history.counts, last_at=last_at, behind=behind)
    whole = (
        hour == history.hour + 1
        and history.began_at - history.hour * HOUR <= SLACK_SECONDS
        and now - hour * HOUR <= SLACK_SECONDS
        and not (behind or history.behind)
    )
    gap = [UNKNOWN] * (hour - history.hour - 1)
    counts = [*gap, accepted - history.accepted if whole else UNKNOWN, *history.counts][:KEPT_HOURS]
    return History(hour=hour, began_at=now, accepted=accepted, counts=counts, last_at=last_at, behind=behind)


def usual(counts: Sequence[int], ago: int) -> Usual | None:
    """Returns the usual of the hour `ago` hours ago (0: the one that goes on), from its like hours; None: too few are known."""
    weeks = [found for week in range(1, 5) if (found := _around(counts, ago + WEEK_HOURS * week))]
    if len(weeks) < FEWEST_WEEKS:
        days = [found for day in range(1, 8) if (found := _around(counts, ago + 24 * day))]
        if len(days) < FEWEST_DAYS or not weeks:
            return None
        # the weekday itself has one or two samples, so the least of these is all that may be expected
        low = float(min(each.low for each in weeks))
        return _together([*days, *weeks], low)
    return _together(weeks, median(each.low for each in weeks))


class _Around(NamedTuple):
    """A like hour with its neighbours: its own count, the least and the most."""

    own: int
    low: int
    high: int


def _around(counts: Sequence[int], ago: int) -> _Around | None:
    def at(place: int) -> int:
        return counts[place - 1] if 1 <= place <= len(counts) else UNKNOWN  # counts[0] is one hour ago

    own = at(ago)
    if own == UNKNOWN:
        return None
    known = [own, *(each for each in (at(ago - 1), at(ago + 1)) if each != UNKNOWN)]
    return _Around(own, min(known), max(known))


def _together(some: Sequence[_Around], low: float) -> Usual:
    middle = median(each.own for each in some)
    return Usual(min(each.low for each in some), max(each.high for each in some), middle, low)


def knows_last_hour(history: History) -> bool:
    """Whether the events of the last whole hour are known."""
    return bool(history.counts) and history.counts[0] != UNKNOWN


def unusual(history: History, factor: float) -> str:
    """Returns why the last whole hour is unusual; empty: it is not, or nothing can be said."""
    counts = history.counts
    known = usual(counts, 1) if knows_last_hour(history) else None
    if known is None or known.median < FEWEST_EVENTS:
        return ""
    if known.least / factor <= counts[0] <= known.most * factor:
        return ""
    return f"{counts[0]} events in the last whole hour; the same hours of earlier days had {known.least} to {known.most}"


def silent(history: History, last_at: float, now: float, bound_seconds: float | None, *, watched_since: float = 0.0) -> str:
    """Returns why a site counts as silent; empty: it does not.

    Args:
        last_at: when its newest event came (epoch seconds); 0: it never sent one.
        bound_seconds: how long it may be silent; None: decided from its traffic.
        watched_since: since when routers look; only time after it counts.
    """
    if not last_at:
        return ""
    begun = max(last_at, watched_since)
    quiet, all_quiet = now - begun, now - last_at
    if bound_seconds is not None:
        return f"no event for {_words(all_quiet)}; at most {_words(bound_seconds)} is allowed" if quiet > bound_seconds else ""
    if quiet < SILENT_SECONDS:
        return ""
    missed, from_ = 0.0, begun
    # hour by hour, because nights differ from days; older hours than the history has say nothing
    for ago in range(min(history.hour - int(begun // HOUR), KEPT_HOURS), -1, -1):
        ends = min(now, (history.hour - ago + 1) * HOUR)
        known = usual(history.counts, ago)
        if known is not None and ends > from_:
            missed += known.low * (ends - from_) / HOUR
        from_ = max(from_, ends)
    if missed < MISSED_EVENTS:
        return ""
    return f"no event for {_words(all_quiet)}; about {missed:.0f} usually come in that time"


def _words(seconds: float) -> str:
    if seconds >= 2 * 86_400:
        return f"{seconds / 86_400:.0f} days"
    return (
        f"{seconds / 3600:.0f} h" if seconds >= 3 * HOUR else f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
    )
