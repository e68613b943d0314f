"""Separates the events of a batch whose body as a whole is not JSON, so that one broken event does not cost its neighbours.

Pure. Follows brackets and strings only: it can cut out an event that balances both, whatever else is wrong inside it. If even
that fails (a string that never ends, a bracket that closes another kind), the body is refused whole.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_BRACKETS = 200_000
"""Bounds the time spent on a hostile body: about 0.1 s. Eight megabytes of ordinary events have 150,000."""

# up to the next bracket outside strings; possessive, so a broken string fails at once instead of backtracking
_NEXT = re.compile(rb'(?:[^][{}"]++|"(?:[^"\\]++|\\.)*+")*+([][{}])', re.DOTALL)
_BATCH_KEY = re.compile(rb'"batch"\s*:\s*\Z')
_PARTNER = {b"}": b"{", b"]": b"["}


class Pieces(NamedTuple):
    """A body taken apart: `envelope` is the body with an empty batch, `events` are the bytes of the items."""

    envelope: bytes
    events: list[bytes]


def split_batch(body: bytes, most_events: int) -> Pieces | None:
    """Cuts `{"batch": [a, b, …], …}` or `[a, b, …]` apart; None if brackets or strings do not balance.

    Of more than `most_events` events only some are returned, enough to see that there are too many.
    """
    first = _NEXT.match(body)
    if first is None or body[: first.start(1)].strip():
        return None
    opened = [first[1]]
    bare = first[1] == b"["
    level = 1 if bare else 2
    batch_start = first.end() if bare else -1
    batch_end = -1
    events: list[bytes] = []
    position = first.end()
    item_start = first.end()
    for _ in range(MAX_BRACKETS):
        match = _NEXT.match(body, position)
        if match is None:
            return None
        position = match.end()
        bracket = match[1]
        if bracket in _PARTNER:
            if opened.pop() != _PARTNER[bracket]:
                return None
            if batch_end < 0 and batch_start >= 0:
                if len(opened) == level:
                    if len(events) <= most_events:
                        events.append(body[item_start:position])
                    item_start = position
                elif len(opened) == level - 1:
                    events.extend(_scalars(body[item_start : position - 1], most_events - len(events)))
                    batch_end = position - 1
            if not opened:
                break
        else:
            if (
                batch_start < 0
                and len(opened) == 1
                and bracket == b"["
                and _BATCH_KEY.search(body, max(0, position - 64), position - 1)
            ):
                batch_start = item_start = position
            elif batch_end < 0 and batch_start >= 0 and len(opened) == level:
                events.extend(_scalars(body[item_start : position - 1], most_events - len(events)))
                item_start = position - 1
            opened.append(bracket)
    if opened or batch_end < 0 or body[position:].strip():
        return None
    return Pieces(b"" if bare else body[:batch_start] + body[batch_end:], events)


def _scalars(between: bytes, most: int) -> list[bytes]:
    """Returns items that are no objects, from the text between two objects; at most a few more than `most`."""
    return [part for each in between.split(b",", most + 1) if (part := each.strip())] if most >= 0 else []
