"""Finds the rows that a destination refuses without naming them all: tries parts and takes them back.

If the destination refuses a part without naming rows, the part is halved. If it names rows, the parts on both sides of them are
tried again. With `n` rows and `k` bad ones this costs about `k · log2(n)` probes of shrinking size, `2 · k` if the destination
names one at a time. No row counts as bad because of its neighbours. There is one bound, for a table that takes nothing: if the
first `MOST_PROBES` probes all fail, and so does every row of a sample of the rest, the rest counts as refused without trying each
row.

Rows may also be good alone and conflict with each other, such as two rows with one value in a UNIQUE column. So the remaining
rows are tried as a whole. If that fails, each row that conflicts with earlier ones is found, by halving the shortest failing
start.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from loader.contract.warehouse import Session, TableLoad
from loader.fitting.fit import Ready
from shared.errors import RowsRejected

MOST_PROBES = 400
SAMPLE = 200


async def refused_rows(
    session: Session, ready: Ready, known: Mapping[int, str] | None = None, beside: Sequence[TableLoad] = ()
) -> dict[int, str]:
    """Returns the refused rows of a table by their index, with the destination's words; the other rows pass together.

    Args:
        known: rows that the destination has named already.
        beside: loads of other tables that rows of this one may need.

    Raises:
        RowsRejected: another table's rows are refused; find these first.
        NotConnected, Transient, SetupError: the search cannot go on.
    """
    refused = dict(known or {})
    parts = _around(range(ready.load.rows.num_rows), refused)
    probes, passed = 0, False
    while parts:
        part = parts.pop()
        refusal = await _probe(session, ready, part, beside)
        probes += 1
        if refusal is None:
            passed = True
            continue
        if refusal.rows:
            named = {part[row]: why for row, why in refusal.rows.items()}
            refused.update(named)
            parts.extend(_around(part, named))
        elif len(part) == 1:
            refused[part[0]] = refusal.message
        else:
            middle = len(part) // 2
            parts.extend([part[middle:], part[:middle]])
        if probes == MOST_PROBES and not passed and not await _any_passes(session, ready, parts, beside):
            refused.update({row: refusal.message for rest in parts for row in rest})
            return refused
    return refused | await _refused_beside_others(
        session, ready, [row for row in range(ready.load.rows.num_rows) if row not in refused], beside
    )


async def _refused_beside_others(session: Session, ready: Ready, rows: list[int], beside: Sequence[TableLoad]) -> dict[int, str]:
    """Returns the rows that conflict with earlier ones; not all of them if that takes too many probes."""
    refused: dict[int, str] = {}
    probes, good = 0, 0
    while rows and probes < MOST_PROBES:
        refusal, bad = await _probe(session, ready, rows, beside), len(rows)
        probes += 1
        if refusal is None:
            break
        # the first `good` rows pass, the first `bad` do not
        while not refusal.rows and bad - good > 1:
            middle = (good + bad) // 2
            found = await _probe(session, ready, rows[:middle], beside)
            probes += 1
            if found is None:
                good = middle
            else:
                refusal, bad = found, middle
        named = {rows[row]: why for row, why in refusal.rows.items()} or {rows[bad - 1]: refusal.message}
        refused |= named
        good = min(good, rows.index(min(named)))
        rows = [row for row in rows if row not in named]
    return refused


async def _probe(session: Session, ready: Ready, part: Sequence[int], beside: Sequence[TableLoad]) -> RowsRejected | None:
    try:
        await session.probe([*beside, ready.part(part).load])
    except RowsRejected as exc:
        if exc.table != ready.load.table:
            raise
        named = {row: why for row, why in exc.rows.items() if 0 <= row < len(part)}
        return RowsRejected(exc.table, exc.message, named)
    return None


async def _any_passes(session: Session, ready: Ready, parts: Sequence[Sequence[int]], beside: Sequence[TableLoad]) -> bool:
    rows = [row for part in parts for row in part]
    for row in rows[:: max(1, len(rows) // SAMPLE)]:
        if await _probe(session, ready, [row], beside) is None:
            return True
    return False


def _around(part: Sequence[int], named: Collection[int]) -> list[Sequence[int]]:
    """Returns the rows behind the last named one, then the rows before it: destinations stop at the first row that they refuse."""
    left = [row for row in part if row not in named]
    if not named:
        return [left] if left else []
    last = max(named)
    sides = [[row for row in left if row > last], [row for row in left if row < last]]
    return [side for side in sides if side]
