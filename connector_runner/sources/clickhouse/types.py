"""ClickHouse's types: what a column means, and the type that it is cast to, so that Arrow holds it. Pure.

Arrow has no enumerations, addresses, UUIDs and whole numbers of more than 64 bits as ClickHouse writes them (they come as bare bytes or
numbers), and `Date` and `DateTime` come as numbers. So a type is rewritten part by part, also inside of arrays, tuples and maps, and a column
whose type changes is cast on the server.

https://clickhouse.com/docs/interfaces/formats/ArrowStream#data-types-matching
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from connector_runner.sql.tables import Column, Kind

_SAME = {
    "Bool", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "Float32", "Float64", "String", "Date32",
}  # fmt: skip
_CAST = {
    "Date": "Date32", "DateTime": "DateTime64(0, 'UTC')", "BFloat16": "Float32", "FixedString": "String",
    **dict.fromkeys(("UUID", "IPv4", "IPv6", "Enum8", "Enum16", "Enum", "Int128", "UInt128", "Int256", "UInt256", "Time", "Time64"), "String"),
}  # fmt: skip
_WHOLE = re.compile(r"U?Int(?:8|16|32|64)")
_WIDE = frozenset(("Int128", "UInt128", "Int256", "UInt256"))
_DECIMALS = {"Decimal32": 9, "Decimal64": 18, "Decimal128": 38, "Decimal256": 76}
_SHAPES = frozenset(("Point", "Ring", "LineString", "MultiLineString", "Polygon", "MultiPolygon", "Geometry"))
_ANY = frozenset(("JSON", "Object", "Variant", "Dynamic"))
_NAME = re.compile(r"(?P<name>`(?:[^`\\]|\\.|``)*`|\"(?:[^\"\\]|\\.)*\"|[A-Za-z_][A-Za-z0-9_.]*) +(?P<type>[A-Z].*)", re.DOTALL)


def is_readable(native: str) -> bool:
    """Whether a column holds values, and not what only the server's own functions understand."""
    return not re.search(r"(?<!Simple)AggregateFunction\(", native)


def column_of(name: str, native: str, quoted: str) -> Column:
    """Returns a column; `native`: its type as the server writes it; `quoted`: its name in SQL."""
    bare, nullable = without_null(native)
    kind, target = _kind(bare), target_of(bare)
    select = quoted
    if target is None:
        select = f"toJSONString({quoted})"
    elif target != bare or native != (f"Nullable({bare})" if nullable else bare):
        select = f"CAST({quoted}, {_literal(f'Nullable({target})' if nullable else target)})"
    ordered = (
        bare in _WIDE
        or _WHOLE.fullmatch(bare) is not None
        or _head(bare) in ("Date", "Date32", "DateTime", "DateTime64", "String", "UUID", "FixedString")
    )
    return Column(
        name=name, native=native, kind=kind, select=select, nullable=nullable, ordered=ordered or bare.startswith("Decimal")
    )


def without_null(native: str) -> tuple[str, bool]:
    """Returns a type without `Nullable`, `LowCardinality` and `SimpleAggregateFunction` around it, and whether it may be null."""
    nullable = False
    while True:
        head, inside = _head(native), _inside(native)
        if head in ("Nullable", "LowCardinality"):
            nullable, native = nullable or head == "Nullable", inside
        elif head == "SimpleAggregateFunction":
            native = list(parts_of(inside))[1]
        else:
            return native, nullable


def target_of(native: str) -> str | None:
    """Returns the type that a type is cast to, perhaps its own; None: it is read as JSON."""
    bare, nullable = without_null(native)
    found = _target(bare)
    return None if found is None else f"Nullable({found})" if nullable else found


def in_utc(native: str) -> str:
    """Returns a `DateTime` or `DateTime64` of any zone as one in UTC."""
    if _head(native) == "DateTime":
        return "DateTime('UTC')"
    return f"DateTime64({next(parts_of(_inside(native)))}, 'UTC')"


def _target(bare: str) -> str | None:
    head, inside = _head(bare), _inside(bare)
    if bare in _SAME or head.startswith("Decimal"):
        return bare
    if head in _CAST:
        return _CAST[head]
    if head == "DateTime64":
        return in_utc(bare)
    if head.startswith("Interval"):
        return "Int64"
    if head == "Array":
        return _around("Array", [inside])
    if head == "Map":
        return _around("Map", list(parts_of(inside)))
    if head in ("Tuple", "Nested"):
        fields = list(_fields(inside))
        types = [target_of(type_) for _, type_ in fields]
        if not fields or None in types:
            return None
        written = ", ".join(f"{name} {type_}".strip() for (name, _), type_ in zip(fields, types, strict=True))
        return f"Tuple({written})" if head == "Tuple" else f"Array(Tuple({written}))"
    return None


def _around(head: str, inner: list[str]) -> str | None:
    types = [target_of(each) for each in inner]
    return None if None in types else f"{head}({', '.join(each for each in types if each)})"


def _fields(inside: str) -> Iterator[tuple[str, str]]:
    for part in parts_of(inside):
        match = _NAME.fullmatch(part)
        yield (match["name"], match["type"]) if match else ("", part)


def _kind(bare: str) -> Kind:
    head = _head(bare)
    if head == "Bool":
        return "boolean"
    if _WHOLE.fullmatch(head) or head.startswith("Interval"):
        return "integer"
    if head in _WIDE or head.startswith("Decimal"):
        return "decimal"
    if "Float" in head:
        return "double"
    kinds: dict[str, Kind] = {
        **dict.fromkeys(("Date", "Date32"), "date"),
        **dict.fromkeys(("DateTime", "DateTime64"), "moment"),
        **dict.fromkeys(("Time", "Time64"), "time"),
        **dict.fromkeys(("Array", "Nested"), "list"),
        **dict.fromkeys(("Tuple", "Map"), "object"),
        **dict.fromkeys(_ANY | _SHAPES, "json"),
    }
    return kinds.get(head, "text")


def _head(native: str) -> str:
    return native.partition("(")[0]


def _inside(native: str) -> str:
    return native.partition("(")[2][:-1]


def parts_of(written: str) -> Iterator[str]:
    """Yields the parts of a list of types, cut at commas that stand in no bracket and in no quotes."""
    depth, quote, start, escaped = 0, "", 0, False
    for place, character in enumerate(written):
        if escaped:
            escaped = False
        elif quote:
            escaped = character == "\\"
            quote = "" if character == quote else quote
        elif character in "`\"'":
            quote = character
        elif character in "()":
            depth += 1 if character == "(" else -1
        elif character == "," and not depth:
            yield written[start:place].strip()
            start = place + 1
    if written.strip():
        yield written[start:].strip()


def _literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
