"""The window of message ids of one site: exact, in bounded memory, and a pure function of the ids that came.

An id is remembered for at least `window_seconds` and at most an eighth longer, counted from when it last came. The caller gives
the time: the stream's timestamp of the frame, never the clock. So the memory depends only on the ids that came since the
beginning of the oldest generation, and reading them again from EVENTS gives the same memory and the same verdicts. So a restart,
a repeated frame and a catch-up decide alike. (Therefore a repeat refreshes its id: otherwise verdicts older than the window would
decide whether an id is remembered.)

Memory is one table of 64-bit slots in buckets of `WIDTH`, looked up and filled for all ids of a frame at once. A slot holds the
generation in its low five bits (0: empty) and above it the part of the id's 64-bit hash that its bucket does not tell, so all 64
bits decide. Two ids that share them count as one: with sixteen million ids in memory this hits one event in 10^12. The hash is
Python's own for text, keyed per process, so that no client can make ids collide on purpose.

Time goes in generations of an eighth of the window. Those older than eight generations are dead at once and swept in steps; there
are 31 marks for nine live generations, so that a dead slot is swept before its mark is used again. The table
doubles up to a size fixed by `max_ids`; the address space for it is reserved at the start and takes memory only as it fills. At
`max_ids` the oldest generation goes early, and `shortened` counts that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

GENERATIONS = 8
"""How many generations make a window."""

WIDTH = 16
"""Slots of a bucket: two cache lines."""

MAX_IDS = 16_000_000

_MARKS = 31
_FULL = 0.6
"""The load (ids per slot) at which the table doubles. At this load one bucket in five hundred overflows, into a dict."""
_SWEEP_SLOTS = 16_384
"""Slots swept per call: some ten microseconds."""
_SMALLEST_BUCKETS = 64
_LONG_AGO = -(2**60)
_ROUNDING_SECONDS = 0.001
"""Brokers take times in microseconds, stamps are in nanoseconds, and floats hold neither exactly."""

_U64 = npt.NDArray[np.uint64]
_MARK_BITS = np.uint64(5)
_MARK_MASK = np.uint64(31)


class Window:
    """The ids that came to a site lately.

    Args:
        window_seconds: how long an id is remembered at least; more than 0.
        max_ids: how many ids are remembered at most, give or take one frame. Costs up to 14 bytes each at the limit.
    """

    def __init__(self, window_seconds: float, max_ids: int = MAX_IDS) -> None:
        if not window_seconds > 0 or max_ids < 1:
            raise ValueError(f"expected a window and a limit above zero, got {window_seconds} s and {max_ids} ids")
        self.window_seconds = window_seconds
        self.max_ids = max_ids
        self.shortened = 0
        """Number of generations that were forgotten early because `max_ids` was reached."""
        self._generation_seconds = window_seconds / GENERATIONS
        self._doublings = 0
        buckets = int(max_ids / _FULL / WIDTH) + 1
        while buckets >= 2 * _SMALLEST_BUCKETS:
            buckets = (buckets + 1) // 2
            self._doublings += 1
        # at least 32, so that the part of a hash beyond its first bucket fits beside the mark
        self._first_buckets = max(buckets, _SMALLEST_BUCKETS)
        self._now = _LONG_AGO
        self._oldest = _LONG_AGO
        self._counts: dict[int, int] = {}
        self._live = np.zeros(_MARKS + 1, dtype=np.bool_)
        self._sweep_at = 0
        self._clear()

    def __len__(self) -> int:
        return sum(self._counts.values())

    def history_start(self, at_seconds: float) -> float:
        """Returns the time from which frames must be read again so that the verdict at `at_seconds` is the same."""
        return (int(at_seconds // self._generation_seconds) - GENERATIONS) * self._generation_seconds - _ROUNDING_SECONDS

    def seen(self, ids: Sequence[str], at_seconds: float) -> list[int]:
        """Remembers the ids of one frame and returns the indexes, ascending, of ids that had come before.

        Of equal ids within `ids` the first counts as new. A time before an earlier call's time counts as that time.
        """
        self._advance(int(at_seconds // self._generation_seconds))
        if not ids:
            return []
        inner: list[int] = []
        if len(set(ids)) != len(ids):
            firsts: dict[str, int] = {}
            for index, id_ in enumerate(ids):
                if firsts.setdefault(id_, index) != index:
                    inner.append(index)
            repeated = self._look_and_insert(list(firsts))
            places = list(firsts.values())
            return sorted([*inner, *(places[index] for index in repeated)])
        return self._look_and_insert(ids)

    # -- the table

    def _clear(self) -> None:
        self._level = 0
        self._buckets = self._first_buckets
        # the system provides these pages of zeros only when they are written to
        self._table: _U64 = np.zeros((self._first_buckets << self._doublings, WIDTH), dtype=np.uint64)
        self._flat: _U64 = self._table.reshape(-1)
        self._overflow: dict[int, int] = {}
        self._counts = {}
        self._sweep_at = 0

    def _look_and_insert(self, ids: Sequence[str]) -> list[int]:
        count = len(ids)
        if len(self) + count > self._buckets * WIDTH * _FULL and self._level < self._doublings:
            self._double(len(self) + count)
        self._sweep(_SWEEP_SLOTS)
        hashes = np.fromiter(map(hash, ids), np.int64, count).view(np.uint64)
        quotient, bucket = np.divmod(hashes, np.uint64(self._first_buckets))
        if self._level:
            bucket += (quotient & np.uint64((1 << self._level) - 1)) * np.uint64(self._first_buckets)
        values = (quotient << _MARK_BITS) | np.uint64(_mark(self._now))
        rows = bucket.view(np.int64)

        found = self._table[rows]
        # equal but for the mark: the exclusive or is below 32. An empty slot is 0 and cannot pass for a hash of 0 with a mark,
        # as its own mark is dead.
        places = np.flatnonzero((found ^ values[:, None]).reshape(-1) <= _MARK_MASK)
        repeated: set[int] = set()
        for place in places.tolist():
            index, slot = divmod(place, WIDTH)
            mark = int(found[index, slot] & _MARK_MASK)
            if self._live[mark]:
                repeated.add(index)
                self._forget_one(mark)
                self._table[rows[index], slot] = values[index]
        if self._overflow and not self._overflow.keys().isdisjoint(listed := hashes.tolist()):
            for index, hash_ in enumerate(listed):
                generation = self._overflow.get(hash_)
                if generation is not None and generation >= self._oldest:
                    repeated.add(index)
                    self._counts[generation] -= 1
                    self._overflow[hash_] = self._now
        if repeated:
            fresh = np.ones(count, dtype=np.bool_)
            fresh[list(repeated)] = False
            new = np.flatnonzero(fresh)
            self._insert(rows[new], values[new], found[new], hashes[new])
        else:
            self._insert(rows, values, found, hashes)
        self._counts[self._now] = self._counts.get(self._now, 0) + count
        self._keep_limit()
        return sorted(repeated)

    def _insert(self, rows: npt.NDArray[np.int64], values: _U64, found: _U64, hashes: _U64) -> None:
        """Writes each value to an empty slot of its row. Values of one row contend for a slot; the losers try again."""
        while len(rows):
            empty = found == 0
            slots = empty.argmax(axis=1)
            has_room = empty[np.arange(len(rows)), slots]
            if not has_room.all():
                for hash_ in hashes[~has_room].tolist():
                    self._overflow[hash_] = self._now
                rows, values, slots, hashes = rows[has_room], values[has_room], slots[has_room], hashes[has_room]
            places = rows * WIDTH + slots
            self._flat[places] = values
            lost = self._flat[places] != values
            if not lost.any():
                return
            rows, values, hashes = rows[lost], values[lost], hashes[lost]
            found = self._table[rows]

    def _double(self, wanted: int) -> None:
        """Doubles the table until it holds `wanted` ids: of each bucket the slots whose next bit is set move to its twin."""
        while wanted > self._buckets * WIDTH * _FULL and self._level < self._doublings:
            bit = np.uint64(1 << (self._level + int(_MARK_BITS)))
            for start in range(0, self._buckets, 4096):
                end = min(start + 4096, self._buckets)
                here = self._table[start:end]
                moves = (here & bit) != 0
                np.copyto(self._table[self._buckets + start : self._buckets + end], here, where=moves)
                here[moves] = 0
            self._level += 1
            self._buckets *= 2
            self._sweep_at = 0

    # -- time

    def _advance(self, generation: int) -> None:
        if generation <= self._now:
            return
        if generation - self._now > GENERATIONS:
            self._clear()
        else:
            # dead slots must be gone before their mark comes round again
            self._sweep(self._buckets * WIDTH)
        self._now = generation
        self._oldest = max(self._oldest, generation - GENERATIONS)
        self._drop_dead()

    def _drop_dead(self) -> None:
        for generation in [known for known in self._counts if known < self._oldest]:
            del self._counts[generation]
        if self._overflow:
            self._overflow = {hash_: known for hash_, known in self._overflow.items() if known >= self._oldest}
        self._mark_live()
        self._sweep_at = 0

    def _mark_live(self) -> None:
        self._live[:] = False
        for generation in range(self._oldest, self._now + 1):
            self._live[_mark(generation)] = True

    def _keep_limit(self) -> None:
        while len(self) > self.max_ids:
            self.shortened += 1
            known = min(self._counts)
            if known == self._now:
                self._clear()
                return
            self._oldest = known + 1
            self._drop_dead()

    def _sweep(self, slots: int) -> None:
        """Empties the dead slots of the next stretch of the table."""
        size = self._buckets * WIDTH
        while self._sweep_at < size and slots > 0:
            step = min(_SWEEP_SLOTS, size - self._sweep_at)
            stretch = self._flat[self._sweep_at : self._sweep_at + step]
            stretch[~self._live[stretch & _MARK_MASK]] = 0
            self._sweep_at += step
            slots -= step

    def _forget_one(self, mark: int) -> None:
        generation = self._now - (_mark(self._now) - mark) % _MARKS
        self._counts[generation] -= 1


def _mark(generation: int) -> int:
    return generation % _MARKS + 1
