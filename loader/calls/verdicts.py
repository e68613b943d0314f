"""The meaning of a service's answer beyond its status (`loader/calls/answers.py`), as far as services agree. Pure.

A refused credential says nothing about an event: it holds up all calls until a person acts, and makes no event a dead letter. Nor
do a redirect, an unpaid account, and an address or a version of the API that is gone.

A success must look like the service's own: a login page with 200 is the word of a proxy, half an answer may hide the events that
were refused, and an error is none under any status. Such events count as not delivered and are tried again.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import msgspec

from loader.calls.answers import DENIED, outcome_of, quoted, words_of
from loader.contract.events import Call, Response
from shared.events.outcome import Dead, DeadReason, Ok, Outcome, Retry

JSON_TYPE = "application/json"
HELD = DENIED | {402, 404, 405, 410}
"""Statuses about credentials, the account, the address or the version of the API."""
Form = Literal["text", "object or nothing", "object"]
"""The body of a successful answer. `text`: an object, nothing, or any text but a page of HTML."""


def verdict(response: Response, *, held: Collection[int] = HELD, reset: str = "", form: Form = "object or nothing") -> Outcome:
    """Returns what an answer means for each event of its call.

    Args:
        held: statuses about credentials or settings, for which all calls wait for a person.
        reset: header of a 429 with the time at which calls may go on (epoch seconds), if the service sends no `Retry-After`.
        form: what the service's success looks like.
    """
    if response.status in held or 300 <= response.status < 400:
        return held_up(words_of(response))
    outcome = outcome_of(response)
    if isinstance(outcome, Ok) and not _is_own(response, form):
        return Retry(f"{words_of(response)}, which is no success of the service")
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


def refused(call: Call, errors: Sequence[tuple[object, str]], words: str) -> Sequence[Outcome]:
    """Returns the outcomes of a call that was taken but for the events that its answer names.

    An error that names none of the call's events leaves open which one was refused. Then all are, so that the core finds it by halves.

    Args:
        errors: the place in the call and the service's words; a place may be a text, or come twice.
        words: the answer in short.
    """
    failed: dict[int, str] = {}
    for named, why in errors:
        place = place_in(call, named)
        if place is None:
            return alike(call, Dead(DeadReason.REJECTED_BY_DESTINATION, f"{words}: {quoted(why)}"))
        failed.setdefault(place, quoted(why))
    return split(call, failed, words)


def place_in(call: Call, named: object) -> int | None:
    """Returns the place in a call that an answer names, perhaps as text; None: the call has no such place."""
    place = int(named) if isinstance(named, str) and named.isascii() and named.isdigit() and len(named) < 9 else named
    return place if isinstance(place, int) and not isinstance(place, bool) and 0 <= place < len(call.events) else None


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


def _is_own(response: Response, form: Form) -> bool:
    """Whether the body of a success is of the service's form and names no error."""
    body = response.body.strip()
    if not body:
        return form != "object"
    if form == "text" and not body.startswith((b"<", b"{")):
        return True
    found = said(response)
    return (
        bool(found or body == b"{}")
        and not any(found.get(key) for key in ("error", "errors"))
        and found.get("success") is not False
    )
