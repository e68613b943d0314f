"""Values of Arrow columns as their JSON has them, and JSON texts as columns: for rules that no Arrow function knows. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from connector_runner.json_rows import json_rows
from shared.events import exact
from shared.events.outcome import Dead
from shared.events.rescue import UNREADABLE, read_odd

if TYPE_CHECKING:
    import pyarrow as pa

_MANY_DIGITS = re.compile(rb"[0-9.]{16}|[eE]-[0-9]{3}")
"""What every number has that a double would change; `shared/events/exact.py` says why."""
_plain = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder(decimal_format="number").encode


def read_object(data: bytes, *, digits: bool = False) -> dict[str, Any]:
    """Returns a JSON object.

    Args:
        digits: numbers that a double would change are decimals, so that they can be written as they were.

    Raises:
        ValueError: it cannot be read; says why.
    """
    try:
        return exact.decode(data) if digits and _MANY_DIGITS.search(data) else _plain(data)
    except UNREADABLE as exc:
        found = read_odd(data, exc, Counter())
        if isinstance(found, Dead):
            raise ValueError(found.detail) from exc
        return found


def write_object(row: Any) -> bytes:
    """Returns a value as JSON; decimals as numbers."""
    return _encode(row)


def whole(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Returns a column as one array of a plain type, or of Arrow's JSON; text views and dictionaries become what they stand for."""
    import pyarrow as pa

    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # too large for one array of its type
        array = pa.concat_arrays([each.cast(pa.large_string()) for each in array.chunks])
    if isinstance(array.type, pa.BaseExtensionType) and not isinstance(array.type, pa.JsonType):
        array = array.storage
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array.cast(pa.string()) if pa.types.is_string_view(array.type) else array


def json_values(array: pa.Array, *, digits: bool = False) -> list[Any]:
    """Returns each value as it is decoded from the row's JSON."""
    import pyarrow as pa

    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        values: list[Any] = array.to_pylist()
        return values
    return [read_object(line, digits=digits)["v"] for line in json_rows(pa.table({"v": array}))]


def by_value(array: pa.Array, deed: Callable[[Any], Any], *, digits: bool = False) -> tuple[list[Any], pa.Array]:
    """Applies a function of one value, which may be None, to each different value once.

    Returns:
        The results, and for each row which of them it has (null: the row has no value).
    """
    import pyarrow as pa

    try:
        encoded = array.dictionary_encode()
    except pa.ArrowNotImplementedError:  # of lists and such
        values = json_values(array, digits=digits)
        return [deed(value) for value in values], pa.array(range(len(values)), pa.int32())
    return [deed(value) for value in json_values(encoded.dictionary, digits=digits)], encoded.indices


def is_text(type_: pa.DataType) -> bool:
    """Whether a type is one of the types of text."""
    import pyarrow as pa

    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_))


def is_object(type_: pa.DataType) -> bool:
    """Whether values of a type are objects whose keys Arrow knows."""
    import pyarrow as pa

    return bool(pa.types.is_struct(type_))


def has_inside(type_: pa.DataType) -> bool:
    """Whether values of a type may have others inside that only their JSON shows."""
    import pyarrow as pa

    return bool(isinstance(type_, pa.JsonType) or (pa.types.is_nested(type_) and not pa.types.is_struct(type_)))


def as_json(texts: Sequence[str | bytes | None]) -> pa.Array:
    """Returns JSON texts as a column of Arrow's JSON."""
    import pyarrow as pa

    return of_texts(pa.array([each.decode() if isinstance(each, bytes) else each for each in texts], pa.string()))


def of_texts(array: pa.Array) -> pa.Array:
    """Returns a column of texts as a column of Arrow's JSON."""
    import pyarrow as pa

    return pa.ExtensionArray.from_storage(pa.json_(pa.string()), array.cast(pa.string()))


def as_object(like: pa.Array, children: dict[str, pa.Array]) -> pa.Array:
    """Returns objects with these members, null where those of `like` are."""
    import pyarrow as pa

    fields = [pa.field(name, each.type) for name, each in children.items()]
    return pa.StructArray.from_arrays(list(children.values()), fields=fields, mask=like.is_null())


def members(array: pa.Array) -> dict[str, pa.Array]:
    """Returns the members of objects, null where the object is."""
    import pyarrow.compute as pc

    return {array.type.field(place).name: pc.struct_field(array, [place]) for place in range(array.type.num_fields)}
