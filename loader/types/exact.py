"""JSON numbers of which a double would lose digits, and the bodies that may hold one.

msgspec reads a number with a point or an exponent as the nearest double. That is the number that was sent if it has at most 15
significant digits, and often if it has 17; else it is read again here and kept as a `Decimal`, down to its last digit, until it
is held against its column (`loader/types/convert.py`). Integers are exact anyhow.

Looking for such numbers in every body would cost what decoding costs, so a frame's block is looked through as one array: for 16
digits in a row, and for an exponent below -99. Whatever looks so inside a string is read again for nothing.

Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec
import numpy as np

SURE_DIGITS = 15
"""A double tells apart all numbers of so many significant digits."""
_ROUND_TRIP = 17
_POINT, _FROM_POINT_TO_NINE, _MINUS, _E, _LOWER = 46, 12, 45, 101, 32
_CHUNK = 128 * 1024
"""Small enough for the cache, and for memory that is used again."""


def suspects(block: bytes, sizes: Sequence[int]) -> frozenset[int]:
    """Returns the indexes of the bodies in a frame's block that must be decoded by `decode`."""
    places = [
        start + place for start in range(0, len(block), _CHUNK) for place in _places(block[start : start + _CHUNK + SURE_DIGITS])
    ]
    return frozenset(np.searchsorted(np.cumsum(sizes), places, side="right").tolist()) if places else frozenset()


def _places(chunk: bytes) -> list[int]:
    """Returns where in a chunk such a number may stand."""
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
    """Returns a JSON number with a point or an exponent: a double if that is the number, else all of its digits.

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
    """Whether a double, in the fewest digits that tell it apart, is a number."""
    return Decimal(repr(value)) == exact


def holds(value: float, exact: Decimal) -> bool:
    """Whether a double holds a number: one of the ways to write that double, in the fewest digits, in 17 or in all, is this."""
    if value - value != 0:
        return False
    return is_double(value, exact) or Decimal(f"{value:.{_ROUND_TRIP}g}") == exact or Decimal(value) == exact


decode = msgspec.json.Decoder(dict[str, Any], float_hook=number).decode
"""Reads a body with every number exact; what it raises is what msgspec's own reading raises, but for numbers out of range."""
