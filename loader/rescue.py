"""Reads bodies that msgspec does not: numbers out of range, NaN, half surrogates. What cannot be read either way is a dead letter.

The edge lets such bodies pass, because they are JSON to somebody. A number that no double holds becomes null and half a surrogate
pair U+FFFD, both counted; an integer of more than 400 digits becomes text. Slow and rare. Pure.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import msgspec

from loader.layouts.contract import Event
from loader.runs import NOT_FINITE, SURROGATE_REPLACED
from shared.event import RequestFacts, materialise
from shared.frame import Head
from shared.outcome import Dead, DeadReason

_TOO_DEEP = Dead(DeadReason.TOO_DEEP, "the event nests deeper than the decoder can follow")
_LONGEST_INTEGER = 400
_SURROGATE = re.compile("[\ud800-\udfff]")

UNREADABLE = (msgspec.MsgspecError, UnicodeError, ValueError, OverflowError, RecursionError)
"""What `materialise` may raise for a body."""


def rescue(body: bytes, head: Head, facts: RequestFacts, first: Exception, notes: Counter[str]) -> Event | Dead:
    """Returns the event of a body on which `materialise` raised `first`, or why there is none."""
    if isinstance(first, RecursionError):
        return _TOO_DEEP
    odd: Counter[str] = Counter()

    def number(text: str) -> float | None:
        value = float(text)
        if value - value == 0:  # neither infinite nor NaN
            return value
        odd[NOT_FINITE] += 1
        return None

    def integer(text: str) -> int | str:
        return int(text) if len(text) <= _LONGEST_INTEGER else text

    try:
        value: Any = json.loads(body, parse_float=number, parse_int=integer, parse_constant=number)
        if not isinstance(value, dict):
            return Dead(DeadReason.NOT_AN_OBJECT, f"expected a JSON object, found {type(value).__name__}")
        text, halves = _SURROGATE.subn("\ufffd", json.dumps(value, ensure_ascii=False, separators=(",", ":")))
        event = materialise(text.encode(), head, facts)
    except RecursionError:
        return _TOO_DEEP
    except UNREADABLE:
        return Dead(DeadReason.MALFORMED_JSON, f"the body is not JSON: {first}")
    if halves:
        odd[SURROGATE_REPLACED] += halves
    notes.update(odd)
    return event
