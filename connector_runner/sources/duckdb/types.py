"""DuckDB's types: what a column means, and how its value is selected so that Arrow and the loader hold it whole. Pure.

Intervals, bits, times with a zone and unions have no Arrow type that a loader knows, and whole numbers of more than 64 bits none that holds all of them, so
they come as text. The same holds inside of lists, structs and maps, which are cast as a whole. Times without an end (`infinity`) are no times; they are null.
"""

from __future__ import annotations

import re

from connector_runner.sql.tables import Column, Kind

_KINDS: dict[str, Kind] = {
    "BOOLEAN": "boolean",
    **dict.fromkeys(("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"), "integer"),
    **dict.fromkeys(("HUGEINT", "UHUGEINT"), "decimal"),
    **dict.fromkeys(("FLOAT", "DOUBLE"), "double"),
    "DATE": "date",
    **dict.fromkeys(("TIME", "TIME_NS", "TIME WITH TIME ZONE"), "time"),
    **dict.fromkeys(("TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMP WITH TIME ZONE"), "moment"),
    "BLOB": "bytes",
    **dict.fromkeys(("JSON", "VARIANT"), "json"),
}  # fmt: skip
WIDE = frozenset(("HUGEINT", "UHUGEINT"))
"""Types whose numbers come as their digits."""
_AS_THEY_ARE = frozenset(
    ("BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "FLOAT", "DOUBLE", "DATE",
     "TIME", "TIME_NS", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMP WITH TIME ZONE", "BLOB", "VARCHAR", "JSON")
)  # fmt: skip
_ENDLESS = frozenset(("DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE"))
_SORTED = _AS_THEY_ARE - {"BOOLEAN", "FLOAT", "DOUBLE", "JSON", "TIME", "TIME_NS", "BLOB"} | WIDE | {"UUID"}
_DECIMAL = re.compile(r"DECIMAL\(\d+,\d+\)")
_LIST = re.compile(r"(?P<inner>.*)\[(?P<size>\d*)\]", re.DOTALL)


def column_of(name: str, native: str, *, quoted: str, nullable: bool) -> Column:
    """Returns a column; `native`: its type as the catalogue writes it; `quoted`: its name in SQL."""
    simple = native in _AS_THEY_ARE or _DECIMAL.fullmatch(native) is not None
    kind: Kind = "decimal" if native.startswith("DECIMAL(") else _KINDS.get(native, "text")
    select = quoted if simple else f"CAST({quoted} AS VARCHAR)"
    if native in _ENDLESS:
        select = f"CASE WHEN isfinite({quoted}) THEN {quoted} END"
    elif native == "VARIANT":
        select = f"CAST(CAST({quoted} AS JSON) AS VARCHAR)"
    elif (nested := nested_of(native)) is not None:
        kind = "list" if native.endswith("]") else "object"
        select = quoted if nested == native else f"CAST({quoted} AS {nested})"
    return Column(
        name=name,
        native=native,
        kind=kind,
        select=select,
        nullable=nullable,
        ordered=native in _SORTED or (simple and kind == "decimal"),
    )


def nested_of(native: str) -> str | None:
    """Returns the type that a list, a struct or a map is cast to, perhaps its own; None: it is none of these."""
    if match := _LIST.fullmatch(native):
        return f"{_leaf(match['inner'])}[{match['size']}]"
    if native.startswith("STRUCT(") and native.endswith(")"):
        fields = [_field(each) for each in parts_of(native[len("STRUCT(") : -1])]
        return f"STRUCT({', '.join(f'{name} {_leaf(type_)}' for name, type_ in fields)})"
    if native.startswith("MAP(") and native.endswith(")"):
        return f"MAP({', '.join(_leaf(each) for each in parts_of(native[len('MAP(') : -1]))})"
    return None


def _leaf(native: str) -> str:
    if native in _AS_THEY_ARE or _DECIMAL.fullmatch(native):
        return native
    return nested_of(native) or "VARCHAR"


def _field(written: str) -> tuple[str, str]:
    """Returns name, quoted as it is, and type of a struct's field."""
    if written.startswith('"'):
        end = 1
        while not (written[end] == '"' and written[end + 1 : end + 2] != '"'):
            end += 2 if written[end] == '"' else 1
        return written[: end + 1], written[end + 1 :].strip()
    name, _, type_ = written.partition(" ")
    return f'"{name}"', type_


def parts_of(written: str) -> list[str]:
    """Returns the parts of a list of fields or types, cut at commas that stand in no bracket and in no quotes."""
    parts, depth, quote, start = list[str](), 0, "", 0
    for place, character in enumerate(written):
        if quote:
            quote = "" if character == quote else quote  # a doubled quote ends and begins again
        elif character in "\"'":
            quote = character
        elif character in "([":
            depth += 1
        elif character in ")]":
            depth -= 1
        elif character == "," and not depth:
            parts.append(written[start:place].strip())
            start = place + 1
    parts.append(written[start:].strip())
    return parts
