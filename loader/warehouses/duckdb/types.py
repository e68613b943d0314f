"""DuckDB's types and our kinds: what a live column is, what a new one becomes, how one widens into another.

Pure. As for Postgres, a decimal with a scale is `OTHER`: its values arrive as text and lose nothing.
"""

from __future__ import annotations

import re
from typing import Literal

from loader.contract.warehouse import Column, Kind, Limits
from loader.sql.text import forced_native
from loader.types import literals

_KINDS = {
    "BOOLEAN": Kind.BOOLEAN,
    "BIGINT": Kind.BIGINT, "INTEGER": Kind.BIGINT, "SMALLINT": Kind.BIGINT, "TINYINT": Kind.BIGINT,
    "UINTEGER": Kind.BIGINT, "USMALLINT": Kind.BIGINT, "UTINYINT": Kind.BIGINT,
    "HUGEINT": Kind.DECIMAL, "UBIGINT": Kind.DECIMAL,
    "DOUBLE": Kind.DOUBLE, "FLOAT": Kind.DOUBLE,
    "TIMESTAMP WITH TIME ZONE": Kind.TIMESTAMP, "TIMESTAMP": Kind.TIMESTAMP, "TIMESTAMP_NS": Kind.TIMESTAMP,
    "TIMESTAMP_S": Kind.TIMESTAMP, "TIMESTAMP_MS": Kind.TIMESTAMP,
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

_DECIMAL = re.compile(r"DECIMAL\((?P<precision>\d+),(?P<scale>\d+)\)")
_DECIMAL_DIGITS = 38
_LABEL = re.compile(r"'((?:[^']|'')*)'")
_INTEGERS = {
    "INTEGER": (-(2**31), 2**31 - 1), "SMALLINT": (-(2**15), 2**15 - 1), "TINYINT": (-(2**7), 2**7 - 1),
    "UBIGINT": (0, 2**64 - 1), "UINTEGER": (0, 2**32 - 1), "USMALLINT": (0, 2**16 - 1), "UTINYINT": (0, 2**8 - 1),
}  # fmt: skip
_OTHERS = {
    "FLOAT": Limits(single=True),
    "TIMESTAMP_NS": Limits(lowest=-(2**63) // 1000 + 1, highest=(2**63 - 1) // 1000),
    "TIMESTAMP_S": Limits(seconds_digits=0),
    "TIMESTAMP_MS": Limits(seconds_digits=3),
    "TIME": Limits(accepted=literals.clock(6)),
    "TIME_NS": Limits(accepted=literals.clock(9)),
    "TIME WITH TIME ZONE": Limits(accepted=literals.clock(6, zone=True)),
    "UUID": Limits(accepted=literals.UUID),
    "BIT": Limits(accepted=literals.BITS),
    "UHUGEINT": Limits(accepted=literals.UNSIGNED),
    "BIGNUM": Limits(accepted=literals.WHOLE),
    "INTERVAL": Limits(accepted=literals.interval(6)),
    "BLOB": Limits(accepted=r"^(?:(?:\\x[0-9a-fA-F]{2})*|[^\\]*)$"),
}
_HARMLESS = frozenset(("GEOMETRY", "VARIANT"))
"""Types in which a word is a word."""
_LIST = re.compile(r"(?:\[\d*\])+$")
_WORD = re.compile(r"\b[A-Z_]+\b")
_LISTS = {
    "DATE": literals.DATES_INSIDE,
    "TIME": literals.CLOCKS_INSIDE,
    "TIMETZ": literals.ZONED_CLOCKS_INSIDE,
    **dict.fromkeys(("TIMESTAMP", "TIMESTAMP_NS"), literals.TIMES_INSIDE),
    "TIMESTAMPTZ": literals.INSTANTS_INSIDE,
}
_WHOLE = frozenset((*_INTEGERS, "BIGINT", "HUGEINT", "UHUGEINT", "BIGNUM"))
_NUMBERS = _WHOLE | {"DOUBLE", "FLOAT", "JSON", "DECIMAL"}
_TIMELESS = _NUMBERS | {"VARCHAR", "BOOLEAN", "UUID", "BIT", "ENUM", "STRUCT", "MAP", "UNION"}
_SECOND_DIGITS = {"TIMESTAMP_S": 0, "TIMESTAMP_MS": 3}
_OTHERWISE_SPELLED = r"(?:^|[^0-9.:-])0[0-9]+(?:[^0-9:-]|$)|[^0-9]-0[0-9]|(?:^|[^0-9eE])\+"
"""Zeros before a number, and plus signs."""

_DIGITS_OF_WHOLE = '"c"::HUGEINT::VARCHAR'
# DuckDB writes doubles with an exponent from 1e16 up and 1e-4 down: the digits are moved behind or before the point by hand
_DIGITS = "replace(regexp_extract(\"c\"::VARCHAR, '^-?([0-9.]+)e', 1), '.', '')"
_EXPONENT = "regexp_extract(\"c\"::VARCHAR, 'e([+-]?[0-9]+)$', 1)::INTEGER"
_PLAIN = (
    f'CASE WHEN abs("c") >= 9007199254740992 THEN {_DIGITS_OF_WHOLE} '
    "WHEN NOT contains(\"c\"::VARCHAR, 'e') THEN regexp_replace(\"c\"::VARCHAR, '\\.0$', '') "
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
    (Kind.DOUBLE, Kind.JSON): f"({_PLAIN})::JSON",
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

_IN_CALENDAR = "\"c\" BETWEEN '0001-01-01' AND '9999-12-31 23:59:59.999999'"
_WHOLE_DOUBLES = 'abs("c") < 1e37'
_SURVIVES = {
    (Kind.BIGINT, Kind.DOUBLE): '"c"::DOUBLE::HUGEINT = "c"::HUGEINT',
    (Kind.DOUBLE, Kind.TEXT): _WHOLE_DOUBLES,
    (Kind.DOUBLE, Kind.JSON): _WHOLE_DOUBLES,
    **{(source, target): _IN_CALENDAR for source in (Kind.DATE, Kind.TIMESTAMP) for target in (Kind.TEXT, Kind.JSON)},
    (Kind.DATE, Kind.TIMESTAMP): _IN_CALENDAR,
}
"""Conditions under which a stored value is the same after widening; always, of the others."""

_NARROW = frozenset((kind, kind) for kind in (Kind.BIGINT, Kind.DECIMAL, Kind.DOUBLE, Kind.TIMESTAMP))
"""What a column of a narrower type becomes when it is to hold all of its kind: an `INTEGER` becomes a `BIGINT`."""

WIDEN = frozenset(_WIDEN) | _NARROW
"""Pairs (from, to) an existing column can change between."""


def kind_of(native: str) -> Kind:
    """Returns the kind of a type as `duckdb_columns()` writes it."""
    decimal = _DECIMAL.fullmatch(native)
    if decimal and decimal["scale"] == "0":
        return Kind.DECIMAL
    return _KINDS.get(native, Kind.OTHER)


def limits_of(native: str) -> Limits | None:
    """Returns what a type holds of its kind; None where that is all of it, or only DuckDB can tell."""
    if native in _INTEGERS:
        lowest, highest = _INTEGERS[native]
        return Limits(lowest=lowest, highest=highest)
    if native.startswith("ENUM("):
        return Limits(one_of=frozenset(label.replace("''", "'") for label in _LABEL.findall(native)))
    decimal = _DECIMAL.fullmatch(native)
    if not decimal:
        return _OTHERS[native] if native in _OTHERS else _limits_of_nested(native)
    precision, scale = int(decimal["precision"]), int(decimal["scale"])
    if scale:
        return Limits(digits=(precision, scale))
    return Limits(lowest=1 - 10**precision, highest=10**precision - 1) if precision < _DECIMAL_DIGITS else None


def _limits_of_nested(native: str) -> Limits | None:
    """Returns what lists and structures hold: DuckDB rounds, cuts and computes inside of them without a word."""
    if native in _KINDS or native in _HARMLESS:
        return None
    leaf = _LIST.sub("", native).replace(" WITH TIME ZONE", "TZ")
    if leaf in _LISTS:
        return Limits(accepted=_LISTS[leaf])
    inside = set(_WORD.findall(leaf))
    if inside & {"INTERVAL", "BLOB", "TIMETZ"}:
        return Limits(accepted=literals.NOTHING)
    refused = [] if inside == {"JSON"} else [r'\\[^\\"]']  # of what is escaped it knows quotes and backslashes only
    if not inside or not inside <= _TIMELESS:
        digits = min((_SECOND_DIGITS.get(each, 6) for each in inside), default=6)
        refused += [literals.COMPUTED, rf"\.[0-9]{{{digits}}}[0-9]*[1-9]", r":[0-9.]+ ?[+-]", "(?i)[0-9] ?(?:[a-su-y]|z[a-z])"]
    if inside & {"DATE", "TIME"}:
        refused.append("[0-9][Tt ][0-9]")  # they take a part of what is both
    if inside & _WHOLE:
        refused += [r"[0-9]\.|[0-9][eE]|\.[0-9]|[0-9]_", r"\b0[xXbB]"]
    if "DECIMAL" in inside:
        refused.append(r"\.[0-9]|[0-9][eE]")
    if inside & _NUMBERS:
        refused.append(_OTHERWISE_SPELLED)
    if "BOOLEAN" in inside:
        refused.append(r"(?i)\b(?:yes|no|y|n|on|off)\b")
    if "BIT" in inside:
        refused.append("[xX]")
    bytes_: Literal[4, 8] | None = 4 if "FLOAT" in inside else 8 if inside & {"DOUBLE", "JSON"} else None
    return Limits(refused="|".join(f"(?:{each})" for each in refused) or None, float_bytes=bytes_)


def native_of(column: Column) -> str:
    """Returns the SQL type of a new column: the one the user forced, else ours for the kind.

    Raises:
        Permanent: as `forced_native`.
    """
    return forced_native(column) or _NATIVES[column.kind]


def widening(quoted_column: str, source: Kind, target: Kind) -> str | None:
    """Returns the expression that turns a column's values into the wider kind, or None where there is no way."""
    if (source, target) in _NARROW:
        # 0.1 of four bytes is 0.10000000149 of eight, if not by its text
        return f"{quoted_column}::VARCHAR::DOUBLE" if source is Kind.DOUBLE else quoted_column
    template = _WIDEN.get((source, target))
    return None if template is None else template.replace('"c"', quoted_column)


def survives(quoted_column: str, source: Kind, target: Kind, native: str = "") -> str | None:
    """Returns the condition under which a stored value is the same in the wider kind, None where each is."""
    if native == "BLOB":
        return f"{quoted_column} IS NULL"  # its text has escapes
    template = _SURVIVES.get((source, target))
    return None if template is None else template.replace('"c"', quoted_column)
