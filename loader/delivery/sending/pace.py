"""Decides when the next call may go out: by the rate, the destination's pauses, and its failure as a whole.

A destination fails as a whole if several calls in a row fail. Then one call at a time is tried, after growing pauses, until one
succeeds. Each try carries another event: a failed call leaves for RETRY, so one bad event cannot look like an outage for long.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from loader.contract.events import MOST_HOLD_SECONDS, SendLimits
from shared.backoff import Backoff
from shared.tasks import timeout

PAUSE_SECONDS = (1.0, 60.0)
LAG_SECONDS = 0.02
"""How late a timer may be without costing a call."""
FEWEST_FAILURES = 3
"""How many failures in a row show that the destination fails, not an event."""


class Pace:
    """The pace of one connection's calls.

    Args:
        ended: returns whether no more calls may begin.
        clock: steady seconds.
    """

    def __init__(self, limits: SendLimits, ended: asyncio.Event, clock: Callable[[], float]) -> None:
        self._interval = 1.0 / limits.calls_a_second if limits.calls_a_second else 0.0
        self._threshold = max(FEWEST_FAILURES, limits.calls_at_once)
        self._ended = ended
        self._clock = clock
        self._next = 0.0
        self._until = 0.0
        self._paused_at = 0.0
        self._failures = 0
        self._probing = False
        self._backoff = Backoff(*PAUSE_SECONDS)
        self._changed = asyncio.Event()
        self.why = ""
        """Why calls pause; empty: they do not pause."""

    @property
    def paused_for(self) -> float:
        """Returns the seconds until the next call may go out."""
        return max(0.0, self._until - self._clock())

    async def turn(self) -> float | None:
        """Waits until a call may go out, and returns the time; None: no more calls may go out.

        Report each turn by `succeeded`, `failed`, `hold` or `skipped`; give the returned time to the middle two.
        """
        while not self._ended.is_set():
            wait = self._until - self._clock()
            if wait > 0 or (self.why and self._probing):
                await self._wait(wait if wait > 0 else None)
                continue
            if self.why:
                self._probing = True
                return self._clock()
            if self._interval:
                now = self._clock()
                if self._next > now:
                    await self._wait(self._next - now)
                    continue
                self._next = max(self._next, now - LAG_SECONDS) + self._interval
            return self._clock()
        return None

    def succeeded(self) -> bool:
        """Notes an answered call, whatever its answer; returns whether the destination had failed before."""
        self._failures = 0
        if not self.why:
            return False
        self.why, self._until, self._probing = "", 0.0, False
        self._backoff.reset()
        self._wake()
        return True

    def skipped(self) -> None:
        """Notes that no call went out in a turn."""
        if self._probing:
            self._probing = False
            self._wake()

    def failed(self, began: float, why: str) -> None:
        """Notes a call that failed."""
        self._failures += 1
        if self._is_news(began) and (self.why or self._failures >= self._threshold):
            self._pause(self._backoff.next(), why)

    def hold(self, began: float, after: float | None, why: str) -> None:
        """Notes that the destination asks for a pause, of so many seconds if it says so."""
        if after:  # a pause of nothing would let a crowd of calls run against it
            self._pause(min(after, MOST_HOLD_SECONDS), why)
        elif self._is_news(began):
            self._pause(self._backoff.next(), why)

    def wake(self) -> None:
        """Ends every wait, for a caller that has set `ended`."""
        self._wake()

    def _is_news(self, began: float) -> bool:
        """Whether a call began after the last pause; earlier calls tell nothing new."""
        return not self.why or began > self._paused_at

    def _pause(self, seconds: float, why: str) -> None:
        self.why = why
        self._probing = False
        self._paused_at = self._clock()
        self._until = max(self._until, self._clock() + seconds)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _wait(self, seconds: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with timeout(seconds):
                await self._changed.wait()
