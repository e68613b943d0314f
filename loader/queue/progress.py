"""The one answer to "is this loaded already?": from the ledger's marks, the rows that wait aside, and rewinds. Pure.

A mark (table, lane) says: every row of this table and lane up to the mark is in, except rows set aside. All tables of a load are
committed together, so frames up to the highest mark of a lane are loaded, whatever tables their events would now go to: a new
`layout` or `table` makes no second rows. A lane stands for the frames from the sequence in its name on; it never had earlier
frames. A connection that was removed and added again has a new lane, and frames in its former lanes count as loaded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from loader.queue.aside import aside_lane
from shared.events.headers import Place, split_lane
from shared.streams.rewind import Rewind


class Progress:
    """The loaded part of one connection.

    Args:
        key: maps all spellings of a table's name to one.
        marks: the ledger's last sequence by (table, lane).
        waiting: rows set aside, by key of the table, lane and sequence.
        rewinds: by lane.
    """

    def __init__(
        self,
        key: Callable[[str], str],
        marks: Mapping[tuple[str, str], int],
        waiting: Iterable[tuple[str, str, int]] = (),
        rewinds: Mapping[str, Rewind] | None = None,
    ) -> None:
        self._key = key
        self.marks: dict[tuple[str, str], int] = {}
        """By key of the table, and lane."""
        self._levels: defaultdict[str, int] = defaultdict(int)
        self._lives: defaultdict[str, set[str]] = defaultdict(set)
        for (table, lane), seq in marks.items():
            self.note(table, lane, seq)
            self._lives[split_lane(lane)[0]].add(lane)
        self._waiting = set(waiting)
        self._rewinds = dict(rewinds or {})

    @property
    def tables(self) -> set[str]:
        """Keys of all tables with a mark."""
        return {table for table, _ in self.marks}

    @property
    def lanes(self) -> set[str]:
        """Lanes with a mark."""
        return {lane for _, lane in self.marks}

    def note(self, table: str, lane: str, seq: int) -> None:
        """Notes that a load is committed."""
        place = (self._key(table), lane)
        self.marks[place] = max(seq, self.marks.get(place, 0))
        self._levels[lane] = max(seq, self._levels[lane])

    def mark(self, table: str, lane: str) -> int:
        """Returns the last sequence of a lane that is loaded into a table."""
        return self.marks.get((self._key(table), lane), 0)

    def is_before_rewind(self, place: Place) -> bool:
        """Whether a queued frame was sent before the newest rewind of its lane."""
        rewind = self._rewinds.get(place.lane)
        return rewind is not None and place.rewind < rewind.number

    def goes_aside(self, place: Place) -> bool:
        """Whether only rows of a frame are wanted that had been set aside."""
        rewind = self._rewinds.get(place.lane)
        return rewind is not None and place.rewind == rewind.number and place.seq <= rewind.level

    def run(self, lane: str, table: str, seq: int) -> int:
        """Returns the beginning of the run of rows set aside that has a frame; only for frames that `goes_aside`."""
        return next((first for first, last in self._holes(lane, table) if first <= seq <= last), seq)

    def through(self, place: Place, table: str) -> int:
        """Returns the last sequence of the place's lane that is done with `table`."""
        key = self._key(table)
        if (key, place.lane, place.seq) in self._waiting or (key, aside_lane(place.lane, place.seq)) in self.marks:
            return place.seq
        if self.goes_aside(place):
            missing = any(first <= place.seq <= last for first, last in self._holes(place.lane, table))
            return 0 if missing else place.seq
        source, _ = split_lane(place.lane)
        for lane in self._lives.get(source, ()):
            if lane != place.lane and split_lane(lane)[1] <= place.seq <= self.marks.get((key, lane), 0):
                return place.seq
        return self._levels.get(place.lane, 0)

    def _holes(self, lane: str, table: str) -> list[tuple[int, int]]:
        key = self._key(table)
        return [each for name, ranges in self._rewinds[lane].holes.items() if self._key(name) == key for each in ranges]
