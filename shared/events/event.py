"""The canonical event, and the one function that builds it from a frame.

An event is a JSON object in Segment's shape: `type`, `event`, `messageId`, `userId`, `anonymousId`, `groupId`, `previousId`,
`timestamp`, `properties`, `traits`, `context`, and any other key that the client sent. A frame holds the client's bytes untouched
and the server's facts once per request. `facts_of` prepares the facts once, `materialise` merges both.

Server values win over client values of the same name, with one exception that backends rely on: for server keys `context.ip`
and `context.userAgent` describe the client's own user and stay as sent.

Times are aware `datetime`s in UTC, so that the loader need not parse the server's times; `encode_event` writes them as RFC 3339.
A time that is finer than microseconds stays as the client sent it.

An event that a function gave is full already. Nothing of its request is merged into it, so a field that a function took out stays out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from shared.errors import Permanent
from shared.events.frame import Head, RequestContext

JSON = dict[str, Any]
"""A decoded JSON object."""

NOT_FOR_WAREHOUSES = ("writeKey", "_metadata")
"""Keys of the SDKs' own bookkeeping, removed from every event."""

SERVER_KEYS = frozenset(
    {
        "messageId",
        "type",
        "receivedAt",
        "sentAt",
        "timestamp",
        "originalTimestamp",
        "integrations",
        *NOT_FOR_WAREHOUSES,
    }
)
"""Keys at the top of an event that `materialise` sets, moves or removes. It also merges into `context`, and touches no other key."""

_TIMES = ("receivedAt", "timestamp", "sentAt", "originalTimestamp")

_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_NUMBER = re.compile(r"\d{9,19}(?:\.\d{1,9})?", re.ASCII)
_FINER = re.compile(r"[.,]\d{6}\d*[1-9]", re.ASCII)
_MILLISECONDS = 13
_SHORTEST_FINER, _SHORTEST_NANOSECONDS = len("2026-09-01T12:34:56.1234567"), 18
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder(decimal_format="number").encode


class RequestFacts(NamedTuple):
    """A `RequestContext` prepared for merging: times as datetimes, JSON decoded, additions to `context` as one dict."""

    received_at: datetime
    sent_at: datetime | str | None
    skew: timedelta | None
    context: JSON
    """Values that win over the client's."""
    fallback_context: JSON
    """Values the client's win over: batch-level context, and ip and user agent for server keys."""
    integrations: JSON | None
    complete: bool = False
    """The bodies are full events: of all this only `received_at` counts, where an event has none."""


def facts_of(request: RequestContext) -> RequestFacts:
    """Prepares the server's facts about a request, once for all of its events.

    Raises:
        Permanent: the request is damaged.
    """
    try:
        return _facts_of(request)
    except (msgspec.MsgspecError, UnicodeDecodeError, OverflowError, RecursionError) as exc:
        raise Permanent(f"a request of the frame cannot be read: {exc}") from exc


def _facts_of(request: RequestContext) -> RequestFacts:
    received_at = _EPOCH + timedelta(microseconds=request.received_at)
    if request.complete:
        return RequestFacts(
            received_at=received_at,
            sent_at=None,
            skew=None,
            context={},
            fallback_context={},
            integrations=None,
            complete=True,
        )
    seen: JSON = {}
    if request.ip:
        seen["ip"] = request.ip
    if request.user_agent:
        seen["userAgent"] = request.user_agent
    wins: JSON = {}
    if request.agent:
        wins["agent"] = request.agent
    if request.geo:
        wins["geo"] = request.geo
    if request.bot:
        wins["bot"] = True
    defaults = _decode_object(request.defaults) if request.defaults else {}
    fallback = defaults.get("context")
    fallback = fallback if isinstance(fallback, dict) else {} if fallback is None else {"value": fallback}
    if request.kind == "server":
        # a backend's address and library say nothing of its user: the ip stays only when the batch itself names one
        fallback = {key: value for key, value in fallback.items() if value is not None}
    else:
        wins = {**seen, **wins}
    integrations = defaults.get("integrations")
    return RequestFacts(
        received_at=received_at,
        sent_at=request.sent_at if is_finer(request.sent_at) else read_time(request.sent_at),
        skew=None if request.skew is None else timedelta(microseconds=request.skew),
        context=wins,
        fallback_context=fallback,
        integrations=integrations if isinstance(integrations, dict) else None,
    )


