"""ClickHouse's types and our kinds: what a live column is, what a new one becomes, how one widens into another.

The server rounds, wraps and nulls without a word: 256 into a `UInt8` is 0, `nope` into a `Nullable(UUID)` is null, `1.999` into a
`Decimal(12, 2)` is 1.99. So a column has limits wherever its type is narrower than its kind, and a type whose reading of text is
not known to be exact takes nothing: its values go to `_unmapped_data`.

JSON is text here. The server's own `JSON` type drops nulls and empty objects and rounds numbers, so it takes nothing. A column of
ours that holds JSON says so in its comment, because its type is that of any text.

Pure. https://clickhouse.com/docs/sql-reference/data-types
"""

from __future__ import annotations

import re
from typing import NamedTuple

from loader.contract.warehouse import Column, Kind, Limits
from loader.sql.text import OWNER, forced_native, owner_of
from loader.types import literals

NATIVES = {
    Kind.BOOLEAN: "Bool",
    Kind.BIGINT: "Int64",
    Kind.DOUBLE: "Float64",
    Kind.DECIMAL: "Decimal(38, 0)",
    Kind.TIMESTAMP: "DateTime64(6, 'UTC')",
    Kind.DATE: "Date32",
    Kind.TEXT: "String",
    Kind.JSON: "String",
    Kind.OTHER: "String",
}
IS_JSON = "penstock json"
"""Comments of our JSON columns begin so."""

_PLAIN = re.compile(
    r"(?:Bool|String|FixedString|U?Int\d+|Float\d+|Decimal\d*|Date|Date32|DateTime|DateTime64|Enum8|Enum16|UUID|IPv[46])\b"
)
_WRAPPED = re.compile(r"(?:Nullable|LowCardinality)\((.*)\)", re.DOTALL)
_DECIMAL = re.compile(r"Decimal(?:32|64|128|256)?\((\d+), ?(\d+)\)")
_INTEGER = re.compile(r"(U?)Int(8|16|32|64|128|256)")
_DATE_TIME = re.compile(r"DateTime(?:\('[^']*'\))?")
_DATE_TIME64 = re.compile(r"DateTime64\((\d)(?:, ?'[^']*')?\)")
_FIXED = re.compile(r"FixedString\((\d+)\)")
_ENUM = re.compile(r"Enum(?:8|16)\((.*)\)", re.DOTALL)
_LABEL = re.compile(r"'((?:[^'\\]|\\.)*)' = -?\d+")
_ESCAPED = re.compile(r"\\(.)")
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_GROUP = "[0-9a-fA-F]{1,4}"

_DECIMAL_DIGITS = 38
_HIGHEST_DECIMAL = 10**_DECIMAL_DIGITS - 1
_DAY = 86_400_000_000
_DAYS_OF_OLD = (-25_567, 120_529)
"""1900-01-01 and 2299-12-31, all that servers before 26.2 or so keep."""
_LAST_OF_NANOSECONDS = (2**63 - 1) // 1000

_OTHERS = {
    "Float32": (Kind.DOUBLE, Limits(single=True)),
    "UUID": (Kind.OTHER, Limits(accepted=r"^[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")),
    "IPv4": (Kind.OTHER, Limits(accepted=rf"^{_OCTET}(?:\.{_OCTET}){{3}}$")),
    "IPv6": (
        Kind.OTHER,
        Limits(
            accepted=rf"^(?:(?:{_GROUP}:){{7}}{_GROUP}|(?:{_GROUP}(?::{_GROUP}){{0,2}})?::(?:{_GROUP}(?::{_GROUP}){{0,2}})?)$"
        ),
    ),
    "Array(String)": (Kind.OTHER, Limits(accepted=r'^\[(?:"[^"\\]*"(?:,"[^"\\]*")*)?\]$')),
    "Array(Int64)": (Kind.OTHER, Limits(accepted=r"^\[(?:(?:0|-?[1-9][0-9]{0,17})(?:,(?:0|-?[1-9][0-9]{0,17}))*)?\]$")),
}
ARRAYS = frozenset(name for name in _OTHERS if name.startswith("Array("))
"""Types whose values arrive as JSON and are sent as lists."""

