"""Cuts frames into chunks that are sent together: each of one lane, bounded, with its old end if it was planned before. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from loader.queue.collect import Held


def cut(
    frames: Sequence[Held], cuts: Callable[[str], Sequence[int]], max_events: int, max_bytes: int, max_frames: int
) -> Iterator[list[Held]]:
    """Yields frames in chunks, in their order.

    Args:
        cuts: returns the last sequences of the planned chunks of a lane that have not ended. A planned chunk keeps its frames,
            whatever the bounds are today.
    """
    chunk: list[Held] = []
    events = size = end = 0
    for held in frames:
        lane, seq = held.place.lane, held.place.seq
        planned = bool(chunk) and seq <= end
        if chunk and (
            lane != chunk[0].place.lane
            or (end and seq > end)
            or (
                not planned
                and (events + held.place.events > max_events or size + held.size > max_bytes or len(chunk) >= max_frames)
            )
        ):
            yield chunk
            chunk, events, size = [], 0, 0
        if not chunk:
            end = min((each for each in cuts(lane) if each >= seq), default=0)
        chunk.append(held)
        events += held.place.events
        size += held.size
    if chunk:
        yield chunk
