"""Attributes and their values, from protobuf or JSON, as plain JSON. Pure.

Ids are hex and times are nanoseconds since 1970 in both encodings; JSON has 64-bit integers as text and may have them as numbers.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import msgspec


class AnyValue(msgspec.Struct, gc=False, rename="camel"):
    """A value in JSON: one of these."""

    string_value: str | None = None
    bool_value: bool | None = None
    int_value: int | str | None = None
    double_value: float | str | None = None
    array_value: ArrayValue | None = None
    kvlist_value: KeyValueList | None = None
    bytes_value: str | None = None


class KeyValue(msgspec.Struct, gc=False):
    """An attribute in JSON."""

    key: str = ""
    value: AnyValue | None = None


class ArrayValue(msgspec.Struct, gc=False):
    """Several values."""

    values: list[AnyValue] = []


class KeyValueList(msgspec.Struct, gc=False):
    """An object."""

    values: list[KeyValue] = []


MOST_INNER = 5_000
"""Members of a list of attributes, values, events or links."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_Value = Callable[[Any], Any]


class TooManyKeys(Exception):
    """A list has more members than any event needs. Each may have two bytes, and building one costs a microsecond."""


def attributes(pairs: Sequence[Any], value: _Value) -> dict[str, Any]:
    """Returns attributes as one object; of two with one name the last counts.

    Raises:
        TooManyKeys: they are more than any event needs.
        ValueError: a value cannot be read.
    """
    found: dict[str, Any] = {}
    if value is of_protobuf:
        for each in bounded(pairs):
            held: Any = each.value
            # most are texts and numbers: asking for these costs a part of asking which it is
            plain = held.string_value or held.int_value or held.double_value
            if not plain and (plain := of_protobuf(held)) is None:
                continue
            found[each.key] = plain
        return found
    for each in bounded(pairs):
        plain = value(each.value)
        if plain is not None:
            found[each.key] = plain
    return found


def bounded(values: Sequence[Any]) -> Sequence[Any]:
    """Returns a list.

    Raises:
        TooManyKeys: it has too many members.
    """
    if len(values) > MOST_INNER:
        raise TooManyKeys(f"{len(values)} members in one list, the limit is {MOST_INNER}")
    return values


def of_json(value: AnyValue | None) -> Any:
    """Returns a value of JSON.

    Raises:
        ValueError: a text is no number.
    """
    if value is None:
        return None
    if value.string_value is not None:
        return value.string_value
    if value.int_value is not None:
        return whole(value.int_value)
    if value.bool_value is not None:
        return value.bool_value
    if value.double_value is not None:
        return float(value.double_value)
    if value.kvlist_value is not None:
        return attributes(value.kvlist_value.values, of_json)
    if value.array_value is not None:
        return [of_json(each) for each in bounded(value.array_value.values)]
    return value.bytes_value


def of_protobuf(value: Any) -> Any:
    """Returns a value of protobuf."""
    kind = value.WhichOneof("value")
    if kind == "string_value":  # most are
        return value.string_value
    match kind:
        case None:
            return None
        case "kvlist_value":
            return attributes(value.kvlist_value.values, of_protobuf)
        case "array_value":
            return [of_protobuf(each) for each in bounded(value.array_value.values)]
        case "bytes_value":
            return base64.b64encode(value.bytes_value).decode()
        case _:
            return getattr(value, kind, None)


def whole(number: int | str) -> int:
    """Returns an integer that may be text.

    Raises:
        ValueError: it is none of 64 bits.
    """
    if number.__class__ is int and 0 <= number < 2**64:
        return number
    if isinstance(number, str) and len(number) > 20:
        raise ValueError(f"{number[:30]!r} is no integer of 64 bits")
    found = int(number)
    if not -(2**63) <= found < 2**64:
        raise ValueError(f"{str(found)[:30]} is no integer of 64 bits")
    return found


def moment(nanoseconds: int) -> str | None:
    """Returns nanoseconds since 1970 as RFC 3339, cut to microseconds; None for 0, which says nothing."""
    if nanoseconds <= 0:
        return None
    seconds, rest = divmod(nanoseconds // 1000, 1_000_000)
    return f"{_second(seconds)}.{rest:06d}Z" if rest else f"{_second(seconds)}Z"


@lru_cache(64)
def _second(seconds: int) -> str:
    """Returns a second since 1970 without its zone: records of one export were written in few of them."""
    return (_EPOCH + timedelta(seconds=seconds)).replace(tzinfo=None).isoformat()
