"""Bodies as large as the usual limits let them be, each the dearest known for one step of its reading; and what CPU one may cost.

The limits are those of a site that sets none: 8 MiB a request, 256 KiB an event, 10,000 events. A request may cost 0.3 s of CPU on a
machine that decodes an honest body of that size in 0.075 s, and in proportion on a slower one. `make hostile` runs alone and holds this
bound. In `make test` other processes share the caches and the memory of the machine, so a request may cost twice as much there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import cache

import msgspec

BODY_BYTES = 8 * 1024 * 1024
EVENT_BYTES = 256 * 1024
EVENTS = 10_000
_SHARED = 1 if os.environ.get("HOSTILE_ALONE") else 2
MAX_CPU_SECONDS = 0.3 * _SHARED
REFERENCE_DECODES = 4 * _SHARED
"""How often an honest body of the largest size could be decoded instead."""

_SMALL = BODY_BYTES // EVENTS - 10
"""Of this size as many events as a request may have fill it."""

_pack = msgspec.msgpack.Encoder().encode


def reference_seconds() -> float:
    """Returns the CPU of one decode of an honest body of the largest size, now."""
    body = batch(members(_SMALL, b'{"type":"track","event":"E","userId":"u"'))
    return min(_seconds_of(lambda: msgspec.json.decode(body)) for _ in range(3))


@cache
def allowed_seconds() -> float:
    """Returns the CPU that one request may cost on this machine."""
    return max(MAX_CPU_SECONDS, REFERENCE_DECODES * reference_seconds())


def check_cost(work: Callable[[], object]) -> None:
    """Asserts that work costs no more than a request may; what costs more is measured again, beside the reference: the machine may be busy."""
    for _ in range(5):
        seconds = _seconds_of(work)
        if seconds < MAX_CPU_SECONDS or seconds < REFERENCE_DECODES * reference_seconds():
            return
    raise AssertionError(f"{seconds:.2f} s of CPU")


def _seconds_of(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def batch(event: bytes, beside: bytes = b"") -> bytes:
    """Returns a request of one event as often as it may be there. `beside` stands before the batch."""
    count = min(EVENTS, (BODY_BYTES - len(beside) - 20) // (len(event) + 1))
    return b'{%b"batch":[%b]}' % (beside, b",".join([event] * count))


def filled(
    item: bytes, size: int = EVENT_BYTES, head: bytes = b'{"type":"page","userId":"u","a":[', tail: bytes = b"0]}"
) -> bytes:
    """Returns an event of about `size` bytes that holds an array of one item again and again."""
    return head + (item + b",") * ((size - len(head) - len(tail) - 1) // (len(item) + 1)) + tail


def members(size: int, head: bytes = b'{"type":"page","userId":"u"', value: bytes = b"1") -> bytes:
    """Returns an event of about `size` bytes that holds as many members as fit."""
    parts, room = [head], size - len(head) - 1
    while (room := room - len(part := b',"%x":%b' % (len(parts), value))) > 0:
        parts.append(part)
    return b"".join(parts) + b"}"


def chain(depth: int) -> bytes:
    """Returns arrays in each other."""
    return b"[" * depth + b"]" * depth


_MARK = "\u0301".encode()
_UNSEEN = b'{"type":"track","anonymousId":"%b","userId":"%b","event":"%b","messageId":"%b"}' % ((_MARK * 90,) * 4)

JSON: dict[str, Callable[[], bytes]] = {
    "honest": lambda: batch(members(_SMALL, b'{"type":"track","event":"E","userId":"u"')),
    "rejected": lambda: batch(members(_SMALL, b'{"type":"nope"')),
    "ids-that-are-numbers": lambda: batch(members(_SMALL, b'{"type":"page","userId":1')),
    "large-events-with-numbers-as-ids": lambda: batch(members(29_000, b'{"type":"page","userId":1')),
    "types-that-are-numbers": lambda: batch(filled(b"[]", _SMALL, b'{"type":1,"userId":"u","a":[')),
    "arrays": lambda: batch(filled(b"[]")),
    "chains": lambda: batch(filled(chain(60))),
    "chains-too-deep": lambda: batch(filled(chain(900))),
    "strings-like-keys": lambda: batch(filled(b'"a:"')),
    "escaped-quotes": lambda: batch(filled(b'"\\""')),
    "too-many-keys": lambda: batch(members(EVENT_BYTES)),
    "almost-json": lambda: batch(members(_SMALL, b'{"type":"page","userId":"u","n":NaN')),
    "almost-json-of-strings": lambda: batch(filled(b'""', head=b'{"type":"page","userId":"u","a":[NaN,')),
    "broken-events": lambda: batch(b"{x}"),
    "half-surrogates": lambda: batch(b'{"type":"page","userId":"u","a":"%b"}' % (b"\\ud800" * 130)),
    "ids-nobody-sees": lambda: batch(_UNSEEN),
    "long-numbers": lambda: batch(b'{"type":"page","userId":%b.5}' % (b"9" * 780)),
    "no-utf8": lambda: batch(b'{"type":"page","userId":"u","a":"%b"}' % (b"\xffa" * 100_000)),
    "strings-that-are-no-events": lambda: b'{"batch":[x' + b',""' * (BODY_BYTES // 3 - 10) + b"]}",
    "brackets-that-are-not-json": lambda: b'{"batch":[x,' + b'["","","","","","","","","","","",""],' * 99_000 + b"1]}",
    "a-long-text-as-only-event": lambda: b'{"batch":["%b"]}' % (b"x" * (BODY_BYTES - 100)),
    "alike-members": lambda: batch(b'{"type":"page","userId":"u"}', b"".join(b'"%x":"%b", ' % (n, b"a" * 17) for n in range(8500))),
    "context": lambda: b'{"context":{"a":"%b"},' % (b"x" * 3300) + batch(b'{"type":"page","userId":"u"}')[1:],
    "key-again-and-again": lambda: b'{"batch":[' + b'{"writeKey":"nobody"},' * (BODY_BYTES // 22 - 2) + b"0]}",
}  # fmt: skip

DEAREST = (
    "ids-that-are-numbers",
    "large-events-with-numbers-as-ids",
    "types-that-are-numbers",
    "chains",
    "chains-too-deep",
    "almost-json",
    "half-surrogates",
    "ids-nobody-sees",
    "brackets-that-are-not-json",
    "key-again-and-again",
)
"""Of them."""


def packed_event(item: bytes, count: int) -> bytes:
    """Returns an event in MessagePack that holds an array of one item again and again."""
    return (
        b"\x83" + b"".join(map(_pack, ("type", "page", "userId", "u", "a"))) + b"\xdd" + count.to_bytes(4, "big") + item * count
    )


def packed_message(event: bytes) -> bytes:
    """Returns a message of one event as often as it may be there."""
    count = min(EVENTS, (BODY_BYTES - 40) // len(event))
    return b"\x82" + b"".join(map(_pack, ("id", 1, "batch"))) + b"\xdd" + count.to_bytes(4, "big") + event * count


PACKED: dict[str, Callable[[], bytes]] = {
    "empty-objects": lambda: packed_message(packed_event(b"\x80", 80_000)),
    "empty-objects-in-small-events": lambda: packed_message(packed_event(b"\x80", 800)),
    "empty-arrays": lambda: packed_message(packed_event(b"\x90", 80_000)),
    "events-too-large-as-json": lambda: packed_message(packed_event(b"\x90", 240_000)),
    "no-json-at-the-end": lambda: packed_message(packed_event(b"\x90", 240_000)[:-1] + b"\xd4\x01a"),
    "chains": lambda: packed_message(packed_event(b"\x91" * 59 + b"\x90", 2000)),
    "chains-too-deep": lambda: packed_message(packed_event(b"\x91" * 900 + b"\x90", 140)),
    "small-objects": lambda: packed_message(packed_event(b"\x81\xa1a\x01", 30_000)),
    "empty-strings": lambda: packed_message(packed_event(b"\xa0", 80_000)),
}

DEAREST_PACKED = ("empty-objects-in-small-events", "chains", "chains-too-deep", "small-objects", "no-json-at-the-end")
"""Of them."""
