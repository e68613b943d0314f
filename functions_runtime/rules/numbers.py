"""Finds bodies with numbers that JavaScript would write with other digits, or not at all.

JavaScript reads each number as a double, and spells 1e20 without its exponent, which a loader takes for an integer. So numbers that a
double does not hold, and those with an exponent, are kept as they were written, at a cost; the others need none of that. As in
`shared/events/exact.py` a frame's block is searched as one array. A match that is no number costs time only; no number may be missed.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from shared.events import exact

_CHUNK = 128 * 1024
"""Small enough for the cache."""
_PLUS, _FROM_PLUS_TO_NINE, _POINT, _FROM_POINT_TO_NINE, _E, _LOWER = 43, 15, 46, 12, 101, 32
_BEFORE_E = re.compile(rb"[:,\[\s]-?[0-9][0-9.]*\Z")
_LONGEST = 2 + exact.SURE_DIGITS + 1
"""Bytes of `_BEFORE_E`: a longer number is found by its digits."""
_KEPT = re.compile(rb"[0-9.]{16}|[0-9.][eE]")


def kept(text: bytes) -> bool:
    """Says whether a short piece of JSON may hold such a number."""
    return _KEPT.search(text) is not None


def with_exponents(block: bytes, sizes: Sequence[int]) -> frozenset[int]:
    """Returns the indexes of the bodies in a frame's block that hold a number of at most 15 digits with an exponent."""
    places = [place for start in range(0, len(block), _CHUNK) for place in _places(block, start)]
    return frozenset(np.searchsorted(np.cumsum(sizes), places, side="right").tolist()) if places else frozenset()


def _places(block: bytes, start: int) -> list[int]:
    """Returns the places of the exponents of a chunk, and a few others."""
    codes = np.frombuffer(block, np.uint8)[start : start + _CHUNK + 2]
    if len(codes) < 3:
        return []
    found = (codes[1:-1] | _LOWER) == _E
    found &= (codes[:-2] - _POINT) < _FROM_POINT_TO_NINE  # unsigned: lower codes wrap far above
    found &= (codes[2:] - _PLUS) < _FROM_PLUS_TO_NINE
    places: list[int] = (np.flatnonzero(found) + (start + 1)).tolist()
    return [place for place in places if _BEFORE_E.search(block, max(0, place - _LONGEST), place)]
