"""Finds the rows of an Arrow table that a destination cannot take, all of them at once and by index.

A database names at most the first bad row of a COPY and often none. Defects that are visible here (a null in the key, a number
outside the column's range) are found before rows are sent. The other functions are called only after an error, to name all rows
with the same defect.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from loader.sql.dialect import Dialect
from loader.sql.live import LiveColumn
from loader.sql.steps import Ask, Steps
from shared.errors import RowsRejected

if TYPE_CHECKING:
    import pyarrow as pa

    from loader.contract.warehouse import TableLoad


INDEX = "_penstock_index"


def refuse_null_keys(load: TableLoad) -> None:
    """Checks that every row with a key has all of it.

    Raises:
        RowsRejected: names the rows without one.
    """
    if load.write == "append" or not load.rows.num_rows:
        return
    rows: dict[int, str] = {}
    for name in load.key:
        if name not in load.rows.column_names:
            raise RowsRejected(load.table, f'the rows have no column "{name}", which is part of the key')
        for index in _indices(load.rows.column(name).is_null()) if load.rows.column(name).null_count else ():
            rows.setdefault(index, f'column "{name}" is part of the key and is null')
    if rows:
        raise RowsRejected(load.table, "rows without a key cannot be merged", rows)


def refuse_nulls(load: TableLoad, columns: Mapping[str, LiveColumn]) -> None:
    """Checks that no row lacks a value in a column that must have one and has no default.

    Raises:
        RowsRejected: names the rows that lack one.
    """
    rows: dict[int, str] = {}
    for name, column in columns.items():
        if not column.nullable and column.default is None and load.rows.column(name).null_count:
            words = f'column "{name}" has no value and must have one'
            rows.update(dict.fromkeys(_indices(load.rows.column(name).is_null()), words))
    if rows:
        raise RowsRejected(load.table, "rows lack values that the table wants", rows)


def require_values(load: TableLoad, required: Iterable[str], remedy: str) -> None:
    """Checks that every row has a value where the server would make one up.

    Args:
        required: columns of the live table that take no nulls and have no default.
        remedy: what a person can do.

    Raises:
        RowsRejected: naming the rows that lack one.
    """
    rows: dict[int, str] = {}
    for name in sorted(required):
        words = f'no value for column "{name}", which cannot be null and has no default; {remedy}'
        if name not in load.rows.column_names:
            missing: Iterable[int] = range(load.rows.num_rows)
        else:
            missing = _indices(load.rows.column(name).is_null()) if load.rows.column(name).null_count else ()
        for index in missing:
            rows.setdefault(index, words)
    if rows:
        raise RowsRejected(load.table, "rows lack values that the table must have", rows)


def narrow(load: TableLoad, name: str, column: pa.ChunkedArray, type_: pa.DataType, native: str) -> pa.ChunkedArray:
    """Returns a column of integers or doubles in the warehouse's smaller type.

    Raises:
        RowsRejected: names the rows whose value is outside the type's range.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_floating(type_):
        cast = column.cast(type_, safe=False)
        outside = pc.and_(pc.is_inf(cast), pc.is_finite(column))
    else:
        limit = 2 ** (type_.bit_width - 1)
        outside = pc.or_(pc.less(column, -limit), pc.greater_equal(column, limit))
        cast = None
    bad = _indices(outside)
    if bad:
        raise RowsRejected(
            load.table, f'column "{name}" is {native}', _named(column, bad, f'outside the range of {native} in "{name}"')
        )
    return column.cast(type_) if cast is None else cast


def rows_with_text(load: TableLoad, columns: Iterable[str], pattern: str, words: str) -> dict[int, str]:
    """Returns the rows whose text column matches `pattern` (RE2), each with `words`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found: dict[int, str] = {}
    for name in columns:
        column = load.rows.column(name)
        if pa.types.is_string(column.type):
            for index in _indices(pc.match_substring_regex(column, pattern)):
                found.setdefault(index, f'{words} in column "{name}"')
    return found


def rows_longer_than(load: TableLoad, name: str, characters: int) -> dict[int, str]:
    """Returns the rows whose text in one column is longer than `characters`; SQL lets spaces at the end overflow."""
    import pyarrow.compute as pc

    length = pc.utf8_length(pc.utf8_rtrim(load.rows.column(name), " "))
    return dict.fromkeys(
        _indices(pc.greater(length, characters)), f'text longer than the {characters} characters of column "{name}"'
    )


def indexed(rows: pa.Table, first: int = 0) -> pa.Table:
    """Returns rows with their index in a column `INDEX`, counted from `first`."""
    import pyarrow as pa

    return rows.append_column(INDEX, pa.array(range(first, first + rows.num_rows), pa.int64()))


def rows_that_cast_to_nothing(
    dialect: Dialect, load: TableLoad, columns: Mapping[str, LiveColumn], source: str
) -> Steps[dict[int, str]]:
    """Returns the rows with a value that its column cannot hold, if the warehouse can try a cast.

    Args:
        columns: the columns of the rows, in the table's types.
        source: the quoted relation with the rows from `indexed`.
    """
    refused: dict[int, str] = {}
    for name, column in columns.items():
        quoted = dialect.identifier(name)
        bad = f"{quoted} IS NOT NULL AND {dialect.try_cast.format(value=quoted, native=column.native)} IS NULL"
        if not column.nullable and column.default is None:
            bad = f"{quoted} IS NULL OR ({bad})"
        for (index,) in (yield Ask(f"SELECT _penstock_index FROM {source} WHERE {bad}", long=True)):  # noqa: S608 - quoted
            value = load.rows.column(name)[index].as_py()
            words = "has no value and must have one" if value is None else f"{value!r} is not {column.native}"
            refused.setdefault(index, f"column {quoted}: {words}")
    return refused


def _indices(mask: Any) -> list[int]:
    import pyarrow.compute as pc

    found: list[int] = pc.indices_nonzero(pc.fill_null(mask, False)).to_pylist()
    return found


def _named(column: Any, indices: list[int], words: str) -> dict[int, str]:
    return {index: f"{column[index].as_py()!r} is {words}" for index in indices}
