"""Texts of CSV as the types of a stream; the rows whose texts are none of their type are named. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from shared.reading.written import Written, as_type

if TYPE_CHECKING:
    import pyarrow as pa

_KIND_WORDS = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "date": "a date",
    "timestamp": "a time",
}
_SHOWN = 50


class Odd(NamedTuple):
    """A row of a table that cannot be read, by its place."""

    place: int
    why: str


def converted(texts: pa.Table, kinds: Mapping[str, Written], named: Mapping[str, str]) -> tuple[pa.Table, list[Odd]]:
    """Returns a table of texts with the types of its columns; where a row is odd its value is null.

    Args:
        kinds: guessed types, which all values fit.
        named: types that the user wrote.
    """
    import pyarrow as pa

    odd: list[Odd] = []
    columns = []
    for name, values in zip(texts.column_names, texts.columns, strict=True):
        kind = named.get(name)
        if kind is None:
            columns.append(as_type(values, kinds.get(name, "text")))
        elif kind == "text":
            columns.append(values)
        else:
            columns.append(_cast(name, values, kind, odd))
    return pa.table(columns, names=texts.column_names), odd


def _cast(name: str, values: pa.ChunkedArray, kind: str, odd: list[Odd]) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    trimmed = pc.utf8_trim_whitespace(values)
    present = pc.if_else(pc.equal(trimmed, ""), pa.scalar(None, pa.string()), trimmed)
    cast = _CASTS[kind]
    try:
        return cast(present)
    except pa.ArrowInvalid:
        wrong = _wrong(present, cast, 0)
    written = values.to_pylist()
    odd.extend(Odd(place, f"{name} is {written[place][:_SHOWN]!r} and not {_KIND_WORDS[kind]}") for place in wrong)
    bad = pa.array([place in set(wrong) for place in range(len(values))])
    return cast(pc.if_else(bad, pa.scalar(None, pa.string()), present))


def _wrong(values: pa.ChunkedArray, cast: Callable[[pa.ChunkedArray], pa.ChunkedArray], first: int) -> list[int]:
    """Returns the places of the values that cannot be cast: by halves, as they are few."""
    import pyarrow as pa

    try:
        cast(values)
        return []
    except pa.ArrowInvalid:
        if len(values) == 1:
            return [first]
    half = len(values) // 2
    return [*_wrong(values.slice(0, half), cast, first), *_wrong(values.slice(half), cast, first + half)]


def _integer(values: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa

    return values.cast(pa.int64())


def _number(values: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa

    return values.cast(pa.float64())


def _boolean(values: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa

    return values.cast(pa.bool_())


def _date(values: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa

    return values.cast(pa.date32())


def _timestamp(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Casts moments; one without a zone is in UTC, and digits beyond microseconds are cut."""
    import pyarrow as pa
    import pyarrow.compute as pc

    short = pc.replace_substring_regex(values, r"(\.\d{6})\d+", r"\1")
    whole = pc.if_else(
        pc.match_substring_regex(short, r"^\d{4}-\d\d-\d\d$"), pc.binary_join_element_wise(short, "00:00:00Z", " "), short
    )
    zoned = pc.match_substring_regex(whole, r"([zZ]|[+-]\d\d(:?\d\d)?)$")
    at = pc.if_else(zoned, whole, pc.binary_join_element_wise(whole, "Z", ""))
    return at.cast(pa.timestamp("us", "UTC"))


_CASTS: dict[str, Callable[[pa.ChunkedArray], pa.ChunkedArray]] = {
    "integer": _integer, "number": _number, "boolean": _boolean, "date": _date, "timestamp": _timestamp,
}  # fmt: skip
