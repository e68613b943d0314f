"""Reads a batch: the bytes of its events, their heads, and the members beside them. Pure.

Two passes in C over the body: one cuts the events out, one decodes all heads at once. If the second fails (an event has a number
as `userId`), the events are judged one by one.

A batch of more than `most` events is refused before its events are built: eight megabytes of `1,1,1` would be four million
objects. No part of a body vanishes in silence: a body with two `batch` members is refused, ignored members are counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from heapq import nlargest
from typing import Any, NamedTuple

import msgspec

from ingest.contract import Refusal
from ingest.judge.budget import Budget
from ingest.judge.envelope import open_leniently
from ingest.judge.mend import Fault
from ingest.judge.verdicts import Item

LARGE_BYTES = 512 * 1024
"""Bodies up to this size cannot hold more events than memory takes easily."""

BOUNDED_EVENTS = 100_000
"""A site that allows more events than this accepts their cost."""

ABSENT = msgspec.Raw()
_MEMBERS = ("batch", "writeKey", "sentAt", "context", "integrations")
_ENVELOPE_BYTES = 64 * 1024
_SHORT_BYTES = 16
_LONG_VALUES = 64
"""The largest envelope: its other members are short."""
_BESIDE_BYTES = 256 * 1024
"""The most bytes of blanks and of ignored or repeated members: no client sends more."""


class _Envelope(msgspec.Struct, gc=False):
    writeKey: msgspec.Raw = ABSENT  # noqa: N815  # the wire's name
    sentAt: msgspec.Raw = ABSENT  # noqa: N815
    context: msgspec.Raw = ABSENT
    integrations: msgspec.Raw = ABSENT


class _Batch(_Envelope, gc=False, kw_only=True):
    batch: list[msgspec.Raw]


class _UncutBatch(_Envelope, gc=False, kw_only=True):
    batch: msgspec.Raw


class _Heads(msgspec.Struct, gc=False):
    batch: list[Item]


class Batch(NamedTuple):
    """A batch that was read. `items` are the heads of all `events`, or None."""

    envelope: _Envelope
    events: Sequence[bytes | msgspec.Raw]
    """Most are views of the body: copying them costs as much as finding them."""
    items: list[Item] | None
    ignored: frozenset[str]
    """Members of the body that are ignored."""


_decode_batch = msgspec.json.Decoder(_Batch).decode
_decode_uncut = msgspec.json.Decoder(_UncutBatch).decode
_decode_heads = msgspec.json.Decoder(_Heads).decode
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_array_of_heads = msgspec.json.Decoder(list[Item]).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def read_batch(body: bytes, most: int, budget: Budget, *, of_segment: bool = True) -> Batch | Refusal:
    """Reads `{"batch": […]}` or `[…]`; of more than `most` events it returns some, but more than `most`.

    Args:
        of_segment: the events have Segment's form, else their heads are not read.
    """
    bare = body[:1] == b"["
    try:
        envelope, raws = _cut(body, bare, most)
    except msgspec.ValidationError as exc:
        problem = str(exc)
        return Refusal(400, "invalid_batch", f'expected {{"batch": [events]}}: {problem[:1].lower()}{problem[1:]}')
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return _read_leniently(body, most, budget)
    events = raws[: most + 1]
    if len(raws) > most:
        return Batch(envelope, events, None, frozenset())
    ignored: frozenset[str] = frozenset()
    if not bare and not _is_plain(body, envelope, events):
        beside = unknown_members(body, sum(map(len, events)) + len(bytes(envelope.context)) + len(bytes(envelope.integrations)))
        if isinstance(beside, Refusal):
            return beside
        ignored = beside
    return Batch(envelope, events, heads_of(body, bare=bare) if of_segment else None, ignored)


def cut_events(array: bytes, most: int) -> list[bytes]:
    """Returns the bytes of the items of a JSON array, at most `most` + 1 of them.

    Raises:
        msgspec.MsgspecError: it is no array.
    """
    return [bytes(raw) for raw in _cut(array, True, most)[1][: most + 1]]


def heads_of(body: bytes, *, bare: bool) -> list[Item] | None:
    """Returns the heads of all events of a batch or, if `bare`, of an array; None if one of them needs a closer look."""
    try:
        return _decode_array_of_heads(body) if bare else _decode_heads(body).batch
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def _cut(body: bytes, bare: bool, most: int) -> tuple[_Envelope, list[msgspec.Raw] | tuple[msgspec.Raw, ...]]:
    if len(body) <= LARGE_BYTES or most > BOUNDED_EVENTS:
        if bare:
            return _Envelope(), _decode_array(body)
        read = _decode_batch(body)
        return read, read.batch
    if bare:
        return _Envelope(), _first_events(body, most)
    # the array alone: inside the body it would be built again for each `batch` of a body with thousands of them
    uncut = _decode_uncut(body)
    return uncut, _first_events(bytes(uncut.batch), most)


def _first_events(array: bytes, most: int) -> tuple[msgspec.Raw, ...]:
    events: tuple[msgspec.Raw, ...] = msgspec.structs.astuple(_bounded(most)(array))
    return events[: events.index(ABSENT)] if events[-1] is ABSENT else events


@lru_cache(8)
def _bounded(most: int) -> Callable[[bytes], Any]:
    """Returns a decoder of an array that builds `most` + 1 items and skips the rest."""
    fields = [(f"n{number}", msgspec.Raw, ABSENT) for number in range(most + 1)]
    return msgspec.json.Decoder(msgspec.defstruct("Some", fields, array_like=True, gc=False)).decode


def _is_plain(body: bytes, envelope: _Envelope, events: Sequence[bytes]) -> bool:
    """Whether a body holds its known members once each and nothing else; False also if its blanks are unusual.

    Compares lengths, which costs nothing: a repeated or unknown member makes the body longer than its parts.
    """
    size = sum(map(len, events)) + len('{"batch":[]}')
    members, separators = 1, max(0, len(events) - 1)
    for name in _MEMBERS[1:]:
        held = len(bytes(getattr(envelope, name)))
        if held:
            members += 1
            size += len(name) + 3 + held
    separators += members - 1
    blanks = len(body) - size - separators
    if blanks != separators + members or not events:
        return blanks == 0  # as JavaScript writes it
    # as Python writes it; a repeated member may be as long as the blanks of all events, so these must be there
    joined = b", ".join(events)
    return body.startswith(joined, body.find(events[0]))


def unknown_members(body: bytes, known_bytes: int, known: tuple[str, ...] = _MEMBERS) -> frozenset[str] | Refusal:
    """Returns the unknown members of an envelope, or why it is refused: it has a member twice, or is too large."""
    if len(body) - known_bytes > _BESIDE_BYTES:
        rest = f"{len(body) - known_bytes} bytes beside `batch`, `context` and `integrations` are too many"
        return Refusal(400, "invalid_batch", f'expected {{"batch": [events]}}: {rest}')
    members = _decode_members(body)
    unknown = frozenset(members) - frozenset(known)
    written = sum(len(name.encode()) + len(bytes(raw)) + 4 for name, raw in members.items()) + 1
    if len(body) != written:
        # blanks, or a repeated member: look at the envelope alone, with its long values cut out, each by a search
        for value in nlargest(_LONG_VALUES, map(bytes, members.values()), key=len):
            if len(value) > _SHORT_BYTES:
                # the text may occur before as a name
                body = body.replace(value, b'"0"' if value.startswith(b'"') else b"0", 1)
        twice = _twice(body, known)
        if twice:
            return Refusal(400, "invalid_batch", f'expected {{"batch": [events]}}: {twice}')
    return unknown


def _twice(envelope: bytes, known: tuple[str, ...]) -> str | None:
    """Returns the known member that a JSON object has twice."""
    if len(envelope) > _ENVELOPE_BYTES:
        return "a member stands twice, or there are blanks without end"
    try:
        pairs = json.loads(envelope, object_pairs_hook=list, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):  # the same text occurred elsewhere, so cutting it out left no JSON
        return "a member stands twice, or its members are too much alike"
    names = [name for name, _ in pairs]
    return next((f"`{name}` stands twice" for name in known if names.count(name) > 1), None)


def _read_leniently(body: bytes, most: int, budget: Budget) -> Batch | Refusal:
    opened = open_leniently(body, budget, most)
    if isinstance(opened, Fault):
        return unreadable(body, opened)
    if opened.events is None:
        return Refusal(400, "invalid_batch", 'expected {"batch": [events]}')
    if opened.envelope == b"{}":
        return Batch(_Envelope(), opened.events, None, frozenset())
    try:
        envelope = _decode_batch(opened.envelope)
    except msgspec.MsgspecError as exc:
        return Refusal(400, "invalid_batch", f'expected {{"batch": [events]}}: {exc}')
    if envelope.batch:
        return Refusal(400, "invalid_batch", 'expected {"batch": [events]}: `batch` stands twice')
    unknown = frozenset(_decode_members(opened.envelope)) - frozenset(_MEMBERS)
    return Batch(envelope, opened.events, None, unknown)


def unreadable(body: bytes, fault: Fault) -> Refusal:
    """Returns the refusal of a body that is not JSON."""
    if not body.strip():
        return Refusal(400, "empty_body", "the body is empty, expected a JSON object")
    return Refusal(400, "invalid_json", f"the body is not JSON: {fault.detail}")
