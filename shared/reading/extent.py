"""How deep a JSON text nests and how many keys it has, from its brackets and colons alone. Pure."""

from __future__ import annotations

from itertools import accumulate
from operator import add

SHORTEST_KEY = 4
"""The least bytes of a key with its value: `"":1`; five with its comma."""

_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_OPENS = bytes.maketrans(b"[]{}", b"\x01\x00\x01\x00")
_TOGETHER = 8
"""How many brackets are looked at together: a Python step for each would be most of the cost of a body of brackets."""

_PATTERNS = [[1 if pattern >> place & 1 else -1 for place in range(_TOGETHER)] for pattern in range(1 << _TOGETHER)]
_STEPS = bytes(sum(steps) % 256 for steps in _PATTERNS)
"""How many levels each pattern of brackets goes down in total, as signed bytes."""
_PEAKS = bytes(max(0, *accumulate(steps)) for steps in _PATTERNS)
"""The deepest level inside each pattern."""


def extent(body: bytes, most_depth: int, most_keys: int) -> tuple[int, int] | None:
    """Returns (depth, number of keys) of a valid JSON text if it exceeds one of the bounds, else None."""
    # nearly every event has too few bytes and brackets to exceed a limit
    if len(body) <= most_keys * SHORTEST_KEY and len(body) - len(body.translate(None, b"{[")) <= most_depth:
        return None
    depth, keys = measure(body)
    return (depth, keys) if depth > most_depth or keys > most_keys else None


def measure(body: bytes) -> tuple[int, int]:
    """Returns (depth, number of keys) of a valid JSON text: in C, and in one pass."""
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    bare = b"".join(body.split(b'"')[::2])  # the text outside of strings
    return _depth(bare.translate(_OPENS, _NOT_BRACKETS)), bare.count(b":")


def _depth(opens: bytes) -> int:
    """Returns the deepest level of brackets, each a byte: 1 opens, 0 closes."""
    opens += bytes(-len(opens) % _TOGETHER)
    bits = int.from_bytes(opens, "little")
    for shift in (7, 14, 28):  # each byte collects the bits of the following ones, until it has eight
        bits |= bits >> shift
    patterns = bits.to_bytes(len(opens), "little")[::_TOGETHER]
    levels = accumulate(memoryview(patterns.translate(_STEPS)).cast("b"), initial=0)
    return max(map(add, levels, patterns.translate(_PEAKS)), default=0)
