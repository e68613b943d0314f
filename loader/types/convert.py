"""Converts values to the type of an existing column, whole arrays at once: the table in docs/loading.md, cell by cell.

A value is converted only if nothing of it is lost. `convert` returns the converted array, with nulls for values that do not
convert and marks of these; the connection's `on_conflict` decides about them (`loader/fitting/fit.py`).

    from \\ to    boolean       bigint          double       decimal         text              timestamp   date       json
    boolean      =             0, 1            0.0, 1.0     0, 1            true, false       -           -          yes
    bigint       0, 1 only     =               if exact     =               digits            -           -          yes
    double       0, 1 only     if integral     =            if integral     plain decimal     -           -          yes
    decimal      0, 1 only     if it fits      if exact     =               digits            -           -          yes
    number       -             if integral     if one       if integral     plain decimal     -           -          yes
    text         true t 1 ...  canonical       canonical    canonical       =                 parses      parses     a string
    timestamp    -             -               -            -               ISO, ms, Z        =           midnight   a string
    json         -             -               -            -               compact JSON      -           -          =

To `other`, a type of the warehouse we do not know, everything goes as its text, except that a number with a scale, such as
`numeric(12,2)`, is given numbers only. "Canonical" text is what the number would be written as: `007`, `+7`, `.5`, `1e3` and, for
a double, `1.10` stay text, because zeros, signs and exponents would be lost. A `number` has digits that its nearest double lacks:
it is "one" of a double's numbers if it is the double in 17 digits or in all of its digits. A time has microseconds in its text
only where it would not be the same without them.

The arrays have no nulls, NaN or infinity (`loader/rows/runs.py` takes them out). Pure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from loader.contract.warehouse import Column, Kind
from loader.types.lattice import ARROW, DECIMAL, TIMESTAMP, inexact_as_double
from loader.types.moments import moments
from shared.events import exact

Marks = NDArray[np.bool_]
Converted = tuple[pa.Array, Marks | None]
"""The array in the target type, and which values did not convert (None: all did)."""

_TRUE, _FALSE = ("true", "t", "1"), ("false", "f", "0")
_INTEGER_TEXT = r"^(?:0|-?[1-9][0-9]{0,37})$"
_NUMBER_TEXT = r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]*[1-9])?$"
_SCALED_TEXT = r"^-?(?:0|[1-9][0-9]*)%s$"
_NEGATIVE_ZERO = r"^-0(?:\.0*)?$"
_LONGEST_DOUBLE = 400
"""Characters of a double without an exponent, at most."""
_LONGEST_FRACTION = 1000
"""RE2's largest repetition."""
_MOST_ZEROS = 400
_LONGEST_IN_JSON = 1000
_FIRST_GAP = 2.0**53
"""From here on some integers are no double."""
_NEEDS_ESCAPE = r'["\\\x00-\x1f]'
_NUMERIC = re.compile(r"(?:numeric|decimal|number)\b[\s\d(),]*", re.IGNORECASE)
_DAY_MICROSECONDS = 86_400_000_000
_encode = msgspec.json.Encoder().encode


def convert(values: pa.Array, source: Kind, target: Kind) -> Converted:
    """Returns `values` of kind `source` as an array of the Arrow type of `target`, with marks of values that did not convert."""
    if source is target:
        return values, None
    if target is Kind.OTHER:
        target = Kind.TEXT
        if source is Kind.TEXT:
            return values, None
    convert_cell = _CELLS.get((source, target))
    if convert_cell is None:
        return pa.nulls(len(values), ARROW[target]), np.ones(len(values), dtype=np.bool_)
    return convert_cell(values)


def convert_to(values: pa.Array, source: Kind, column: Column) -> Converted:
    """Converts as `convert` does, for a column whose native type may say more than its kind."""
    digits = column.limits.digits if column.limits else None
    if column.kind is Kind.OTHER and (digits or (column.native and _NUMERIC.fullmatch(column.native))):
        return _as_numeric(values, source, digits[1] if digits else _LONGEST_FRACTION)
    return convert(values, source, column.kind)


def json_text(values: pa.Array, source: Kind) -> pa.Array:
    """Returns values of any kind as JSON text; never fails."""
    return convert(values, source, Kind.JSON)[0]


def _masked(values: pa.Array, bad: Any) -> Converted:
    marks = bad if isinstance(bad, np.ndarray) else bad.to_numpy(zero_copy_only=False)
    if not marks.any():
        return values, None
    return pc.if_else(pa.array(marks), pa.scalar(None, values.type), values), marks


