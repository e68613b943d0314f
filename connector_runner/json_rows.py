"""Rows in columns become rows of JSON, for readers that want one row at a time. Pure.

Numbers keep all their digits, decimals too. A moment is text of ISO 8601, in UTC where its column has a zone; bytes are base64; a
duration is a number of seconds; a map is an object where its keys are texts, else a list of pairs; NaN and the infinities, which JSON
does not have, are null. JSON stays as it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    import pyarrow as pa

SLICE_ROWS = 1000
"""Rows that are Python objects at one time."""
_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}
_ENCODER = msgspec.json.Encoder(decimal_format="number")

Change = Callable[[Any], Any]


def json_rows(rows: pa.Table) -> Iterator[bytes]:
    """Yields each row as a JSON object, in order."""
    plans = [_plan(column.type) for column in rows.schema]
    names = rows.schema.names
    for start in range(0, rows.num_rows, SLICE_ROWS):
        part = rows.slice(start, SLICE_ROWS)
        columns = [_values(part.column(place), *plan) for place, plan in enumerate(plans)]
        for values in zip(*columns, strict=True):
            yield _ENCODER.encode(dict(zip(names, values, strict=True)))


def _values(column: pa.ChunkedArray, casts: list[pa.DataType], change: Change | None) -> list[Any]:
    for each in casts:
        if column.type != each:
            column = column.cast(each)
    values: list[Any] = column.to_pylist()
    return values if change is None else [None if value is None else change(value) for value in values]


def _plan(type_: pa.DataType) -> tuple[list[pa.DataType], Change | None]:
    """Returns the types that a column is cast to before its values are Python's, and what is changed in them then.

    Arrow writes moments of any unit and year as text, Python's own types lack nanoseconds and the year 10,000.
    """
    bare = _retyped(type_, _bare)
    zoned = _retyped(bare, _in_utc)
    return [bare, zoned, _retyped(zoned, _as_text)], _change(bare)


def _retyped(type_: pa.DataType, leaf: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """Returns a type with its innermost types changed."""
    import pyarrow as pa

    if isinstance(type_, pa.JsonType):
        return type_
    if isinstance(type_, pa.BaseExtensionType):
        return _retyped(type_.storage_type, leaf)
    if pa.types.is_dictionary(type_):
        return _retyped(type_.value_type, leaf)
    if pa.types.is_map(type_):
        return pa.map_(_retyped(type_.key_type, leaf), _retyped(type_.item_type, leaf))
    if pa.types.is_struct(type_):
        return pa.struct([pa.field(each.name, _retyped(each.type, leaf)) for each in type_])
    if pa.types.is_large_list(type_):
        return pa.large_list(_retyped(type_.value_type, leaf))
    if pa.types.is_fixed_size_list(type_):
        return pa.list_(_retyped(type_.value_type, leaf), type_.list_size)
    if pa.types.is_list(type_):
        return pa.list_(_retyped(type_.value_type, leaf))
    return leaf(type_)


def _bare(type_: pa.DataType) -> pa.DataType:
    return type_


def _in_utc(type_: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    return pa.timestamp(type_.unit, "UTC") if pa.types.is_timestamp(type_) and type_.tz else type_


def _as_text(type_: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    if pa.types.is_temporal(type_) and not pa.types.is_interval(type_):
        return pa.int64() if pa.types.is_duration(type_) else pa.string()
    return type_


def _change(type_: pa.DataType) -> Change | None:
    """Returns what makes a value of a type ready for JSON; None: it is."""
    import pyarrow as pa

    if isinstance(type_, pa.JsonType):
        return lambda value: msgspec.Raw(value.encode())
    if pa.types.is_timestamp(type_):
        return lambda value: value.replace(" ", "T", 1)
    if pa.types.is_duration(type_):
        digits = _DIGITS[type_.unit]
        return lambda value: Decimal(value).scaleb(-digits) if digits else value
    if pa.types.is_map(type_):
        return _of_map(type_)
    if pa.types.is_struct(type_):
        inner = {each.name: change for each in type_ if (change := _inside(each.type)) is not None}
        return (lambda value: {**value, **{name: inner[name](value[name]) for name in inner}}) if inner else None
    if pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_):
        of_item = _inside(type_.value_type)
        return (lambda value: [of_item(each) for each in value]) if of_item is not None else None
    return None


def _of_map(type_: pa.MapType) -> Change:
    import pyarrow as pa

    of_key, of_item = _inside(type_.key_type) or _same, _inside(type_.item_type) or _same
    textual = pa.types.is_string(type_.key_type) or pa.types.is_large_string(type_.key_type)

    def change(value: Any) -> Any:
        pairs = [(of_key(key), of_item(item)) for key, item in value]
        return dict(pairs) if textual else pairs

    return change


def _inside(type_: pa.DataType) -> Change | None:
    """Returns the change of a value that may be null."""
    change = _change(type_)
    return None if change is None else lambda value: None if value is None else change(value)


def _same(value: Any) -> Any:
    return value
