"""A loader's memory of its destination, kept outside of it: how far each lane was loaded when the loader acknowledged.

The ledger is in the destination and goes back with it if a person puts a backup, or a lagging replica, in its place. The memory
does not: it is one value of the bucket `state` per connection, written between the commit of a load and its acknowledgement. If a
session finds its ledger below the memory, it knows the missing frames.

Each destination has its own memory. So a connection that a person moved to another destination and back is not taken for one
whose destination went back; nor is one whose destination got another address and is empty there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from loader.queue.aside import frame_of
from shared.errors import Conflict, Fenced
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket

MOST_DESTINATIONS = 8
MOST_RANGES = 32
NOTHING: Mapping[str, tuple[int, int]] = MappingProxyType({})
"""Most ranges of a lane: one for each move of the connection."""

Marks = Mapping[tuple[str, str], int]


MOST_DROPPED = 20
"""Most tables that are remembered as dropped by hand."""


class Remembered(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One destination. `address`: a hash of its options. `lanes`: last sequence loaded. `asides`: by lane and table, runs of
    sequences whose rows were set aside, and loaded: within a run no row came in on the direct way. `elsewhere`: by lane, ranges
    of sequences, ends included, that the connection had loaded into another destination before it came here, or that come again
    in another lane. `dropped`: the times (epoch seconds) at which tables were created again after a person had dropped them."""

    address: str = ""
    lanes: dict[str, int] = {}
    asides: dict[str, dict[str, list[tuple[int, int]]]] = {}
    elsewhere: dict[str, list[tuple[int, int]]] = {}
    dropped: dict[str, float] = {}


class Gap(msgspec.Struct, frozen=True):
    """The missing part of a lane: all frames from `level` + 1 to `last`, and rows in `holes` up to `level`."""

    level: int
    last: int
    holes: dict[str, list[tuple[int, int]]]

    @property
    def first(self) -> int:
        """The first sequence with a missing row."""
        return min([self.level + 1, *(first for ranges in self.holes.values() for first, _ in ranges)])


def find_gaps(remembered: Remembered, address: str, marks: Marks) -> dict[str, Gap]:
    """Returns by lane the loaded part that is missing; empty also if the destination is another one on purpose."""
    levels: dict[str, int] = {}
    aside: dict[tuple[str, str], int] = {}
    for (table, lane), seq in marks.items():
        if (frame := frame_of(lane)) is None:
            levels[lane] = max(seq, levels.get(lane, 0))
        else:
            aside[table, frame[0]] = max(seq, aside.get((table, frame[0]), 0))
    known = {*remembered.lanes, *remembered.asides}
    if remembered.address != address and not known & {*levels, *(lane for _, lane in aside)}:
        return {}
    gaps: dict[str, Gap] = {}
    for lane in known:
        level, last = levels.get(lane, 0), remembered.lanes.get(lane, 0)
        holes: dict[str, list[tuple[int, int]]] = {}
        for table, runs in remembered.asides.get(lane, {}).items():
            loaded = aside.get((table, lane), 0)
            if missing := [(max(first, loaded + 1), end) for first, end in runs if end > loaded]:
                holes[table] = missing
        if level < last or holes:
            gaps[lane] = Gap(level, max(last, level, *(end for ranges in holes.values() for _, end in ranges), 0), holes)
    return gaps


def add_ranges(
    ranges: Mapping[str, list[tuple[int, int]]], levels: Mapping[str, int], ends: Mapping[str, int]
) -> dict[str, list[tuple[int, int]]]:
    """Adds to ranges of sequences by lane the range from behind a level to an end; keeps the newest few of each lane. Pure."""
    found = dict(ranges)
    for lane, end in ends.items():
        added = (levels[lane] + 1, end)
        if levels[lane] < end and added not in found.get(lane, ()):
            found[lane] = [*found.get(lane, ()), added][-MOST_RANGES:]
    return found


