"""The clock of a process: wall time that never goes back, and steady time for every wait.

A machine's clock can be set back, sometimes by an hour. So no wait is computed from wall time: periods, deadlines and retries run
on `steady`. Code that meets a wall time calls `steady_at` once and keeps the result. Wall time is for people and for data. It
follows the machine's clock forward at once. When the machine's clock is set back, wall time goes on at half speed until the two
agree again, so two times taken one after the other are in order.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Clock:
    """One for a process, used by one thread.

    Args:
        wall_ns: the machine's clock, nanoseconds since 1970.
        steady_ns: a clock that cannot be set, in nanoseconds.
    """

    def __init__(self, wall_ns: Callable[[], int] = time.time_ns, steady_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._wall_ns = wall_ns
        self._steady_ns = steady_ns
        self._last_steady = steady_ns()
        self._last = wall_ns()

    def now_ns(self) -> int:
        """Returns nanoseconds since 1970, never less than before."""
        steady, wall = self._steady_ns(), self._wall_ns()
        passed, self._last_steady = steady - self._last_steady, steady
        if wall >= self._last + passed:
            self._last = wall
        else:
            self._last = max(wall, self._last + passed // 2)
        return self._last

    def now(self) -> float:
        """Returns seconds since 1970, never less than before."""
        return self.now_ns() / 1e9

    def steady(self) -> float:
        """Returns steady seconds: only differences mean something."""
        return self._steady_ns() / 1e9

    def steady_at(self, at: float) -> float:
        """Returns the steady time of a wall time (seconds since 1970), at the latest now.

        Call it once, when the time is first seen, and keep the result: a clock that is set later does not change it.
        """
        return self.steady() - max(0.0, self.now() - at)
