"""Rows put aside because their table fails while others of the connection are fine: where they wait, and when they are due.

They wait in the work queue RETRY as frames of their own, one for each frame and table, with growing delays from ten seconds to an
hour, for as long as it takes. Each has a lane of its own in the ledger, so it is loaded once however often it was put aside. And what
waits here must not be loaded on the way it first came: after a crash the same frames are delivered again, so the holder of a
connection knows, before it loads anything, which (table, lane, sequence) are aside.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from shared import topology
from shared.frame import Frame, encode_frame
from shared.headers import ATTEMPT, DUE, TABLE, Place, read_place, write_place
from shared.jetstream.publisher import Publisher
from shared.jetstream.reader import Message

DELAYS_SECONDS = (10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
_PREFIX = "aside"


@dataclass(frozen=True, slots=True)
class Aside:
    """A frame's rows of one table, waiting. `place` is where the frame came from first."""

    message: Message
    table: str
    place: Place
    due: float
    attempt: int

    @property
    def lane(self) -> str:
        """Its own lane in the ledger."""
        return aside_lane(self.place.lane, self.place.seq)


def aside_lane(lane: str, seq: int) -> str:
    """Returns the lane under which the ledger knows rows of that frame once they were put aside."""
    return f"{_PREFIX}.{seq}.{lane}"


def read_aside(message: Message) -> Aside | None:
    """Reads a message of RETRY; None when it is not one of ours."""
    headers: Mapping[str, str] = message.headers
    place = read_place(headers)
    try:
        return Aside(message, headers[TABLE], place, float(headers[DUE]), int(headers[ATTEMPT])) if place else None
    except (KeyError, ValueError):
        return None


async def put_aside(publisher: Publisher, connection: str, table: str, place: Place, frame: Frame, attempt: int) -> None:
    """Stores a frame's rows of a table for later; returns when they are durable.

    Args:
        frame: only the events that have a row in `table`.
        attempt: how often the rows were put aside before.

    Raises:
        NotConnected, Transient, QueueFull: not known to be stored.
    """
    delay = DELAYS_SECONDS[min(attempt, len(DELAYS_SECONDS) - 1)]
    headers = {**write_place(place), TABLE: table, DUE: f"{time.time() + delay:.3f}", ATTEMPT: str(attempt + 1)}
    msg_id = f"aside.{connection}.{table}.{place.lane}.{place.seq}.{attempt}"
    await publisher.publish(topology.retry_subject("loader", connection), encode_frame(frame), msg_id=msg_id, headers=headers)
