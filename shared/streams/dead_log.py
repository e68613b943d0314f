"""Reports of dead letters: the log reports new ones; the log and `/ready` report letters that DEAD had no room for.

For each kind the log gets one line now and then, with the number since the line before. No line holds event data: logs travel
further than dead letters.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal

from shared.jetstream import topology
from shared.telemetry.health import Health
from shared.telemetry.names import CounterName

if TYPE_CHECKING:
    from shared.telemetry.metrics import Telemetry

LOG_EVERY_SECONDS = 30.0
WARN_SECONDS = 3600.0
"""How long after the last loss `/ready` warns of it."""
SHOWN = 3
LOST_PART = f"room of {topology.DEAD}"
"""Of a service's health."""

Loss = Literal["evicted", "refused"]
_WORDS: dict[Loss, str] = {"evicted": "of {} evicted", "refused": "of {} not kept"}
_METRICS: dict[Loss, CounterName] = {"evicted": "dead_letters_evicted_total", "refused": "dead_letters_refused_total"}

log = logging.getLogger(__name__)


class DeadLog:
    """The reports of one process; `level` is a level of `logging`."""

    def __init__(
        self, level: int, clock: Callable[[], float] = time.monotonic, message: str = "events are in the dead letters"
    ) -> None:
        self._level = level
        self._message = message
        self._clock = clock
        self._told: dict[tuple[str, str], tuple[float, int]] = {}
        """By source and reason: the time of the last line, and the number since."""

    def note(self, reasons: Iterable[str], **source: str) -> None:
        """Notes the reason of each event that became a dead letter; `source` is its connection or site."""
        now = self._clock()
        for reason, count in Counter(map(str, reasons)).items():
            kind = (",".join(source.values()), reason)
            at, since = self._told.get(kind, (-LOG_EVERY_SECONDS, 0))
            if now - at < LOG_EVERY_SECONDS:
                self._told[kind] = (at, since + count)
                continue
            self._told[kind] = (now, 0)
            log.log(self._level, self._message, extra={**source, "reason": reason, "events": since + count})


class LostLetters:
    """Dead letters that one process evicted or could not keep, because DEAD has no room."""

    def __init__(self, telemetry: Telemetry, health: Health, clock: Callable[[], float] = time.monotonic) -> None:
        self._telemetry = telemetry
        self._health = health
        self._clock = clock
        self._letters: Counter[tuple[Loss, str]] = Counter()
        """Since the warning began."""
        self._last_at = 0.0
        self._log = DeadLog(logging.WARNING, clock, "dead letters are lost for want of room")

    def note(self, loss: Loss, stage: str, source: str, letters: int) -> None:
        """Counts lost letters of a site or connection, and warns of them."""
        self._telemetry.count(_METRICS[loss], letters, stage=stage, source=source)
        self._last_at = self._clock()
        self._letters[loss, f"{stage} {source}"] += letters
        self._log.note([loss] * letters, stage=stage, source=source)
        some = [f"{count} {_WORDS[how].format(whose)}" for (how, whose), count in self._letters.most_common(SHOWN)]
        rest = len(self._letters) - len(some)
        self._health.warn(
            LOST_PART,
            f"dead letters are lost for want of room: {', '.join(some)}{f', and of {rest} more' if rest else ''}; find out who causes "
            "them (`penstock dead list`) and purge read letters, or raise PENSTOCK_DEAD_MAX_BYTES",
        )

    def refresh(self) -> None:
        """Ends the warning when nothing was lost for an hour."""
        if self._letters and self._clock() - self._last_at >= WARN_SECONDS:
            self.forget()

    def forget(self) -> None:
        """Ends the warning."""
        self._letters.clear()
        self._health.good(LOST_PART)