def was_loaded(remembered: Iterable[Remembered], lane: str, seq: int, tables: Iterable[str]) -> bool:
    """Whether one of the destinations had the load that ended with a sequence, of a lane or of rows that were aside."""
    aside = frame_of(lane)
    if aside is None:
        return any(each.lanes.get(lane, 0) >= seq for each in remembered)
    runs = [each.asides.get(aside[0], {}) for each in remembered]
    return any(all(any(first <= seq <= last for first, last in each.get(table, ())) for table in tables) for each in runs)


def address_of(destination: Mapping[str, Any]) -> str:
    """Returns a text that tells one address of a destination from another and holds no secret."""
    return hashlib.sha256(msgspec.json.encode(destination, order="deterministic")).hexdigest()[:16]


class Memory:
    """The memory of one connection and its present destination."""

    def __init__(self, broker: Broker, connection: str, name: str, destination: Mapping[str, Any]) -> None:
        self._bucket = Bucket(broker, topology.STATE_BUCKET)
        self._key = f"loaded.{connection}"
        self._name = name
        self._address = address_of(destination)
        self._all: dict[str, Remembered] = {}
        self._before: dict[str, Remembered] = {}
        self._revision = 0

    @property
    def here(self) -> Remembered:
        """The memory of the present destination."""
        return self._all.get(self._name, Remembered(address=self._address))

    async def read(self) -> None:
        """Reads the memory of former holders.

        Raises:
            NotConnected: the broker does not answer.
        """
        entry = await self._bucket.get(self._key)
        self._revision = entry.revision if entry else 0
        self._all = msgspec.json.decode(entry.value, type=dict[str, Remembered]) if entry and entry.value else {}
        self._before = dict(self._all)

    def knows(self, lane: str) -> bool:
        """Whether former holders loaded a lane into the present destination."""
        here = self._before.get(self._name)
        return here is not None and here.address == self._address and lane in here.lanes

    def was_loaded(self, lane: str, seq: int, tables: Iterable[str]) -> bool:
        """Whether former holders noted a load, into this or another destination; only then may it be acknowledged."""
        return was_loaded(self._before.values(), lane, seq, tables)

    def was_loaded_elsewhere(self, lane: str, seq: int, table: str) -> bool:
        """Whether rows that were aside were loaded into another destination."""
        others = [each for name, each in self._before.items() if name != self._name or each.address != self._address]
        return was_loaded(others, lane, seq, [table])

    def is_elsewhere(self, lane: str, seq: int) -> bool:
        """Whether a frame was loaded into another destination before the connection came to this one."""
        ranges = self.here.elsewhere
        return lane in ranges and any(first <= seq <= last for first, last in ranges[lane])

    def not_elsewhere(self, lane: str, first: int, last: int) -> list[tuple[int, int]]:
        """Returns the parts of a range that are in no other destination or lane, as ranges."""
        found: list[tuple[int, int]] = []
        for start, end in sorted(self.here.elsewhere.get(lane, ())):
            if first < start <= last:
                found.append((first, min(start - 1, last)))
            first = max(first, end + 1)
        return [*found, (first, last)] if first <= last else found

    async def note_elsewhere(
        self, counted: Mapping[str, int], rewound: Container[str], former: str, here: Container[str]
    ) -> None:
        """Notes the frames that the connection loaded into another destination before it came to this one.

        Args:
            counted: by lane, the sequence up to which its events have ended.
            rewound: lanes of which the former destination lacks events that were counted.
            former: its name. If this destination has the same name, it may be the same one under other options.
            here: lanes in this destination's ledger.

        Raises:
            Fenced, NotConnected, Transient: they may not be noted; do not load.
        """
        mine = self._before.get(self._name, Remembered())
        known = mine.lanes if mine.address == self._address else {}
        there = self._before.get(former, Remembered()).lanes
        ends = {
            lane: there.get(lane, 0) if lane in rewound else last
            for lane, last in counted.items()
            if former != self._name or lane not in here
        }
        elsewhere = add_ranges(
            self.here.elsewhere, {lane: max(self.here.lanes.get(lane, 0), known.get(lane, 0)) for lane in ends}, ends
        )
        if elsewhere != self.here.elsewhere:
            await self._write(msgspec.structs.replace(self.here, elsewhere=elsewhere))

    def gaps(self, marks: Marks) -> dict[str, Gap]:
        """Returns the missing parts of the destination."""
        return find_gaps(self.here, self._address, marks)

    async def begin(self, marks: Marks, oldest: int, again: Mapping[str, tuple[int, int]] = NOTHING) -> None:
        """Takes the present ledger for the truth from now on, and forgets sequences before `oldest`, the first that can be read
        again.

        Raises:
            Fenced, NotConnected, Transient
        """
        lanes: dict[str, int] = {}
        loaded: dict[tuple[str, str], int] = {}
        for (table, lane), seq in marks.items():
            if (frame := frame_of(lane)) is None:
                lanes[lane] = max(seq, lanes.get(lane, 0))
            else:
                loaded[table, frame[0]] = max(seq, loaded.get((table, frame[0]), 0))
        asides: dict[str, dict[str, list[tuple[int, int]]]] = {}
        for lane, tables in self.here.asides.items():
            for table, runs in tables.items():
                end = loaded.get((table, lane), 0)
                if kept := [(first, min(last, end)) for first, last in runs if first <= end and last >= oldest]:
                    asides.setdefault(lane, {})[table] = kept
        same = self.here.address == self._address
        elsewhere, dropped = (self.here.elsewhere, self.here.dropped) if same else ({}, {})
        elsewhere = add_ranges(
            elsewhere, {lane: first - 1 for lane, (first, _) in again.items()}, {lane: last for lane, (_, last) in again.items()}
        )
        await self._write(Remembered(address=self._address, lanes=lanes, asides=asides, elsewhere=elsewhere, dropped=dropped))

    async def note(self, lane: str, last: int) -> None:
        """Notes a committed load; acknowledge only afterwards.

        Raises:
            Fenced, NotConnected, Transient: not known to be noted; do not acknowledge.
        """
        here = self.here
        if last > here.lanes.get(lane, 0):
            await self._write(msgspec.structs.replace(here, lanes={**here.lanes, lane: last}))

    async def note_aside(self, table: str, lane: str, run: int, seq: int) -> None:
        """Notes rows that were aside and are now loaded; acknowledge only afterwards.

        Args:
            run: the beginning of the run of rows set aside.

        Raises:
            Fenced, NotConnected, Transient: not known to be noted; do not acknowledge.
        """
        here = self.here
        runs = list(here.asides.get(lane, {}).get(table, []))
        if runs and runs[-1][0] == run:
            runs[-1] = (run, max(seq, runs[-1][1]))
        else:
            runs.append((run, seq))
        tables = {**here.asides.get(lane, {}), table: runs}
        await self._write(msgspec.structs.replace(here, asides={**here.asides, lane: tables}))

    async def note_dropped(self, dropped: Mapping[str, float]) -> None:
        """Notes all tables that a person dropped and that were created again, and the times (epoch seconds).

        Raises:
            Fenced, NotConnected, Transient
        """
        await self._write(msgspec.structs.replace(self.here, dropped=dict(list(dropped.items())[-MOST_DROPPED:])))

    async def _write(self, here: Remembered) -> None:
        others = {name: each for name, each in self._all.items() if name != self._name}
        self._all = {**dict(list(others.items())[-MOST_DESTINATIONS + 1 :]), self._name: here}
        try:
            self._revision = await self._bucket.put(self._key, msgspec.json.encode(self._all), revision=self._revision)
        except Conflict as exc:
            raise Fenced(f"another loader has written {self._key}; leaving the connection to it") from exc
