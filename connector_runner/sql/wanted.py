"""Which tables of a database are streams, and which columns of a table are read. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from typing import Annotated

from msgspec import Meta

from connector_runner.contract import Selected, StreamName
from connector_runner.sql.tables import Column, Table
from shared.errors import SetupError
from shared.reading.decode import meant

Include = Annotated[
    list[str], Meta(description="tables and views that are streams, by name with `*` for any characters; default: all")
]
Exclude = Annotated[
    list[str], Meta(description="tables and views that are no streams, written as in `include`; it wins over that")
]


def is_wanted(name: StreamName, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Whether a table is a stream. A pattern may name the table, or the table with its namespace; case counts."""
    names = (name.name, str(name))

    def among(patterns: Sequence[str]) -> bool:
        return any(fnmatchcase(each, pattern) for each in names for pattern in patterns)

    return among(include) and not among(exclude)


def columns_of(table: Table, selected: Selected) -> tuple[Column, ...]:
    """Returns the columns to read, in the table's order: the wanted ones, the key and the cursor. Of a path the first part is the column.

    Raises:
        SetupError: the table has no column that is wanted.
    """
    if selected.columns is None:
        return table.columns
    paths = (*selected.columns, *selected.primary_key, selected.cursor)
    names = {path[0] for path in paths if path}
    require(table, names)
    return tuple(each for each in table.columns if each.name in names)


def require(table: Table, names: Collection[str]) -> None:
    """Checks that a table has columns.

    Raises:
        SetupError: it lacks one.
    """
    known = [each.name for each in table.columns]
    for name in sorted(names):
        if name not in known:
            raise SetupError(
                f'stream "{table.name}" has no column "{name}" (any more);{meant(name, known)} choose other columns for it'
            )
