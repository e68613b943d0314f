"""A shaped batch: rows of several tables as columns by source path, and the way back from every row to its event.

`loader/rows/shape.py` makes it, `loader/fitting/fit.py` consumes it. It keeps the packed frames, so that any event can become a
dead letter with its original bytes. A batch never changes: `without` returns a new one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from loader.contract.warehouse import Kind
from loader.rows.columns import Part, Source
from loader.rows.layouts.contract import TableSpec
from loader.rows.runs import Rows
from loader.types.names import Path
from shared.events.frame import Frame, Head
from shared.events.outcome import DeadReason, DropReason

SEQUENCE_FACTOR = 65_536
"""`_seq` is the frame's sequence times this plus the event's index: a total order as long as frames stay smaller."""

Columns = Sequence[tuple[Source, tuple[Part, ...]]]


@dataclass(frozen=True, slots=True)
class DeadEvent:
    """An event that cannot be loaded, with all facts for a dead letter. `index` is its place in the frame of sequence `seq`."""

    seq: int
    index: int
    head: Head
    body: bytes
    reason: DeadReason
    detail: str


@dataclass(frozen=True, slots=True)
class RawTable:
    """Rows of one table before names and types are settled.

    `events`: the ordinal of its event for every row, ascending. `sequences`: `_seq` of every row. `reserved`: keys of names that
    no client may use here. `hints`: types that functions ask for, by source path.
    """

    name: str
    spec: TableSpec
    events: Rows
    sequences: NDArray[np.int64]
    columns: Columns
    reserved: frozenset[str]
    hints: Mapping[Path, tuple[Kind, str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.events)

    def only(self, keep: NDArray[np.bool_]) -> RawTable:
        """Returns the table with only the rows marked in `keep`, in their order."""
        renumbered = np.cumsum(keep, dtype=np.int32) - 1
        columns: list[tuple[Source, tuple[Part, ...]]] = []
        for source, parts in self.columns:
            kept = [_only(part, keep, renumbered.astype(np.int32)) for part in parts]
            kept = [part for part in kept if len(part.rows)]
            if kept:
                columns.append((source, tuple(kept)))
        return replace(self, events=self.events[keep], sequences=self.sequences[keep], columns=columns)


@dataclass(frozen=True, slots=True)
class ShapedBatch:
    """The batch of a run of frames.

    `events` counts all added events, whatever their fate. `notes` counts values that were changed on the way
    (`runs.NUL_REPLACED`, `rescue.NOT_FINITE`).
    """

    tables: Mapping[str, RawTable]
    dead: Sequence[DeadEvent]
    dropped: Counter[DropReason]
    notes: Counter[str]
    events: int
    frames: Sequence[tuple[int, Frame]]
    event_frames: NDArray[np.int32]
    event_indexes: NDArray[np.int32]

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(len(table) for table in self.tables.values())

    def without(self, ordinals: Iterable[int]) -> ShapedBatch:
        """Returns the batch with the rows of these events gone from all tables; tables left empty go too."""
        keep = np.ones(len(self.event_frames), dtype=np.bool_)
        keep[np.fromiter(ordinals, dtype=np.int64)] = False
        tables: dict[str, RawTable] = {}
        for name, table in self.tables.items():
            marks = keep[table.events]
            if marks.all():
                tables[name] = table
            elif marks.any():
                tables[name] = table.only(marks)
        return replace(self, tables=tables)

    def dead_letters(self, refused: Mapping[int, tuple[DeadReason, str]]) -> list[DeadEvent]:
        """Returns events by their ordinals as dead letters, in the order of their acceptance."""
        letters: list[DeadEvent] = []
        opened, bodies = -1, list[bytes]()
        for ordinal in sorted(refused):
            number, index = int(self.event_frames[ordinal]), int(self.event_indexes[ordinal])
            seq, frame = self.frames[number]
            if number != opened:
                opened, bodies = number, frame.bodies()
            reason, detail = refused[ordinal]
            letters.append(
                DeadEvent(seq=seq, index=index, head=frame.heads[index], body=bodies[index], reason=reason, detail=detail)
            )
        return letters


def _only(part: Part, keep: NDArray[np.bool_], renumbered: Rows) -> Part:
    marks = keep[part.rows]
    if marks.all():
        return Part(part.kind, renumbered[part.rows], part.values)
    return Part(part.kind, renumbered[part.rows[marks]], part.values.filter(pa.array(marks)))


def spread(columns: Columns, tables: Sequence[Rows], events: int) -> list[list[tuple[Source, tuple[Part, ...]]]]:
    """Gives every table its part of columns that were built once for all events.

    Args:
        columns: their rows are ordinals of events.
        tables: for each table the ordinal of every row's event, no event twice in one table.
        events: how many events there are.

    One `take` per column for all tables together, then slices: the cost grows with the values, not with tables times columns.
    """
    spreads: list[list[tuple[Source, tuple[Part, ...]]]] = [[] for _ in tables]
    if not tables:
        return spreads
    chain = np.concatenate(tables)
    offsets = np.cumsum([0, *(len(rows) for rows in tables)])
    identities = [np.arange(len(rows), dtype=np.int32) for rows in tables]
    order: Any = None
    for source, parts in columns:
        pieces: dict[int, list[Part]] = {}
        for part in parts:
            count = len(part.rows)
            if count * 8 >= events:
                places = np.full(events, -1, dtype=np.int32)
                places[part.rows] = np.arange(count, dtype=np.int32)
                found = places[chain]
                positions = np.flatnonzero(found >= 0)
                found = found[positions]
            else:
                if order is None:
                    order = np.argsort(chain, kind="stable")
                    ordered = chain[order]
                first = np.searchsorted(ordered, part.rows, side="left")
                repeats = np.searchsorted(ordered, part.rows, side="right") - first
                found = np.repeat(np.arange(count), repeats)
                within = np.arange(len(found)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
                positions = order[np.repeat(first, repeats) + within]
                ascending = np.argsort(positions)
                positions, found = positions[ascending], found[ascending]
            if not len(positions):
                continue
            taken = part.values.take(pa.array(found))
            if len(positions) == len(chain):
                for number, identity in enumerate(identities):
                    piece = Part(part.kind, identity, taken.slice(offsets[number], len(identity)))
                    pieces.setdefault(number, []).append(piece)
                continue
            bounds = np.searchsorted(positions, offsets)
            for number in np.flatnonzero(bounds[1:] > bounds[:-1]).tolist():
                start, end = int(bounds[number]), int(bounds[number + 1])
                rows = (positions[start:end] - offsets[number]).astype(np.int32)
                if len(rows) == len(identities[number]):
                    rows = identities[number]
                pieces.setdefault(number, []).append(Part(part.kind, rows, taken.slice(start, end - start)))
        for number, own in pieces.items():
            spreads[number].append((source, tuple(own)))
    return spreads
