"""The envelope around the events of a body: opened leniently if it is not strictly JSON, and read for members that all events
share. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

from ingest.contract import IgnoredReason
from ingest.judge.budget import Budget
from ingest.judge.mend import Fault, json_type, mend_object, read_leniently
from ingest.judge.split import split_batch
from shared.events.outcome import DeadReason
from shared.project.model import SiteLimits

LONGEST_TEXT = 64

MERGED_REQUESTS = 4
"""The size of a request's events after `context` and `integrations` are merged under each, in limits of a request."""

_NUMBER = re.compile(rb"\d+(?:\.\d+)?")
_encode = msgspec.json.Encoder().encode
_decode_text = msgspec.json.Decoder(str).decode


class Opened(NamedTuple):
    """`envelope` is strict JSON of an object; `events` are the bytes of its batch's items, None if they are inside it."""

    envelope: bytes
    events: list[bytes] | None


def open_leniently(body: bytes, budget: Budget, most_events: int) -> Opened | Fault:
    """Reads `{"batch": […]}`, `[…]` or another object; a fault names the place where the body breaks.

    Args:
        most_events: a larger batch is not taken apart.
    """
    if not body.strip():
        return Fault(DeadReason.MALFORMED_JSON, "it is empty")
    pieces = split_batch(body, most_events)
    if pieces is not None:
        if not pieces.envelope:
            return Opened(b"{}", pieces.events)
        envelope = read_leniently(pieces.envelope, budget)
        if not isinstance(envelope, Fault) and isinstance(envelope[0], dict):
            return Opened(envelope[1], pieces.events)
    whole = read_leniently(body, budget)
    if isinstance(whole, Fault):
        return whole
    if not isinstance(whole[0], dict):
        return Fault(DeadReason.NOT_AN_OBJECT, f"it is {json_type(whole[1])}, expected an object")
    return Opened(whole[1], None)


def defaults_of(
    context: msgspec.Raw, integrations: msgspec.Raw, limits: SiteLimits, events: int, budget: Budget
) -> bytes | Fault | None:
    """Returns the objects that are merged under each of the `events`, as one JSON object; leaves out other values.

    They count as if every event carried them: else a request of a few hundred kilobytes becomes gigabytes in a warehouse.
    """
    members: dict[str, msgspec.Raw] = {}
    for name, raw in (("context", context), ("integrations", integrations)):
        text = bytes(raw).strip()
        if not text.startswith(b"{") or text == b"{}":
            continue
        mended = mend_object(text, limits, budget) if len(text) <= limits.event_bytes else Fault(DeadReason.TOO_LARGE, "")
        if isinstance(mended, Fault):
            return Fault(
                mended.reason, f"`{name}` of {len(text)} bytes cannot be merged into events: {mended.detail or _limit(limits)}"
            )
        members[name] = msgspec.Raw(mended.body)
    if not members:
        return None
    defaults = _encode(members)
    if len(defaults) > limits.event_bytes:
        return Fault(DeadReason.TOO_LARGE, f"`context` and `integrations` have {len(defaults)} bytes: {_limit(limits)}")
    largest = MERGED_REQUESTS * limits.request_bytes
    if len(defaults) * events > largest:
        merged = f"`context` and `integrations` of {len(defaults)} bytes under each of {events} events are {len(defaults) * events} bytes"
        return Fault(DeadReason.TOO_LARGE, f"{merged}, the limit is {largest}; send fewer events at once")
    return defaults


def ignored_defaults(context: msgspec.Raw, integrations: msgspec.Raw) -> list[IgnoredReason]:
    """Returns why members beside a batch are left out: they are neither objects nor null."""
    ignored: list[IgnoredReason] = []
    if not bytes(context).strip().startswith((b"{", b"n")) and bytes(context):
        ignored.append("context_not_an_object")
    if not bytes(integrations).strip().startswith((b"{", b"n")) and bytes(integrations):
        ignored.append("integrations_not_an_object")
    return ignored


def _limit(limits: SiteLimits) -> str:
    return f"the limit of an event is {limits.event_bytes} bytes"


def text_of(raw: msgspec.Raw, longest: int = LONGEST_TEXT) -> str | None:
    """Returns a member that is a text of at most `longest` bytes, such as a key; None if it is another value.

    Read only now: the client may send any other value in its place, and building that could take all memory.
    """
    text = bytes(raw)
    if not text.startswith(b'"') or len(text) > longest:
        return None
    try:
        return _decode_text(text)
    except (msgspec.MsgspecError, UnicodeError):
        return None


def time_of(raw: msgspec.Raw) -> str | None:
    """Returns a `sentAt` as text, also if it is a number of seconds or milliseconds since 1970."""
    text = bytes(raw)
    return text.decode() if len(text) <= LONGEST_TEXT and _NUMBER.fullmatch(text) else text_of(raw)
