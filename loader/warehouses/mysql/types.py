"""MySQL's and MariaDB's types and our kinds: what a live column is, what a new one becomes, how one widens into another.

Pure. A decimal with a scale is `OTHER`, as for Postgres. JSON is text with a check, which is what MariaDB's `json` is; MySQL's own
`json` keeps numbers as doubles, and would round some without a word.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from loader.contract.warehouse import Kind, Limits
from loader.sql.types import Types, decimal_limits, integer_limits
from loader.types import literals

_TEXTS = {"tinytext": 2**8 - 1, "text": 2**16 - 1, "mediumtext": 2**24 - 1}
_BLOBS = {"tinyblob": 2**8 - 1, "blob": 2**16 - 1, "mediumblob": 2**24 - 1}
_BITS = {"tinyint": 8, "smallint": 16, "mediumint": 24, "int": 32, "bigint": 64}
_CHARACTER_BYTES = 4
_SECOND_DIGITS = 6
_MICROSECONDS = 10**6
_TIMESTAMPS = (_MICROSECONDS, (2**31 - 1) * _MICROSECONDS)
"""What TIMESTAMP holds: four bytes of seconds."""
_YEARS = (1901, 2155)
_BLANK_AT_END = " $"
_UUID = r"^[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$"
_NETWORK = {"inet4": r"^[0-9]{1,3}(?:\.[0-9]{1,3}){3}$", "inet6": r"^[0-9a-fA-F:.]*:[0-9a-fA-F:.]*$"}
_LABEL = re.compile(r"'((?:[^']|'')*)'")
_RARE = "[\U00010000-\U0010ffff]"
_BEYOND_LATIN = {"utf8": _RARE, "utf8mb3": _RARE, "ucs2": _RARE, "ascii": "[^\x00-\x7f]", "latin1": "[^\x00-\x7f\xa0-\xff]"}
"""What a character set other than utf8mb4 does not have."""
_UNICODE = frozenset(("utf8mb4", "utf16", "utf16le", "utf32"))
_UNSIGNED_JSON = r"(?:^|[\[,:\s])-?[0-9]{19}"
"""Whole numbers that may need more than 64 bits."""

LONG_TEXT = "longtext"
KNOWN = 1000
"""Types whose parts are remembered: every load reads those of its tables."""
NUMBERS_AND_TIMES = {
    Kind.BOOLEAN: "tinyint(1)",
    Kind.BIGINT: "bigint",
    Kind.DOUBLE: "double",
    Kind.DECIMAL: "decimal(38,0)",
    Kind.TIMESTAMP: "datetime(6)",
    Kind.DATE: "date",
}
"""Types of new columns; the others are text."""


@lru_cache(maxsize=KNOWN)
def kind_of(native: str, *, json: bool = False) -> Kind:
    """Returns the kind of a `COLUMN_TYPE`; `json`: it is text with a check that it is JSON."""
    bare, numbers = _parsed(native)
    if json or bare == "json":
        return Kind.JSON
    if bare == "tinyint" and numbers == [1] and "unsigned" not in native:
        return Kind.BOOLEAN
    if bare == "bigint" and "unsigned" in native:
        return Kind.DECIMAL
    if bare in _BITS or bare == "year" or (bare == "bit" and numbers[0] < 64):
        return Kind.BIGINT
    if bare in ("float", "double") and not numbers:
        return Kind.DOUBLE
    if bare == "decimal" and numbers[-1] == 0:
        return Kind.DECIMAL
    if bare in ("datetime", "timestamp"):
        return Kind.TIMESTAMP
    if bare == "date":
        return Kind.DATE
    return Kind.TEXT if bare in ("char", "varchar", "enum", "set", LONG_TEXT, *_TEXTS) else Kind.OTHER


@lru_cache(maxsize=KNOWN)
def limits_of(native: str, charset: str | None = None, *, json: bool = False) -> Limits | None:
    """Returns what a type holds of its kind; None where that is all of it, or only the server can tell."""
    bare, numbers = _parsed(native)
    if bare in _BITS:
        signed = "unsigned" not in native
        whole = kind_of(native) is Kind.BOOLEAN or (signed and bare == "bigint")
        return None if whole else integer_limits(_BITS[bare], signed=signed)
    if bare in ("float", "double", "decimal"):
        return _limits_of_number(bare, numbers, native)
    digits = numbers[0] if numbers else 0
    if bare in ("datetime", "timestamp"):
        kept = digits if digits < _SECOND_DIGITS else None
        lowest, highest = _TIMESTAMPS if bare == "timestamp" else (None, None)
        return Limits(lowest=lowest, highest=highest, seconds_digits=kept) if kept is not None or lowest is not None else None
    if bare in ("enum", "set"):
        labels = [label.replace("''", "'") for label in _LABEL.findall(native)]
        return Limits(one_of=frozenset(labels)) if bare == "enum" else _limits_of_set(labels)
    if json and bare == LONG_TEXT:
        return None
    if bare in ("char", "varchar", LONG_TEXT, *_TEXTS):
        return _limits_of_text(bare, digits, charset or "utf8mb4")
    return _limits_of_others(bare, digits)


def _limits_of_number(bare: str, numbers: Sequence[int], native: str) -> Limits | None:
    unsigned = "unsigned" in native
    if bare == "decimal":
        precision, scale = numbers
        if scale:
            return Limits(digits=(precision, scale), refused="^-" if unsigned else None)
        signed = decimal_limits(precision, scale)
        return Limits(lowest=0, highest=signed.highest if signed else None) if unsigned else signed
    if numbers:  # of these the server rounds fractions to so many digits
        return Limits(
            digits=(numbers[0], numbers[-1]), float_bytes=4 if bare == "float" else 8, refused="^-" if unsigned else None
        )
    return Limits(single=True) if bare == "float" else None


def _limits_of_set(labels: Sequence[str]) -> Limits:
    """Returns the spelling that the server keeps: each label once, in the order of the type."""
    parts = "".join(f"(?:{re.escape(label)}(?:,|$))?" for label in labels)
    return Limits(accepted=f"^{parts}$", refused=",$")


def _limits_of_text(bare: str, digits: int, charset: str) -> Limits | None:
    if charset not in _UNICODE and charset not in _BEYOND_LATIN:
        return Limits(accepted="^[ -~]*$", refused=_BLANK_AT_END, characters=digits or _TEXTS.get(bare))
    refused = _BEYOND_LATIN.get(charset)
    if bare == "char":
        refused = f"{refused}|{_BLANK_AT_END}" if refused else _BLANK_AT_END
    characters = digits if bare in ("char", "varchar") else _TEXTS[bare] // _CHARACTER_BYTES if bare in _TEXTS else None
    return Limits(characters=characters, refused=refused) if characters is not None or refused else None


def _limits_of_others(bare: str, digits: int) -> Limits | None:
    if bare == "date":
        return None
    if bare == "bit":
        return Limits(lowest=0, highest=2**digits - 1) if digits < 64 else Limits(accepted=literals.unsigned(18))
    if bare == "year":
        return Limits(lowest=_YEARS[0], highest=_YEARS[1])
    if bare == "time":
        return Limits(accepted=literals.clock(digits))
    if bare == "uuid":
        return Limits(accepted=_UUID)
    if bare in _NETWORK:
        return Limits(accepted=_NETWORK[bare])
    if bare == "json":  # MySQL's own: numbers become doubles or 64 bits
        return Limits(float_bytes=8, refused=_UNSIGNED_JSON)
    if bare == "binary":
        return Limits(accepted=f"^[\x01-\x7f]{{{digits}}}$")
    if bare in ("varbinary", "longblob", *_BLOBS):
        size = digits or _BLOBS.get(bare)
        return None if size is None else Limits(characters=size // _CHARACTER_BYTES)
    return Limits(accepted=literals.NOTHING)  # geometry, vectors, and what is yet to come


@lru_cache(maxsize=KNOWN)
def _parsed(native: str) -> tuple[str, list[int]]:
    """Returns the type's name and the numbers in its brackets; display widths are none of these but for `tinyint(1)`."""
    match = re.match(r"(\w+)(?:\(([\d,]+)\))?", native)
    if match is None:
        return native, []
    return match[1], [int(number) for number in match[2].split(",")] if match[2] else []


