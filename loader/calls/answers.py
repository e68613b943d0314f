"""The meaning of an answer's status for the events of a call, as most services use it. Pure.

| status | outcome |
| --- | --- |
| 2xx | the events are delivered |
| 408, 425, 5xx | tried again |
| 429, and 503 with `Retry-After` | tried again, and all calls pause as long as the answer says |
| 3xx | dead letter: redirects are not followed |
| 401, 403, 407 | tried again, where no call is let in; a dead letter, where others are |
| other 4xx | dead letter |
"""

from __future__ import annotations

from loader.contract.events import Response
from shared.events.outcome import Dead, DeadReason, Ok, Outcome, Retry
from shared.reading import wait

DENIED = frozenset({401, 403, 407})
"""An expired token, mostly: a day of events must not become dead letters for it."""
TRANSIENT = frozenset({408, 425, 429})
WORDS = 200
"""How many characters of an answer's body are quoted."""


def outcome_of(response: Response) -> Outcome:
    """Returns the outcome of each event of a call, from the answer."""
    status = response.status
    if 200 <= status < 300:
        return Ok()
    if status in TRANSIENT or status >= 500:
        after = retry_after(response)
        return Retry(words_of(response), after, everyone=status == 429 or (status == 503 and after is not None))
    if status in DENIED:
        return Retry(f"{words_of(response)}; check the headers that let calls in", denied=True)
    if 300 <= status < 400:
        where = quoted(response.headers.get("location", "nowhere"))
        return Dead(DeadReason.REJECTED_BY_DESTINATION, f"answered {status}, a redirect to {where}; set the final address as url")
    return Dead(DeadReason.REJECTED_BY_DESTINATION, words_of(response))


def retry_after(response: Response) -> float | None:
    """Returns how many seconds an answer asks to wait; None if it does not say."""
    return wait.retry_after(response.headers, response.at)


def words_of(response: Response) -> str:
    """Returns an answer in short, for people."""
    said = quoted(response.body.decode("utf-8", "replace"))
    return f"answered {response.status}: {said}" if said else f"answered {response.status}"


def quoted(text: str) -> str:
    """Returns a text of the destination on one line, short, without characters that cannot be printed."""
    line = " ".join(text[: 4 * WORDS].split())
    return "".join(each if each.isprintable() else "\ufffd" for each in line)[:WORDS]
