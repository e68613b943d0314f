"""When `penstock status --wait` has waited enough: nothing waits, and the counts say so or change no more. Pure."""

from __future__ import annotations

from penstock.control.status.status import Status

STILL_SECONDS = 6.0
"""Router and loader store what they counted within two seconds; counts that stay wrong for so long stay wrong."""


class Rest:
    """Watches one status after the other."""

    def __init__(self) -> None:
        self._counts: object = None
        self._since = 0.0

    def is_reached(self, found: Status, at_seconds: float) -> bool:
        """Says whether there is nothing to wait for any more.

        Args:
            at_seconds: when it was read, on a clock that only goes forward.
        """
        counts = [(each.received, each.replayed, each.delivered, each.dropped, each.dead) for each in found.connections]
        if counts != self._counts or found.waiting:
            self._counts, self._since = counts, at_seconds
        return found.settled or (not found.waiting and at_seconds - self._since >= STILL_SECONDS)
