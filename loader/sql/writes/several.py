"""Which loads need more than one statement over their rows, and their way."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from loader.contract.loads import TableLoad
from loader.sql.dialect import Dialect
from loader.sql.steps import Steps
from loader.sql.writes import deletions, history, marks

if TYPE_CHECKING:
    from loader.sql.load import Bulk, Fitted


def needed(load: TableLoad) -> bool:
    """Whether a load needs more than one statement."""
    return load.write == "history" or deletions.has_deletions(load) or marks.has_marks(load)


def without_idle_marks(load: TableLoad) -> TableLoad:
    """Returns a load as a plain one if none of its rows marks a deletion."""
    return load if load.marked is None or marks.has_marks(load) else replace(load, marked=None)


def bring(dialect: Dialect, bulk: Bulk, schema: str, fitted: Fitted, number: int) -> Steps[int]:
    """Brings the rows of such a load into their table; returns the bytes sent. Arguments as `deletions.bring`."""
    if marks.has_marks(fitted.load):
        return (yield from marks.bring(dialect=dialect, bulk=bulk, schema=schema, fitted=fitted, number=number))
    if fitted.load.write == "history":
        return (yield from history.bring(dialect=dialect, bulk=bulk, schema=schema, fitted=fitted, number=number))
    return (yield from deletions.bring(dialect=dialect, bulk=bulk, schema=schema, fitted=fitted, number=number))
