"""MySQL's and MariaDB's types and our kinds: what a live column is, what a new one becomes, how one widens into another.

Pure. A decimal with a scale is `OTHER`, as for Postgres. JSON is text with a check, which is what MariaDB's `json` is; MySQL's own
`json` keeps numbers as doubles, and would round some without a word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loader.contract.warehouse import Column, Kind, Limits
from loader.sql.text import OWNER, forced_native, owner_of
from loader.types import literals
from loader.warehouses.mysql.dialect import SQL

KEY_CHARACTERS = 255
"""Longest text in a key: an index of InnoDB takes 3072 bytes, three such columns."""

_TEXTS = {"tinytext": 2**8 - 1, "text": 2**16 - 1, "mediumtext": 2**24 - 1}
_BLOBS = {"tinyblob": 2**8 - 1, "blob": 2**16 - 1, "mediumblob": 2**24 - 1}
_BITS = {"tinyint": 8, "smallint": 16, "mediumint": 24, "int": 32, "bigint": 64}
_CHARACTER_BYTES = 4
_DECIMAL_DIGITS = 38
_SECOND_DIGITS = 6
_MICROSECONDS = 10**6
_TIMESTAMPS = (_MICROSECONDS, (2**31 - 1) * _MICROSECONDS)
"""What TIMESTAMP holds: four bytes of seconds."""
_YEARS = (1901, 2155)
_BLANK_AT_END = " $"
_UUID = r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"
_NETWORK = {"inet4": r"^[0-9]{1,3}(?:\.[0-9]{1,3}){3}$", "inet6": r"^[0-9a-fA-F:.]*:[0-9a-fA-F:.]*$"}
_LABEL = re.compile(r"'((?:[^']|'')*)'")
_RARE = "[\U00010000-\U0010ffff]"
_BEYOND_LATIN = {"utf8": _RARE, "utf8mb3": _RARE, "ucs2": _RARE, "ascii": "[^\x00-\x7f]", "latin1": "[^\x00-\x7f\xa0-\xff]"}
"""What a character set other than utf8mb4 does not have."""
_UNICODE = frozenset(("utf8mb4", "utf16", "utf16le", "utf32"))
_UNSIGNED_JSON = r"(?:^|[\[,:\s])-?[0-9]{19}"
"""Whole numbers that may need more than 64 bits."""

LONG_TEXT = "longtext"


@dataclass(frozen=True, slots=True)
class LiveColumn:
    """A column as the catalogue has it. `native`: `COLUMN_TYPE`. `default`: an expression, None where there is none."""

    name: str
    native: str
    charset: str | None = None
    collation: str | None = None
    default: str | None = None
    json: bool = False
    nullable: bool = True
    writable: bool = True
    numbered: bool = False
    """AUTO_INCREMENT: a row without a value gets the next number."""
    owner: str | None = None

    @property
    def bare(self) -> str:
        """The type without its arguments."""
        return re.split(r"[( ]", self.native, maxsplit=1)[0]

    @property
    def kind(self) -> Kind:
        """The logical type; `OTHER` for what we hand over as text."""
        return kind_of(self.native, json=self.json)

    def as_column(self) -> Column:
        """Returns it as the core knows columns."""
        limits = limits_of(self.native, self.charset, json=self.json)
        return Column(name=self.name, kind=self.kind, native=self.native, limits=limits, writable=self.writable, owner=self.owner)


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


def limits_of(native: str, charset: str | None = None, *, json: bool = False) -> Limits | None:
    """Returns what a type holds of its kind; None where that is all of it, or only the server can tell."""
    bare, numbers = _parsed(native)
    if bare in _BITS:
        return None if kind_of(native) is Kind.BOOLEAN else _limits_of_integer(bare, "unsigned" in native)
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


def _limits_of_integer(bare: str, unsigned: bool) -> Limits | None:
    bits = _BITS[bare]
    if unsigned:
        return Limits(lowest=0, highest=2**bits - 1)
    return Limits(lowest=-(2 ** (bits - 1)), highest=2 ** (bits - 1) - 1) if bits < 64 else None


def _limits_of_number(bare: str, numbers: Sequence[int], native: str) -> Limits | None:
    unsigned = "unsigned" in native
    if bare == "decimal":
        precision, scale = numbers
        if scale:
            return Limits(digits=(precision, scale), refused="^-" if unsigned else None)
        lowest, highest = (0 if unsigned else 1 - 10**precision), 10**precision - 1
        if precision >= _DECIMAL_DIGITS:
            return Limits(lowest=0) if unsigned else None
        return Limits(lowest=lowest, highest=highest)
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


def _parsed(native: str) -> tuple[str, list[int]]:
    """Returns the type's name and the numbers in its brackets; display widths are none of these but for `tinyint(1)`."""
    match = re.match(r"(\w+)(?:\(([\d,]+)\))?", native)
    if match is None:
        return native, []
    return match[1], [int(number) for number in match[2].split(",")] if match[2] else []


