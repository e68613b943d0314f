"""Postgres types and our kinds: what a live column is, what a new one becomes, how one widens into another.

Pure. `numeric` with a scale, or with none declared, is `OTHER` on purpose: our decimal is decimal128(38, 0), and a fraction
handed over as text loses nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loader.contract import Column, Kind, Limits
from loader.sql import forced_native, literal

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

_DECIMAL_DIGITS = 38
_SECOND_DIGITS = 6
_ARGUMENTS = re.compile(r"\((?P<inside>[\d, -]*)\)")
_WITHOUT_LENGTH = {"character": "bpchar", "bit": '"bit"'}
"""Types whose bare name means a length of one."""
_INTEGERS = {"smallint": 2**15, "integer": 2**31}
_UUID = r"^\{?(?:[0-9a-fA-F]{4}-?){7}[0-9a-fA-F]{4}\}?$"
_NUMBER = r"^\s*[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\s*$"
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

_NARROW = frozenset((kind, kind) for kind in (Kind.BIGINT, Kind.DECIMAL, Kind.DOUBLE, Kind.TEXT, Kind.TIMESTAMP))
"""What a column of a narrower type becomes when it is to hold all of its kind: an `integer` becomes a `bigint`."""

WIDEN = frozenset(_WIDEN) | _NARROW
"""Pairs (from, to) an existing column can change between."""


@dataclass(frozen=True, slots=True)
class LiveColumn:
    """A column as the catalogue has it; `native` is `format_type`'s text, such as `numeric(12,2)`.

    `base`: the type below a domain, else None. `default`: the expression of it. `labels`: of an enum.
    """

    name: str
    native: str
    base: str | None = None
    default: str | None = None
    writable: bool = True
    labels: tuple[str, ...] = ()

    @property
    def kind(self) -> Kind:
        """The logical type; `OTHER` for what we hand over as text."""
        return kind_of(self.base or self.native)

    @property
    def cast(self) -> str:
        """What text is cast to on its way into the column: its type without a length.

        A cast to `varchar(3)` cuts what is longer; a cast to `varchar`, and the assignment to the column after it, does not.
        """
        plain = _ARGUMENTS.sub("", self.base or self.native)
        bare = plain.removesuffix("[]")
        return plain if bare not in _WITHOUT_LENGTH else _WITHOUT_LENGTH[bare] + plain[len(bare) :]

    def as_column(self) -> Column:
        """Returns it as the core knows columns."""
        return Column(self.name, self.kind, self.native, limits_of(self.base or self.native, self.labels), self.writable)


def live_column(row: Mapping[str, Any]) -> LiveColumn:
    """Returns the column in a row of `statements.COLUMNS`."""
    default = row["default"]
    if row["sequence"] is not None:
        default = f"nextval({literal(row['sequence'])}::regclass)"
    return LiveColumn(row["column"], row["native"], row["base"], default, row["writable"], tuple(row["labels"] or ()))


def kind_of(native: str) -> Kind:
    """Returns the kind of a type as `format_type` writes it."""
    if _WHOLE_NUMERIC.fullmatch(native):
        return Kind.DECIMAL
    return _KINDS.get(_ARGUMENTS.sub("", native), Kind.OTHER)


def limits_of(native: str, labels: Sequence[str] = ()) -> Limits | None:
    """Returns what a type holds of its kind; None where that is all of it, or only the server can tell."""
    if native.endswith("[]"):
        return None
    match = _ARGUMENTS.search(native)
    numbers = [int(number) for number in match["inside"].split(",")] if match and match["inside"] else []
    bare = _ARGUMENTS.sub("", native)
    if bare in _INTEGERS:
        return Limits(lowest=-_INTEGERS[bare], highest=_INTEGERS[bare] - 1)
    if bare == "real":
        return Limits(single=True)
    if bare == "numeric":
        return _limits_of_numeric(numbers)
    if bare.startswith("timestamp") and numbers:
        return Limits(seconds_digits=numbers[0]) if numbers[0] < _SECOND_DIGITS else None
    if bare.startswith("time ") or bare == "interval":
        digits = numbers[0] if numbers else _SECOND_DIGITS
        return Limits(refused=rf"\.[0-9]{{{digits}}}[0-9]*[1-9]")
    if bare == "money":
        return Limits(refused=r"\.[0-9]{2}[0-9]*[1-9]")
    if bare == "uuid":
        return Limits(accepted=_UUID)
    if labels:
        return Limits(one_of=frozenset(labels))
    length = length_of(native)
    return None if length is None else Limits(characters=length)


def _limits_of_numeric(numbers: Sequence[int]) -> Limits | None:
    if not numbers:
        return Limits(accepted=_NUMBER)
    precision, scale = numbers
    if scale:
        return Limits(digits=(precision, scale))
    return Limits(lowest=1 - 10**precision, highest=10**precision - 1) if precision < _DECIMAL_DIGITS else None


def length_of(native: str) -> int | None:
    """Returns n of `character varying(n)` and `character(n)`."""
    if not native.startswith("character"):
        return None
    match = _ARGUMENTS.search(native)
    return int(match["inside"]) if match else None


def native_of(column: Column) -> str:
    """Returns the SQL type of a new column: the one the user forced, else ours for the kind.

    Raises:
        Permanent: as `forced_native`.
    """
    return forced_native(column) or _NATIVES[column.kind]


def widening(quoted_column: str, source: Kind, target: Kind) -> str | None:
    """Returns the expression that turns a column's values into the wider kind, or None where there is no way."""
    if (source, target) in _NARROW:
        return quoted_column
    template = _WIDEN.get((source, target))
    return None if template is None else template.replace('"c"', quoted_column)
