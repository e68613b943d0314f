"""A condition on an Arrow column: by Arrow's own functions where they answer exactly as the test of one value does, else by the test.

The test is asked once for each different value. Arrow's functions take numbers, texts and moments: the rest is rare, or has few values.
Pure.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connector_runner.rules.values import by_value, has_inside, is_object, is_text, json_values, whole
from shared.events.event import parse_time
from shared.rules.where import Condition, reader

if TYPE_CHECKING:
    from numpy.typing import NDArray

EQUAL, ORDER, TEXT = ("eq", "ne", "in", "not_in"), ("gt", "gte", "lt", "lte"), ("starts_with", "ends_with", "contains")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PER_SECOND = {"s": 1, "ms": 1000, "us": 1_000_000}
_FIRST, _LAST = -62_135_596_800, 253_402_300_799
"""Seconds of the years 1 to 9999: only these are moments in JSON."""
_SURE_DIGITS = 15
"""As many digits tell a decimal from all others also as a double."""
_MOST_EQUALS = 16
"""With more operands, asking the test of each different value is cheaper than as many comparisons."""


def verdicts(condition: Condition, table: pa.Table) -> NDArray[np.bool_]:
    """Returns what a condition says of each row."""
    missing = np.full(table.num_rows, condition.missing)
    root, *inner = condition.path
    if not table.num_rows or root not in table.column_names:
        return missing
    array = whole(table.column(root))
    while inner and is_object(array.type):
        place = array.type.get_field_index(inner[0])
        if place < 0:
            return missing
        array, inner = whole(pc.struct_field(array, [place])), inner[1:]
    if inner and not has_inside(array.type):
        return missing
    if inner or has_inside(array.type) or is_object(array.type):
        read, test = reader(tuple(inner)), condition.test
        found = [read(value) for value in json_values(array)]
        return np.array([condition.missing if each is None else test(each) for each in found], np.bool_)
    there = array.is_valid()
    if pa.types.is_floating(array.type):  # JSON has neither NaN nor the infinities
        array = array.cast(pa.float64())
        there = pc.and_(there, pc.is_finite(array).fill_null(False))
    native = _native(condition, array)
    if native is not None:
        return np.where(_bools(there), _bools(native), missing)
    results, which = by_value(array, lambda value: condition.missing if value is None else condition.test(value))
    return _bools(pa.array(results, pa.bool_()).take(which).fill_null(condition.missing))


def _native(condition: Condition, array: pa.Array) -> pa.Array | pa.Scalar | None:
    """Returns what Arrow says of the values that are there; None: the test must be asked."""
    name, operand, type_ = condition.operator, condition.operand, array.type
    if name == "exists":
        return _same(array, bool(operand))
    if name not in (*EQUAL, *ORDER, *TEXT):
        return None
    operands = operand if isinstance(operand, list) else [operand]
    found: pa.Array | None = None
    if pa.types.is_integer(type_):
        found = _exact(name, array, [Fraction(each) for each in operands if type(each) in (int, float)])
    elif pa.types.is_boolean(type_):
        found = _of_booleans(name, array, operands)
    elif pa.types.is_float64(type_):
        found = _of_doubles(name, array, operands)
    elif pa.types.is_decimal(type_):
        found = _of_decimals(name, array, operands)
    elif pa.types.is_timestamp(type_):
        found = _of_moments(name, array, operands)
    elif is_text(type_):
        found = _of_texts(name, array, operands)
    return pc.invert(found) if found is not None and name in ("ne", "not_in") else found


def _exact(name: str, array: pa.Array, numbers: list[Fraction]) -> pa.Array | None:
    """Compares integers with numbers of any size and fineness."""
    if name in TEXT or (name in ORDER and not numbers):
        return _same(array, False)
    if name in EQUAL:
        known = [int(each) for each in numbers if each.denominator == 1 and _fits(int(each), array.type)]
        return pc.is_in(array, value_set=pa.array(known, array.type))
    number = numbers[0]
    edge = math.floor(number) if name in ("gt", "lte") else math.ceil(number)
    if not _fits(edge, array.type):
        return _same(array, (edge < 0) == (name in ("gt", "gte")))
    return _compare(name, array, pa.scalar(edge, array.type))


def _of_booleans(name: str, array: pa.Array, operands: list[Any]) -> pa.Array:
    if name not in EQUAL:
        return _same(array, False)
    return pc.is_in(array, value_set=pa.array([each for each in operands if type(each) is bool], pa.bool_()))


def _of_doubles(name: str, array: pa.Array, operands: list[Any]) -> pa.Array | None:
    numbers = [each for each in operands if type(each) in (int, float)]
    if name in TEXT:
        return _same(array, False)
    if any(abs(each) > 2**53 for each in numbers if type(each) is int):
        return None
    return _all_compared(name, array, [pa.scalar(float(each), pa.float64()) for each in numbers])


def _of_decimals(name: str, array: pa.Array, operands: list[Any]) -> pa.Array | None:
    numbers = [Decimal(repr(each)) for each in operands if type(each) in (int, float)]
    if name in TEXT:
        return _same(array, False)
    if array.type.precision > _SURE_DIGITS or not 0 <= array.type.scale <= _SURE_DIGITS:
        return None
    if any(len(each.as_tuple().digits) > _SURE_DIGITS or _exponent(each) < -_SURE_DIGITS for each in numbers):
        return None
    if any(abs(each) >= 10**_SURE_DIGITS for each in numbers):
        return None
    wide = array.cast(pa.decimal256(array.type.precision + 2 * _SURE_DIGITS, array.type.scale + _SURE_DIGITS))
    return _all_compared(name, wide, [pa.scalar(each, wide.type) for each in numbers])


def _of_moments(name: str, array: pa.Array, operands: list[Any]) -> pa.Array | None:
    per_second = _PER_SECOND.get(array.type.unit)
    moments = [parse_time(each) for each in operands if type(each) is str]
    if per_second is None or (name not in EQUAL and (name not in ORDER or not moments or None in moments)):
        return None
    edges = pc.min_max(array.cast(pa.int64()))
    low, high = edges["min"].as_py(), edges["max"].as_py()
    if low is not None and (low < _FIRST * per_second or high >= (_LAST + 1) * per_second):
        return None
    numbers = [Fraction((each - _EPOCH) // timedelta(microseconds=1) * per_second, 1_000_000) for each in moments if each]
    return _exact(name, array.cast(pa.int64()), numbers)


def _of_texts(name: str, array: pa.Array, operands: list[Any]) -> pa.Array | None:
    texts = [each for each in operands if type(each) is str]
    if any(parse_time(each) is not None or not _is_unicode(each) for each in texts):
        return None
    if name in EQUAL:
        return pc.is_in(array, value_set=pa.array(texts, array.type))
    if not texts:
        return _same(array, False)
    match name:
        case "starts_with":
            return pc.starts_with(array, pattern=texts[0])
        case "ends_with":
            return pc.ends_with(array, pattern=texts[0])
        case "contains":
            return pc.match_substring(array, pattern=texts[0])
    return _compare(name, array, pa.scalar(texts[0], array.type))


def _all_compared(name: str, array: pa.Array, operands: list[pa.Scalar]) -> pa.Array | None:
    if not operands:
        return _same(array, False)
    if name in ORDER:
        return _compare(name, array, operands[0])
    if len(operands) > _MOST_EQUALS:
        return None
    found = pc.equal(array, operands[0])
    for each in operands[1:]:
        found = pc.or_(found, pc.equal(array, each))
    return found


def _compare(name: str, array: pa.Array, operand: pa.Scalar) -> pa.Array:
    compare = {"gt": pc.greater, "gte": pc.greater_equal, "lt": pc.less, "lte": pc.less_equal}[name]
    return compare(array, operand)


def _same(array: pa.Array, verdict: bool) -> pa.Array:
    return pa.array(np.full(len(array), verdict))


def _fits(number: int, type_: pa.DataType) -> bool:
    signed: bool = pa.types.is_signed_integer(type_)
    bits = int(type_.bit_width) - signed
    return bool((-(2**bits) if signed else 0) <= number < 2**bits)


def _exponent(number: Decimal) -> int:
    exponent = number.as_tuple().exponent
    return exponent if isinstance(exponent, int) else 0


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _bools(array: pa.Array) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = array.fill_null(False).to_numpy(zero_copy_only=False)
    return found