_SAFE = {
    (Kind.BOOLEAN, Kind.BIGINT),
    (Kind.BOOLEAN, Kind.DOUBLE),
    (Kind.BOOLEAN, Kind.TEXT),
    (Kind.BIGINT, Kind.DECIMAL),
    (Kind.BIGINT, Kind.TEXT),
    (Kind.DECIMAL, Kind.TEXT),
    (Kind.DATE, Kind.TEXT),
    (Kind.DATE, Kind.TIMESTAMP),
    (Kind.JSON, Kind.TEXT),
    (Kind.BIGINT, Kind.BIGINT),
    (Kind.DECIMAL, Kind.DECIMAL),
}
WIDEN = frozenset(_SAFE)
"""Pairs (from, to) that MODIFY COLUMN converts without losing anything, whatever another writer inserts meanwhile. It has no USING, so
what the server would write otherwise than we do (times and doubles as text) stays as it is, as does what it could round."""


class Era(NamedTuple):
    """Days since 1970 that dates of this server can be."""

    first: int
    last: int


WIDE = Era(-719_162, 2_932_896)
"""All that our dates can be: 0001-01-01 to 9999-12-31."""
OLD = Era(*_DAYS_OF_OLD)


def bare(native: str) -> str:
    """Returns a type without `Nullable` and `LowCardinality`, which are how it is stored and not what it holds."""
    while match := _WRAPPED.fullmatch(native):
        native = match[1]
    return native


def could_be_null(native: str) -> bool:
    """Whether a type takes no nulls, and would within `Nullable`. Lists, maps and tuples have their empty forms instead."""
    return "Nullable(" not in native and _PLAIN.match(bare(native)) is not None


def incoming(native: str) -> str:
    """Returns the type that values for a column are read as: the column's, with nulls, so that a default can take their place."""
    if native.startswith(("Nullable(", "LowCardinality(Nullable(", "Array(")):
        return native
    if native.startswith("LowCardinality("):
        return f"LowCardinality(Nullable({bare(native)}))"
    return f"Nullable({native})"


def kind_and_limits(native: str, era: Era) -> tuple[Kind, Limits | None]:
    """Returns what a live column of a type holds."""
    type_ = bare(native)
    if type_ in _OTHERS:
        return _OTHERS[type_]
    simple = {"Bool": Kind.BOOLEAN, "String": Kind.TEXT, "Float64": Kind.DOUBLE}.get(type_)
    if simple is not None:
        return simple, None
    for read in (_integer, _decimal, _text):
        found = read(type_)
        if found is not None:
            return found
    return _time(type_, era) or (Kind.OTHER, Limits(accepted=literals.NOTHING))


def column_of(name: str, native: str, comment: str, default_kind: str, era: Era) -> Column:
    """Returns a live column from what the server says of it."""
    kind, limits = kind_and_limits(native, era)
    if kind is Kind.TEXT and limits is None and comment.startswith(IS_JSON):
        kind = Kind.JSON
    owner = owner_of(comment.removeprefix(IS_JSON).removeprefix("; "))
    return Column(name=name, kind=kind, native=native, limits=limits, writable=default_kind in ("", "DEFAULT"), owner=owner)


def comment_of(column: Column) -> str:
    """Returns the comment of a new column: whether it holds JSON, and which source path it was made for."""
    parts = [IS_JSON] if column.kind is Kind.JSON and column.native is None else []
    parts += [OWNER + column.owner] if column.owner is not None else []
    return "; ".join(parts)


def native_of(column: Column) -> str:
    """Returns the type of a new column: the one that was forced, else ours for the kind.

    Raises:
        Permanent: what was forced holds what no type's name does.
    """
    return forced_native(column) or NATIVES[column.kind]


