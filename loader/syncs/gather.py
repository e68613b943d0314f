"""Puts frames of rows together to whole batches, in their order, and says which frames are left out and why. Pure.

A batch is never given in part. Left out are: what the progress says is loaded, frames of a run that a newer one took over, and frames
for another destination. Where a newer run has begun, the frames that an older one left behind its last whole batch are left out too:
their rows come again with the newer run.

A frame that the broker stored twice, because it was sent again when the broker had forgotten its id, is known by its number in the run.

Where frames are missing from the queue, `MissingError` asks the caller to read it again. If they are missing then too, the batch is
given as broken: none of its run's rows and states are taken any more, so that the next run reads them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from shared.errors import Transient
from shared.syncs.frames import BatchEnd, RowFrame
from shared.syncs.progress import SyncProgress
from shared.telemetry.tracing.spans import Trail

Place = tuple[int, int]
"""A run, and a batch in it."""


class MissingError(Transient):
    """Frames are missing from the queue; `place` is where they should be."""

    def __init__(self, message: str, place: Place) -> None:
        super().__init__(message)
        self.place = place


class Waiting(NamedTuple):
    """A frame in the queue. `seq`: of its message. `at_seconds`: epoch, when the broker stored it. `number`: of the frame in its run, 0: unknown."""

    seq: int
    frame: RowFrame
    at_seconds: float = 0.0
    number: int = 0
    trail: Trail | None = None


class LeftOut(NamedTuple):
    """Messages to acknowledge without loading their rows."""

    seqs: list[int]
    rows: int
    reason: str


@dataclass(frozen=True, slots=True)
class Batch:
    """All frames of a batch. `broken`: why it cannot be loaded; empty: it can."""

    run: int
    number: int
    frames: Sequence[RowFrame]
    end: BatchEnd
    seqs: Sequence[int]
    oldest_at: float = 0.0
    trails: Sequence[Trail] = ()
    broken: str = ""

    @property
    def rows(self) -> int:
        """How many rows it holds."""
        return sum(frame.rows for frame in self.frames)


@dataclass(slots=True)
class Gatherer:
    """The batches of one sync within one session.

    Args:
        destination: which the sync has now.
        run, batch: the last ones that are loaded.
        again: where frames were missing when the queue was read before.
    """

    destination: str
    run: int
    batch: int
    again: Place | None = None
    _number: int = 0
    """Of the newest frame of the run."""
    _held: list[Waiting] = field(default_factory=list)

    @classmethod
    def behind(cls, progress: SyncProgress, destination: str, again: Place | None) -> Gatherer:
        """Returns one that begins behind what is loaded."""
        return cls(destination, progress.run, progress.batch, again)

    def add(self, waiting: Waiting) -> tuple[list[LeftOut], Batch | None]:
        """Takes the next frame of the queue; returns what is left out now, and the batch that it completes.

        Raises:
            MissingError: frames before it are missing; read the queue again.
        """
        frame = waiting.frame
        if frame.destination != self.destination:
            return [_left_out([waiting], "destination")], None
        if frame.run < self.run:
            return [_left_out([waiting], "older_run")], None
        out: list[LeftOut] = []
        if frame.run > self.run:
            if self._held:
                out.append(_left_out(self._held, "older_run"))
            self.run, self.batch, self._number, self._held = frame.run, 0, 0, []
        if frame.batch <= self.batch or 0 < waiting.number <= self._number:
            return [*out, _left_out([waiting], "repeated")], None
        self._number = waiting.number
        self._held.append(waiting)
        if frame.end is None:
            return out, None
        held, self._held = self._held, []
        place, broken = (frame.run, frame.batch), _fault(held, frame.end, self.batch + 1)
        if broken and self.again != place:
            raise MissingError(broken, place)
        self.batch = frame.batch
        own = [each for each in held if each.frame.batch == frame.batch]
        batch = Batch(
            run=frame.run,
            number=frame.batch,
            frames=[each.frame for each in own],
            end=frame.end,
            seqs=[each.seq for each in held],
            oldest_at=held[0].at_seconds,
            trails=[each.trail for each in held if each.trail],
            broken=broken,
        )
        return out, batch


def _fault(held: Sequence[Waiting], end: BatchEnd, expected: int) -> str:
    """Returns what is wrong with the frames up to an end; empty if they are a batch."""
    last = held[-1].frame
    strange = sorted({each.frame.batch for each in held} - {expected})
    if strange:
        return f"run {last.run}: batch {expected} should come, and frames of batch {strange[0]} are in the queue"
    if len(held) != end.frames:
        return f"run {last.run}: batch {last.batch} has {end.frames} frames, and {len(held)} are in the queue"
    return ""


def _left_out(frames: Sequence[Waiting], reason: str) -> LeftOut:
    return LeftOut([each.seq for each in frames], sum(each.frame.rows for each in frames), reason)
