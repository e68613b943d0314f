"""Where a read of a table goes on: the state, the query that begins behind it, and the state behind a row. Pure.

A table is read in the order of its cursor and key, so a read that was cut off goes on behind its last row. The next read begins with
the rows whose cursor equals the last one: another of them may have been committed since.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any, NamedTuple

import msgspec

from connector_runner.sources.postgres.catalogue import Table
from connector_runner.sources.postgres.links import literal, quoted
from connector_runner.sources.postgres.types import Column


class Place(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The state of a table. Values are texts, as the server reads them.

    `cursor`: the column; "" of a full read. `value`: its last; None: no row had one. `key`: the names and values of the last row's
    key. `complete`: all rows came.
    """

    cursor: str = ""
    value: str | None = None
    key: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    complete: bool = False


class Walk(NamedTuple):
    """A read of one table. `cursor`: None in a full read. `key`: columns that tell rows apart; empty: there are none."""

    table: Table
    columns: tuple[Column, ...]
    cursor: Column | None
    key: tuple[Column, ...]
    lookback: float = 0.0

    @property
    def resumable(self) -> bool:
        """Whether a read that was cut off can go on."""
        return bool(self.cursor or self.key)

    def goes_on(self, state: Place | None) -> Place | None:
        """Returns the state if this read can begin there: it is one of the same cursor, and of the same key or complete."""
        cursor = self.cursor.name if self.cursor else ""
        if state is None or state.cursor != cursor or (state.complete and not cursor):
            return None
        return state if state.complete or state.key == tuple(each.name for each in self.key) else None

    def query(self, state: Place | None) -> str:
        """Returns the SELECT of the rows behind a state."""
        chosen = ", ".join(each.expression(quoted(each.name)) for each in self.columns)
        order = [f"{quoted(self.cursor.name)} NULLS FIRST"] if self.cursor else []
        order += [quoted(each.name) for each in self.key]
        state = self.goes_on(state)
        where = self._where(state) if state is not None else ""
        return (
            f"SELECT {chosen} FROM {self.table.quoted}"  # noqa: S608 - quoted
            + (f" WHERE {where}" if where else "")
            + (f" ORDER BY {', '.join(order)}" if order else "")
        )

    def place(self, last: Sequence[Any]) -> Place:
        """Returns the state behind a row. `last`: its values, in the order of `columns`."""
        by_name = {column.name: _text(value) for column, value in zip(self.columns, last, strict=True)}
        return Place(
            cursor=self.cursor.name if self.cursor else "",
            value=by_name[self.cursor.name] if self.cursor else None,
            key=tuple(each.name for each in self.key),
            values=tuple(by_name[each.name] or "" for each in self.key),
        )

    def _where(self, state: Place) -> str:
        cursor = quoted(self.cursor.name) if self.cursor else ""
        behind = [quoted(each.name) for each in self.key], [literal(each) for each in state.values]
        if not cursor:
            return _row(behind[0], ">", behind[1])
        if state.complete or not self.key:
            return "" if state.value is None else f"{cursor} >= {self._since(state.value, back=state.complete)}"
        if state.value is None:
            return f"({cursor} IS NULL AND {_row(behind[0], '>', behind[1])}) OR {cursor} IS NOT NULL"
        return _row([cursor, *behind[0]], ">", [literal(state.value), *behind[1]])

    def _since(self, value: str, *, back: bool) -> str:
        assert self.cursor is not None  # noqa: S101 - the caller has it
        if not back or not self.lookback or self.cursor.form not in ("date", "timestamp", "timestamptz"):
            return literal(value)
        return f"{literal(value)}::{self.cursor.type} - interval '{self.lookback:f} seconds'"


def _row(names: Sequence[str], operator: str, values: Sequence[str]) -> str:
    if len(names) == 1:
        return f"{names[0]} {operator} {values[0]}"
    return f"({', '.join(names)}) {operator} ({', '.join(values)})"


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, datetime | date):
        return value.isoformat()
    return str(value)
