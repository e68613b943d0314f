"""Judges the events of a request one by one: good ones get a head, bad ones a reason; neither touches its neighbours.

Pure, and the hottest code of the edge. Only the head of an event is decoded; of the rest the decoder checks that it is JSON. What
needs a closer look (another type than expected, deep nesting, suspicious escapes) goes through `ingest/mend.py`. The body that is
accepted is the client's bytes.

Not checked here: numbers beyond a double (`1e999`). No JSON writer makes them from a number; the loader finds them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from ingest.contract import Parsed, Reject
from ingest.mend import ESCAPED, HINT, Fault, mend
from shared.frame import Head
from shared.outcome import DeadReason

MAX_ID_CHARACTERS = 1024
"""Heads stay in memory along the whole path, so ids and event names are bounded. Segment advises 100 for messageId."""

REPLACEMENT = "�".encode()

_NEEDS_NOTHING = frozenset({"page", "screen", "identify"})
TYPES = frozenset({"track", "group", "alias", *_NEEDS_NOTHING})


class _Object(msgspec.Struct, gc=False):
    """Any JSON object; its members are skipped."""


class Item(msgspec.Struct, gc=False, rename="camel"):
    """The head of an event as clients send it."""

    type: str | None = None
    event: str | None = None
    message_id: str | None = None
    user_id: str | None = None
    anonymous_id: str | None = None
    group_id: str | None = None
    previous_id: str | None = None
    properties: _Object | None = None
    traits: _Object | None = None


_decode_item = msgspec.json.Decoder(Item).decode


class Scan:
    """What a look over a whole body tells of the events inside, so that most need no look of their own."""

    __slots__ = ("body", "replaced", "suspicious")

    def __init__(self, body: bytes) -> None:
        if body[:1] > b"\x7f":
            body = _without_mark(body)
        self.replaced = False
        """The body was not UTF-8: stray bytes became U+FFFD."""
        if not body.isascii():
            try:
                body.decode()
            except UnicodeDecodeError:
                body = body.decode("utf-8", "replace").encode()
                self.replaced = True
        self.suspicious = (
            (b"\\" in body and ESCAPED.search(body) is not None) or b"__sql_type" in body or b"JITSU_TABLE_NAME" in body
        )
        self.body = body


def judge(
    parsed: Parsed,
    events: Iterable[bytes | msgspec.Raw],
    scan: Scan,
    new_id: Callable[[], str],
    fixed_type: str | None = None,
) -> None:
    """Adds every event to `parsed`, as accepted or as a reject.

    Args:
        events: JSON texts, out of the body of `scan`.
        fixed_type: the type the path gives to all of them.
    """
    limits = parsed.admission.limits
    event_bytes, most_brackets, keys_from_bytes = limits.event_bytes, limits.depth, limits.keys * 4
    suspicious, replaced = scan.suspicious, scan.replaced
    require_id = parsed.admission.require_id
    add_head, add_body = parsed.heads.append, parsed.bodies.append
    for index, raw in enumerate(events):
        body = bytes(raw)
        size = len(body)
        if size > event_bytes:
            detail = f"the event has {size} bytes, the limit is {event_bytes}"
            parsed.rejects.append(Reject(index, DeadReason.TOO_LARGE, detail, body))
            continue
        # the number of brackets bounds the depth, and a key takes at least four bytes (`"":1`, with its comma five)
        item = None
        if not (
            body.count(b"{") + body.count(b"[") > most_brackets
            or size > keys_from_bytes
            or (suspicious and (HINT.search(body) or ESCAPED.search(body)))
        ):
            try:
                item = _decode_item(body)
            except (msgspec.MsgspecError, UnicodeError, RecursionError):
                item = None
        if replaced and REPLACEMENT in body:
            parsed.repaired += 1
        if item is None:
            mended = mend(body, limits, fixed_type)
            if isinstance(mended, Fault):
                parsed.rejects.append(Reject(index, mended.reason, mended.detail, body))
                continue
            body = mended.body
            if len(body) > event_bytes and len(body) > size:  # a control character becomes six
                detail = f"the event has {len(body)} bytes once mended, the limit is {event_bytes}"
                parsed.rejects.append(Reject(index, DeadReason.TOO_LARGE, detail, bytes(raw)))
                continue
            parsed.repaired += mended.repaired
            parsed.stripped += mended.stripped
            item = _decode_item(body)
        kind = fixed_type or item.type
        if kind == "track":
            fault = None if item.event else _MISSING_EVENT
        elif kind in _NEEDS_NOTHING:
            fault = None
        else:
            fault = _judge_rare(kind, item, require_id)
        if fault is None and require_id and not item.user_id and not item.anonymous_id:
            fault = _MISSING_USER
        if fault is None and size > MAX_ID_CHARACTERS:
            fault = _judge_lengths(item)
        if fault is not None:
            parsed.rejects.append(Reject(index, fault.reason, fault.detail, bytes(raw)))
            continue
        add_head(Head(item.message_id or new_id(), kind or "", item.event, item.user_id or None, item.anonymous_id or None))
        add_body(body)


_MISSING_EVENT = Fault(DeadReason.MISSING_ID, "a track event needs `event`, its name")
_MISSING_USER = Fault(DeadReason.MISSING_ID, "neither `userId` nor `anonymousId` is given")


def _judge_rare(kind: str | None, item: Item, require_id: bool) -> Fault | None:
    if kind == "group":
        return None if item.group_id else Fault(DeadReason.MISSING_ID, "a group event needs `groupId`")
    if kind == "alias":
        if not item.previous_id and not item.anonymous_id:
            return Fault(DeadReason.MISSING_ID, "an alias event needs `previousId`")
        if require_id and not item.user_id:
            return Fault(DeadReason.MISSING_ID, "an alias event needs `userId`, the new id")
        return None
    if not kind:
        return Fault(DeadReason.MISSING_TYPE, "the event has no `type`")
    known = ", ".join(sorted(TYPES))
    return Fault(DeadReason.UNKNOWN_TYPE, f"`type` is {kind[:100]!r}, expected one of {known}")


def _judge_lengths(item: Item) -> Fault | None:
    for name, value in (
        ("messageId", item.message_id),
        ("event", item.event),
        ("userId", item.user_id),
        ("anonymousId", item.anonymous_id),
    ):
        if value is not None and len(value) > MAX_ID_CHARACTERS:
            return Fault(DeadReason.TOO_LARGE, f"`{name}` has {len(value)} characters, the limit is {MAX_ID_CHARACTERS}")
    return None


def _without_mark(body: bytes) -> bytes:
    """Removes a byte order mark; UTF-16, which only a mark reveals, becomes UTF-8."""
    if body.startswith(b"\xef\xbb\xbf"):
        return body[3:]
    if body.startswith((b"\xff\xfe", b"\xfe\xff")):
        return body.decode("utf-16", "replace").encode()
    return body
