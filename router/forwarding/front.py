"""The front of a site: how far its reading has come, and its verdicts on the last frames.

Connections that are behind compare themselves with it. It keeps the verdicts on repeats for as many frames as fit, so that a
connection that was stopped for a short while decides alike without building a second window.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from router.forwarding.state import Mark

MAX_VERDICTS = 200_000
"""Most indexes of repeated events that are remembered, over all frames; some megabytes."""


class Front:
    """`seq`: the last frame that was offered to the connections; `events`: how many events were offered since the start."""

    def __init__(self, seq: int, at_seconds: float, max_verdicts: int = MAX_VERDICTS, accepted: int = 0) -> None:
        self.seq = seq
        self.at_seconds = at_seconds
        self.events = 0
        self._accepted_before = accepted
        self._max = max_verdicts
        self._known_after = seq
        self._order: deque[int] = deque()
        self._repeated: dict[int, Sequence[int]] = {}
        self._size = 0

    def accepted(self, events: int) -> int:
        """Returns how many events the site had accepted when `events` were offered since the start."""
        return self._accepted_before + events

    def advance(self, seq: int, at_seconds: float, events: int, repeated: Sequence[int]) -> None:
        """Notes that a frame is offered now."""
        self.seq = seq
        self.at_seconds = at_seconds
        self.events += events
        if repeated:
            self._order.append(seq)
            self._repeated[seq] = repeated
            self._size += len(repeated)
            while self._size > self._max:
                oldest = self._order.popleft()
                self._size -= len(self._repeated.pop(oldest))
                self._known_after = oldest

    def knows(self, seq: int) -> bool:
        """Whether the verdict on a frame is remembered."""
        return self._known_after < seq <= self.seq

    def repeated(self, seq: int) -> Sequence[int]:
        """Returns the indexes of repeated events of a known frame."""
        return self._repeated.get(seq, ())


@dataclass(slots=True)
class Cursor:
    """The first frame that is not in the queue. `events_before` counts as `Front.events` does, and is below zero for events that
    were owed at the start."""

    seq: int
    at_seconds: float
    events_before: int
    gaps: list[tuple[int, int | None]] = field(default_factory=list)
    counted: int = 0
    """Frames up to here were in the queue once and count no more."""
    disabled_at: int | None = None
    """`Front.events` when the connection was disabled; later events are not owed."""
    why: str = ""
    """Why the connection does not come further."""

    def mark(self, position: Cursor) -> Mark:
        """Returns it as a site's state holds it, short of the site's position."""
        until = position.events_before
        if self.disabled_at is not None:
            until = min(until, self.disabled_at)
        return Mark(
            seq=self.seq,
            at_seconds=self.at_seconds,
            owed=max(0, until - self.events_before),
            gaps=list(self.gaps),
            counted=self.counted,
            why=self.why,
        )

    def in_gap(self, seq: int) -> bool:
        """Whether the connection was disabled when a frame came."""
        return any(first <= seq and (last is None or seq <= last) for first, last in self.gaps)
