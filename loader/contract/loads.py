"""What a load carries and reports: rows of tables, and the part of a queue that they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from loader.contract.writes import Write

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a full refresh. `run`: its number, which grows with each refresh of a table by a connection; the first part of a
    higher run ends the lower one, and its rows are gone. `ends`: it is the last part."""

    run: int
    ends: bool


@dataclass(frozen=True, slots=True)
class Emptied:
    """All rows of the source that were older than a cursor are gone: those of the table whose cursor is null or below `before`.

    They are deleted. With `marked`, a column, they get `at` there instead, if they have nothing, and `before` as their cursor. In a table
    that keeps versions, the current rows end at `at`.
    """

    before: int
    at: datetime
    marked: str | None = None


@dataclass(frozen=True, slots=True)
class TableLoad:
    """Rows for one table. `loader/contract/writes.py` says what each way to write them does.

    `rows`: an Arrow table whose columns all exist in the live table, of these Arrow types: bool, int64, float64, decimal128(38,
    0), timestamp("us", "UTC"), date32, and string for text, json and other. At least one row, and no value outside a column's
    `limits`. A null is a value that the event does not have: if the column has a default, the row gets the default, whether or
    not other rows of the load have a value there.
    """

    table: str
    rows: pa.Table
    write: Write = "append"
    key: tuple[str, ...] = ()
    """Identifies a row; all ways but `append` and `replace` need one."""
    cursor: str | None = None
    coalesce: bool = False
    part: Part | None = None
    """Given if, and only if, `write` is `replace`."""
    deleted: str | None = None
    """The column that has a value in rows that are deletions; for `merge` without `coalesce`, and `history`."""
    marked: str | None = None
    """The column that has a value in rows that mark the stored one as deleted; for `merge` without `coalesce` and `deleted`."""
    at: datetime | None = None
    """For `history`: when versions begin whose rows tell no time."""
    emptied: Emptied | None = None
    """What becomes of older rows, once those of the load are there; for `merge` and `history` with a `cursor` that is a number. The load may
    have no rows, and no columns, then."""


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """The part of a connection's queue that a load carries; its identity makes a repeat harmless.

    `lane` is a numbered series of frames (the live stream of one incarnation, a replay, a retry); `first` and `last` are sequences
    in it. After the commit, no event of `lane` up to `last` is ever loaded again into the tables of the load.
    """

    connection: str
    lane: str
    first: int
    last: int

    @property
    def batch(self) -> str:
        """The load's name within its connection, the same for each repeat."""
        return f"{self.lane}-{self.first:020d}-{self.last:020d}"


@dataclass(frozen=True, slots=True)
class LoadReport:
    """The report of a committed load; durations in seconds by phase (`encode`, `copy`, `merge`, `commit`)."""

    rows: Mapping[str, int]
    bytes: int = 0
    phases: Mapping[str, float] = field(default_factory=dict)
