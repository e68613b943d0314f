"""The lattice of column types: how two kinds join, and the Arrow type of each kind.

    boolean < bigint < decimal < double < text        date < timestamp < text        json, other, number < text

A join is the narrowest kind that holds values of both. `loader/fitting/kinds.py` refines it by the values;
`loader/types/convert.py` converts values between kinds. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from loader.contract.warehouse import Kind

TIMESTAMP = pa.timestamp("us", "UTC")
DECIMAL = pa.decimal128(38, 0)

ARROW: dict[Kind, pa.DataType] = {
    Kind.BOOLEAN: pa.bool_(),
    Kind.BIGINT: pa.int64(),
    Kind.DOUBLE: pa.float64(),
    Kind.DECIMAL: DECIMAL,
    Kind.TIMESTAMP: TIMESTAMP,
    Kind.DATE: pa.date32(),
    Kind.TEXT: pa.string(),
    Kind.JSON: pa.string(),
    Kind.OTHER: pa.string(),
    Kind.NUMBER: pa.string(),
}
"""The Arrow type of every kind, as the destination contract lists them."""

_NUMBERS = (Kind.BOOLEAN, Kind.BIGINT, Kind.DECIMAL, Kind.DOUBLE)
_TIMES = (Kind.DATE, Kind.TIMESTAMP)


def join(one: Kind, other: Kind) -> Kind:
    """Returns the narrowest kind that holds values of both."""
    if one is other:
        return one
    for chain in (_NUMBERS, _TIMES):
        if one in chain and other in chain:
            return chain[max(chain.index(one), chain.index(other))]
    return Kind.TEXT


def join_all(kinds: Iterable[Kind]) -> Kind:
    """Returns the join of one or more kinds."""
    return reduce(join, kinds)


def inexact_as_double(integers: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Marks 64-bit integers that equal no double: beyond 2^53 only multiples of a growing power of two do."""
    doubles = integers.astype(np.float64)
    beyond = doubles >= 2.0**63  # such a double is beyond int64; comparing it would overflow
    back = np.where(beyond, 0.0, doubles).astype(np.int64)
    marks: NDArray[np.bool_] = beyond | (back != integers)
    return marks