_MODIFIED = {
    (Kind.BOOLEAN, Kind.BIGINT), (Kind.BOOLEAN, Kind.DOUBLE), (Kind.BOOLEAN, Kind.DECIMAL),
    (Kind.BIGINT, Kind.DOUBLE), (Kind.BIGINT, Kind.DECIMAL), (Kind.BIGINT, Kind.TEXT), (Kind.DECIMAL, Kind.TEXT),
    (Kind.DATE, Kind.TIMESTAMP), (Kind.DATE, Kind.TEXT),
    *((kind, kind) for kind in (Kind.BIGINT, Kind.DECIMAL, Kind.TEXT, Kind.TIMESTAMP)),
}  # fmt: skip
"""Where the server's own conversion is ours, so that one ALTER does it."""

# the shortest text that reads back as the same double, without an exponent; all digits where there are gaps between doubles
_UPPER = "truncate(c / 9223372036854775808, 0)"
_ALL = (
    f"cast(cast({_UPPER} as signed) as decimal(65,0)) * 9223372036854775808 + cast(c - {_UPPER} * 9223372036854775808 as signed)"
)
_PLAIN = "trim(trailing '.' from trim(trailing '0' from cast(cast(c as decimal(65,30)) as char)))"
_DIGITS = f"if(abs(c) < 9007199254740992, {_PLAIN}, cast({_ALL} as char))"
_ISO = "if(microsecond(c) % 1000 = 0, concat(left(date_format(c, '%Y-%m-%dT%H:%i:%s.%f'), 23), 'Z'), date_format(c, '%Y-%m-%dT%H:%i:%s.%fZ'))"
_COMPUTED = {
    (Kind.BOOLEAN, Kind.TEXT): "if(c, 'true', 'false')",
    (Kind.BOOLEAN, Kind.JSON): "if(c, 'true', 'false')",
    (Kind.BIGINT, Kind.JSON): "cast(c as char)",
    (Kind.DECIMAL, Kind.JSON): "cast(c as char)",
    (Kind.DOUBLE, Kind.TEXT): _DIGITS,
    (Kind.DOUBLE, Kind.JSON): _DIGITS,
    (Kind.TIMESTAMP, Kind.TEXT): _ISO,
    (Kind.TIMESTAMP, Kind.JSON): f"json_quote({_ISO})",
    (Kind.DATE, Kind.JSON): "json_quote(cast(c as char))",
    (Kind.TEXT, Kind.JSON): "json_quote(c)",
    (Kind.JSON, Kind.TEXT): "c",
    (Kind.DOUBLE, Kind.DOUBLE): "c",
}
"""Expressions over `c` where it is not."""

