"""Limits of events per second and key, common to all edge processes of a machine.

Each key has one number: the time at which its bucket is full again. A request of n events moves it n/rate seconds on. A request
that would move it further than the burst is refused and moves nothing, so a bucket is never in debt. A full bucket holds no
information, so another key may take its place, and no bucket must be forgotten on purpose.

The numbers are in memory that the parent shares with its processes. There is no lock: if requests of two processes race, at most
one request too many passes.
"""

from __future__ import annotations

import math
import mmap
from hashlib import blake2b

from ingest.clients.bursts import burst_of

SLOTS = 1 << 14
TRIES = 16
TABLE_BYTES = SLOTS * 16


class RateLimiter:
    """The buckets of all keys.

    Args:
        shared: a file of `TABLE_BYTES` zeros that other processes share; None: this process is alone.
    """

    def __init__(self, shared: int | None = None) -> None:
        self._memory = mmap.mmap(-1 if shared is None else shared, TABLE_BYTES)
        view = memoryview(self._memory)
        self._tags = view[: SLOTS * 8].cast("Q")
        self._full_at = view[SLOTS * 8 :].cast("d")

    def take(self, key: str, events: int, rate: int, now: float) -> int:
        """Takes room for `events`; returns 0, or the seconds until the next try.

        Args:
            rate: events per second.
            now: monotonic seconds, the same clock in all processes.
        """
        slot = self._slot(key, now)
        full_at = max(self._full_at[slot], now) + events / rate
        excess = full_at - now - burst_of(rate) / rate
        if excess > 1e-9:
            return max(1, math.ceil(excess))
        self._full_at[slot] = full_at
        return 0

    def _slot(self, key: str, now: float) -> int:
        """Returns the key's place: its own, else one whose bucket is full, else the first, shared with another key."""
        tag = int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "little") or 1
        tags, first, free = self._tags, tag % SLOTS, -1
        for place in range(first, first + TRIES):
            slot = place % SLOTS
            if tags[slot] == tag:
                return slot
            if free < 0 and self._full_at[slot] <= now:
                free = slot
        if free < 0:
            return first
        tags[free] = tag
        return free
