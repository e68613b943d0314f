"""Arrow columns as the text that LOAD DATA reads: fields between tabs, rows between newlines, `\\N` for null.

Columns at a time, by Arrow's own functions: no value is touched by Python. A backslash, a tab, a newline and a NUL are written with
a backslash before them; everything else is what it is, in UTF-8.

https://dev.mysql.com/doc/refman/8.0/en/load-data.html#load-data-field-line-handling
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

SLICE_BYTES = 1024 * 1024
SLICE_ROWS = 4000
_ESCAPES = (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\0", "\\0"))

FORMAT = "CHARACTER SET utf8mb4 FIELDS TERMINATED BY '\\t' ESCAPED BY '\\\\' LINES TERMINATED BY '\\n'"
"""What a LOAD DATA says of this text."""


def encode(rows: pa.Table) -> Iterator[memoryview]:
    """Yields rows as text, a slice at a time. At least one column, of the types that `TableLoad` names."""
    size = max(1, min(SLICE_ROWS, SLICE_BYTES * rows.num_rows // max(1, rows.nbytes)))
    for start in range(0, rows.num_rows, size):
        yield _slice(rows.slice(start, size))


def _slice(rows: pa.Table) -> memoryview:
    import pyarrow.compute as pc

    texts = [_text(column.combine_chunks()) for column in rows.columns]
    # the last field ends with its newline: one pass less over all the bytes
    last = pc.binary_join_element_wise(texts[-1], "", "\n", null_handling="replace", null_replacement="\\N")
    lines = last
    if len(texts) > 1:
        lines = pc.binary_join_element_wise(*texts[:-1], last, "\t", null_handling="replace", null_replacement="\\N")
    offsets = memoryview(lines.buffers()[1]).cast("i")
    first, end = offsets[lines.offset], offsets[lines.offset + len(lines)]
    data = lines.buffers()[2]
    return memoryview(data)[first:end]


def _text(column: Any) -> Any:
    """Returns a column as text, nulls as they are."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    type_ = column.type
    if pa.types.is_string(type_):
        return _escaped(column)
    if pa.types.is_boolean(type_):
        return pc.cast(pc.cast(column, pa.int8()), pa.string())
    if pa.types.is_timestamp(type_):
        return pc.cast(pc.cast(column, pa.timestamp("us")), pa.string())
    return pc.cast(column, pa.string())


def _escaped(column: Any) -> Any:
    import pyarrow.compute as pc

    data = column.buffers()[2]
    if data is None:
        return column
    offsets = memoryview(column.buffers()[1]).cast("i")
    used = data.slice(offsets[column.offset], offsets[column.offset + len(column)] - offsets[column.offset]).to_pybytes()
    for character, escaped in _ESCAPES:
        if character.encode() in used:  # most columns hold none: looking costs a hundredth of replacing
            column = pc.replace_substring(column, character, escaped)
    return column
