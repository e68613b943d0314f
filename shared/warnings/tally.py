"""Adds up warnings between two messages: by site, connection and reason, in bounded memory, from counters that exist anyway. Pure.

Nothing is done for an event. A look compares the counters with the look before, so `first_at` and `last_at` are exact to the time
between two looks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from shared.warnings.declared import WARNED, Warned

MOST = 500
"""Warnings that are kept apart; further ones are one for each reason."""
OTHERS = "(others)"
"""The site of the rest."""
SAMPLE_CHARACTERS = 200


class Counted(NamedTuple):
    """A counter with its labels, as it stands now, and a sample of what it counted last, if there is one."""

    labels: Mapping[str, str]
    value: float
    sample: str | None = None


class Warning_(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):  # noqa: N801 - Python has a Warning
    """What happened to some events of a site alike. `first_at` and `last_at` are epoch seconds."""

    site: str
    connection: str | None = None
    reason: str
    unit: str
    count: int
    first_at: float
    last_at: float
    sample: str | None = None

    @property
    def key(self) -> tuple[str, str | None, str]:
        """What it is about."""
        return self.site, self.connection, self.reason

    def plus(self, later: Warning_) -> Warning_:
        """Returns both as one."""
        return msgspec.structs.replace(
            self,
            count=self.count + later.count,
            first_at=min(self.first_at, later.first_at),
            last_at=max(self.last_at, later.last_at),
            sample=later.sample or self.sample,
        )


class Tally:
    """The warnings of one process since it told them last."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._seen: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
        """By reason: the counters of the last look. Those of removed connections go."""
        self._held: dict[tuple[str, str | None, str], Warning_] = {}

    def __bool__(self) -> bool:
        return bool(self._held)

    def look(self, warned: Warned, counters: Iterable[Counted], sites: Mapping[str, str], now: float) -> None:
        """Adds what was counted since the last look.

        Args:
            sites: the site of every connection, as `connection NAME`, and of every feed, as `feed NAME`.
            now: epoch seconds.
        """
        former, seen = self._seen.get(warned.reason, {}), dict[tuple[tuple[str, str], ...], float]()
        self._seen[warned.reason] = seen
        for labels, value, sample in counters:
            if any(labels.get(name) != wanted for name, wanted in warned.labels.items()):
                continue
            key = tuple(labels.items())
            before = former.get(key, 0.0)
            seen[key] = value
            # a counter that was forgotten begins again
            more = int(value - before if value >= before else value)
            connection = labels.get("connection")
            site = labels.get("site") or sites.get(f"connection {connection}") or sites.get(f"feed {labels.get('feed')}")
            if more and site:
                shown = sample or labels.get(warned.shown)
                self.add(
                    Warning_(
                        site=site,
                        connection=connection,
                        reason=warned.reason,
                        unit=warned.unit,
                        count=more,
                        first_at=now,
                        last_at=now,
                        sample=cut(shown) if shown else None,
                    )
                )

    def add(self, warning: Warning_) -> None:
        """Adds a warning to those of its kind."""
        if warning.key not in self._held and len(self._held) >= self._most:
            warning = msgspec.structs.replace(warning, site=OTHERS, connection=None, sample=None)
        held = self._held.get(warning.key)
        self._held[warning.key] = warning if held is None else held.plus(warning)

    def take(self) -> list[Warning_]:
        """Returns all, and begins again."""
        taken = list(self._held.values())
        self._held.clear()
        return taken


def cut(sample: str) -> str:
    """Returns a sample as it travels: one line, bounded."""
    line = "".join(each if each.isprintable() else " " for each in sample[: SAMPLE_CHARACTERS + 1])
    return line if len(line) <= SAMPLE_CHARACTERS else line[: SAMPLE_CHARACTERS - 1] + "…"


__all__ = ["MOST", "OTHERS", "WARNED", "Counted", "Tally", "Warning_", "cut"]
