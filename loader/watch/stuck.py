"""Watches for events that wait too long although their destination answers: no error shows this, so a clock does."""

from __future__ import annotations

import logging
import time

from shared.telemetry.health import Health

STUCK_SECONDS = 900.0
PERIODS = 2
"""An event of a batch may wait for so many periods, whatever the setting: for its load, and for the load before it."""

log = logging.getLogger(__name__)


class Stuck:
    """Warns in `/ready` while the oldest event of a connection waits for longer than a bound.

    Args:
        after_seconds: the bound.
        period_seconds: how long events wait on purpose; 0 in stream mode.
    """

    def __init__(self, health: Health, connection: str, destination: str, after_seconds: float, period_seconds: float) -> None:
        self._health = health
        self._connection = connection
        self._destination = destination
        self._bound = after_seconds + PERIODS * period_seconds
        self._part = f"connection {connection}: waiting"
        self._said = False

    def look(self, queued_at: float | None, last_load_at: float | None) -> None:
        """Compares the age of the oldest event with the bound.

        Args:
            queued_at: the time when the oldest frame was put into the queue (epoch seconds); None if none waits.
            last_load_at: the time of the last commit.
        """
        now, own = time.time(), f"connection {self._connection}"
        age = now - queued_at if queued_at is not None else 0.0
        if age <= self._bound or own in self._health.problems or own in self._health.warnings:  # these already say why it waits
            self.forget()
            return
        last = "nothing was loaded yet" if last_load_at is None else f"the last load was {now - last_load_at:.0f} s ago"
        loads = last_load_at is not None and now - last_load_at < self._bound
        step = (
            "it does not keep up; docs/scaling.md says what helps"
            if loads
            else f"see the loader's log, try `penstock check {self._destination}`, and restart the loader if that works"
        )
        why = f"the oldest event waits for {age:.0f} s in its queue although the destination answers; {last}; {step}"
        if not self._said:
            log.error("events wait although the destination answers", extra={"connection": self._connection, "why": why})
        self._said = True
        self._health.warn(self._part, why)

    def forget(self) -> None:
        """Removes the warning."""
        self._said = False
        self._health.good(self._part)
