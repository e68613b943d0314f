"""The limit of dead letters: if most events of the last minutes die, the cause is a deploy, a table or a rule, not an event.

A load is weighed before its letters are written, so the load that reaches the limit writes none: its events stay in the queue.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from shared.errors import SetupError
from shared.events.outcome import DeadReason
from shared.project.model import DeadLimit

SLOTS = 60
"""Parts of the window, forgotten one at a time, so that memory does not grow with the number of loads."""
SHOWN_REASONS = 3
DETAIL_CHARACTERS = 300


class TooManyDeadError(SetupError):
    """Most events of the last minutes are dead letters; a person must find the cause and then resume the connection."""


@dataclass(slots=True)
class _Slot:
    number: int
    events: int = 0
    dead: Counter[str] = field(default_factory=Counter)


class Limit:
    """The events of one connection in a window of time, and how many of them are dead letters.

    Args:
        options: of the connection.
        clock: steady seconds.
    """

    def __init__(self, options: DeadLimit | Literal["off"], clock: Callable[[], float] = time.monotonic) -> None:
        self._options = None if options == "off" else options
        self._clock = clock
        self._slots: deque[_Slot] = deque()
        self._free_until = 0.0

    def free_for(self, seconds: float) -> None:
        """Lets all events pass for so long."""
        self._free_until = self._clock() + seconds

    def clear(self) -> None:
        """Begins with an empty window."""
        self._slots.clear()

    def weigh(self, events: int, dead: Mapping[str, int], detail: str = "") -> None:
        """Decides whether a load may write its dead letters.

        Args:
            events: number of events in the load, whatever their fate.
            dead: how many of them are dead letters so far, by reason.
            detail: the detail of one of them.

        Raises:
            TooManyDeadError: these letters would reach the limit; write none.
        """
        options = self._options
        if options is None or self._clock() < self._free_until:
            return
        self._forget()
        reasons = sum((slot.dead for slot in self._slots), Counter(dead))
        every = events + sum(slot.events for slot in self._slots)
        amount = reasons.total()
        if every < options.events or amount < options.ratio * every:
            return
        named = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common(SHOWN_REASONS))
        such = f"; the last one: {detail[:DETAIL_CHARACTERS]}" if detail else ""
        raise TooManyDeadError(
            f"{amount} of {every} events of the last {options.period:g} s would be dead letters ({named}), "
            f"and the limit is {options.ratio:.0%}{such}"
        )

    def weigh_unreadable(self, events: int, why: str) -> None:
        """Weighs and counts a frame that cannot be read.

        Raises:
            TooManyDeadError: as `weigh`.
        """
        dead = {str(DeadReason.FRAME_UNREADABLE): max(1, events)}
        self.weigh(max(1, events), dead, why)
        self.note(max(1, events), dead)

    def note(self, events: int, dead: Mapping[str, int]) -> None:
        """Counts a load that is done."""
        if self._options is None or self._clock() < self._free_until:
            return
        number = self._number()
        if not self._slots or self._slots[-1].number != number:
            self._forget()
            self._slots.append(_Slot(number))
        self._slots[-1].events += events
        self._slots[-1].dead.update(dead)

    def _number(self) -> int:
        period = float(self._options.period) if self._options else 1.0
        return int(self._clock() * SLOTS / period)

    def _forget(self) -> None:
        oldest = self._number() - SLOTS
        while self._slots and self._slots[0].number <= oldest:
            self._slots.popleft()
