"""Texts of the server become typed columns: whole columns at once, and value by value only where one is odd. Pure.

Arrow has no infinite time and most warehouses only the years 1 to 9999: a time outside of them becomes the nearest inside. A numeric
that is no number becomes null. A column in which another value does not fit stays text, for these rows only. All is counted.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from connector_runner.sources.postgres.types import Column

JSON_TYPE = pa.json_(pa.string())
_FIRST, _LAST = ("0001-01-01", "00:00:00"), ("9999-12-31", "23:59:59.999999")
_BEFORE, _BEHIND = r"^-infinity$| BC$", r"^infinity$|^[0-9]{5,}-"
_NO_NUMBER = r"^(NaN|-?Infinity)$"
NEAREST, NO_NUMBER, AS_TEXT = "nearest", "no_number", "as_text"


class Notes(Counter[tuple[str, str]]):
    """Odd values, by column and by what was made of them."""

    def columns(self) -> set[str]:
        """Returns the columns that have odd values."""
        return {column for (column, _), number in self.items() if number}

    def lines(self, stream: str) -> list[str]:
        """Returns a line for people for each, and forgets them."""
        said = {
            NEAREST: "times outside of the years 1 to 9999 became the nearest inside",
            NO_NUMBER: "numbers that are NaN or infinite became null",
            AS_TEXT: "values came as text, because one of them does not fit the column's type",
        }
        found = [f'{stream}: column "{column}": {number} {said[what]}' for (column, what), number in self.items() if number]
        self.clear()
        return found


def parse(block: bytes, columns: Sequence[Column], notes: Notes) -> pa.Table:
    """Returns the rows of a block of CSV, as COPY writes it: an unquoted nothing is null, `""` an empty text.

    Args:
        notes: counts odd values.
    """
    names = [column.name for column in columns]
    try:
        table = _read(block, names, [_of_csv(column) for column in columns])
    except pa.ArrowInvalid:
        table = _read(block, names, [pa.string()] * len(names))
    arrays = [finished(table.column(index).combine_chunks(), column, notes) for index, column in enumerate(columns)]
    return pa.table(arrays, names=names)


def finished(values: pa.Array, column: Column, notes: Notes) -> pa.Array:
    """Returns values as the column has them, if they are still texts."""
    if not pa.types.is_string(values.type):
        return values
    return as_json(values) if column.form in ("json", "array") else typed(values, column, notes)


def as_json(texts: pa.StringArray) -> pa.Array:
    """Returns texts as the JSON that they are."""
    return pa.ExtensionArray.from_storage(JSON_TYPE, texts)


def typed(texts: pa.StringArray, column: Column, notes: Notes) -> pa.Array:
    """Returns texts of the server in the column's type, or as they are where one does not fit."""
    type_ = column.arrow
    if type_ is None:
        return texts
    if pa.types.is_boolean(type_):
        return pc.equal(texts, "t")
    try:
        return texts.cast(type_)
    except pa.ArrowInvalid:
        pass
    fitted = texts
    if pa.types.is_temporal(type_):
        for pattern, (day, moment) in ((_BEFORE, _FIRST), (_BEHIND, _LAST)):
            zone = "+00" if pa.types.is_timestamp(type_) and type_.tz else ""
            bound = day if pa.types.is_date(type_) else f"{day} {moment}{zone}"
            fitted, number = _put(fitted, pattern, bound)
            notes[column.name, NEAREST] += number
    elif pa.types.is_decimal(type_):
        fitted, notes[column.name, NO_NUMBER] = _put(fitted, _NO_NUMBER, None)
    try:
        return fitted.cast(type_)
    except pa.ArrowInvalid:
        for what in (NEAREST, NO_NUMBER):
            notes.pop((column.name, what), None)
        notes[column.name, AS_TEXT] += len(texts) - texts.null_count
        return texts


def _put(texts: pa.StringArray, pattern: str, value: str | None) -> tuple[pa.StringArray, int]:
    """Returns texts with a value in place of each text that matches, and how many did."""
    found = pc.fill_null(pc.match_substring_regex(texts, pattern), False)
    number = pc.sum(found).as_py() or 0
    return (pc.if_else(found, pa.scalar(value, pa.string()), texts) if number else texts), number


def _of_csv(column: Column) -> pa.DataType:
    """Returns the type that a column's values get at once; Arrow reads no wide decimals."""
    type_ = column.arrow
    return pa.string() if type_ is None or pa.types.is_decimal256(type_) else type_


def _read(block: bytes, names: Sequence[str], types: Sequence[pa.DataType]) -> pa.Table:
    return csv.read_csv(
        io.BytesIO(block),
        read_options=csv.ReadOptions(column_names=list(names), block_size=len(block) + 1, use_threads=False),
        parse_options=csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        convert_options=csv.ConvertOptions(
            column_types=dict(zip(names, types, strict=True)),
            null_values=[""],
            true_values=["t"],
            false_values=["f"],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