def _through(*steps: Callable[[pa.Array], Converted]) -> Callable[[pa.Array], Converted]:
    """Chains steps; only the last may fail."""

    def run(values: pa.Array) -> Converted:
        for step in steps[:-1]:
            values = step(values)[0]
        return steps[-1](values)

    return run


def _cast(type_: pa.DataType) -> Callable[[pa.Array], Converted]:
    return lambda values: (pc.cast(values, type_), None)


def _numbers_as_boolean(values: pa.Array) -> Converted:
    one = pc.equal(values, pa.scalar(1).cast(values.type))
    zero = pc.equal(values, pa.scalar(0).cast(values.type))
    return _masked(one, pc.invert(pc.or_(one, zero)))


def _integers_as_double(values: pa.Array) -> Converted:
    integers = values.to_numpy()
    return _masked(pa.array(integers.astype(np.float64)), inexact_as_double(integers))


def _doubles_as_integer(values: pa.Array) -> Converted:
    doubles = values.to_numpy()
    bad = (doubles != np.floor(doubles)) | (doubles < -(2.0**63)) | (doubles >= 2.0**63)
    integers = np.where(bad, 0.0, doubles).astype(np.int64)
    for index in np.flatnonzero(~bad & (np.abs(doubles) >= _FIRST_GAP)).tolist():
        whole = _written(doubles[index])
        bad[index] = not -(2**63) <= whole < 2**63
        integers[index] = 0 if bad[index] else whole
    return _masked(pa.array(integers), bad)


def _doubles_as_decimal(values: pa.Array) -> Converted:
    whole = [
        Decimal(_written(value)) if value == int(value) and abs(value) < 1e38 else None for value in values.to_numpy().tolist()
    ]
    return _masked(pa.array(whole, type=DECIMAL), np.fromiter((value is None for value in whole), np.bool_, len(whole)))


def _written(double: float) -> int:
    """Returns the integer that a client sent as a double: the fewest digits that identify it, and zeros."""
    return int(Decimal(repr(float(double))))


def _doubles_as_text(values: pa.Array) -> Converted:
    texts = pc.cast(values, pa.string())
    exponents = pc.match_substring(texts, "e")
    if pc.any(exponents).as_py():
        plain = [
            f"{Decimal(text):f}" if marked else text
            for text, marked in zip(texts.to_pylist(), exponents.to_pylist(), strict=True)
        ]
        texts = pa.array(plain, type=pa.string())
    return texts, None


def _numbers_as_double(values: pa.Array) -> Converted:
    texts = values.to_pylist()
    doubles = [float(text) for text in texts]
    bad = [not exact.holds(value, Decimal(text)) for value, text in zip(doubles, texts, strict=True)]
    return _masked(pa.array(doubles, pa.float64()), np.array(bad, np.bool_))


def _numbers_as_integer(values: pa.Array) -> Converted:
    return _whole(values, pa.int64(), -(2**63), 2**63)


def _numbers_as_decimal(values: pa.Array) -> Converted:
    return _whole(values, DECIMAL, 1 - 10**38, 10**38)


def _whole(values: pa.Array, type_: pa.DataType, lowest: int, beyond: int) -> Converted:
    """Returns numbers without a fraction within bounds."""
    found: list[int | None] = []
    for text in values.to_pylist():
        number = Decimal(text)
        whole = int(number) if 0 <= number.adjusted() < DECIMAL.precision else None
        found.append(whole if whole is not None and whole == number and lowest <= whole < beyond else None)
    return _masked(pa.array(found, type_), np.array([each is None for each in found], np.bool_))


def _numbers_as_text(values: pa.Array) -> Converted:
    return pa.array([_plain(text) for text in values.to_pylist()], pa.string()), None


def _plain(text: str) -> str:
    """Returns a number without an exponent, unless it would be nothing but zeros."""
    number = Decimal(text)
    return f"{number:f}" if abs(number.adjusted()) <= _MOST_ZEROS else text


def _numbers_as_json(values: pa.Array) -> Converted:
    # databases bound the numbers in JSON, and some readers fail on large ones: there it is a string
    texts = [
        text if abs(Decimal(text).adjusted()) <= _MOST_ZEROS and len(text) <= _LONGEST_IN_JSON else f'"{text}"'
        for text in values.to_pylist()
    ]
    return pa.array(texts, pa.string()), None


