"""Bounds the new columns of one event, so that an event with thousands of keys does not use a table up.

Columns are never dropped, so a table that once has `max_columns` never gets another. Pure.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

import numpy as np

from loader.fitting.claims import Claim


def crowded(claims: Sequence[Claim], live: Container[str], rows: int, most: int) -> set[str]:
    """Returns the keys of new columns that only rows with more than `most` new columns need.

    Args:
        claims: the columns of a batch, except columns that may always be added.
        live: keys of the table's columns.
        rows: number of rows in the batch.
        most: the new columns that one row may add.
    """
    new = [claim for claim in claims if claim.fixed is None and not claim.nameless and claim.key not in live]
    if len(new) <= most:
        return set()
    asked = np.zeros(rows, dtype=np.int32)
    for claim in new:
        for part in claim.parts:
            asked[part.rows] += 1
    greedy = asked > most
    return {claim.key for claim in new if all(greedy[part.rows].all() for part in claim.parts)}
