"""What code counts with that need not know of all telemetry, such as a plug-in."""

from __future__ import annotations

from typing import Protocol

from shared.telemetry.names import CounterName


class Counts(Protocol):
    """What a plug-in counts with; `shared/telemetry/declared/` has the metrics."""

    def count(self, name: CounterName, amount: float = 1, **labels: str) -> None:
        """Adds to a counter; costs nothing that anybody would notice, and never fails."""
        ...


class Uncounted:
    """Counts nothing, for commands."""

    def count(self, name: CounterName, amount: float = 1, **labels: str) -> None:
        """Does nothing."""
