"""Rows set aside because their table fails: where they wait, and when the table is tried again.

They wait in the work queue RETRY as frames of their own, one for each frame and table, in the order of their acceptance and for
as long as it takes. Each has a lane of its own in the ledger, so it is loaded once whatever happens. And what waits here must not
be loaded on the way it first came: after a crash the same frames are delivered again, so the holder of a connection knows, before
it loads anything, which (table, lane, sequence) are aside.

A table that fails is tried with the oldest of its rows only, after delays that grow from ten seconds to an hour; until that
succeeds, newer rows join the waiting ones, untried, so that neither the order nor the other tables suffer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import quote, unquote

from shared.errors import PenstockError
from shared.events.dead import origin_of
from shared.events.frame import Frame, encode_frame
from shared.events.headers import BITS, EPOCH, RUN, TABLE, Place, read_place, write_place
from shared.jetstream import topology
from shared.jetstream.publisher import Publisher
from shared.jetstream.reader import Message
from shared.streams.waiting import bits_of

DELAYS_SECONDS = (10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
_PREFIX = "aside"


class Aside(NamedTuple):
    """A frame's rows of one table, waiting as message `seq` of RETRY. `place` is where the frame came from first.

    `epoch`: of the loader that put it there. `run`: the sequence from which on all rows of the table were set aside. `bits` say
    which of the frame's events have a row here.
    """

    seq: int
    table: str
    place: Place
    at_seconds: float
    epoch: int
    bits: int = 0
    run: int = 0

    @property
    def lane(self) -> str:
        """Its own lane in the ledger."""
        return aside_lane(self.place.lane, self.place.seq)

    @property
    def origins(self) -> list[str]:
        """Where each of its events came from first, as in a dead letter."""
        lane, seq = self.place.lane, self.place.seq
        return [origin_of(lane, seq, index) for index in range(self.bits.bit_length()) if self.bits >> index & 1]


def aside_lane(lane: str, seq: int) -> str:
    """Returns the lane under which the ledger knows rows of that frame once they were set aside."""
    return f"{_PREFIX}.{seq}.{lane}"


def frame_of(lane: str) -> tuple[str, int] | None:
    """Returns the lane and the sequence of the frame whose rows an own lane carries, None for other lanes."""
    prefix, _, rest = lane.partition(".")
    seq, _, first = rest.partition(".")
    return (first, int(seq)) if prefix == _PREFIX and seq.isdecimal() else None


def spent(
    marks: Iterable[tuple[str, str]],
    loaded: Mapping[tuple[str, str], int],
    waiting: Container[tuple[str, str, int]],
    key: Callable[[str], str],
) -> list[tuple[str, str]]:
    """Returns the marks of rows that were set aside which nothing needs any more: the table's own mark is beyond their frame, and
    a newer one tells how far rows that were aside had come (`loader/queue/memory.py`).

    Args:
        marks: of the ledger, (table, lane).
        loaded: the last sequence by what the destination compares a table's name by, and lane.
        waiting: what still waits in RETRY, by the same, lane and sequence.
        key: returns what the destination compares a table's name by.
    """
    found: list[tuple[str, str]] = []
    framed = [(table, lane, frame) for table, lane in marks if (frame := frame_of(lane)) is not None]
    newest: dict[tuple[str, str], int] = {}
    for table, _, (first, seq) in framed:
        newest[table, first] = max(seq, newest.get((table, first), 0))
    for table, lane, frame in framed:
        if (
            frame[1] < newest[table, frame[0]]
            and loaded.get((key(table), frame[0]), 0) >= frame[1]
            and (key(table), *frame) not in waiting
        ):
            found.append((table, lane))
    return found


def read_aside(message: Message) -> Aside | None:
    """Reads a message of RETRY, all but its frame, which may be large; None when it is not one of ours."""
    headers: Mapping[str, str] = message.headers
    place = read_place(headers)
    if place is None or TABLE not in headers:
        return None
    try:
        epoch, run = int(headers.get(EPOCH, "0")), int(headers.get(RUN, place.seq))
    except ValueError:
        return None
    bits = bits_of(headers.get(BITS), place.events)
    return Aside(
        seq=message.seq,
        table=unquote(headers[TABLE]),
        place=place,
        at_seconds=message.at_seconds,
        epoch=epoch,
        bits=bits,
        run=run,
    )


async def put_aside(
    publisher: Publisher, queue: str, epoch: int, run: int, table: str, place: Place, frame: Frame, bits: int = 0
) -> None:
    """Stores a frame's rows of a table for later; returns when they are durable.

    Args:
        queue: name of the connection's queue.
        epoch: of the loader; its successor leaves alone what arrives under a lower one (`loader/queue/retries.py`).
        run: the sequence from which on all rows of the table were set aside.
        frame: only the events that have a row in `table`; `bits` say which of the first frame's these are.

    Raises:
        NotConnected, Transient, QueueFull: not known to be stored.
    """
    name = quote(table, safe="")  # under `original_names` it may hold what would end a header's line
    # with the epoch: the broker must not take it for a repeat of what a former holder put there, which nobody will load
    msg_id = f"aside.{queue}.{name}.{place.lane}.{place.seq}.{epoch}"
    headers = {**write_place(place), TABLE: name, EPOCH: str(epoch), RUN: str(run), BITS: f"{bits:x}"}
    await publisher.publish(topology.retry_subject("loader", queue), encode_frame(frame), msg_id=msg_id, headers=headers)


@dataclass(slots=True)
class _Failure:
    why: PenstockError
    times: int
    due: float
    runs: dict[str, int]


class Failing:
    """The tables of a connection that fail, for as long as one process loads it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tables: dict[str, _Failure] = {}

    def fails(self, table: str, why: PenstockError) -> float:
        """Notes that a table failed, again perhaps; returns in how many seconds it is tried again."""
        known = self._tables.get(table)
        times = known.times + 1 if known else 1
        delay = DELAYS_SECONDS[min(times, len(DELAYS_SECONDS)) - 1]
        self._tables[table] = _Failure(why, times, self._clock() + delay, known.runs if known else {})
        return delay

    def run(self, table: str, lane: str, seq: int) -> int:
        """Returns the sequence of a lane from which on all rows of a table are set aside; `seq` is set aside now."""
        known = self._tables.get(table)
        return seq if known is None else known.runs.setdefault(lane, seq)

    def works(self, table: str) -> None:
        """Notes that a table took rows, or named the rows that it refuses."""
        self._tables.pop(table, None)

    def why(self, table: str) -> PenstockError | None:
        """Returns the last error of a table that fails, None for all others."""
        known = self._tables.get(table)
        return known.why if known else None

    def states(self) -> dict[str, tuple[str, float]]:
        """Returns why each failing table fails and in how many seconds it is tried again."""
        now = self._clock()
        return {table: (str(each.why), max(0.0, each.due - now)) for table, each in self._tables.items()}

    def due(self, table: str) -> bool:
        """Returns whether rows that wait for a table may be tried now."""
        known = self._tables.get(table)
        return known is None or known.due <= self._clock()
