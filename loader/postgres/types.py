"""Postgres types and our kinds: what a live column is, what a new one becomes, how one widens into another.

Pure. `numeric` with a scale, or with none declared, is `OTHER` on purpose: our decimal is decimal128(38, 0), and a fraction
handed over as text loses nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from loader.contract import Column, Kind
from shared.errors import Permanent

_KINDS = {
    "boolean": Kind.BOOLEAN,
    "bigint": Kind.BIGINT, "integer": Kind.BIGINT, "smallint": Kind.BIGINT,
    "double precision": Kind.DOUBLE, "real": Kind.DOUBLE,
    "timestamp with time zone": Kind.TIMESTAMP, "timestamp without time zone": Kind.TIMESTAMP,
    "date": Kind.DATE,
    "text": Kind.TEXT, "character varying": Kind.TEXT, "character": Kind.TEXT,
    "jsonb": Kind.JSON, "json": Kind.JSON,
}  # fmt: skip

_NATIVES = {
    Kind.BOOLEAN: "boolean",
    Kind.BIGINT: "bigint",
    Kind.DOUBLE: "double precision",
    Kind.DECIMAL: "numeric(38,0)",
    Kind.TIMESTAMP: "timestamp with time zone",
    Kind.DATE: "date",
    Kind.TEXT: "text",
    Kind.JSON: "jsonb",
    Kind.OTHER: "text",
}

_ARGUMENTS = re.compile(r"\((?P<inside>[\d, -]*)\)")
_WHOLE_NUMERIC = re.compile(r"numeric\(\d+,0\)")

_UTC = "\"c\" AT TIME ZONE 'UTC'"
# milliseconds as everywhere in our text of times; microseconds only where dropping them would lose something
_ISO = (
    f'CASE WHEN extract(microseconds FROM "c")::bigint % 1000 = 0 THEN to_char({_UTC}, \'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"\') '
    f'ELSE to_char({_UTC}, \'YYYY-MM-DD"T"HH24:MI:SS.US"Z"\') END'
)
_WIDEN = {
    (Kind.BOOLEAN, Kind.BIGINT): '"c"::integer::bigint',
    (Kind.BOOLEAN, Kind.DOUBLE): '"c"::integer::double precision',
    (Kind.BOOLEAN, Kind.DECIMAL): '"c"::integer::numeric',
    (Kind.BOOLEAN, Kind.TEXT): '"c"::text',
    (Kind.BOOLEAN, Kind.JSON): 'to_jsonb("c")',
    (Kind.BIGINT, Kind.DOUBLE): '"c"::double precision',
    (Kind.BIGINT, Kind.DECIMAL): '"c"::numeric',
    (Kind.BIGINT, Kind.TEXT): '"c"::text',
    (Kind.BIGINT, Kind.JSON): 'to_jsonb("c")',
    # through the shortest text that reads back as the same double; numeric then writes it without an exponent
    (Kind.DOUBLE, Kind.TEXT): '"c"::text::numeric::text',
    (Kind.DOUBLE, Kind.JSON): 'to_jsonb("c")',
    (Kind.DECIMAL, Kind.TEXT): '"c"::text',
    (Kind.DECIMAL, Kind.JSON): 'to_jsonb("c")',
    (Kind.DATE, Kind.TIMESTAMP): "\"c\"::timestamp AT TIME ZONE 'UTC'",
    (Kind.DATE, Kind.TEXT): "to_char(\"c\", 'YYYY-MM-DD')",
    (Kind.DATE, Kind.JSON): "to_jsonb(to_char(\"c\", 'YYYY-MM-DD'))",
    (Kind.TIMESTAMP, Kind.TEXT): _ISO,
    (Kind.TIMESTAMP, Kind.JSON): f"to_jsonb({_ISO})",
    (Kind.TEXT, Kind.JSON): 'to_jsonb("c")',
    (Kind.JSON, Kind.TEXT): '"c"::text',
    (Kind.OTHER, Kind.TEXT): '"c"::text',
}

WIDEN = frozenset(_WIDEN)
"""Pairs (from, to) an existing column can change between."""


@dataclass(frozen=True, slots=True)
class LiveColumn:
    """A column as the catalogue has it; `native` is `format_type`'s text, such as `numeric(12,2)`."""

    name: str
    native: str

    @property
    def kind(self) -> Kind:
        """The logical type; `OTHER` for what we hand over as text."""
        return kind_of(self.native)

    def as_column(self) -> Column:
        """Returns it as the core knows columns."""
        return Column(self.name, self.kind, self.native)


def kind_of(native: str) -> Kind:
    """Returns the kind of a type as `format_type` writes it."""
    if _WHOLE_NUMERIC.fullmatch(native):
        return Kind.DECIMAL
    return _KINDS.get(_ARGUMENTS.sub("", native), Kind.OTHER)


def length_of(native: str) -> int | None:
    """Returns n of `character varying(n)` and `character(n)`."""
    if not native.startswith("character"):
        return None
    match = _ARGUMENTS.search(native)
    return int(match["inside"]) if match else None


def native_of(column: Column) -> str:
    """Returns the SQL type of a new column: the one the user forced, else ours for the kind.

    A forced type goes into DDL as it is; `patch.py` lets the server parse it as a type first.

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
