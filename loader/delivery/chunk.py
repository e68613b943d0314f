"""Chunks: frames that are shaped together, and rows that are ready to be delivered."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import NamedTuple

from loader.delivery.deliver import Work
from loader.delivery.isolate import Frames
from loader.queue.account import Share
from loader.queue.collect import Held
from loader.rows.batch import ShapedBatch
from shared.errors import Permanent
from shared.events.frame import Frame, decode_frame
from shared.jetstream.queue_reader import QueueReader
from shared.telemetry.tracing.spans import Trail


class Shaped(NamedTuple):
    """The first `frames` frames of a chunk as a batch, and those among them that cannot be read, with the reason."""

    batch: ShapedBatch
    frames: int
    unreadable: list[tuple[Held, str]]


@dataclass(frozen=True, slots=True)
class ReadyChunk:
    """Work that is ready; `acks` are the sequences of its messages in `reader`'s stream. `done` is set to whether it is done."""

    work: Work
    share: Share
    reader: QueueReader
    acks: list[int]
    oldest_at: float
    trails: list[Trail]
    """Of its frames, or of the load that set its rows aside."""
    done: asyncio.Future[bool] | None = None


def readable(chunk: list[Held]) -> Frames:
    """Returns the readable frames of a chunk."""
    frames: dict[int, tuple[int, Frame]] = {}
    for held in chunk:
        with contextlib.suppress(Permanent):
            frames[held.message.seq] = (held.place.seq, decode_frame(held.message.payload))
    return frames
