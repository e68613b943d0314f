"""Limits of events per second and key: a token bucket that may run into debt once, so that one large batch still passes."""

from __future__ import annotations

import math

BURST_SECONDS = 2.0


class RateLimiter:
    """One bucket per key."""

    def __init__(self, share: float = 1.0) -> None:
        """`share` is this process's part of the limit, where several share a port."""
        self._share = share
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, key: str, events: int, rate: int, now: float) -> int:
        """Takes tokens for `events`; returns 0, or after how many seconds to try again.

        Args:
            rate: events per second.
            now: monotonic seconds.
        """
        speed = rate * self._share
        capacity = speed * BURST_SECONDS
        tokens, since = self._buckets.get(key, (capacity, now))
        tokens = min(capacity, tokens + (now - since) * speed)
        if tokens <= 0:
            self._buckets[key] = (tokens, now)
            return max(1, math.ceil(-tokens / speed))
        self._buckets[key] = (tokens - events, now)
        return 0
