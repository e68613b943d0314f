"""Judges the events of a request one by one: good ones get a head, bad ones a reason; neither touches its neighbours.

Pure, and the hottest code of the edge. It decodes only the head of an event; the decoder checks that the rest is JSON. An event
that needs a closer look (an unexpected type, many brackets, almost-JSON) goes through `ingest/judge/mend.py`. The accepted body
is the client's bytes.

It does not check three things. Numbers beyond a double (`1e999`): no JSON writer makes them from a number, and the loader finds
them. Keys that would steer the loader (`__sql_type`): the loader obeys them only in frames of a function, else removes and counts
them. Repeated keys in an event: the last one counts, as with every JSON reader.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence

import msgspec

from ingest.contract import Parsed, Reject
from ingest.judge.budget import Budget
from ingest.judge.ids import is_visible, repaired
from ingest.judge.mend import Fault, Mended, excess, mend, without_repeats
from shared.events.frame import Head
from shared.events.outcome import DeadReason
from shared.project.model import SiteLimits

MAX_ID_CHARACTERS = 1024
"""Heads stay in memory along the whole path, so ids and event names are bounded. Segment advises 100 for messageId."""

REPLACEMENT = "�".encode()

_NEEDS_NOTHING = frozenset({"page", "screen", "identify"})
_OFTEN = frozenset({"track", *_NEEDS_NOTHING})
TYPES = frozenset({"group", "alias", *_OFTEN})

USUAL_BRACKETS = 8
"""Most events have fewer opening brackets."""


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
    """A body as UTF-8 without a byte order mark."""

    __slots__ = ("body", "replaced")

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
        self.body = body


def judge(
    parsed: Parsed,
    bodies: Sequence[bytes | msgspec.Raw],
    new_id: Callable[[], str],
    *,
    budget: Budget,
    items: Sequence[Item] | None = None,
    fixed_type: str | None = None,
    replaced: bool = False,
    ids_optional: bool = False,
    crowded: Container[int] | None = None,
) -> None:
    """Adds every event to `parsed`, as accepted or as a reject.

    Args:
        bodies: JSON texts, in UTF-8. Views stay views if no event is odd.
        items: their heads, if the caller could decode all of them at once, at half the price.
        fixed_type: the type of all of them, from the path.
        replaced: some of them may have held stray bytes (`Scan.replaced`).
        ids_optional: the protocol asks for no id of a user; the setting of the site does not count.
        crowded: which of them may nest too deeply, if the caller knows.
    """
    limits = parsed.admission.limits
    event_bytes, most_brackets, keys_from_bytes = limits.event_bytes, limits.depth, limits.keys * 4
    require_id = parsed.admission.require_id and not ids_optional
    if items is not None and len(items) > 1 and fixed_type is None and not replaced:
        largest = max(map(len, bodies))
        if largest <= event_bytes:
            if crowded is None:
                crowded = crowded_of(bodies, most_brackets)
            if not crowded and largest <= keys_from_bytes:
                heads = _heads_of_plain(parsed, items, new_id, largest, require_id=require_id)
                if heads is not None:
                    parsed.heads += heads
                    parsed.bodies += bodies
                    return
    add_head, add_body = parsed.heads.append, parsed.bodies.append
    for index, original in enumerate(map(bytes, bodies)):
        size = len(original)
        if size > event_bytes:
            detail = f"the event has {size} bytes, the limit is {event_bytes}"
            parsed.rejects.append(Reject(index, DeadReason.TOO_LARGE, detail, original))
            continue
        if replaced and REPLACEMENT in original:
            parsed.repaired += 1
        body = original
        fault: Fault | None = None
        item = _head_of(body) if items is None else items[index]
        if item is None:
            found = _mended(body, limits, budget, fixed_type)
            if isinstance(found, Fault):
                parsed.rejects.append(Reject(index, found.reason, found.detail, original))
                continue
            parsed.repaired += found[0].repaired
            body, item = found[0].body, found[1]
        # the number of brackets bounds the depth, and a key takes at least four bytes (`"":1`, with its comma five)
        elif size > keys_from_bytes or (is_crowded(body, most_brackets) if crowded is None else index in crowded):
            fault = excess(body, limits)
        kind = fixed_type or item.type
        event, message_id, user_id, anonymous_id = item.event, item.message_id, item.user_id, item.anonymous_id
        # nearly every text begins with a visible ASCII character and needs no further look
        if user_id is not None and not "!" <= user_id < "\x7f" and not is_visible(user_id):
            user_id = None
        if anonymous_id is not None and not "!" <= anonymous_id < "\x7f" and not is_visible(anonymous_id):
            anonymous_id = None
        if fault is not None:
            pass
        elif kind == "track":
            if event is None or (not "!" <= event < "\x7f" and not is_visible(event)):
                fault = _MISSING_EVENT
        elif kind not in _NEEDS_NOTHING:
            fault = _judge_rare(kind, item, require_id)
        if fault is None and require_id and user_id is None and anonymous_id is None:
            fault = _MISSING_USER
        if fault is None and size > MAX_ID_CHARACTERS:
            fault = _judge_lengths(item)
        if fault is not None:
            parsed.rejects.append(Reject(index, fault.reason, fault.detail, original))
            continue
        if message_id is None or (not "!" <= message_id < "\x7f" and not is_visible(message_id)):
            message_id = new_id()
            parsed.made_ids += 1
        elif "\0" in message_id:
            message_id = repaired(message_id)
        add_head(Head(message_id, kind or "", event, user_id, anonymous_id=anonymous_id))
        add_body(body)


def crowded_of(bodies: Sequence[bytes | msgspec.Raw], most: int) -> set[int]:
    """Returns which bodies have more than `most` opening brackets; counts several at once as long as they have few together."""
    found: set[int] = set()
    start, step = 0, max(1, most // USUAL_BRACKETS)
    while start < len(bodies):
        if not is_crowded(b"".join(bodies[start : start + step]), most):
            start += step
        elif step > 1:
            step //= 2
        else:
            found.add(start)
            start += 1
    return found


def is_crowded(text: bytes, most: int) -> bool:
    """Whether a text has more than `most` opening brackets: replaces so many and looks for one more, which is faster than counting."""
    return b"{" in text.replace(b"[", b"{", most + 1).replace(b"{", b"}", most)


def _heads_of_plain(
    parsed: Parsed, items: Sequence[Item], new_id: Callable[[], str], largest: int, *, require_id: bool
) -> list[Head] | None:
    """Returns the heads of events that need no closer look; None if one may need it.

    Looks at columns, and in each at the first and the last text in sorted order: a loop over the events costs twice as much.

    Args:
        largest: how many bytes the largest event has.
    """
    kinds = {item.type for item in items}
    if not kinds <= _OFTEN:
        return None
    names = {item.event for item in items}
    if None in names and any(item.event is None and item.type == "track" for item in items):
        return None
    users = [text for item in items if (text := item.user_id) is not None]
    anonymous = [text for item in items if (text := item.anonymous_id) is not None]
    some_without = require_id and len(users) < len(items) > len(anonymous)
    if some_without and any(item.user_id is None and item.anonymous_id is None for item in items):
        return None
    ids = [text for item in items if (text := item.message_id) is not None]
    texts = [*ids, *users, *anonymous, *(text for text in names if text is not None)]
    if texts:
        whole = "".join(texts)
        ordinary = whole.isascii() and "\x7f" not in whole
        if min(texts) < "!" or "\0" in whole or not (ordinary or max(texts) < "\x7f"):
            return None
    if largest > MAX_ID_CHARACTERS and max(map(len, texts), default=0) > MAX_ID_CHARACTERS:
        return None
    parsed.made_ids += len(items) - len(ids)
    return [
        Head(item.message_id or new_id(), item.type or "", item.event, item.user_id, anonymous_id=item.anonymous_id)
        for item in items
    ]


_MISSING_EVENT = Fault(DeadReason.MISSING_ID, "a track event needs `event`, its name")
_MISSING_USER = Fault(DeadReason.MISSING_ID, "neither `userId` nor `anonymousId` is given")


def _head_of(body: bytes) -> Item | None:
    try:
        return _decode_item(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def _mended(body: bytes, limits: SiteLimits, budget: Budget, fixed_type: str | None) -> tuple[Mended, Item] | Fault:
    found = mend(body, limits, budget, fixed_type)
    if isinstance(found, Fault):
        return found
    item = _head_of(found.body)
    if item is None:  # a repeated member, and the one that does not count has another type
        found = found._replace(body=without_repeats(found.body))
        item = _decode_item(found.body)
    if len(found.body) > limits.event_bytes:  # a control character becomes six
        detail = f"the event has {len(found.body)} bytes once mended, the limit is {limits.event_bytes}"
        return Fault(DeadReason.TOO_LARGE, detail)
    return found, item


def _judge_rare(kind: str | None, item: Item, require_id: bool) -> Fault | None:
    if kind == "group":
        return None if is_visible(item.group_id) else Fault(DeadReason.MISSING_ID, "a group event needs `groupId`")
    if kind == "alias":
        if not is_visible(item.previous_id) and not is_visible(item.anonymous_id):
            return Fault(DeadReason.MISSING_ID, "an alias event needs `previousId`")
        if require_id and not is_visible(item.user_id):
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
