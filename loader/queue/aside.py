"""Rows set aside because their table fails: their place, and the time of the table's next try.

They wait in the work queue RETRY as separate frames, one for each frame and table, in the order of their acceptance and for as
long as it takes. Each has its own lane in the ledger, so it is loaded once. Rows that wait here must not be loaded from the queue
as well: after a crash the same frames are delivered again, so the holder of a connection reads which (table, lane, sequence) are
aside before it loads.

A table that fails is tried with the oldest of its rows only, after delays that grow from ten seconds to an hour; until that
succeeds, newer rows join the waiting ones, untried, so that neither the order nor the other tables suffer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Set
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
from shared.streams.waiting import CALLS, bits_of
from shared.telemetry.tracing.spans import Trail, current_headers, read_trail

DELAYS_SECONDS = (10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
_PREFIX = "aside"
_OF_CALLS = "calls."


class Aside(NamedTuple):
    """A frame's rows of one table, waiting as message `seq` of RETRY. `place` is the frame's first place.

    `epoch`: of the loader that stored it. `run`: the sequence from which on all rows of the table were set aside. `bits`: the
    frame's events with a row here.
    """

    seq: int
    table: str
    place: Place
    at_seconds: float
    epoch: int
    bits: int = 0
    run: int = 0
    trail: Trail | None = None
    """The load that set it aside."""

    @property
    def lane(self) -> str:
        """Its lane in the ledger. Former calls have another one than rows of the same frame whose table failed."""
        lane = self.place.lane
        return aside_lane(_OF_CALLS + lane if self.table == CALLS else lane, self.place.seq)

    @property
    def origins(self) -> list[str]:
        """The first origin of each of its events, as in a dead letter."""
        lane, seq = self.place.lane, self.place.seq
        return [origin_of(lane, seq, index) for index in range(self.bits.bit_length()) if self.bits >> index & 1]


def aside_lane(lane: str, seq: int) -> str:
    """Returns the lane under which the ledger knows rows of that frame that were set aside."""
    return f"{_PREFIX}.{seq}.{lane}"


def frame_of(lane: str) -> tuple[str, int] | None:
    """Returns the lane and the sequence of the frame whose rows such a lane carries, None for other lanes."""
    prefix, _, rest = lane.partition(".")
    seq, _, first = rest.partition(".")
    return (first.removeprefix(_OF_CALLS), int(seq)) if prefix == _PREFIX and seq.isdecimal() else None


def spent(
    marks: Iterable[tuple[str, str]],
    loaded: Mapping[tuple[str, str], int],
    waiting: Set[tuple[str, str, int]],
    key: Callable[[str], str],
) -> list[tuple[str, str]]:
    """Returns marks of rows set aside that are no longer needed: the table's mark is beyond their frame, and a newer one tells
    how far rows that were aside had come (`loader/queue/memory.py`).

    Args:
        marks: of the ledger, (table, lane).
        loaded: the last sequence by key of the table, and lane.
        waiting: rows in RETRY, by key of the table, lane and sequence.
        key: returns the form in which the destination compares a table's name.
    """

    def waiting_of(frame: tuple[str, int], table: str) -> set[tuple[str, str, int]]:
        return {(key(table), *frame), (key(CALLS), *frame)}

    found: list[tuple[str, str]] = []
    framed = [(table, lane, frame) for table, lane in marks if (frame := frame_of(lane)) is not None]
    newest: dict[tuple[str, str], int] = {}
    for table, _, (first, seq) in framed:
        newest[table, first] = max(seq, newest.get((table, first), 0))
    for table, lane, frame in framed:
        if (
            frame[1] < newest[table, frame[0]]
            and loaded.get((key(table), frame[0]), 0) >= frame[1]
            and waiting_of(frame, table).isdisjoint(waiting)
        ):
            found.append((table, lane))
    return found


def read_aside(message: Message) -> Aside | None:
    """Reads a message of RETRY except its frame, which may be large; None if it is none of ours."""
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
        trail=read_trail(headers),
    )


async def put_aside(
    publisher: Publisher, queue: str, epoch: int, run: int, table: str, place: Place, frame: Frame, bits: int = 0
) -> None:
    """Stores a frame's rows of a table for later; returns when they are durable.

    Args:
        queue: name of the connection's queue.
        epoch: of the loader; its successor ignores messages that arrive under a lower one (`loader/queue/retries.py`).
        run: the sequence from which on all rows of the table were set aside.
        frame: only the events with a row in `table`; `bits`: their places in the first frame.

    Raises:
        NotConnected, Transient, QueueFull: they may not be stored.
    """
    name = quote(table, safe="")  # under `original_names` it may hold characters that would end a header's line
    # with the epoch: the broker must not take it for a repeat of a former holder's message, which no loader will load
    msg_id = f"aside.{queue}.{name}.{place.lane}.{place.seq}.{epoch}"
    headers = {**write_place(place), TABLE: name, EPOCH: str(epoch), RUN: str(run), BITS: f"{bits:x}", **current_headers()}
    await publisher.publish(topology.retry_subject("loader", queue), encode_frame(frame), msg_id=msg_id, headers=headers)


@dataclass(slots=True)
class _Failure:
    why: PenstockError
    times: int
    due: float
    runs: dict[str, int]


class Failing:
    """The failing tables of a connection, for as long as one process loads it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tables: dict[str, _Failure] = {}

    def fails(self, table: str, why: PenstockError) -> float:
        """Notes that a table failed, perhaps again; returns the seconds until its next try."""
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
        """Notes that a table took rows, or named refused rows."""
        self._tables.pop(table, None)

    def why(self, table: str) -> PenstockError | None:
        """Returns the last error of a failing table, None for other tables."""
        known = self._tables.get(table)
        return known.why if known else None

    def states(self) -> dict[str, tuple[str, float]]:
        """Returns why each failing table fails, and the seconds until its next try."""
        now = self._clock()
        return {table: (str(each.why), max(0.0, each.due - now)) for table, each in self._tables.items()}

    def due(self, table: str) -> bool:
        """Returns whether a table's waiting rows may be tried now."""
        known = self._tables.get(table)
        return known is None or known.due <= self._clock()
