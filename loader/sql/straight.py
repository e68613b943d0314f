"""Whether a merge tries to bring its rows straight into their table first, which is much faster where no key is there already.

Most merges bring new keys only: clients rarely repeat themselves, and what they repeat was mostly dropped by the router. Such
rows go straight into the table, whose unique key refuses what it has; then they are taken back, and merged. The attempt is lost
then, so a table with repeats is left alone for some loads, for longer each time. In Postgres a savepoint takes back the rows of
one table; DuckDB has none, so there a load is tried whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

SHORTEST, LONGEST = 4, 256
"""Loads of a table that make no attempt after one that failed."""


class Straight:
    """What a session knows of its tables."""

    def __init__(self) -> None:
        self._rests: dict[str, int] = {}
        self._left: dict[str, int] = {}

    def tries(self, table: str) -> bool:
        """Returns whether the next merge into a table makes the attempt; asked once for a load."""
        left = self._left.get(table, 0)
        if left:
            self._left[table] = left - 1
        return not left

    def passed(self, table: str) -> None:
        """Notes that an attempt worked."""
        self._rests.pop(table, None)
        self._left.pop(table, None)

    def met(self, table: str) -> None:
        """Notes that a key was there already."""
        rest = self._rests.get(table, SHORTEST)
        self._left[table] = rest
        self._rests[table] = min(2 * rest, LONGEST)


def has_key(keys: Iterable[Sequence[str]], wanted: Sequence[str]) -> bool:
    """Whether a unique key of the table would refuse every repeat of the wanted one."""
    return any(set(columns) <= set(wanted) for columns in keys)
