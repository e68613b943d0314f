"""Events in another form than Segment's: each is rewritten as a canonical event, or rejected with the client's own bytes. Pure.

A rewriting sees the members of an event as raw JSON and moves them; values keep their bytes, so no number loses a digit. Limits of
size, depth and keys are checked before a member is built. The rewritten events are then judged as all others.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from ingest.contract import Parsed, Refusal, Reject
from ingest.judge.batch import heads_of, unreadable
from ingest.judge.budget import Budget
from ingest.judge.mend import Fault, excess, json_type, mend_object, read_leniently
from ingest.judge.verdicts import crowded_of, judge
from shared.events.outcome import DeadReason
from shared.reading.extent import SHORTEST_KEY

Members = dict[str, msgspec.Raw]
"""An object whose values are not built."""
Rewrite = Callable[[Members, int], dict[str, Any] | Fault]
"""Returns the canonical event of one event; the number is its position in the request."""
Quick = Callable[[Members], bytes | None]
"""Returns the very bytes that the rewriting of an event gives once encoded, None if it does not know them."""

MOST_ADDED_LEVELS = 4
"""So many levels deeper than it came may a value stand in a rewritten event."""

_members = msgspec.json.Decoder(Members).decode
_text = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode


def judge_rewritten(
    parsed: Parsed,
    originals: Sequence[bytes | msgspec.Raw],
    rewrite: Rewrite,
    new_id: Callable[[], str],
    *,
    budget: Budget,
    positions: Sequence[int] | None = None,
    ids_optional: bool = False,
    quick: Quick | None = None,
) -> None:
    """Adds every event to `parsed`, rewritten or as a reject with its original bytes.

    Args:
        positions: of the events in the request, if they are not 0, 1, 2 …
        ids_optional: the protocol asks for no id of a user; the setting of the site does not count.
        quick: asked first, for most of them at a part of the price.
    """
    watched = gc.isenabled()
    gc.disable()  # the members live for a moment and hold no cycles: searching for cycles takes longer than building them
    try:
        _judge(
            parsed=parsed,
            originals=originals,
            rewrite=rewrite,
            new_id=new_id,
            budget=budget,
            positions=positions,
            ids_optional=ids_optional,
            quick=quick,
        )
    finally:
        if watched:
            gc.enable()


def open_object(body: bytes, budget: Budget) -> tuple[bytes, Members] | Refusal:
    """Returns a body that is one object as strict JSON, and its members; or the refusal of another body."""
    try:
        return body, _members(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        lenient = read_leniently(body, budget)
    if isinstance(lenient, Fault):
        return unreadable(body, lenient)
    value, clean = lenient
    if not isinstance(value, dict):
        return Refusal(400, "invalid_json", f"the body is {json_type(clean)}, expected an object")
    return clean, _members(clean)


def members_of(raw: msgspec.Raw | bytes | None) -> Members:
    """Returns the members of an object without its nulls; none of any other value."""
    if raw is None:
        return {}
    text = bytes(raw)
    if text == b"{}" or (text[:1] != b"{" and text.lstrip()[:1] != b"{"):
        return {}
    try:
        found = _members(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return {}
    return {name: value for name, value in found.items() if bytes(value) != b"null"} if b"null" in text else found


def text_of_member(raw: msgspec.Raw | None) -> str:
    """Returns a member that is a text; an empty text for any other value."""
    if raw is None or bytes(raw)[:1] != b'"':
        return ""
    try:
        return _text(raw)
    except (msgspec.MsgspecError, UnicodeError):
        return ""


def _judge(
    parsed: Parsed,
    originals: Sequence[bytes | msgspec.Raw],
    rewrite: Rewrite,
    new_id: Callable[[], str],
    budget: Budget,
    positions: Sequence[int] | None,
    ids_optional: bool,
    quick: Quick | None,
) -> None:
    bodies: list[bytes] = []
    rejected: set[int] = set()
    limits = parsed.admission.limits
    # an event up to this size has not too many keys to be built, and one that is not crowded nests below the limit once rewritten
    largest = min(limits.event_bytes, limits.keys * SHORTEST_KEY)
    crowded = crowded_of(originals, max(1, limits.depth - MOST_ADDED_LEVELS))
    for index, original in enumerate(originals):
        read: Members | Fault | None = None
        if len(original) <= largest:
            try:
                read = _members(original)
            except (msgspec.MsgspecError, UnicodeError, RecursionError):
                pass
            else:
                if index in crowded:
                    read = excess(bytes(original), limits) or read
                if quick is not None and not isinstance(read, Fault) and (known := quick(read)) is not None:
                    bodies.append(known)
                    continue
        position = index if positions is None else positions[index]
        if read is None:
            read = _mended(parsed, bytes(original), budget)
        event = read if isinstance(read, Fault) else rewrite(read, position)
        if isinstance(event, Fault):
            parsed.rejects.append(Reject(position, event.reason, event.detail, bytes(original)))
            rejected.add(index)
        else:
            bodies.append(_encode(event))
    before = len(parsed.rejects)
    # in one pass, at half the price of as many
    items = heads_of(b"[%b]" % b",".join(bodies), bare=True) if len(bodies) > 1 else None
    judge(parsed, bodies, new_id, budget=budget, items=items, ids_optional=ids_optional, crowded=None if crowded else crowded)
    if len(parsed.rejects) == before:
        return
    kept = [index for index in range(len(originals)) if index not in rejected]
    for place in range(before, len(parsed.rejects)):
        index = kept[parsed.rejects[place].position]
        position = index if positions is None else positions[index]
        parsed.rejects[place] = parsed.rejects[place]._replace(position=position, body=bytes(originals[index]))
    if before:
        parsed.rejects.sort(key=lambda each: each.position)


def _mended(parsed: Parsed, original: bytes, budget: Budget) -> Members | Fault:
    """Reads an event that is too large to be built at once, or no strict JSON."""
    limits = parsed.admission.limits
    if len(original) > limits.event_bytes:
        return Fault(DeadReason.TOO_LARGE, f"the event has {len(original)} bytes, the limit is {limits.event_bytes}")
    found = mend_object(original, limits, budget)
    if isinstance(found, Fault):
        return found
    parsed.repaired += found.repaired
    return _members(found.body)