_WHOLE_DOUBLES = "abs(c) < 1e37 and (abs(c) >= 9007199254740992 or cast(cast(c as decimal(65,30)) as double) = c)"
_SURVIVES = {
    (Kind.BIGINT, Kind.DOUBLE): "cast(c as decimal(65,0)) between -9007199254740992 and 9007199254740992",
    (Kind.BOOLEAN, Kind.TEXT): "c in (0, 1)",
    (Kind.BOOLEAN, Kind.JSON): "c in (0, 1)",
    (Kind.DECIMAL, Kind.DECIMAL): "abs(c) < 100000000000000000000000000000000000000",
    (Kind.DOUBLE, Kind.TEXT): _WHOLE_DOUBLES,
    (Kind.DOUBLE, Kind.JSON): _WHOLE_DOUBLES,
    **{
        (source, target): "c >= '0001-01-01'"
        for source in (Kind.DATE, Kind.TIMESTAMP)
        for target in (Kind.TEXT, Kind.JSON, Kind.TIMESTAMP)
    },
}
"""Conditions under which a stored value is the same after widening; always, of the others."""
_SINGLE = "cast(cast({} as char) as double)"
"""0.1 of four bytes is 0.10000000149 of eight, if not by its text, which has six digits."""
_SHOWN_WHOLE = "abs({1} - {0}) <= abs({0}) * 2.9e-8"
"""A FLOAT is the one next to its text."""
_NOT_THEIR_TEXT = frozenset(("bit", "year", "enum", "set"))
"""Types whose values are shown otherwise than they are, or are more than text."""


class MySQLTypes(Types):
    """Both servers'."""

    @property
    def pairs(self) -> frozenset[tuple[Kind, Kind]]:
        return frozenset(_MODIFIED) | frozenset(_COMPUTED)

    def widening(self, quoted_column: str, source: Kind, target: Kind, native: str = "") -> str | None:
        if bare(native) in _NOT_THEIR_TEXT:
            return None
        if is_modified(source, target):
            return quoted_column
        template = _COMPUTED.get((source, target))
        return None if template is None else _filled(template, _value(quoted_column, native))

    def survives_in(self, quoted_column: str, source: Kind, target: Kind, native: str = "") -> str | None:
        template = _SURVIVES.get((source, target))
        value = _value(quoted_column, native)
        conditions = [] if template is None else [_filled(template, value)]
        if bare(native) == "float":
            conditions.append(_SHOWN_WHOLE.format(quoted_column, value))
        return " and ".join(f"({condition})" for condition in conditions) or None


def types_of(collation: str) -> MySQLTypes:
    """Returns the types of a server where this collation compares text by its bytes, blanks at its end included."""
    text = f"{LONG_TEXT} CHARACTER SET utf8mb4 COLLATE {collation}"
    others = dict.fromkeys((Kind.TEXT, Kind.JSON, Kind.OTHER), text)
    return MySQLTypes(natives={**NUMBERS_AND_TIMES, **others}, to_json="", to_text={})


def bare(native: str) -> str:
    """Returns a type without its arguments."""
    return _parsed(native)[0]


def is_modified(source: Kind, target: Kind) -> bool:
    """Whether the server's own conversion is ours."""
    return (source, target) in _MODIFIED


def _value(quoted_column: str, native: str) -> str:
    return _SINGLE.format(quoted_column) if bare(native) == "float" else quoted_column


def _filled(template: str, value: str) -> str:
    return re.sub(r"\bc\b", lambda _: value, template)
