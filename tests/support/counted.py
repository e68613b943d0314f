"""Counts what plug-ins count, for tests."""

from __future__ import annotations

from collections import Counter

from shared.telemetry.names import CounterName


class Counted:
    """See `shared.telemetry.counts.Counts`."""

    def __init__(self) -> None:
        self._counts = Counter[tuple[str, tuple[tuple[str, str], ...]]]()

    def count(self, name: CounterName, amount: float = 1, **labels: str) -> None:
        """Adds to a counter."""
        self._counts[name, tuple(sorted(labels.items()))] += int(amount)

    def of(self, name: CounterName, **labels: str) -> int:
        """Returns what was counted."""
        return self._counts[name, tuple(sorted(labels.items()))]
