"""Finds the events on which our own code raises, by trying parts of a batch, so that only they become dead letters.

Otherwise an event that meets our defect would meet it again after every restart, and no later event would ever be loaded. With
`n` events and `k` bad ones the search costs about `k · log2(n)` trials of shrinking size. It also finds events that fail only
together: it takes the last event out of the shortest failing start of the batch.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence

from loader.contract.warehouse import LoadPlan, LoadReport, Session, TableLoad
from loader.rows.shape import NOTHING, Shaper
from shared.errors import Defect, PenstockError, Permanent
from shared.events.frame import Frame
from shared.threads import ThreadGate

MOST_TRIALS = 200
"""If this many trials fail and none passes, a sample decides about the rest."""
SAMPLE = 30
MOST_TOGETHER = 200

Trial = Callable[[Sequence[int]], Awaitable[bool]]
"""Returns whether our code takes the events at these indexes; an error that it raises ends the search."""

Frames = Mapping[int, tuple[int, Frame]]
"""Frames with their sequence, by a number that the caller chooses."""
Refused = Mapping[int, Mapping[int, str]]
"""Reasons by the number of an event's frame and its index there."""

NOT_OF_EVENTS = (ImportError, MemoryError, NameError, SystemError)
"""Errors that come from the installation or the machine, not from events."""


async def offenders(count: int, trial: Trial) -> set[int]:
    """Returns the indexes of the events to leave out so that the others pass together; empty if the whole passes now."""
    bad: set[int] = set()
    tried, passed = 1, await trial(range(count))
    if passed:
        return bad
    parts: list[Sequence[int]] = _halves(range(count)) if count > 1 else [range(count)]
    while parts:
        part = parts.pop()
        tried += 1
        if await trial(part):
            passed = True
        elif len(part) == 1:
            bad.add(part[0])
        else:
            parts.extend(_halves(part))
        if tried == MOST_TRIALS and not passed and not await _any_passes(parts, trial):
            return bad.union(*parts)
    return bad | await _together([index for index in range(count) if index not in bad], trial)


def _halves(part: Sequence[int]) -> list[Sequence[int]]:
    middle = len(part) // 2
    return [half for half in (part[middle:], part[:middle]) if half]


async def _any_passes(parts: Sequence[Sequence[int]], trial: Trial) -> bool:
    rest = [index for part in parts for index in part]
    for index in rest[:: max(1, len(rest) // SAMPLE)]:
        if await trial([index]):
            return True
    return False


async def _together(rest: list[int], trial: Trial) -> set[int]:
    bad: set[int] = set()
    tried = 0
    while rest and tried < MOST_TOGETHER:
        tried += 1
        if await trial(rest):
            break
        passing, failing = 0, len(rest)
        while failing - passing > 1:
            middle = (passing + failing) // 2
            tried += 1
            if await trial(rest[:middle]):
                passing = middle
            else:
                failing = middle
        bad.add(rest.pop(failing - 1))
    return bad


class Trying:
    """A session that takes back its loads, and a publisher that publishes nothing, to find events on which our code fails."""

    def __init__(self, session: Session) -> None:
        self.describe = session.describe
        self.create = session.create
        self.patch = session.patch
        self.probe = session.probe

    async def load(self, _: LoadPlan, loads: Sequence[TableLoad]) -> LoadReport:
        await self.probe(loads)
        return LoadReport({})

    async def publish(self, *_: object, **__: object) -> None:
        """Publishes nothing."""

    def count(self, *_: object, **__: object) -> None:
        """Counts nothing."""

    record = count


def is_own(error: Exception) -> bool:
    """Whether our own code raised an error."""
    return not isinstance(error, PenstockError) or isinstance(error, Defect)


def is_of_events(error: Exception) -> bool:
    """Whether another choice of events may avoid an error."""
    return not isinstance(error, NOT_OF_EVENTS)


def takes(shaper: Shaper, frames: Frames, refused: Refused) -> bool:
    """Returns whether frames can be shaped without the refused events; leaves the shaper empty."""
    try:
        for number, (seq, frame) in frames.items():
            with contextlib.suppress(Permanent):  # the whole frame is a dead letter
                shaper.add(frame, seq, None, refused.get(number, NOTHING))
        shaper.take()
    except Exception as exc:
        if not is_of_events(exc):
            raise
        return False
    finally:
        shaper.clear()
    return True


async def shape_offenders(shaper: Shaper, frames: Frames, gate: ThreadGate, why: str) -> Refused:
    """Returns the events on which shaping raises."""
    places = [(number, index) for number, (_, frame) in frames.items() for index in range(len(frame.heads))]

    def without(chosen: Sequence[int]) -> Refused:
        kept = set(chosen)
        return _by_frame([place for position, place in enumerate(places) if position not in kept], why)

    async def trial(chosen: Sequence[int]) -> bool:
        return await gate.run(takes, shaper, frames, without(chosen))

    return _by_frame([places[position] for position in await offenders(len(places), trial)], why)


def _by_frame(places: Sequence[tuple[int, int]], why: str) -> Refused:
    found: defaultdict[int, dict[int, str]] = defaultdict(dict)
    for number, index in places:
        found[number][index] = why
    return found