def _decimals_as_integer(values: pa.Array) -> Converted:
    whole = [int(value) if -(2**63) <= value < 2**63 else None for value in values.to_pylist()]
    return _masked(pa.array(whole, type=pa.int64()), np.fromiter((value is None for value in whole), np.bool_, len(whole)))


def _decimals_as_double(values: pa.Array) -> Converted:
    decimals = values.to_pylist()
    bad = np.fromiter((int(float(value)) != int(value) for value in decimals), np.bool_, len(decimals))
    return _masked(pa.array([float(value) for value in decimals], type=pa.float64()), bad)


def _text_as_boolean(values: pa.Array) -> Converted:
    lowered = pc.ascii_lower(values)
    true = pc.is_in(lowered, value_set=pa.array(_TRUE))
    return _masked(true, pc.invert(pc.or_(true, pc.is_in(lowered, value_set=pa.array(_FALSE)))))


def _text_as_decimal(values: pa.Array) -> Converted:
    good = pc.match_substring_regex(values, _INTEGER_TEXT)
    digits = pc.if_else(good, values, "0")
    return _masked(pc.cast(digits, DECIMAL), pc.invert(good))


def _text_as_integer(values: pa.Array) -> Converted:
    good = pc.and_(pc.match_substring_regex(values, _INTEGER_TEXT), pc.less_equal(pc.utf8_length(values), 20))
    digits = pc.if_else(good, values, "0")
    try:
        return _masked(pc.cast(digits, pa.int64()), pc.invert(good))
    except pa.ArrowInvalid:  # 19 or 20 characters may still be beyond 64 bits
        integers = [int(text) if ok else None for text, ok in zip(values.to_pylist(), good.to_pylist(), strict=True)]
        fitting = [value if value is not None and -(2**63) <= value < 2**63 else None for value in integers]
        return _masked(pa.array(fitting, type=pa.int64()), np.fromiter((v is None for v in fitting), np.bool_, len(fitting)))


def _text_as_double(values: pa.Array) -> Converted:
    good = pc.and_(pc.match_substring_regex(values, _NUMBER_TEXT), pc.less_equal(pc.utf8_length(values), _LONGEST_DOUBLE))
    numbers = [_double(text) if ok else np.nan for text, ok in zip(values.to_pylist(), good.to_pylist(), strict=True)]
    doubles = np.array(numbers, dtype=np.float64)
    bad = ~np.isfinite(doubles)
    same = pc.equal(_doubles_as_text(pa.array(np.where(bad, 0.0, doubles)))[0], values)
    return _masked(pa.array(doubles), bad | ~same.to_numpy(zero_copy_only=False))


def _double(text: str) -> float:
    """Returns the double of a text, NaN if that is another integer."""
    number = float(text)
    return number if abs(number) < _FIRST_GAP or Decimal(number) == Decimal(text) else math.nan


def _as_numeric(values: pa.Array, source: Kind, scale: int) -> Converted:
    """Returns numbers as text, for a decimal with a scale; its limits decide whether it has room (`loader/fitting/limits.py`)."""
    if source in (Kind.TIMESTAMP, Kind.JSON):
        return pa.nulls(len(values), pa.string()), np.ones(len(values), dtype=np.bool_)
    texts = convert(values.cast(pa.int64()) if source is Kind.BOOLEAN else values, source, Kind.TEXT)[0].cast(pa.string())
    if source is not Kind.TEXT:
        return texts, None
    fraction = rf"(?:\.[0-9]{{1,{min(scale, _LONGEST_FRACTION)}}})?" if scale > 0 else ""
    good = pc.match_substring_regex(texts, _SCALED_TEXT % fraction)
    return _masked(texts, pc.or_(pc.invert(good), pc.match_substring_regex(texts, _NEGATIVE_ZERO)))


def _text_as_json(values: pa.Array) -> Converted:
    if pc.any(pc.match_substring_regex(values, _NEEDS_ESCAPE)).as_py():
        return pa.array([_encode(text).decode() for text in values.to_pylist()], type=pa.string()), None
    return pc.binary_join_element_wise('"', values, '"', ""), None


def _moments_as_date(values: pa.Array) -> Converted:
    microseconds = values.cast(pa.int64()).to_numpy()
    days = np.floor_divide(microseconds, _DAY_MICROSECONDS)
    return _masked(pa.array(days.astype(np.int32)).cast(pa.date32()), days * _DAY_MICROSECONDS != microseconds)


