"""Back-off: the wait before the next attempt. Pure."""

from __future__ import annotations


class Backoff:
    """Waits between attempts: each is twice the one before, up to a limit.

    Args:
        first: the first wait, in seconds.
        longest: no wait is longer, in seconds.
    """

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    def next(self) -> float:
        """Returns how long to wait now, in seconds."""
        now, self._next = self._next, min(self._next * 2, self._longest)
        return now

    def reset(self) -> None:
        """Begins again with the first wait: an attempt was successful."""
        self._next = self._first
