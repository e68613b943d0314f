"""Finds the values that a live column holds unchanged: not rounded, cut or refused.

A column may be narrower than its kind: a bigint may not fit an `integer`, nor forty characters a `varchar(20)`, and 19.999
becomes 20.00 in a `numeric(12,2)` without a word. `Limits` of `loader/contract/warehouse.py` describes a column; this module
compares values with it. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Context, Decimal, InvalidOperation

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from loader.contract.warehouse import Column, Kind, Limits
from loader.types.convert import Converted, convert_to
from loader.types.lattice import ARROW
from shared.events import exact

_LONG_NUMBER = "[0-9.]{8}|[0-9.][eE]"
"""Only these can be doubles that four bytes do not hold."""
_NUMBER = re.compile(r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_SINGLE = 4
_LARGEST_SINGLE = float(np.finfo(np.float32).max)
Marks = NDArray[np.bool_]
_SECOND_DIGITS = 6
_EXACT = Context(prec=5000)
"""Enough digits for a number of a double or a client's text; longer text does not fit."""


def fit_values(values: pa.Array, source: Kind, column: Column) -> Converted:
    """Returns values as the column holds them, null for lost ones, with marks of the lost ones (None: there are none)."""
    digits_beyond = source is Kind.NUMBER and column.limits is not None and column.limits.single
    if not column.writable or digits_beyond:
        return pa.nulls(len(values), ARROW[column.kind]), np.ones(len(values), dtype=np.bool_)
    converted, bad = convert_to(values, source, column)
    if column.limits is None:
        return converted, bad
    for mask in _outside(converted, column.limits):
        marks: Marks = pc.fill_null(mask, False).to_numpy(zero_copy_only=False)
        if marks.any():
            bad = marks if bad is None else bad | marks
    if bad is not None and bad.any():
        converted = pc.if_else(pa.array(bad), pa.scalar(None, converted.type), converted)
    return converted, bad


def _outside(values: pa.Array, limits: Limits) -> Iterator[pa.Array]:
    """Yields masks of the values that each limit excludes; skips limits of other types."""
    type_ = values.type
    if pa.types.is_string(type_):
        yield from _text_outside(values, limits)
        return
    if pa.types.is_floating(type_):
        if limits.single:
            yield _not_single(values)
        return
    if pa.types.is_timestamp(type_):
        values = values.cast(pa.int64())
        if limits.seconds_digits is not None:
            unit = 10 ** (_SECOND_DIGITS - limits.seconds_digits)
            yield pa.array(values.fill_null(0).to_numpy() % unit != 0)
    if pa.types.is_date(type_):
        values = values.cast(pa.int32())
    if pa.types.is_integer(values.type) or pa.types.is_decimal(values.type):
        for limit, beyond in ((limits.lowest, pc.less), (limits.highest, pc.greater)):
            bound = None if limit is None else _bound(limit, values.type)
            if bound is not None:
                yield beyond(values, bound)


def _bound(limit: int, type_: pa.DataType) -> pa.Scalar | None:
    """Returns a bound in the values' type, None if that type ends first."""
    try:
        return pa.scalar(Decimal(limit) if pa.types.is_decimal(type_) else limit, type_)
    except (pa.ArrowInvalid, OverflowError):
        return None


def _not_single(values: pa.Array) -> pa.Array:
    single = pc.cast(values, pa.float32(), safe=False)
    # both written in the fewest digits that read back as the same number
    return pc.not_equal(pc.cast(single, pa.string()), pc.cast(values, pa.string()))


def _text_outside(values: pa.Array, limits: Limits) -> Iterator[pa.Array]:
    if limits.characters is not None:
        yield pc.greater(pc.utf8_length(values), limits.characters)
    if limits.one_of is not None:
        yield pc.invert(pc.is_in(values, value_set=pa.array(sorted(limits.one_of), pa.string())))
    if limits.accepted is not None:
        yield pc.invert(pc.match_substring_regex(values, limits.accepted))
    if limits.refused is not None:
        yield pc.match_substring_regex(values, limits.refused)
    if limits.float_bytes is not None:
        yield _numbers_outside(values, limits.float_bytes)
    if limits.digits is not None:
        precision, scale = limits.digits
        yield pa.array([text is not None and not _fits(text, precision, scale) for text in values.to_pylist()])


def _numbers_outside(values: pa.Array, size: int) -> pa.Array:
    long = pc.fill_null(pc.match_substring_regex(values, _LONG_NUMBER), False)
    if not pc.any(long).as_py():
        return long
    pairs = zip(values.to_pylist(), long.to_pylist(), strict=True)
    return pa.array([is_long and not all(_held(each, size) for each in _NUMBER.findall(text)) for text, is_long in pairs])


def _held(text: str, size: int) -> bool:
    """Whether a float of so many bytes holds a number."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        return False
    value = float(text)
    if size == _SINGLE:
        single = np.float32(value) if abs(value) <= _LARGEST_SINGLE else np.float32(np.inf)
        return bool(np.isfinite(single)) and Decimal(str(single)) == number
    return exact.holds(value, number)


def _fits(text: str, precision: int, scale: int) -> bool:
    if len(text) > _EXACT.prec:
        return False
    try:
        number = Decimal(text)
    except InvalidOperation:
        return False
    if not number.is_finite():
        return False
    if not number:
        return True
    if not -scale <= number.adjusted() < precision - scale:
        return False  # before normalising, which fails for exponents of many digits
    return -int(number.normalize(_EXACT).as_tuple().exponent) <= scale
