"""Decides when `penstock status --wait` ends: nothing waits, and the counts say so or no longer change. Pure."""

from __future__ import annotations

from penstock.control.status.status import Status

STILL_SECONDS = 6.0
"""Router and loader store their counts within two seconds; counts that are wrong for longer than this stay wrong."""


class Rest:
    """Looks at one status after the other."""

    def __init__(self) -> None:
        self._counts: object = None
        self._since = 0.0

    def is_reached(self, found: Status, at_seconds: float) -> bool:
        """Whether the wait is over.

        Args:
            at_seconds: the time of reading, on a clock that only goes forward.
        """
        counts = [
            (each.received, each.replayed, each.made, each.delivered, each.dropped, each.dead) for each in found.connections
        ]
        if counts != self._counts or found.waiting:
            self._counts, self._since = counts, at_seconds
        return found.settled or (not found.waiting and at_seconds - self._since >= STILL_SECONDS)
