"""What channels share: the words of a message, its size, and the usual meaning of answers. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import msgspec

from router.alerts.contract import TAKEN, Item, Message, Outcome, Response
from shared.reading.moments import shown

JSON_TYPE = "application/json"
MOST_ANSWER = 200
"""Characters of an answer that a reason quotes."""
LONGEST_AFTER_SECONDS = 3600.0
_PERSON = (400, 401, 403, 404, 405, 410, 413, 422)
_ADDRESS = re.compile(r"https?://[^/?#@\s]+(/\S*)?")
_SPACE = re.compile(r"\s+")


def headline(message: Message) -> str:
    """Returns the message in one line: `penstock oncall: connection shop-wh fails`."""
    if message.test:
        return f"penstock {message.alert}: a test message"
    left = sum(bool(item.note) for item in message.items)
    counts = {"failing": _count(message, "failing"), "recovered": _count(message, "recovered") - left, "no longer told": left}
    parts = [f"{count} {status}" for status, count in counts.items() if count]
    words = line(message.items[0]) if sum_of(message) == 1 and message.items else ", ".join(parts)
    return f"penstock {message.alert}: {words}"


def sum_of(message: Message) -> int:
    """Returns the number of its items, listed or not."""
    return len(message.items) + sum(message.more.values())


def line(item: Item) -> str:
    """Returns what an item says in a few words."""
    if item.status == "failing":
        return f"{item.title}{' (still)' if item.again else ''}"
    if item.note:
        return f"no longer told: {item.title} ({item.note})"
    return f"no new {item.title}" if item.kind == "dead" else f"recovered: {item.title}"


def why_of(item: Item) -> str:
    """Returns the reason; of one that ended, the last that was known."""
    return item.why if item.status == "failing" or not item.why else f"it was: {item.why}"


def lasted(item: Item, at: float) -> str:
    """Returns since when, how long, and how often it came back.

    Args:
        at: when the message is told (epoch seconds).
    """
    ends = at if item.status == "failing" else item.ended
    often = f"; it came back {item.times} times" if item.times > 1 else ""
    return f"since {shown(item.since)} UTC, {period(ends - item.since)}{often}"


def period(seconds: float) -> str:
    """Returns a time in words: `2 h 5 min`."""
    minutes, days = round(max(0.0, seconds) / 60), int(max(0.0, seconds) // 86_400)
    if minutes < 2:
        return f"{max(0.0, seconds):.0f} s"
    if days:
        return f"{days} d {minutes // 60 % 24} h"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def fitting(message: Message, fits: Callable[[Message], bool]) -> Message:
    """Returns the message with as many items listed as fit; it counts the others."""
    while len(message.items) > 1 and not fits(message):
        *kept, last = message.items
        more = {**message.more, last.status: message.more.get(last.status, 0) + 1}
        message = msgspec.structs.replace(message, items=kept, more=more)
    return message


def rest(message: Message) -> str:
    """Returns the line about items that are not listed; empty: all are."""
    if not message.more:
        return ""
    counts = " and ".join(f"{count} more {status}" for status, count in sorted(message.more.items()))
    return f"{counts}; all of them: penstock alerts list"


def sample_lines(item: Item) -> list[str]:
    """Returns the sample of an item, a line for each member."""
    return [f"{name}: {value}" for name, value in item.sample.items()]


def require_address(option: str, value: str, example: str) -> None:
    """Checks an address; the text of an error has nothing of it, because it may be a secret.

    Raises:
        ValueError: it is none.
    """
    if not _ADDRESS.fullmatch(value):
        raise ValueError(f"{option}: expected an address such as {example}")


def verdict(response: Response) -> Outcome:
    """Returns the usual meaning of an answer over HTTP."""
    if 200 <= response.status < 300:
        return TAKEN
    said = _SPACE.sub(" ", response.body.decode("utf-8", "replace")).strip()[:MOST_ANSWER]
    why = f"it answers {response.status}{f': {said}' if said else ''}"
    if 300 <= response.status < 400:
        return Outcome(f"{why}; redirects are not followed: write the address it points to", person=True)
    return Outcome(why, person=response.status in _PERSON, after_seconds=_after(response))


def _after(response: Response) -> float | None:
    text = response.headers.get("retry-after", "")
    if text.isascii() and text.isdecimal():
        return min(float(text[:9]), LONGEST_AFTER_SECONDS)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    # a date is of the service's clock; its `Date` says what that shows
    try:
        shows = parsedate_to_datetime(response.headers.get("date", ""))
    except ValueError:
        return None
    seconds = (_utc(at) - _utc(shows)).total_seconds()
    return min(max(seconds, 0.0), LONGEST_AFTER_SECONDS)


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _count(message: Message, status: str) -> int:
    return sum(item.status == status for item in message.items) + message.more.get(status, 0)
