"""Reads JSON numbers whose digits a double would lose, and finds the bodies that may hold one.

msgspec reads a number with a point or an exponent as the nearest double. That equals the client's number if it has at most 15
significant digits, and often if it has 17. Otherwise this module reads it again as a `Decimal` with all its digits, until it is
compared with its column (`loader/types/convert.py`). Integers are always exact.

A search in every body would cost as much as decoding, so a frame's block is searched as one array: for 16 digits in a row, and
for an exponent below -99. A match inside a string only costs a second reading.

Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec
import numpy as np

SURE_DIGITS = 15
"""A double distinguishes all numbers of so many significant digits."""
_ROUND_TRIP = 17
_POINT, _FROM_POINT_TO_NINE, _MINUS, _E, _LOWER = 46, 12, 45, 101, 32
_CHUNK = 128 * 1024
"""Small enough for the cache, and for reuse of its memory."""


def suspects(block: bytes, sizes: Sequence[int]) -> frozenset[int]:
    """Returns the indexes of the bodies in a frame's block that must be decoded by `decode`."""
    places = [
        start + place for start in range(0, len(block), _CHUNK) for place in _places(block[start : start + _CHUNK + SURE_DIGITS])
    ]
    return frozenset(np.searchsorted(np.cumsum(sizes), places, side="right").tolist()) if places else frozenset()


def _places(chunk: bytes) -> list[int]:
    """Returns the possible places of such a number in a chunk."""
    codes = np.frombuffer(chunk, np.uint8)
    digits = (codes - _POINT) < _FROM_POINT_TO_NINE  # unsigned: lower codes wrap far above
    pairs = digits[1:] & digits[:-1]
    fours = pairs[2:] & pairs[:-2]
    eights = fours[4:] & fours[:-4]
    places: list[int] = np.flatnonzero(eights[8:] & eights[:-8]).tolist()
    small = (codes[:-1] | _LOWER) == _E
    small &= codes[1:] == _MINUS
    places += [place for place in np.flatnonzero(small).tolist() if chunk[place + 2 : place + 5].isdigit()]
    return places


def number(text: str) -> float | Decimal | str:
    """Returns a JSON number with a point or an exponent: as a double if that equals it, else with all its digits.

    A number whose exponent not even a `Decimal` holds stays text.
    """
    value = float(text)
    if repr(value) == text:
        return value
    try:
        exact = Decimal(text)
    except InvalidOperation:
        return text
    return value if is_double(value, exact) else exact


def is_double(value: float, exact: Decimal) -> bool:
    """Whether a double, written in the fewest digits that identify it, equals a number."""
    return Decimal(repr(value)) == exact


def holds(value: float, exact: Decimal) -> bool:
    """Whether a number is one of the spellings of a double: in the fewest digits, in 17, or in all."""
    if value - value != 0:
        return False
    return is_double(value, exact) or Decimal(f"{value:.{_ROUND_TRIP}g}") == exact or Decimal(value) == exact


decode = msgspec.json.Decoder(dict[str, Any], float_hook=number).decode
"""Reads a body with every number exact; raises msgspec's errors, except for numbers out of range."""
