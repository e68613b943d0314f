"""Rows that are gone at the source because they are older than a cursor: after TRUNCATE, or behind a new copy of a table."""

# ruff: noqa: S608 - names are quoted by the dialect
from __future__ import annotations

from loader.contract.loads import TableLoad
from loader.contract.warehouse import Kind
from loader.contract.writes import CURRENT, VALID_FROM, VALID_TO
from loader.sql.dialect import Dialect
from loader.sql.live import LiveTable
from loader.sql.steps import Run, Steps
from shared.errors import TableChanged, TableSetupError

_NUMBERS = (Kind.BIGINT, Kind.DECIMAL, Kind.DOUBLE)


def bring(dialect: Dialect, schema: str, load: TableLoad, table: LiveTable) -> Steps[None]:
    """Does to older rows what `Emptied` says; nothing if the load has none.

    Raises:
        TableChanged: a column is missing.
        TableSetupError: the cursor is no number there.
    """
    emptied = load.emptied
    if emptied is None:
        return

    def name(column: str) -> str:
        there = table.columns.get(dialect.fold(column))
        if there is None:
            raise TableChanged(f'table "{load.table}": column "{column}" is gone')
        return dialect.identifier(there.name)

    cursor = name(load.cursor or "")
    if table.columns[dialect.fold(load.cursor or "")].kind not in _NUMBERS:
        raise TableSetupError(
            f'table "{load.table}": column {cursor} tells which row is newer, and is no number; change its type'
        )
    target, at = dialect.qualified(schema, load.table), dialect.instant(emptied.at)
    older = f"({cursor} IS NULL OR {cursor} < {emptied.before})"
    if load.write == "history":
        begins, ends = name(VALID_FROM), name(VALID_TO)
        until = f"CASE WHEN {begins} >= {at} THEN {dialect.later(begins, '1')} ELSE {at} END"
        yield Run(f"UPDATE {target} SET {ends} = {until}, {name(CURRENT)} = FALSE WHERE {ends} IS NULL AND {older}")
    elif emptied.marked is not None:
        marked = name(emptied.marked)
        yield Run(f"UPDATE {target} SET {marked} = {at}, {cursor} = {emptied.before} WHERE {marked} IS NULL AND {older}")
    else:
        yield Run(f"DELETE FROM {target} WHERE {older}")
