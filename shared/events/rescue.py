"""Reads bodies that msgspec refuses: numbers out of range, NaN, half surrogates. A body that is still unreadable is a dead
letter.

The edge lets such bodies pass, because they are valid JSON. A number keeps its digits (`shared/events/exact.py`), an integer of
more than 400 digits as text; NaN and infinity become null and half a surrogate pair U+FFFD, both counted. Slow and rare. Pure.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import msgspec

from shared.events import exact
from shared.events.event import JSON, RequestFacts, materialise
from shared.events.frame import Head
from shared.events.outcome import Dead, DeadReason

_TOO_DEEP = Dead(DeadReason.TOO_DEEP, "the event nests deeper than the decoder can follow")
_LONGEST_INTEGER = 400
_SURROGATE = re.compile("[\ud800-\udfff]")
_MAY_BE_HALF = re.compile(rb"\\u[dD][89a-fA-F]|\xed")

NOT_FINITE = "numbers_not_finite"
SURROGATE_REPLACED = "half_surrogates_replaced"
"""Notes of what was changed."""

UNREADABLE = (msgspec.MsgspecError, UnicodeError, ValueError, OverflowError, RecursionError)
"""Errors of `materialise` for a body."""


def rescue(body: bytes, head: Head, facts: RequestFacts, first: Exception, notes: Counter[str]) -> JSON | Dead:
    """Returns the event of a body on which `materialise` raised `first`, or why it has none."""
    odd: Counter[str] = Counter()
    value = read_odd(body, first, odd)
    if isinstance(value, Dead):
        return value
    try:
        event = materialise(body, head, facts, lambda _: value)
    except RecursionError:
        return _TOO_DEEP
    except UNREADABLE:
        return Dead(DeadReason.MALFORMED_JSON, f"the body is not JSON: {first}")
    notes.update(odd)
    return event


def read_odd(body: bytes, first: Exception, notes: Counter[str]) -> JSON | Dead:
    """Returns the object of a body on which msgspec raised `first`, or why it has none."""
    if isinstance(first, RecursionError):
        return _TOO_DEEP
    odd: Counter[str] = Counter()

    def constant(_: str) -> None:
        odd[NOT_FINITE] += 1

    def integer(text: str) -> int | str:
        return int(text) if len(text) <= _LONGEST_INTEGER else text

    try:
        value: Any = json.loads(body, parse_float=exact.number, parse_int=integer, parse_constant=constant)
        if not isinstance(value, dict):
            return Dead(DeadReason.NOT_AN_OBJECT, f"expected a JSON object, found {type(value).__name__}")
        if _MAY_BE_HALF.search(body):
            value = _without_halves(value, odd)
    except RecursionError:
        return _TOO_DEEP
    except UNREADABLE:
        return Dead(DeadReason.MALFORMED_JSON, f"the body is not JSON: {first}")
    notes.update(odd)
    found: JSON = value
    return found


def _without_halves(value: Any, notes: Counter[str]) -> Any:
    if isinstance(value, str):
        text, halves = _SURROGATE.subn("\ufffd", value)
        if halves:
            notes[SURROGATE_REPLACED] += halves
        return text
    if isinstance(value, dict):
        return {_without_halves(key, notes): _without_halves(item, notes) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_halves(item, notes) for item in value]
    return value