def version_of(cursor: Column | None, quoted: str) -> str | None:
    """Returns the expression that makes a number of a cursor, in the same order and 0 where it is null; None where there is none.

    A ReplacingMergeTree keeps the row with the highest number of those that share a key, and the last one among equals. It takes no
    column with nulls, so the number is a column of its own.
    """
    if cursor is None:
        return "toUInt64(0)"
    limit = 2**63
    match cursor.kind:
        case Kind.TIMESTAMP:
            integer = f"toUnixTimestamp64Micro(toDateTime64({quoted}, 6, 'UTC'))"
        case Kind.DATE:
            integer = f"toInt64(toInt32({quoted}))"
        case Kind.BIGINT | Kind.BOOLEAN:
            integer = f"toInt64({quoted})"
        case Kind.DOUBLE:
            bits = f"reinterpretAsUInt64(toFloat64({quoted}) + 0)"
            return f"ifNull(if({quoted} < 0, bitNot({bits}), bitXor({bits}, {limit})), 0)"
        case _:
            return None
    return f"ifNull(bitXor(reinterpretAsUInt64({integer}), {limit}), 0)"


def _integer(type_: str) -> tuple[Kind, Limits | None] | None:
    match = _INTEGER.fullmatch(type_)
    if match is None:
        return None
    bits, unsigned = int(match[2]), bool(match[1])
    lowest = 0 if unsigned else -(2 ** (bits - 1))
    highest = 2**bits - 1 if unsigned else 2 ** (bits - 1) - 1
    if type_ == "Int64":
        return Kind.BIGINT, None
    if highest < 2**63:
        return Kind.BIGINT, Limits(lowest=lowest, highest=highest)
    return Kind.DECIMAL, Limits(lowest=max(lowest, -_HIGHEST_DECIMAL), highest=min(highest, _HIGHEST_DECIMAL))


def _decimal(type_: str) -> tuple[Kind, Limits | None] | None:
    match = _DECIMAL.fullmatch(type_)
    if match is None:
        return None
    precision, scale = int(match[1]), int(match[2])
    if scale:
        return Kind.OTHER, Limits(digits=(precision, scale))
    highest = 10**precision - 1
    return Kind.DECIMAL, None if precision >= _DECIMAL_DIGITS else Limits(lowest=-highest, highest=highest)


def _text(type_: str) -> tuple[Kind, Limits | None] | None:
    if fixed := _FIXED.fullmatch(type_):
        # shorter text would be filled up with NULs
        return Kind.TEXT, Limits(accepted=f"^[\x01-\x7f]{{{fixed[1]}}}$" if int(fixed[1]) <= 1000 else literals.NOTHING)
    if enum := _ENUM.fullmatch(type_):
        return Kind.OTHER, Limits(one_of=frozenset(_ESCAPED.sub(r"\1", label) for label in _LABEL.findall(enum[1])))
    return None


def _time(type_: str, era: Era) -> tuple[Kind, Limits | None] | None:
    if type_ == "Date":
        return Kind.DATE, Limits(lowest=0, highest=2**16 - 1)
    if type_ == "Date32":
        return Kind.DATE, None if era == WIDE else Limits(lowest=era.first, highest=era.last)
    if _DATE_TIME.fullmatch(type_):
        return Kind.TIMESTAMP, Limits(lowest=0, highest=(2**32 - 1) * 10**6, seconds_digits=0)
    match = _DATE_TIME64.fullmatch(type_)
    if match is None:
        return None
    digits = int(match[1])
    lowest, highest = era.first * _DAY, (era.last + 1) * _DAY - 1
    if digits > 6:
        # 64 bits of finer units end earlier
        bound = (2**63 - 1) // 10 ** (digits - 6)
        return Kind.TIMESTAMP, Limits(lowest=max(lowest, -bound), highest=min(highest, bound))
    narrow = None if era == WIDE else (lowest, highest)
    if narrow is None and digits == 6:
        return Kind.TIMESTAMP, None
    return Kind.TIMESTAMP, Limits(
        lowest=narrow[0] if narrow else None,
        highest=narrow[1] if narrow else None,
        seconds_digits=digits if digits < 6 else None,
    )
