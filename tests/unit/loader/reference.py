"""What the loader must make of events, told as simply as it can be: one value at a time, no Arrow, no caches, no windows.

Layout `passthrough`, append, tables that may evolve. Names are the `Namer`'s; everything behind them is said here a second time,
from docs/loading.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from loader.contract.warehouse import Kind
from loader.rows.hints import is_hint
from loader.types.moments import parse_date, parse_one
from loader.types.names import Namer, Path

Value = tuple[Kind, Any]
TEXTS = {"messageId", "type", "event", "userId", "anonymousId", "groupId", "previousId"}
TIMES = {"receivedAt", "sentAt", "originalTimestamp", "timestamp"}
NUMBERS = [Kind.BOOLEAN, Kind.BIGINT, Kind.DECIMAL, Kind.DOUBLE]
OWN = ("_unmapped_data", "_loaded_at", "_seq", "_load_id")


class NoWayError(Exception):
    """A value does not convert."""


@dataclass
class Table:
    """A live table by the rules: kinds of its columns by name, and what a batch gave each event."""

    namer: Namer
    on_conflict: str
    widen: frozenset[tuple[Kind, Kind]] = frozenset()
    kinds: dict[str, Kind] = field(default_factory=dict)
    owners: dict[str, Path] = field(default_factory=dict)

    def load(self, events: list[dict[str, Any]]) -> list[dict[str, Any] | None]:
        """Returns the row of each event without its nulls; None for one that is refused."""
        flat: list[dict[Path, Value] | None] = [dict(flatten(event, ())) for event in events]
        before, owned = dict(self.kinds), dict(self.owners)
        while True:
            self.kinds, self.owners = dict(before), dict(owned)
            rows, refused = self._load(flat)
            if not refused:
                return rows
            flat = [None if number in refused else each for number, each in enumerate(flat)]

    def _load(self, flat: list[dict[Path, Value] | None]) -> tuple[list[dict[str, Any] | None], set[int]]:
        columns, firsts = claim(flat, self.namer, self.owners)
        rows: list[dict[str, Any] | None] = [None if each is None else {} for each in flat]
        unmapped: dict[int, dict[str, Any]] = {}
        refused: set[int] = set()
        claimed = set(columns)
        for name, (values, fixed) in columns.items():
            if name not in self.kinds:
                self.kinds[name] = fixed or join(list(values.values()))
                if name in firsts:
                    self.owners[name] = firsts[name]
            failed = self._convert(name, values, rows)
            if failed and self.on_conflict == "widen":
                wider = join_kinds([self.kinds[name], *(kind for kind, _ in failed.values())])
                if (self.kinds[name], wider) in self.widen:
                    self.kinds[name] = wider
                    failed = self._convert(name, values, rows)
            siblings: dict[Kind, str] = {}
            for row, (kind, _) in failed.items():
                if self.on_conflict == "dead_letter":
                    refused.add(row)
                    continue
                sibling = self.namer.cut(f"{name}__{kind}")
                if self.on_conflict == "variant" and sibling not in claimed:
                    siblings[kind] = sibling
            for kind, sibling in siblings.items():
                mine = {row: value for row, value in failed.items() if value[0] is kind}
                new = sibling not in self.kinds
                there = self.kinds.setdefault(sibling, kind)
                try:
                    fitted = {row: convert(value, there) for row, value in mine.items()}
                except NoWayError:
                    assert not new
                    continue
                for row, value in fitted.items():
                    rows[row][sibling] = value  # type: ignore[index]
                    del failed[row]
            if self.on_conflict != "dead_letter":
                for row, value in failed.items():
                    unmapped.setdefault(row, {})[name] = json.loads(convert(value, Kind.JSON))
        if unmapped and not refused:
            self.kinds.setdefault("_unmapped_data", Kind.JSON)
            for row, entries in unmapped.items():
                rows[row]["_unmapped_data"] = entries  # type: ignore[index]
        return rows, refused

    def _convert(self, name: str, values: Mapping[int, Value], rows: list[dict[str, Any] | None]) -> dict[int, Value]:
        failed: dict[int, Value] = {}
        for number, value in values.items():
            row = rows[number]
            assert row is not None
            row.pop(name, None)
            try:
                row[name] = convert(value, self.kinds[name])
            except NoWayError:
                failed[number] = value
        return failed


def flatten(value: dict[str, Any], path: Path) -> list[tuple[Path, Value]]:
    """Returns the leaves of an object."""
    leaves: list[tuple[Path, Value]] = []
    for key, item in value.items():
        if is_hint(key) or item is None:
            continue
        if isinstance(item, dict):
            leaves += flatten(item, (*path, key))
        elif (leaf := judge(item)) is not None:
            leaves.append(((*path, key), leaf))
    return leaves


def judge(value: Any) -> Value | None:
    """Returns a leaf with its kind, None if it cannot be stored."""
    match value:
        case bool():
            return Kind.BOOLEAN, value
        case int():
            if -(2**63) <= value < 2**63:
                return Kind.BIGINT, value
            return (Kind.DECIMAL, Decimal(value)) if abs(value) < 10**38 else (Kind.TEXT, str(value))
        case float():
            return (Kind.DOUBLE, value) if math.isfinite(value) else None
        case str():
            return Kind.TEXT, value.replace("\0", "\ufffd")
        case datetime():
            return Kind.TIMESTAMP, value
        case _:
            return Kind.JSON, json.dumps(without_hints(value), ensure_ascii=False, separators=(",", ":"))


def without_hints(value: Any) -> Any:
    """Returns a JSON value without hints and NUL characters."""
    if isinstance(value, dict):
        return {without_hints(key): without_hints(item) for key, item in value.items() if not is_hint(key)}
    if isinstance(value, list):
        return [without_hints(item) for item in value]
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


def claim(
    flat: list[dict[Path, Value] | None], namer: Namer, owners: Mapping[str, Path]
) -> tuple[dict[str, tuple[dict[int, Value], Kind | None]], dict[str, Path]]:
    """Returns by column name the values by event that want to be there, with the kind of a column of the layout; and the first path of
    each column of a client."""
    sources: dict[Path, dict[int, Value]] = {}
    for number, each in enumerate(flat):
        for path, value in (each or {}).items():
            sources.setdefault(path, {})[number] = value
    claims: dict[str, tuple[dict[int, Value], Kind | None]] = {}
    firsts: dict[str, Path] = {}
    fixed_names = {namer.column([namer.part(key)]) for key in TEXTS | TIMES}
    late: list[tuple[Path, str, dict[int, Value]]] = []

    def rank(path: Path) -> tuple[bool, bool, int, Path]:
        name = namer.column([namer.part(key) for key in path])
        return owners.get(name) != path, any(namer.part(key) != key for key in path), len(path), path

    for path, values in sorted(sources.items(), key=lambda item: rank(item[0])):
        name = namer.column([namer.part(key) for key in path])
        if len(path) == 1 and path[0] in TEXTS | TIMES:
            claims[name] = (values, Kind.TEXT if path[0] in TEXTS else Kind.TIMESTAMP)
            continue
        if name in fixed_names or name in OWN:
            late.append((path, name, values))
            continue
        there = claims.setdefault(name, ({}, None))[0]
        firsts.setdefault(name, path)
        both = {number: value for number, value in values.items() if number in there}
        there.update({number: value for number, value in values.items() if number not in both})
        if both:
            late.append((path, name, both))
    for path, name, values in late:
        suffixed = namer.suffixed(name, path)
        assert suffixed not in claims, "these tests make no such names"
        claims[suffixed] = (values, None)
        firsts[suffixed] = path
    return claims, firsts


def join_kinds(kinds: list[Kind]) -> Kind:
    """Returns the narrowest kind for values of all of these."""
    if len(set(kinds)) == 1:
        return kinds[0]
    return max(kinds, key=NUMBERS.index) if set(kinds) <= set(NUMBERS) else Kind.TEXT


def join(values: list[Value]) -> Kind:
    """Returns the kind of a new column."""
    if all(kind is Kind.TEXT and parse_one(value) for kind, value in values):
        return Kind.TIMESTAMP
    kind = join_kinds([kind for kind, _ in values])
    if kind is Kind.DOUBLE and any(each is not Kind.DOUBLE and float(value) != value for each, value in values):
        return Kind.TEXT
    return Kind.TEXT if kind is Kind.JSON else kind


def plain(number: float) -> str:
    """Returns the shortest decimal without an exponent."""
    text = f"{Decimal(repr(number)):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def iso(moment: datetime) -> str:
    """Returns a time as text."""
    moment = moment.astimezone(UTC)
    return moment.replace(tzinfo=None).isoformat("T", "microseconds" if moment.microsecond % 1000 else "milliseconds") + "Z"


def convert(value: Value, target: Kind) -> Any:
    """Returns a value as a column of a kind has it.

    Raises:
        NoWayError: it does not fit there.
    """
    kind, it = value
    if kind is target:
        return it
    match target:
        case Kind.TEXT:
            return as_text(kind, it)
        case Kind.JSON:
            return json.dumps(as_text(kind, it), ensure_ascii=False) if kind in (Kind.TEXT, Kind.TIMESTAMP) else as_text(kind, it)
        case Kind.BOOLEAN:
            return as_boolean(kind, it)
        case Kind.BIGINT | Kind.DECIMAL:
            return as_integer(kind, it, 2**63 if target is Kind.BIGINT else 10**38, target)
        case Kind.DOUBLE:
            return as_double(kind, it)
        case Kind.TIMESTAMP if kind is Kind.TEXT:
            moment = parse_one(it) or parse_date(it)
            if moment is not None:
                return moment
    raise NoWayError


def as_text(kind: Kind, it: Any) -> str:
    """Returns any value as text."""
    match kind:
        case Kind.BOOLEAN:
            return "true" if it else "false"
        case Kind.DOUBLE:
            return plain(it)
        case Kind.DECIMAL:
            return f"{it:f}"
        case Kind.TIMESTAMP:
            return iso(it)
        case _:
            return str(it)


def as_boolean(kind: Kind, it: Any) -> bool:
    """Returns 0, 1 and the words for them as a boolean."""
    if kind in NUMBERS and it in (0, 1):
        return bool(it)
    if kind is Kind.TEXT and it.lower() in ("true", "t", "1", "false", "f", "0"):
        return it.lower() in ("true", "t", "1")
    raise NoWayError


def as_integer(kind: Kind, it: Any, limit: int, target: Kind) -> Any:
    """Returns what is a whole number as one."""
    number: int | None = None
    if kind in NUMBERS:
        number = (int(Decimal(repr(it))) if kind is Kind.DOUBLE else int(it)) if it == int(it) else None
    elif kind is Kind.TEXT and it.removeprefix("-").isdecimal() and it.isascii() and it == str(int(it)):
        number = int(it)
    smallest = -limit if target is Kind.BIGINT else 1 - limit
    if number is None or not smallest <= number < limit:
        raise NoWayError
    return number if target is Kind.BIGINT else Decimal(number)


def as_double(kind: Kind, it: Any) -> float:
    """Returns what is a number as a double, if that loses nothing."""
    if kind in NUMBERS and float(it) == it:
        return float(it)
    if kind is Kind.TEXT and it.isascii() and it == it.strip() and "_" not in it and not set(it.lower()) & set("nify"):
        try:
            number, exact = float(it), Decimal(it)
        except (ArithmeticError, ValueError):
            raise NoWayError from None
        whole = it.lstrip("+-").isdecimal()
        if math.isfinite(number) and (number != 0 or exact == 0) and (not whole or Decimal(number) == exact):
            return number
    raise NoWayError
