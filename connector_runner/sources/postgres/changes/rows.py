"""Changes become rows: of each table a block in columns, in the order in which they were committed.

A row has the table's columns and three more: `_lsn`, where its transaction was committed in the log, so that a later row never has a
smaller one; `_committed_at`; and `_deleted_at`, not null in a row that was deleted. A change of the key is the deletion of the old
row and a new one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import msgspec
import pyarrow as pa

from connector_runner.sources.postgres.changes.arrays import array_as_json, value_as_json
from connector_runner.sources.postgres.changes.decode import UNCHANGED, Change, Values
from connector_runner.sources.postgres.columns import Notes, finished
from connector_runner.sources.postgres.types import Column

LSN, COMMITTED_AT, DELETED_AT, BEFORE = "_lsn", "_committed_at", "_deleted_at", "_before"
MOMENT = pa.timestamp("us", "UTC")
Key: TypeAlias = tuple[bytes | None, ...]


class Shape:
    """A table as the log has it now.

    Args:
        columns: in the log's order.
        key: the columns by which the log tells which row was changed.
        tells: the columns that tell rows apart in the destination.
        wanted: names of the columns that are given on; None: all.
        place: its name, as SQL has it.
        before: whether a row tells its former values.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        *,
        key: Sequence[str],
        tells: Sequence[str],
        wanted: frozenset[str] | None,
        place: str,
        before: bool,
    ) -> None:
        self.columns = tuple(columns)
        self.place = place
        names = [each.name for each in columns]
        self.key = [names.index(each) for each in key if each in names]
        self._tells = [names.index(each) for each in tells if each in names]
        self.given = [index for index, name in enumerate(names) if wanted is None or name in wanted or name in (*key, *tells)]
        self.before = before

    def key_of(self, values: Values) -> Key:
        """Returns the key of a row."""
        return tuple([values[index] for index in self.key])

    def moved(self, old: Values, new: Values) -> bool:
        """Whether the destination takes two versions of a row for two rows."""
        former = [old[index] for index in self._tells]
        return bool(former) and None not in former and former != [new[index] for index in self._tells]


class Block:
    """Rows of one table that are not given on yet."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.unfinished: list[int] = []
        """Rows with values that the log does not repeat."""
        self._rows: list[Values] = []
        self._lsns: list[int] = []
        self._moments: list[int] = []
        self._deleted: list[int | None] = []
        self._before: list[str | None] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, change: Change, lsn: int, moment: int) -> int:
        """Takes a change; returns about how many bytes it holds."""
        shape, old, new = self.shape, change.old, change.new
        before = self._image(old) if shape.before and old is not None else None
        if new is None:
            return self._put(old or [], lsn, moment, deleted=moment, before=before)
        if old is not None:
            if UNCHANGED in new:
                new = [
                    former if value is UNCHANGED and former is not None else value for former, value in zip(old, new, strict=True)
                ]
            if shape.moved(old, new):
                self._put(old, lsn, moment, deleted=moment, before=before)
        if UNCHANGED in new and any(value is UNCHANGED for value in new):
            self.unfinished.append(len(self._rows))
        return self._put(new, lsn, moment, deleted=None, before=before)

    def forget(self, lsn: int) -> None:
        """Takes rows from a position on back."""
        count = bisect_left(self._lsns, lsn)
        for each in (self._rows, self._lsns, self._moments, self._deleted, self._before):
            del each[count:]
        self.unfinished = [row for row in self.unfinished if row < count]

    def missing(self) -> tuple[set[int], dict[Key, list[int]]]:
        """Returns the columns whose values the log did not repeat, and the rows without them by key."""
        columns = {index for row in self.unfinished for index, value in enumerate(self._rows[row]) if value is UNCHANGED}
        rows: dict[Key, list[int]] = {}
        for row in self.unfinished:
            rows.setdefault(self.shape.key_of(self._rows[row]), []).append(row)
        return columns, rows

    def fill(self, columns: Sequence[int], rows: Iterable[int], values: Sequence[bytes | None]) -> None:
        """Puts values into rows that lack them."""
        for row in rows:
            held = self._rows[row]
            for index, value in zip(columns, values, strict=True):
                if held[index] is UNCHANGED:
                    held[index] = value

    def table(self, notes: Notes) -> pa.Table:
        """Returns the rows in columns. What still lacks is null."""
        for row in self.unfinished:
            self._rows[row] = [None if value is UNCHANGED else value for value in self._rows[row]]
        by_column = list(zip(*self._rows, strict=True))
        found = {}
        for index in self.shape.given:
            column = self.shape.columns[index]
            texts = pa.array(by_column[index], pa.binary()).cast(pa.string())
            if column.form == "array":
                words = [None if text is None else array_as_json(text, column) for text in texts.to_pylist()]
                texts = pa.array(words, pa.string())
            found[column.name] = finished(texts, column, notes)
        found[LSN] = pa.array(self._lsns, pa.int64())
        found[COMMITTED_AT] = pa.array(self._moments, pa.int64()).cast(MOMENT)
        found[DELETED_AT] = pa.array(self._deleted, pa.int64()).cast(MOMENT)
        if self.shape.before:
            found[BEFORE] = finished_json(self._before)
        return pa.table(found)

    def _put(self, values: Values, lsn: int, moment: int, *, deleted: int | None, before: str | None) -> int:
        self._rows.append(list(values))
        self._lsns.append(lsn)
        self._moments.append(moment)
        self._deleted.append(deleted)
        self._before.append(before)
        return 100 + sum([len(value) for value in values if value is not None])

    def _image(self, old: Values) -> str:
        """Returns the former values that the log tells, as a JSON object."""
        held = {
            column.name: msgspec.Raw(_as_json(value.decode(), column).encode())
            for index in self.shape.given
            if (column := self.shape.columns[index]) and (value := old[index]) is not None
        }
        return msgspec.json.encode(held).decode()


def finished_json(texts: Sequence[str | None]) -> pa.Array:
    """Returns JSON texts as such a column."""
    return pa.ExtensionArray.from_storage(pa.json_(pa.string()), pa.array(texts, pa.string()))


def _as_json(text: str, column: Column) -> str:
    return array_as_json(text, column) if column.element else value_as_json(text, column.type)
