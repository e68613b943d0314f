"""MySQL's and MariaDB's types: what a column means, how its value is selected, and the Arrow type that it becomes. Pure.

Bits come as numbers, floats as the doubles that they are, shapes as their text (WKT). Enumerations and floats are no cursors: the servers sort an
enumeration by its numbers and compare it as text, and round what they say of a float.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from connector_runner.sql.tables import Column, Kind

if TYPE_CHECKING:
    import pyarrow as pa

_PARTS = re.compile(r"(?P<bare>[a-z0-9_]+(?: precision)?)\s*(?:\((?P<numbers>[0-9, ]+)\))?", re.IGNORECASE)
_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("tinyint", "smallint", "mediumint", "int", "integer", "bigint", "year", "bit"), "integer"),
    **dict.fromkeys(("float", "double", "real", "double precision"), "double"),
    **dict.fromkeys(("datetime", "timestamp"), "moment"),
    **dict.fromkeys(("binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob", "vector"), "bytes"),
    "decimal": "decimal", "date": "date", "time": "time", "json": "json",
}  # fmt: skip
_SHAPES = frozenset(
    ("geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon", "geomcollection", "geometrycollection")
)  # fmt: skip
_SORTED = frozenset(
    ("tinyint", "smallint", "mediumint", "int", "integer", "bigint", "year", "decimal", "date", "datetime", "timestamp", "uuid")
)
_SORTED_CHARACTERS = 191
"""Characters of a text that servers surely sort whole (`max_sort_length` is 1,024 bytes, of up to five a character)."""
_LARGEST_128 = 38
_ON_UPDATE = "on update current_timestamp"


def column_of(
    name: str, native: str, *, quoted: str, nullable: bool, extra: str = "", json: bool = False, booleans: bool = False
) -> Column:
    """Returns a column.

    Args:
        native: its `COLUMN_TYPE`.
        quoted: its name in SQL.
        extra: its `EXTRA`.
        json: a check says that it is JSON, which is how MariaDB has JSON.
        booleans: whether `tinyint(1)` is read as a boolean.
    """
    bare, numbers = parsed(native)
    kind, select = _KINDS.get(bare, "text"), quoted
    if json:
        kind = "json"
    elif bare == "bit":
        select = f"{quoted} + 0"
    elif bare == "float":
        select = f"{quoted} + 0e0"
    elif bare in _SHAPES:
        select = f"ST_AsText({quoted})"
    elif booleans and bare == "tinyint" and numbers == [1]:
        kind, select = "boolean", f"{quoted} <> 0"
    short = bare in ("char", "varchar", "binary", "varbinary") and bool(numbers) and numbers[0] <= _SORTED_CHARACTERS
    return Column(
        name=name,
        native=native,
        kind=kind,
        select=select,
        nullable=nullable,
        ordered=(bare in _SORTED or short) and kind not in ("json", "boolean"),
        touched=_ON_UPDATE in extra.lower(),
    )


def arrow_of(column: Column) -> pa.DataType:
    """Returns the Arrow type that a column's values become."""
    import pyarrow as pa

    bare, numbers = parsed(column.native)
    match column.kind:
        case "integer":
            return pa.uint64() if bare == "bit" or "unsigned" in column.native.lower() else pa.int64()
        case "boolean":
            return pa.bool_()
        case "double":
            return pa.float64()
        case "decimal":
            precision, scale = (*numbers, 0)[:2] if numbers else (10, 0)
            return pa.decimal128(precision, scale) if precision <= _LARGEST_128 else pa.decimal256(precision, scale)
        case "date":
            return pa.date32()
        case "moment":
            return pa.timestamp("us", "UTC" if bare == "timestamp" else None)
        case "bytes":
            return pa.binary()
        case _:
            return pa.string()


def parsed(native: str) -> tuple[str, list[int]]:
    """Returns the bare name of a type, and the numbers behind it."""
    match = _PARTS.match(native)
    if match is None:
        return native.lower(), []
    return match["bare"].lower(), [int(each) for each in (match["numbers"] or "").split(",") if each.strip()]
