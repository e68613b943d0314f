"""Decides when `penstock status --wait` ends: nothing waits, and the counts say so or no longer change. Pure.

A stack that has just started has a moment in which its loader opens the destinations: that is no fault, so the wait includes it.
Nor is a trouble that goes by itself. A status reads the services before the broker: when the last event is loaded in between, the
services still say that a connection is behind, and the counts say that nothing waits.
"""

from __future__ import annotations

from penstock.control.status.status import Status

STILL_SECONDS = 6.0
"""Router and loader store their counts within two seconds; counts that are wrong for longer than this stay wrong."""

ILL_SECONDS = 6.0
"""A trouble that is told for longer than this, while nothing waits, is one for a person. Services look at themselves every two seconds."""

START_SECONDS = 30.0
"""A connection that no service has taken up for longer than this is not starting."""


class Rest:
    """Looks at one status after the other."""

    def __init__(self) -> None:
        self._counts: object = None
        self._since = 0.0
        self._starting_since: float | None = None
        self._ill_since: float | None = None

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
        if found.starting:
            self._starting_since = at_seconds if self._starting_since is None else self._starting_since
            if at_seconds - self._starting_since < START_SECONDS:
                return False
        if not found.settled and (found.waiting or at_seconds - self._since < STILL_SECONDS):
            return False
        if found.healthy:
            return True
        self._ill_since = at_seconds if self._ill_since is None else self._ill_since
        return at_seconds - self._ill_since >= ILL_SECONDS
