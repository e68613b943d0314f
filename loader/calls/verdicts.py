"""The meaning of a service's answer beyond its status (`loader/calls/answers.py`), as far as services agree. Pure.

A refused credential says nothing about an event: it holds up all calls until a person acts, and makes no event a dead letter.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from loader.calls.answers import DENIED, outcome_of, words_of
from loader.contract.events import Call, Response
from shared.events.outcome import Dead, DeadReason, Ok, Outcome, Retry

JSON_TYPE = "application/json"


def verdict(response: Response, *, held: Collection[int] = DENIED, reset: str = "") -> Outcome:
    """Returns what an answer means for each event of its call.

    Args:
        held: statuses about credentials or settings, for which all calls wait for a person.
        reset: header of a 429 with the time at which calls may go on (epoch seconds), if the service sends no `Retry-After`.
    """
    if response.status in held:
        return held_up(words_of(response))
    outcome = outcome_of(response)
    if isinstance(outcome, Retry) and outcome.after is None and reset:
        when = response.headers.get(reset, "").strip()
        if when.isascii() and when.isdigit():
            return Retry(outcome.reason, max(0.0, float(when[:12]) - response.at), everyone=outcome.everyone)
    return outcome


def held_up(words: str) -> Retry:
    """Returns the outcome of a call that failed for its credentials or settings, not for its events."""
    return Retry(f"{words}; check the credentials and settings of the destination", denied=True)


def alike(call: Call, outcome: Outcome) -> Sequence[Outcome]:
    """Returns the same outcome for each event of a call."""
    return [outcome] * len(call.events)


def split(call: Call, failed: Mapping[int, str], words: str) -> Sequence[Outcome]:
    """Returns the outcomes of a call that was taken in part; `failed`: the service's words by place in the call."""
    return [
        Dead(DeadReason.REJECTED_BY_DESTINATION, f"{words}: {failed[place]}") if place in failed else Ok()
        for place in range(len(call.events))
    ]


def said(response: Response) -> dict[str, Any]:
    """Returns the object in an answer; an empty one if there is none."""
    try:
        found = msgspec.json.decode(response.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def basic(user: str, password: str = "") -> str:
    """Returns the header `Authorization` of RFC 7617."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
