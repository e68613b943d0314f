"""DuckDB's types and our kinds: what a live column is, what a new one becomes, how one widens into another. Pure."""

from __future__ import annotations

import re
from typing import Literal

from loader.contract.warehouse import Kind, Limits
from loader.sql.types import Types, decimal_limits, integer_limits
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

_DECIMAL = re.compile(r"DECIMAL\((?P<precision>\d+),(?P<scale>\d+)\)")
_LABEL = re.compile(r"'((?:[^']|'')*)'")
_BITS = {"BIGINT": 64, "INTEGER": 32, "SMALLINT": 16, "TINYINT": 8}
_INTEGERS = {
    **{name: integer_limits(bits) for name, bits in _BITS.items() if name != "BIGINT"},
    **{f"U{name}": integer_limits(bits, signed=False) for name, bits in _BITS.items()},
}
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
TYPES = Types(
    natives={
        Kind.BOOLEAN: "BOOLEAN",
        Kind.BIGINT: "BIGINT",
        Kind.DOUBLE: "DOUBLE",
        Kind.DECIMAL: "DECIMAL(38,0)",
        Kind.TIMESTAMP: "TIMESTAMP WITH TIME ZONE",
        Kind.DATE: "DATE",
        Kind.TEXT: "VARCHAR",
        Kind.JSON: "JSON",
        Kind.OTHER: "VARCHAR",
    },
    to_json="to_json({})",
    to_text={Kind.DATE: "strftime(\"c\", '%Y-%m-%d')", Kind.TIMESTAMP: _ISO, Kind.DOUBLE: _PLAIN},
    widen={
        (Kind.DOUBLE, Kind.JSON): f"({_PLAIN})::JSON",
        (Kind.DECIMAL, Kind.JSON): '"c"::VARCHAR::JSON',
    },
    survives={(Kind.BIGINT, Kind.DOUBLE): '"c"::DOUBLE::HUGEINT = "c"::HUGEINT'},
    not_their_text=frozenset(("BLOB",)),  # its text has escapes
)


def kind_of(native: str) -> Kind:
    """Returns the kind of a type as `duckdb_columns()` writes it."""
    decimal = _DECIMAL.fullmatch(native)
    if decimal and decimal["scale"] == "0":
        return Kind.DECIMAL
    return _KINDS.get(native, Kind.OTHER)


def limits_of(native: str) -> Limits | None:
    """Returns what a type holds of its kind; None where that is all of it, or only DuckDB can tell."""
    if native in _INTEGERS:
        return _INTEGERS[native]
    if native.startswith("ENUM("):
        return Limits(one_of=frozenset(label.replace("''", "'") for label in _LABEL.findall(native)))
    decimal = _DECIMAL.fullmatch(native)
    if not decimal:
        return _OTHERS[native] if native in _OTHERS else _limits_of_nested(native)
    return decimal_limits(int(decimal["precision"]), int(decimal["scale"]))


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