def _text_as_date(values: pa.Array) -> Converted:
    parsed, bad = moments(values)
    filled = pc.fill_null(parsed, pa.scalar(0, pa.int64()).cast(TIMESTAMP))
    dates, late = _moments_as_date(filled)
    marks = [each for each in (bad, late) if each is not None]
    return _masked(dates, np.logical_or.reduce(marks)) if marks else (dates, None)


def _moments_as_text(values: pa.Array) -> Converted:
    # without the zone first: formatting a zoned timestamp needs a time zone database, which slim images lack
    plain = values.cast(pa.int64()).cast(pa.timestamp("us"))
    texts = pc.cast(plain.cast(pa.timestamp("ms"), safe=False), pa.string())
    finer = values.cast(pa.int64()).to_numpy() % 1000 != 0
    if finer.any():  # the text of a moment must not depend on its neighbours
        texts = pc.if_else(pa.array(finer), pc.cast(plain, pa.string()), texts)
    return pc.binary_join_element_wise(pc.utf8_replace_slice(texts, 10, 11, "T"), "Z", ""), None


def _nothing_changes(values: pa.Array) -> Converted:
    return values, None


_CELLS: dict[tuple[Kind, Kind], Callable[[pa.Array], Converted]] = {
    (Kind.BOOLEAN, Kind.BIGINT): _cast(pa.int64()),
    (Kind.BOOLEAN, Kind.DOUBLE): _through(_cast(pa.int64()), _cast(pa.float64())),
    (Kind.BOOLEAN, Kind.DECIMAL): _through(_cast(pa.int64()), _cast(DECIMAL)),
    (Kind.BOOLEAN, Kind.TEXT): _cast(pa.string()),
    (Kind.BOOLEAN, Kind.JSON): _cast(pa.string()),
    (Kind.BIGINT, Kind.BOOLEAN): _numbers_as_boolean,
    (Kind.BIGINT, Kind.DOUBLE): _integers_as_double,
    (Kind.BIGINT, Kind.DECIMAL): _cast(DECIMAL),
    (Kind.BIGINT, Kind.TEXT): _cast(pa.string()),
    (Kind.BIGINT, Kind.JSON): _cast(pa.string()),
    (Kind.DOUBLE, Kind.BOOLEAN): _numbers_as_boolean,
    (Kind.DOUBLE, Kind.BIGINT): _doubles_as_integer,
    (Kind.DOUBLE, Kind.DECIMAL): _doubles_as_decimal,
    (Kind.DOUBLE, Kind.TEXT): _doubles_as_text,
    (Kind.DOUBLE, Kind.JSON): _doubles_as_text,
    (Kind.DECIMAL, Kind.BOOLEAN): _numbers_as_boolean,
    (Kind.DECIMAL, Kind.BIGINT): _decimals_as_integer,
    (Kind.DECIMAL, Kind.DOUBLE): _decimals_as_double,
    (Kind.DECIMAL, Kind.TEXT): _cast(pa.string()),
    (Kind.DECIMAL, Kind.JSON): _cast(pa.string()),
    (Kind.NUMBER, Kind.BIGINT): _numbers_as_integer,
    (Kind.NUMBER, Kind.DOUBLE): _numbers_as_double,
    (Kind.NUMBER, Kind.DECIMAL): _numbers_as_decimal,
    (Kind.NUMBER, Kind.TEXT): _numbers_as_text,
    (Kind.NUMBER, Kind.JSON): _numbers_as_json,
    (Kind.TEXT, Kind.BOOLEAN): _text_as_boolean,
    (Kind.TEXT, Kind.BIGINT): _text_as_integer,
    (Kind.TEXT, Kind.DOUBLE): _text_as_double,
    (Kind.TEXT, Kind.DECIMAL): _text_as_decimal,
    (Kind.TEXT, Kind.TIMESTAMP): moments,
    (Kind.TEXT, Kind.DATE): _text_as_date,
    (Kind.TEXT, Kind.JSON): _text_as_json,
    (Kind.TIMESTAMP, Kind.TEXT): _moments_as_text,
    (Kind.TIMESTAMP, Kind.DATE): _moments_as_date,
    (Kind.TIMESTAMP, Kind.JSON): _through(_moments_as_text, _text_as_json),
    (Kind.JSON, Kind.TEXT): _nothing_changes,
}
