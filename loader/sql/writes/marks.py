"""A merge some of whose rows mark stored ones as deleted: first the other rows are merged, deletions among them, then the marks.

The rows are staged. Of each of the two kinds the newest of a key counts, in the types of the table: keys that differ as text may be
one key in the warehouse.
"""

# ruff: noqa: S608 - names are quoted by the dialect
from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from loader.contract.warehouse import TableLoad
from loader.sql.dialect import Dialect
from loader.sql.steps import Run, Steps
from loader.sql.writes.deletions import bring_staged, has_deletions
from loader.sql.writes.staged import Staged

if TYPE_CHECKING:
    from loader.sql.load import Bulk, Fitted


def has_marks(load: TableLoad) -> bool:
    """Whether some rows of a merge mark a deletion."""
    if load.write != "merge" or load.marked is None or load.marked not in load.rows.column_names:
        return False
    return bool(load.rows.column(load.marked).null_count < load.rows.num_rows)


def bring(dialect: Dialect, bulk: Bulk, schema: str, fitted: Fitted, number: int) -> Steps[int]:
    """Brings the rows of a merge with marks into their table; returns the bytes sent. Arguments as `deletions.bring`."""
    load = fitted.load
    assert load.marked is not None  # noqa: S101 - the caller saw marks
    staged: Staged = yield from bulk.stage(fitted, number)
    key = ", ".join(staged.given[name] for name in load.key)
    newest = f"{staged.number} DESC"
    if load.cursor is not None:
        cursor = staged.given[load.cursor]
        newest = f"CASE WHEN {cursor} IS NULL THEN 0 ELSE 1 END DESC, {cursor} DESC, {newest}"
    turn = f"row_number() OVER (PARTITION BY {key} ORDER BY {newest}) AS _penstock_turn"
    for marking, is_null in ((False, "IS NULL"), (True, "IS NOT NULL")):
        if not marking and load.rows.column(load.marked).null_count == 0:
            continue
        now = fitted if marking else replace(fitted, load=replace(load, marked=None))
        if not marking and has_deletions(load):
            only = f"{staged.given[load.marked]} IS NULL"
            yield from bring_staged(
                dialect=dialect, bulk=bulk, schema=schema, fitted=now, number=number, staged=staged, only=only
            )
            continue
        every = f"SELECT r.*, {turn} FROM {staged.relation} AS r WHERE {staged.given[load.marked]} {is_null}"
        source = f"(SELECT r.* FROM ({every}) AS r WHERE r._penstock_turn = 1) AS r"
        for statement in bulk.statements(now, source, staged.given):
            yield Run(statement)
    return staged.sent
