"""DuckDB's types and our kinds: what a live column is, what a new one becomes, how one widens into another.

Pure. As for Postgres, a decimal with a scale is `OTHER`: its values arrive as text and lose nothing.
"""

from __future__ import annotations

import re

from loader.contract import Column, Kind
from shared.errors import Permanent

_KINDS = {
    "BOOLEAN": Kind.BOOLEAN,
    "BIGINT": Kind.BIGINT, "INTEGER": Kind.BIGINT, "SMALLINT": Kind.BIGINT, "TINYINT": Kind.BIGINT,
    "UBIGINT": Kind.BIGINT, "UINTEGER": Kind.BIGINT, "USMALLINT": Kind.BIGINT, "UTINYINT": Kind.BIGINT,
    "HUGEINT": Kind.DECIMAL,
    "DOUBLE": Kind.DOUBLE, "FLOAT": Kind.DOUBLE,
    "TIMESTAMP WITH TIME ZONE": Kind.TIMESTAMP, "TIMESTAMP": Kind.TIMESTAMP, "TIMESTAMP_NS": Kind.TIMESTAMP,
    "DATE": Kind.DATE,
    "VARCHAR": Kind.TEXT,
    "JSON": Kind.JSON,
}  # fmt: skip

_NATIVES = {
    Kind.BOOLEAN: "BOOLEAN",
    Kind.BIGINT: "BIGINT",
    Kind.DOUBLE: "DOUBLE",
    Kind.DECIMAL: "DECIMAL(38,0)",
    Kind.TIMESTAMP: "TIMESTAMP WITH TIME ZONE",
    Kind.DATE: "DATE",
    Kind.TEXT: "VARCHAR",
    Kind.JSON: "JSON",
    Kind.OTHER: "VARCHAR",
}

_WHOLE_DECIMAL = re.compile(r"DECIMAL\(\d+,0\)")

# DuckDB writes doubles with an exponent from 1e16 up and 1e-4 down: the digits are moved behind or before the point by hand
_DIGITS = "replace(regexp_extract(\"c\"::VARCHAR, '^-?([0-9.]+)e', 1), '.', '')"
_EXPONENT = "regexp_extract(\"c\"::VARCHAR, 'e([+-]?[0-9]+)$', 1)::INTEGER"
_PLAIN = (
    "CASE WHEN NOT contains(\"c\"::VARCHAR, 'e') THEN regexp_replace(\"c\"::VARCHAR, '\\.0$', '') "
    "ELSE CASE WHEN \"c\" < 0 THEN '-' ELSE '' END || "
    f"CASE WHEN {_EXPONENT} < 0 THEN '0.' || repeat('0', -({_EXPONENT}) - 1) || {_DIGITS} "
    f"ELSE rpad({_DIGITS}, {_EXPONENT} + 1, '0') END END"
)
_ISO = (
    'CASE WHEN microsecond("c") % 1000 = 0 THEN strftime("c", \'%Y-%m-%dT%H:%M:%S.%gZ\') '
    "ELSE strftime(\"c\", '%Y-%m-%dT%H:%M:%S.%fZ') END"
)
_WIDEN = {
    (Kind.BOOLEAN, Kind.BIGINT): '"c"::BIGINT',
    (Kind.BOOLEAN, Kind.DOUBLE): '"c"::DOUBLE',
    (Kind.BOOLEAN, Kind.DECIMAL): '"c"::INTEGER::DECIMAL(38,0)',
    (Kind.BOOLEAN, Kind.TEXT): '"c"::VARCHAR',
    (Kind.BOOLEAN, Kind.JSON): 'to_json("c")',
    (Kind.BIGINT, Kind.DOUBLE): '"c"::DOUBLE',
    (Kind.BIGINT, Kind.DECIMAL): '"c"::DECIMAL(38,0)',
    (Kind.BIGINT, Kind.TEXT): '"c"::VARCHAR',
    (Kind.BIGINT, Kind.JSON): 'to_json("c")',
    (Kind.DOUBLE, Kind.TEXT): _PLAIN,
    (Kind.DOUBLE, Kind.JSON): 'to_json("c")',
    (Kind.DECIMAL, Kind.TEXT): '"c"::VARCHAR',
    (Kind.DECIMAL, Kind.JSON): '"c"::VARCHAR::JSON',
    (Kind.DATE, Kind.TIMESTAMP): '"c"::TIMESTAMP WITH TIME ZONE',
    (Kind.DATE, Kind.TEXT): "strftime(\"c\", '%Y-%m-%d')",
    (Kind.DATE, Kind.JSON): "to_json(strftime(\"c\", '%Y-%m-%d'))",
    (Kind.TIMESTAMP, Kind.TEXT): _ISO,
    (Kind.TIMESTAMP, Kind.JSON): f"to_json({_ISO})",
    (Kind.TEXT, Kind.JSON): 'to_json("c")',
    (Kind.JSON, Kind.TEXT): '"c"::VARCHAR',
    (Kind.OTHER, Kind.TEXT): '"c"::VARCHAR',
}

WIDEN = frozenset(_WIDEN)
"""Pairs (from, to) an existing column can change between."""


def fold(name: str) -> str:
    """Returns a name as DuckDB compares names: without regard to case, of ASCII letters only."""
    return name.encode("utf-8", "surrogatepass").lower().decode("utf-8", "surrogatepass")


def kind_of(native: str) -> Kind:
    """Returns the kind of a type as `duckdb_columns()` writes it."""
    if _WHOLE_DECIMAL.fullmatch(native):
        return Kind.DECIMAL
    return _KINDS.get(native, Kind.OTHER)


def native_of(column: Column) -> str:
    """Returns the SQL type of a new column: the one the user forced, else ours for the kind.

    Raises:
        Permanent: the forced type holds what no type's name does.
    """
    if column.native is None:
        return _NATIVES[column.kind]
    if not column.native.strip() or any(part in column.native for part in (";", "--", "/*", "\0", "\n")):
        raise Permanent(f'column "{column.name}": {column.native!r} is not the name of a type')
    return column.native.strip()


def widening(quoted_column: str, source: Kind, target: Kind) -> str | None:
    """Returns the expression that turns a column's values into the wider kind, or None where there is no way."""
    template = _WIDEN.get((source, target))
    return None if template is None else template.replace('"c"', quoted_column)
