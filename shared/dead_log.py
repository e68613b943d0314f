"""Says in the log that events became dead letters: of each reason one line in a while, with how many there were since the line before.

What the events hold is left out: logs go further than dead letters.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable

LOG_EVERY_SECONDS = 30.0

log = logging.getLogger(__name__)


class DeadLog:
    """Of one process; `level` is of `logging`."""

    def __init__(self, level: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._level = level
        self._clock = clock
        self._told: dict[tuple[str, str], tuple[float, int]] = {}
        """By source and reason: when that was logged last, and how many there were since."""

    def note(self, reasons: Iterable[str], **source: str) -> None:
        """Takes the reason of each event that became a dead letter; `source` is its connection or site."""
        now = self._clock()
        for reason, count in Counter(map(str, reasons)).items():
            kind = (",".join(source.values()), reason)
            at, since = self._told.get(kind, (-LOG_EVERY_SECONDS, 0))
            if now - at < LOG_EVERY_SECONDS:
                self._told[kind] = (at, since + count)
                continue
            self._told[kind] = (now, 0)
            log.log(self._level, "events are in the dead letters", extra={**source, "reason": reason, "events": since + count})
