"""Finds the rows a destination refuses when it does not say which: by halves, tried and taken back.

With `n` rows and `k` bad ones this costs about `k · log2(n)` probes of shrinking size. It is bounded: beyond `MOST_PROBES` the rows of
the parts that are still refused are named together, each with the destination's words for its part.
"""

from __future__ import annotations

from loader.contract import Session
from loader.fit import Ready
from shared.errors import RowsRejected

MOST_PROBES = 400


async def refused_rows(session: Session, ready: Ready) -> dict[int, str]:
    """Returns the refused rows of a table by their index, with the destination's words; empty when every row passes alone.

    Raises:
        NotConnected, Transient, SetupError: the search cannot go on.
    """
    refused: dict[int, str] = {}
    parts: list[list[int]] = [list(range(ready.load.rows.num_rows))]
    probes = 0
    while parts:
        part = parts.pop()
        try:
            await session.probe([ready.part(part).load])
        except RowsRejected as exc:
            if exc.rows:  # it names them after all: their indexes are within the part
                refused.update({part[row]: why for row, why in exc.rows.items()})
                rest = [index for place, index in enumerate(part) if place not in exc.rows]
                parts.extend([rest] if rest else [])
            elif len(part) == 1 or probes >= MOST_PROBES:
                refused.update(dict.fromkeys(part, exc.message))
            else:
                middle = len(part) // 2
                parts.extend([part[middle:], part[:middle]])
        probes += 1
    return refused
