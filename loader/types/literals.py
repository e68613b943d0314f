"""Patterns of text that a database reads literally, for types whose values it reads from text itself.

Some text is no literal: `now` is the time of the load, `epoch` and `allballs` are computed, `10:00` of a type with a zone depends
on the session's zone, `01/02/2026` on its style, and a table's name is looked up. Then the column would not have the client's
value. So types get only text that these patterns (RE2) accept. Pure.
"""

from __future__ import annotations

_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,%d}0*)?)?"

NOTHING = "[^\x00-\U0010ffff]"
"""Accepts no text."""
UUID = r"^\{?(?:[0-9a-fA-F]{4}-?){7}[0-9a-fA-F]{4}\}?$"
WHOLE = "^(?:0|-?[1-9][0-9]*)$"
UNSIGNED = "^(?:0|[1-9][0-9]*)$"
BITS = "^[01]*$"

_INSIDE = r"""^(?:["',(){}\[\]\s]|empty|NULL|null|%s)*$"""
_DAY = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
_ZONE = r"(?:[Zz]|[+-][0-9]{2}(?::?[0-9]{2})?)"
DATES_INSIDE = _INSIDE % _DAY
"""Lists and ranges: full dates only, and no words."""
TIMES_INSIDE = _INSIDE % rf"{_DAY}(?:[Tt ]{_CLOCK % 6}(?: ?[Zz])?)?"
"""The same for times without a zone: the server ignores a zone."""
INSTANTS_INSIDE = _INSIDE % rf"{_DAY}(?:[Tt ]{_CLOCK % 6}(?: ?{_ZONE})?)?"
CLOCKS_INSIDE = _INSIDE % (_CLOCK % 6)
ZONED_CLOCKS_INSIDE = _INSIDE % (_CLOCK % 6 + _ZONE)
WHOLE_INSIDE = _INSIDE % r"(?:\b0|-?\b[1-9][0-9]*)\b"
BOOLEANS_INSIDE = _INSIDE % r"\b(?i:true|false|t|f)\b"
_NUMBER = r"-?\b(?:0|[1-9][0-9]*)(?:\.[0-9]+)?\b"
NUMBERS_INSIDE = _INSIDE % _NUMBER
"""Numbers written without an exponent."""
LINE = rf"^\{{{_NUMBER},{_NUMBER},{_NUMBER}\}}$"
"""The three numbers of a line; the server would compute them from two points."""
GEOMETRY = rf"^(?:[<>;\"(){{}}\[\],\s]|{_NUMBER})*$"
BEYOND_DECIMAL = "[0-9]{1000}"
COMPUTED = r"(?i)\b(?:now|today|tomorrow|yesterday|epoch|allballs|infinity|inf|bc)\b"
"""Words from which the server computes times; for types that may hold times and other values."""


def numbers_inside(scale: int) -> str:
    """Returns a pattern as `NUMBERS_INSIDE`, with at most so many digits after the point."""
    fraction = rf"(?:\.[0-9]{{1,{scale}}})?" if scale else ""
    return _INSIDE % _NUMBER.replace(r"(?:\.[0-9]+)?", fraction)


def unsigned(digits: int) -> str:
    """Returns the pattern of whole numbers without a sign, of at most so many digits."""
    return f"^(?:0|[1-9][0-9]{{0,{digits - 1}}})$"


def clock(digits: int, zone: bool = False) -> str:
    """Returns the pattern of times of the day: so many digits of a second, a zone always or never."""
    seconds = _CLOCK % digits if digits else _CLOCK.replace(r"(?:\.[0-9]{1,%d}0*)?", r"(?:\.0+)?")
    return f"^{seconds}{'(?:[Zz]|[+-][0-9]{2}(?::?[0-9]{2})?)' if zone else ''}$"


def interval(digits: int) -> str:
    """Returns the pattern of intervals: numbers with their units, or hours, minutes and seconds."""
    fraction = rf"(?:\.[0-9]{{1,{digits}}}0*)?" if digits else ""
    units = rf"(?:-?[0-9]+{fraction} ?(?:year|mon|month|week|day|hour|min|minute|sec|second)s?(?:,? |$))*"
    return f"^{units}(?:-?[0-9]+:[0-5][0-9](?::[0-5][0-9]{fraction})?)?$"
