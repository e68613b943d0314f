"""Values inside rows and answers that stay bytes of JSON: found by a path, compared by what they mean. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

Value = tuple[int, Decimal | str]
"""What a value of a cursor is compared as: numbers and moments before all other texts."""

_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d)?)(?:[.,](\d+))?\s?(Z|z|[+-]\d\d:?\d\d|UTC)?)?", re.ASCII)
_NUMBER = re.compile(r"-?\d{1,400}(\.\d{1,400})?", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BEGIN = datetime(1970, 1, 1)  # noqa: DTZ001  # for texts without their zone
_PLAIN = len("2026-01-02T03:04:05Z")
_MILLIS = Decimal(100_000_000_000)
"""A number of seconds beyond it is one of milliseconds: as seconds it would be the year 5138."""


def path_of(text: str) -> tuple[str, ...]:
    """Returns the keys of a dotted path."""
    return tuple(text.split(".")) if text not in ("", ".") else ()


def finder(path: Sequence[str]) -> Callable[[bytes | msgspec.Raw], bytes | None]:
    """Returns what finds the value at a path in an object, as JSON; None where there is none, or null.

    Only that value is taken out of the bytes, so a row costs a fraction of a microsecond for each hundred bytes.
    """
    inner: Any = msgspec.Raw
    for key in reversed(path):
        inner = msgspec.defstruct("Found", [("value", inner | msgspec.UnsetType, msgspec.UNSET)], rename={"value": key})
    decode = msgspec.json.Decoder(inner).decode
    depth = len(path)

    def find(row: bytes | msgspec.Raw) -> bytes | None:
        try:
            found = decode(row)
        except msgspec.ValidationError:  # something on the way is no object
            return None
        for _ in range(depth):
            found = found.value
            if found is msgspec.UNSET:
                return None
        text = bytes(found)
        return None if text == b"null" else text

    return find


def text_of(value: bytes) -> str:
    """Returns a value as a text for an address: a text without its quotes, else its JSON."""
    found = msgspec.json.decode(value) if value[:1] == b'"' else value.decode()
    return str(found)


def comparable(value: bytes) -> Value:
    """Returns what a value is compared as."""
    text = text_of(value)
    when = moment_of(text) if value[:1] == b'"' else None
    if when is not None:
        return 0, when
    try:
        return (0, Decimal(text)) if value[:1] != b'"' or _NUMBER.fullmatch(text) else (1, text)
    except InvalidOperation:
        return 1, text


def moment_of(text: str) -> Decimal | None:
    """Returns the seconds since 1970 of a moment or a date in ISO 8601, with all digits; None if it is none. Without a zone it is UTC."""
    if len(text) == _PLAIN and text[-1] == "Z":  # most are written so
        try:
            since = datetime.fromisoformat(text[:-1]) - _BEGIN
            return Decimal(since.days * 86_400 + since.seconds)
        except (ValueError, TypeError):
            pass
    match = _MOMENT.fullmatch(text.strip())
    if match is None:
        return None
    day, clock, fraction, zone = match.groups()
    zone = "+00:00" if zone in (None, "Z", "z", "UTC") else zone
    try:
        found = datetime.fromisoformat(f"{day}T{clock or '00:00'}{zone}")
    except ValueError:
        return None
    return Decimal((found - _EPOCH) // timedelta(seconds=1)) + (Decimal(f"0.{fraction}") if fraction else 0)


def seconds_of(value: bytes) -> Decimal | None:
    """Returns the seconds since 1970 that a value of a cursor means: a moment, or a number of seconds or milliseconds; None if it is none."""
    text = text_of(value)
    if (when := moment_of(text)) is not None:
        return when
    if not _NUMBER.fullmatch(text):
        return None
    number = Decimal(text)
    return number / 1000 if abs(number) >= _MILLIS else number


def as_moment(seconds: Decimal) -> datetime:
    """Returns seconds since 1970 as a moment, cut to microseconds; the first or last one where the calendar ends."""
    try:
        return _EPOCH + timedelta(microseconds=int(seconds * 1_000_000))
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC) if seconds < 0 else datetime.max.replace(tzinfo=UTC)


def as_date(seconds: Decimal) -> date:
    """Returns the day of seconds since 1970, in UTC."""
    return as_moment(seconds).date()