@dataclass(frozen=True, slots=True)
class Natives:
    """Types of new columns on one server."""

    collation: str
    """Compares text by its bytes, blanks at its end included."""

    def of(self, column: Column, *, key: bool = False) -> str:
        """Returns the SQL type of a new column: the one the user forced, else ours for the kind; text of a key has a length.

        Raises:
            Permanent: as `forced_native`.
        """
        forced = forced_native(column)
        if forced is not None:
            return forced
        if key and column.kind in (Kind.TEXT, Kind.OTHER):
            return f"varchar({KEY_CHARACTERS}) CHARACTER SET utf8mb4 COLLATE {self.collation}"
        return _NATIVES.get(column.kind) or f"{LONG_TEXT} CHARACTER SET utf8mb4 COLLATE {self.collation}"

    def definition(self, column: Column, *, key: bool = False, not_null: bool = False, default: str | None = None) -> str:
        """Returns the definition of a column."""
        name = SQL.identifier(column.name)
        parts = [name, self.of(column, key=key), "NOT NULL" if not_null else "NULL"]
        if default is not None:
            parts.append(f"DEFAULT {default}")
        if column.owner is not None:
            parts.append(SQL.comment("", "", column.name, OWNER + column.owner))
        if column.kind is Kind.JSON and column.native is None:
            parts.append(f"CHECK (json_valid({name}))")
        return " ".join(filter(None, parts))


_NATIVES = {
    Kind.BOOLEAN: "tinyint(1)",
    Kind.BIGINT: "bigint",
    Kind.DOUBLE: "double",
    Kind.DECIMAL: "decimal(38,0)",
    Kind.TIMESTAMP: "datetime(6)",
    Kind.DATE: "date",
}

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

WIDEN = frozenset(_MODIFIED) | frozenset(_COMPUTED)
"""Pairs (from, to) an existing column can change between."""

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


def modified(source: Kind, target: Kind) -> bool:
    """Whether the server's own conversion does."""
    return (source, target) in _MODIFIED


def widening(column: LiveColumn, target: Kind) -> str | None:
    """Returns the expression that turns a column's values into the wider kind, None where there is no way."""
    if column.bare in _NOT_THEIR_TEXT:
        return None
    if modified(column.kind, target):
        return SQL.identifier(column.name)
    template = _COMPUTED.get((column.kind, target))
    return None if template is None else _filled(template, _value(column))


def survives(column: LiveColumn, target: Kind) -> str | None:
    """Returns the condition under which a stored value is the same in the wider kind, None where each is."""
    template = _SURVIVES.get((column.kind, target))
    conditions = [] if template is None else [_filled(template, _value(column))]
    if column.bare == "float":
        conditions.append(_SHOWN_WHOLE.format(SQL.identifier(column.name), _value(column)))
    return " and ".join(f"({condition})" for condition in conditions) or None


def _value(column: LiveColumn) -> str:
    name = SQL.identifier(column.name)
    return _SINGLE.format(name) if column.bare == "float" else name


def _filled(template: str, value: str) -> str:
    return re.sub(r"\bc\b", lambda _: value, template)


def live_column(row: Mapping[str, str | None], checked: bool, mariadb: bool) -> LiveColumn:
    """Returns the column in a row of the catalogue.

    Args:
        row: of `information_schema.COLUMNS`, by name in lower case.
        checked: whether a check holds that it is JSON.
        mariadb: whether the server writes defaults as expressions; MySQL writes values as they are.
    """
    extra = (row["extra"] or "").lower()
    default = row["column_default"]
    if mariadb:
        default = None if default is None or default.upper() == "NULL" else default
    elif default is not None and "default_generated" not in extra:
        default = default if re.match(r"b'[01]+'$", default) else SQL.literal(default)
    elif default is not None:
        default = default.replace("\\'", "'") if not default.lower().startswith("current_timestamp") else default
    native = row["column_type"] or ""
    return LiveColumn(
        name=row["column_name"] or "",
        native=native if native.startswith(("enum", "set")) else native.lower(),
        charset=row["character_set_name"],
        collation=row["collation_name"],
        default=default,
        json=checked,
        nullable=row["is_nullable"] == "YES",
        writable=not row["generation_expression"],
        numbered="auto_increment" in extra,
        owner=owner_of(row["column_comment"]),
    )
