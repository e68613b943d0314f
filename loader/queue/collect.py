"""Decides which frames make up the next load of a connection, and when: the policy of batch and stream mode, without side
effects.

Batch mode holds packed frames until the period of the oldest is over or a bound is reached. Stream mode takes all frames that
wait. Either way a load is cut into chunks, so that chunks and not the backlog bound the memory. A chunk holds frames of one lane
only, because a load plan is a range of one lane.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from shared.clock import Clock
from shared.events.headers import Place, is_live, shard_of_lane
from shared.jetstream.reader import Message
from shared.project.model import Connection, Site

CHUNK_EVENTS = 20_000
"""Events shaped and loaded at once: with more, COPY gains nothing and memory grows (bench/RESULTS.md)."""

CHUNK_BYTES = 8 * 1024 * 1024
"""Packed bytes of frames in a chunk; bodies are about five times that."""

CHUNK_BODY_BYTES = 64 * 1024 * 1024
"""Unpacked bytes of bodies in a chunk: a few hundred kilobytes of one repeated letter must not exceed it."""


@dataclass(frozen=True, slots=True)
class Held:
    """A frame of the queue, packed, and its place."""

    message: Message
    place: Place

    @property
    def size(self) -> int:
        """Its bytes in memory."""
        return len(self.message.payload)


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds at which held frames are due."""

    period_seconds: float
    """0 in stream mode."""
    max_events: int
    max_bytes: int
    max_frames: int
    """Held frames stay in the queue: their number must be well below the queue's limit, or no frame would follow before the
    period is over."""


class Holding:
    """Frames that wait for their load, in the order of the queue.

    The age of the oldest is fixed when it comes: if the machine's clock is set meanwhile, no frame waits longer than its period.
    """

    def __init__(self, bounds: Bounds, clock: Clock) -> None:
        self._bounds = bounds
        self._clock = clock
        self._frames: list[Held] = []
        self._since = 0.0
        """Steady time of the oldest frame."""
        self.events = 0
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, held: Held) -> None:
        """Holds a frame."""
        if not self._frames:
            self._since = self._clock.steady_at(held.message.at_seconds)
        self._frames.append(held)
        self.events += held.place.events
        self.bytes += held.size

    def due_in(self) -> float | None:
        """Returns the seconds until the load is due, 0 if it is due, None while no frame is held."""
        if not self._frames:
            return None
        if self.full:
            return 0.0
        return max(0.0, self._since + self._bounds.period_seconds - self._clock.steady())

    @property
    def full(self) -> bool:
        """Whether a bound of size is reached; then hold no more."""
        bounds = self._bounds
        return self.events >= bounds.max_events or self.bytes >= bounds.max_bytes or len(self._frames) >= bounds.max_frames

    def take(self) -> list[Held]:
        """Returns all frames and holds none."""
        taken, self._frames = self._frames, []
        self.events = self.bytes = 0
        return taken


def chunks(
    frames: Sequence[Held],
    ends: dict[str, int],
    max_events: int = CHUNK_EVENTS,
    max_bytes: int = CHUNK_BYTES,
    *,
    apart: Callable[[Place], bool] = lambda _: False,
) -> Iterator[list[Held]]:
    """Cuts frames into loads: one lane each, bounded, order kept within a lane.

    Args:
        ends: by lane, the last sequence of a plan from before a crash: its range is a separate load again.
        apart: returns whether a frame needs a separate chunk; it keeps its place in the order.
    """
    lanes: dict[tuple[int, str], list[Held]] = {}
    turn, shards = 0, ""
    for held in frames:
        if (
            not held.place.rewind
            and is_live(held.place.lane)
            and (of := shard_of_lane(held.place.lane).partition(".")[0]) != shards
        ):
            # the number of shards of the site changed: frames from before and after it may be of the same users
            turn, shards = turn + bool(lanes), of
        lanes.setdefault((turn, held.place.lane), []).append(held)
    for (_, lane), mine in lanes.items():
        chunk: list[Held] = []
        events = size = 0
        end = ends.get(lane, 0)
        for held in mine:
            planned = held.place.seq <= end
            crosses = chunk and (chunk[-1].place.seq <= end < held.place.seq or apart(chunk[-1].place) != apart(held.place))
            full = chunk and not planned and (events + held.place.events > max_events or size + held.size > max_bytes)
            if crosses or full:
                yield chunk
                chunk, events, size = [], 0, 0
            chunk.append(held)
            events += held.place.events
            size += held.size
        if chunk:
            yield chunk


def bounds_of(connection: Connection, site: Site, queue_frames: int) -> Bounds:
    """Returns the bounds of a connection whose queue takes so many frames."""
    frames = max(1, queue_frames // 2)
    if connection.mode == "stream":
        return Bounds(0.0, CHUNK_EVENTS, CHUNK_BYTES, frames)
    period = connection.batch.period if site.batch_period is None else site.batch_period
    return Bounds(float(period), connection.batch.max_rows, int(connection.batch.max_bytes), frames)
