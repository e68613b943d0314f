"""What one read of a table asks for, and why it misses no row. Pure.

A *full* read is one statement, so that it sees one state of the table where the database keeps one.

An *incremental* read goes by a cursor, in rounds of pages:

- First it asks for the highest value of the cursor, the *high*, and reads no row above it. So all rows of one value are read in one round, or the
  next round reads them all.
- It reads from the last round's high on, that value included: a row may come with the same value after the last read. So the rows
  of that one value come again.
- A page ends at a position of the cursor and the primary key behind it, and the next page begins behind it. Many rows with one
  value are thus several pages. Where the table has no usable key, all rows of one value are in one page.
- A page is a range, read in any order: the database sorts keys, never whole rows. The position is the state behind the page.
- Rows without a value of the cursor stand in no range. They come at the beginning of each read, because nothing tells which are new.

So a row is missed only if it comes with a lower value than rows that were read before: a transaction that took its time before others, and
committed after them. `lookback` reads again so much of the time before the last high.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, NamedTuple

from msgspec import Meta

from connector_runner.contract import Selected, StreamName
from connector_runner.sql.states import State
from connector_runner.sql.tables import Column, Table
from connector_runner.sql.wanted import columns_of, require
from shared.errors import SetupError
from shared.reading.units import Duration

PAGE_ROWS = 100_000
PageRows = Annotated[int, Meta(ge=1, description="rows of a page of an incremental read; a state stands behind each page")]
Lookback = Annotated[
    Duration,
    Meta(
        description="how much of the time before the last read an incremental read reads again, if its cursor is a time: for rows that are committed late"
    ),
]


class Plan(NamedTuple):
    """A read of a table. `columns`: that are read. `order`: the cursor and the columns of the key behind it; empty: a full read."""

    stream: StreamName
    table: Table
    columns: tuple[Column, ...]
    order: tuple[Column, ...] = ()

    @property
    def cursor(self) -> Column:
        """The cursor of an incremental read."""
        return self.order[0]


def plan_of(selected: Selected, tables: Sequence[Table]) -> Plan:
    """Returns the read of a stream.

    Args:
        tables: all that the database has now.

    Raises:
        SetupError: the table or a column is not there, or the cursor cannot be one.
    """
    stream = selected.stream.known_as
    table = next((each for each in tables if each.name == stream), None)
    if table is None:
        raise SetupError(
            f'stream "{stream}" is not there (any more), or may not be read; remove it from the sync, or grant SELECT'
        )
    columns = columns_of(table, selected)
    if not columns:
        raise SetupError(f'stream "{stream}" has no column that can be read')
    if selected.mode == "full_refresh":
        return Plan(stream, table, columns)
    path = selected.cursor or selected.stream.cursor
    if not path:
        raise SetupError(f'stream "{stream}" needs a cursor to be read incrementally; choose {_choices(table)}')
    require(table, {path[0]})
    cursor = next(each for each in table.columns if each.name == path[0])
    if not cursor.ordered or len(path) > 1:
        raise SetupError(
            f'stream "{stream}": column "{".".join(path)}" ({cursor.native}) cannot be a cursor; choose {_choices(table)}'
        )
    key = [each for name in table.key if (each := table.column(name)) is not None and name != cursor.name]
    usable = all(each.ordered and not each.nullable for each in key)
    return Plan(stream, table, columns, order=(cursor, *(key if usable else ())))


def begin(plan: Plan, state: State, high: str | None) -> State:
    """Returns the state at the beginning of a round up to `high`; None: the table has no value of the cursor."""
    return State(cursor=state.cursor, done=state.done, high=high, key=tuple(each.name for each in plan.order[1:]))


def end(state: State) -> State:
    """Returns the state behind a round."""
    return State(cursor=state.cursor, done=state.done if state.high is None else state.high)


def start_of(plan: Plan, state: State, lookback: float) -> tuple[Sequence[Column], Sequence[str], bool] | None:
    """Returns where the rest of a round begins: columns, their position, and whether rows at it belong to the rest; None: at the first row."""
    if state.at is not None:
        if state.key == tuple(each.name for each in plan.order[1:]):
            return plan.order, state.at, False
        return plan.order[:1], state.at[:1], True  # the table has another key now
    return None if state.done is None else (plan.order[:1], (earlier(plan.cursor, state.done, lookback),), True)


def earlier(column: Column, text: str, seconds: float) -> str:
    """Returns a time so many seconds earlier, as text; what is no time stays as it is."""
    if seconds <= 0 or column.kind not in ("moment", "date"):
        return text
    try:
        moment = datetime.fromisoformat(text)
        found = moment - timedelta(seconds=seconds)
    except (ValueError, OverflowError):  # finer than microseconds, or a date that no calendar has
        return text
    return str(found.date()) if column.kind == "date" else found.isoformat(" ")


def _choices(table: Table) -> str:
    names = [each.name for each in table.columns if each.ordered]
    return f"one of {', '.join(names)}" if names else "full_refresh: it has no column that could be one"