def materialise(body: bytes, head: Head, facts: RequestFacts, decode: Callable[[bytes], JSON] = _decode_object) -> JSON:
    """Returns the full event of one body: the client's object with ids, times and server context merged in.

    `decode` reads the body; msgspec's own reading makes each number with a point or an exponent the nearest double.

    `timestamp` is `receivedAt - (sentAt - originalTimestamp)` where the client sent both, as Segment computes it
    (segment.com/docs/connections/spec/common, "Timestamps"); else the time as sent; else `receivedAt`. Of a client that gives an
    event both times, as RudderStack's SDK for Node does, the `timestamp` counts: it is the caller's, the other is that of the call.

    Raises:
        msgspec.DecodeError, UnicodeDecodeError: the body is not a JSON object.
    """
    event = decode(body)
    event["messageId"] = head.message_id
    event["type"] = head.type
    if facts.complete:
        return _with_times(event, facts)
    context = event.get("context")
    if type(context) is not dict:
        context = {} if context is None else {"value": context}
        event["context"] = context
    for key, value in facts.fallback_context.items():
        context.setdefault(key, value)
    context.update(facts.context)
    if facts.integrations:
        own = event.get("integrations")
        event["integrations"] = {**facts.integrations, **own} if type(own) is dict else facts.integrations

    received_at = facts.received_at
    event["receivedAt"] = received_at
    sent = event.get("originalTimestamp") or event.get("timestamp")
    original = read_time(sent)
    moment = original if sent is event.get("timestamp") else read_time(event.get("timestamp")) or original
    event["timestamp"] = received_at if moment is None else _shift(moment, facts.skew)
    if sent is not None:
        event["originalTimestamp"] = sent if original is None or is_finer(sent) else original
    if facts.sent_at is not None:
        event["sentAt"] = facts.sent_at
    for key in NOT_FOR_WAREHOUSES:
        if key in event:
            del event[key]
    return event


def _with_times(event: JSON, facts: RequestFacts) -> JSON:
    """Reads the times of a full event, which `encode_event` wrote; a value that is no time stays as it is."""
    for key in _TIMES:
        value = event.get(key)
        if value is not None and not is_finer(value) and (moment := read_time(value)) is not None:
            event[key] = moment
    if event.get("receivedAt") is None:
        event["receivedAt"] = facts.received_at
    return event


def encode_event(event: JSON) -> bytes:
    """Returns an event as JSON, times as RFC 3339."""
    return _encode(event)


def parse_time(value: object) -> datetime | None:
    """Returns an ISO 8601 or RFC 3339 date-time as an aware datetime in UTC; a time without a zone is UTC; else None."""
    if type(value) is not str or not 19 <= len(value) <= 35:
        return None
    try:
        parsed = datetime.fromisoformat(value if value[-1] != "z" else value.upper())
        return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def read_time(value: object) -> datetime | None:
    """Returns a client's time: as `parse_time`, and also from other forms that some clients send.

    These are a date; a time without seconds, or with blanks around it; seconds, milliseconds, microseconds or nanoseconds since
    1970 as a number or as text, from 1973 on (smaller numbers are no times).
    """
    moment = parse_time(value)
    if moment is not None or value is None:
        return moment
    if type(value) is str:
        text = value.strip()
        if _NUMBER.fullmatch(text):
            return _of_epoch(Decimal(text))
        if len(text) > 35 or not _DATE.match(text):
            return None
        try:
            parsed = datetime.fromisoformat(text if text[-1] != "z" else text.upper())
            return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
        except (ValueError, OverflowError):
            return None
    return _of_epoch(value) if isinstance(value, int | float | Decimal) and type(value) is not bool else None


def is_finer(value: object) -> bool:
    """Whether a time has more digits than the microseconds that Penstock keeps."""
    if type(value) is str:
        if len(value) < _SHORTEST_NANOSECONDS or (len(value) < _SHORTEST_FINER and value[4] == "-"):
            return False
        return _FINER.search(value) is not None or (value.isdigit() and value.isascii() and int(value[-3:]) != 0)
    return type(value) is Decimal or (type(value) is int and value >= 10**17 and value % 1000 != 0)


def _of_epoch(number: float | Decimal) -> datetime | None:
    if not 1e8 <= number < 1e20:
        return None
    if number >= 1e17:
        return _EPOCH + timedelta(microseconds=int(number) // 1000)
    if number >= 1e14:
        return _EPOCH + timedelta(microseconds=int(number))
    return _EPOCH + (timedelta(seconds=float(number)) if number < 1e11 else timedelta(milliseconds=float(number)))


def read_micros(text: str) -> int | None:
    """Returns a client's time as microseconds since 1970, as `read_time` reads it; None if it is no time."""
    if len(text) == _MILLISECONDS and text[0] != "0" and text.isascii() and text.isdigit():  # as trackers write it
        return int(text) * 1000
    moment = read_time(text)
    return None if moment is None else micros(moment)


def micros(moment: datetime) -> int:
    """Returns an aware datetime as microseconds since 1970."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _shift(original: datetime, skew: timedelta | None) -> datetime:
    if skew is None:
        return original
    try:
        return original + skew
    except OverflowError:
        return original
