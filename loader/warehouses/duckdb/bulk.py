"""Rows into DuckDB: an Arrow table is scanned in place.

A merge is tried as a bare insert first (`loader/sql/merge.py`): 75 to 82 k rows/s instead of 36 to 40 k, with loads of 20000. An
anti-join comes to 47 to 51 k, and reads the whole key column each time. Measured (DuckDB 2.0, 30 columns, 790 bytes a row, two
shared cores): append 47 to 60 k rows/s at 10000 rows a load and 110 to 170 k at 100000; merge through a unique index 42 to 61 k.
MERGE INTO without an index merges faster into small tables, but reads the whole key column each time: 50 ms for 2 million rows
against 5 ms, however few rows arrive. See `bench/loading/destinations.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loader.sql.load import Fitted, Way
from loader.sql.reject import INDEX, indexed, rows_that_cast_to_nothing
from loader.sql.steps import Rollback, Run, Step, Steps
from loader.sql.writes.staged import Staged
from loader.warehouses.duckdb.dialect import DIALECT
from loader.warehouses.duckdb.errors import translate
from shared.driving.duckdb import describe
from shared.errors import RowsRejected

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = "_penstock_rows"
"""The name under which a load's Arrow table is scanned."""


@dataclass(frozen=True, slots=True)
class Scan(Step):
    """Makes an Arrow table what `ROWS` reads, until the work ends or the next one comes."""

    rows: pa.Table


class ScanBulk:
    """Rows into one schema."""

    short_rows = 0
    straight_casts = True

    def __init__(self, schema: str) -> None:
        self._schema = schema

    def straight(self, fitted: Fitted) -> Steps[int]:
        """Inserts rows without the rules of the merge."""
        yield Scan(fitted.rows)
        yield Run(fitted.statement(DIALECT, self._schema, f"{ROWS} AS r", fitted.given(DIALECT), write="append"))
        return int(fitted.rows.nbytes)

    def send(self, fitted: Fitted, number: int, way: Way) -> Steps[int]:  # noqa: ARG002
        """Inserts or merges rows."""
        load, given = fitted.load, fitted.given(DIALECT)
        # keys that are different text can be one uuid; DuckDB would keep the first of them without a word
        if load.write == "append" or not fitted.cast.intersection(load.key):
            yield Scan(fitted.rows)
            yield Run(fitted.statement(DIALECT, self._schema, f"{ROWS} AS r", given))
            return int(fitted.rows.nbytes)
        yield Scan(indexed(fitted.rows))
        casts = [_cast(fitted, name) for name in load.key]
        yield from fitted.in_turn(DIALECT, self._schema, ROWS, given=given, key=casts, order="r._penstock_index")
        return int(fitted.rows.nbytes)

    def stage(self, fitted: Fitted, number: int) -> Steps[Staged]:  # noqa: ARG002
        """Gives rows numbers; they stay where they are."""
        yield Scan(indexed(fitted.rows, 1))
        given = fitted.given(DIALECT)
        given |= {name: _cast(fitted, name) for name in fitted.cast}
        return Staged(ROWS, given, f"r.{INDEX}", int(fitted.rows.nbytes))

    def statements(self, fitted: Fitted, source: str, given: Mapping[str, str]) -> list[str]:
        """Returns the one that there is."""
        return [fitted.statement(DIALECT, self._schema, source, given)]

    def refused(self, error: Exception, sending: Sequence[Fitted]) -> Steps[RowsRejected | None]:
        """Returns the rows with a value that its column cannot hold; the error itself names none."""
        fitted = sending[-1]
        if not isinstance(translate(error, "", fitted.load.table), RowsRejected):
            return None
        yield Rollback()  # nothing else works in a transaction that failed
        yield Scan(indexed(fitted.load.rows))
        refused = yield from rows_that_cast_to_nothing(DIALECT, fitted.load, fitted.live, ROWS)
        return RowsRejected(fitted.load.table, describe(error), refused, needs_others="foreign key" in str(error))


def _cast(fitted: Fitted, name: str) -> str:
    """Returns a value over `r` in the type of its column."""
    return f"CAST(r.{DIALECT.identifier(name)} AS {fitted.live[name].native})"
