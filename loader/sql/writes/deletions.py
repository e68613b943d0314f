"""A merge some of whose rows are deletions: the newest row of each key decides, then stored rows go and others come. Set by set.

The rows are staged with their numbers. The newest of a key is found there, in the types of the table: keys that differ as text may
be one key in the warehouse.
"""

# ruff: noqa: S608 - names are quoted by the dialect
from __future__ import annotations

from typing import TYPE_CHECKING

from loader.contract.warehouse import TableLoad
from loader.sql.dialect import Dialect
from loader.sql.steps import Run, Steps
from loader.sql.writes.staged import Keys, Staged, gone

if TYPE_CHECKING:
    from loader.sql.load import Bulk, Fitted


def has_deletions(load: TableLoad) -> bool:
    """Whether some rows of a merge are deletions."""
    if load.write != "merge" or load.deleted is None or load.deleted not in load.rows.column_names:
        return False
    return bool(load.rows.column(load.deleted).null_count < load.rows.num_rows)


def bring(dialect: Dialect, bulk: Bulk, schema: str, fitted: Fitted, number: int) -> Steps[int]:
    """Brings the rows of a merge with deletions into their table; returns the bytes sent.

    Args:
        dialect, bulk, schema: of the table.
        fitted: the load.
        number: of the table in its load.
    """
    staged: Staged = yield from bulk.stage(fitted, number)
    yield from bring_staged(dialect=dialect, bulk=bulk, schema=schema, fitted=fitted, number=number, staged=staged)
    return staged.sent


def bring_staged(
    dialect: Dialect, bulk: Bulk, schema: str, fitted: Fitted, number: int, staged: Staged, only: str = "TRUE"
) -> Steps[None]:
    """Brings staged rows into their table.

    Args:
        only: a condition on the staged rows `r`; the others are left alone.
    """
    load, keys = fitted.load, Keys.of(dialect, fitted)
    newest, aside = f"_penstock_newest_{number}", dialect.aside(f"_penstock_newest_{number}")
    cursor = staged.given[load.cursor] if load.cursor is not None else "0"
    chosen = f"{keys.given(staged.given)}, {staged.number} AS n, {gone(load, staged.given)} AS gone, {cursor} AS c"
    every = f"SELECT {chosen} FROM {staged.relation} AS r WHERE {only}"
    order = "CASE WHEN c IS NULL THEN 0 ELSE 1 END DESC, c DESC, n DESC"
    turn = f"row_number() OVER (PARTITION BY {keys.list()} ORDER BY {order}) AS turn"
    winners = f"SELECT {keys.list()}, n, gone, c FROM (SELECT e.*, {turn} FROM ({every}) AS e) AS e WHERE turn = 1"
    yield from dialect.keep(newest, winners, keys.types)
    older = ""
    if load.cursor is not None:
        stored = f"t.{dialect.identifier(load.cursor)}"
        older = f" AND ({stored} IS NULL OR {stored} <= w.c)"
    yield Run(dialect.delete_matched(schema, load.table, f"{aside} AS w", f"{keys.matches('w')} AND w.gone = 1{older}"))
    source = f"(SELECT r.* FROM {staged.relation} AS r JOIN {aside} AS w ON w.n = {staged.number} WHERE w.gone = 0) AS r"
    for statement in bulk.statements(fitted, source, staged.given):
        yield Run(statement)
    yield from dialect.forget(newest)
