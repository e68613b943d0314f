"""Events of forgotten people: left out at the edge, before any of their bytes is stored."""

from __future__ import annotations

from itertools import compress

from ingest.contract import Parsed
from shared.forget.ids import Forgotten


def leave_out(parsed: Parsed, forgotten: Forgotten) -> int:
    """Takes the events of forgotten people out of a request, rejects too; returns their number."""
    found = forgotten.find(parsed.heads, lambda: parsed.bodies)
    if found:
        keep = [True] * len(parsed.heads)
        for index in found:
            keep[index] = False
        parsed.heads[:] = compress(parsed.heads, keep)
        parsed.bodies[:] = compress(parsed.bodies, keep)
    kept = [reject for reject in parsed.rejects if not forgotten.is_in(reject.body)]
    left = len(found) + len(parsed.rejects) - len(kept)
    parsed.rejects[:] = kept
    return left
