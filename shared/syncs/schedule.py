"""When a sync runs: `every 15m`, or a cron expression in a time zone. Pure but for the time zones of the machine.

An interval is counted from midnight of 1970 in UTC, so that all replicas agree and a restart changes nothing; a delay of its own, made from
the sync's name, spreads syncs with the same schedule over `jitter`. Daylight saving as in Debian's cron (the library's rule): a job in
the hour that is left out runs right after it, one in the hour that comes twice runs once.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from shared.reading.units import Duration

SHORTEST_SECONDS = 10
_EVERY = re.compile(r"every\s+(.+)", re.IGNORECASE | re.DOTALL)


class Schedule:
    """When runs are due.

    Args:
        text: `every <duration>`, a cron expression of five fields, or empty: never by itself.
        time_zone: the name of the zone that a cron expression is in, such as `Europe/Berlin`.
        jitter: seconds over which `name` spreads.

    Raises:
        ValueError: what is wrong, for people.
    """

    def __init__(self, text: str, time_zone: str = "UTC", jitter: float = 0.0, name: str = "") -> None:
        self.manual = not text.strip()
        self._delay = _share(name) * jitter
        self._next: Callable[[float], float] = lambda _: math.inf
        try:
            zone = ZoneInfo(time_zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
            raise ValueError(f"no time zone is named {time_zone!r}; write one such as Europe/Berlin") from exc
        if self.manual:
            return
        if (every := _EVERY.fullmatch(text.strip())) is not None:
            period = _period(every[1])
            self._next = lambda after: (math.floor(after / period) + 1) * period
            return
        try:
            CronSim(text, datetime.now(UTC))
        except CronSimError as exc:
            raise ValueError(
                f"{text!r} is no schedule ({exc}); write `every 15m`, or the five fields of cron: minute hour day month weekday"
            ) from exc
        self._next = lambda after: _after(text, zone, after)

    def after(self, moment: float) -> float:
        """Returns the first time after `moment` at which a run is due (both epoch seconds); infinity if none ever is."""
        return self._next(moment - self._delay) + self._delay

    def behind(self, began: float, now: float) -> float:
        """Returns when the run behind one that began is due (all epoch seconds).

        Where the clock of that run was ahead of ours, it puts off nothing.
        """
        return self.after(min(began, now))


def _period(text: str) -> float:
    try:
        period = Duration.parse(text)
    except ValueError as exc:
        raise ValueError(f"`every` needs a duration such as 15m: {exc}") from exc
    if period < SHORTEST_SECONDS:
        raise ValueError(f"the shortest interval is {SHORTEST_SECONDS}s, got {period:g}s")
    return period


def _after(text: str, zone: ZoneInfo, moment: float) -> float:
    try:
        return next(CronSim(text, datetime.fromtimestamp(moment, zone))).timestamp()
    except StopIteration:  # such as the 30th of February
        return math.inf


def _share(name: str) -> float:
    """Returns a number from 0 to 1 that belongs to a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32
