"""Collapses repeats inside a batch to the newest row per key, so that a merge meets every key once. Versions of a history stay.

The newest is the row with the largest discriminator, nulls oldest, and among equal ones the last by order of acceptance. With
`coalesce`, each column is the newest value that is not null, as if the rows had been stored one by one.

Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Indexes = NDArray[np.int64]


def first_of_each(rows: pa.Table, key: Sequence[str]) -> tuple[pa.Table, Indexes | None]:
    """Returns the table with the first row of each key, and their indexes (None: nothing repeats); key columns have no nulls."""
    kept = np.sort(np.unique(_codes(rows, key), return_index=True)[1]).astype(np.int64)
    return (rows, None) if len(kept) == rows.num_rows else (rows.take(pa.array(kept)), kept)


def collapse(rows: pa.Table, key: Sequence[str], newest: str | None, coalesce: bool) -> tuple[pa.Table, Indexes | None]:
    """Returns the table with one row per key, in the order of the winning rows, and their indexes (None: nothing repeats).

    Key columns have no nulls; `newest` names the discriminator.
    """
    codes = _codes(rows, key)
    if len(np.unique(codes)) == len(codes):
        return rows, None
    order, ends = _in_order(rows, codes, newest)
    winners = order[ends]
    arrangement = np.argsort(winners)
    if not coalesce:
        kept = winners[arrangement]
        return rows.take(pa.array(kept)), kept
    starts = np.append(0, ends[:-1] + 1)
    columns = [_latest(column, order, starts, ends)[arrangement] for column in rows.columns]
    taken = [column.take(pa.array(indexes, mask=indexes < 0)) for column, indexes in zip(rows.columns, columns, strict=True)]
    return pa.table(taken, schema=rows.schema), winners[arrangement]


def collapse_marked(rows: pa.Table, key: Sequence[str], newest: str | None, marked: str) -> tuple[pa.Table, Indexes | None]:
    """Returns the table with the newest row of each key, as `collapse`; if it marks a deletion, behind the newest row that does not.

    `marked`: the column with a value in rows that mark.
    """
    codes = _codes(rows, key)
    if len(np.unique(codes)) == len(codes):
        return rows, None
    order, ends = _in_order(rows, codes, newest)
    marks = rows[marked].is_valid().to_numpy()[order]
    places = np.arange(len(order))
    starts = np.append(0, ends[:-1] + 1)
    plain = np.maximum.accumulate(np.where(marks, -1, places))[
        ends
    ]  # the last that marks nothing, -1 or one of another key if none
    chosen = np.unique(np.append(ends, plain[plain >= starts]))
    return rows.take(pa.array(order[chosen])), order[chosen]


def _in_order(rows: pa.Table, codes: Indexes, newest: str | None) -> tuple[Indexes, Indexes]:
    """Returns the rows by key and then by age, and the places of the last of each key there."""
    count = len(codes)
    ages = np.arange(count)
    if newest is not None:
        # a stable sort keeps the order of acceptance among equal values
        ranked = pc.array_sort_indices(rows[newest].combine_chunks(), null_placement="at_start").to_numpy()
        ages[ranked] = np.arange(count)
    order = np.lexsort((ages, codes))
    return order, np.flatnonzero(np.append(codes[order][1:] != codes[order][:-1], True))


def _codes(rows: pa.Table, key: Sequence[str]) -> Indexes:
    codes = np.zeros(rows.num_rows, dtype=np.int64)
    for name in key:
        column = rows[name].combine_chunks()
        encoded = pc.dictionary_encode(column).indices.to_numpy().astype(np.int64)
        # renumbered after each column, so that the product of two cardinalities cannot overflow
        codes = np.unique(codes * (encoded.max() + 1) + encoded, return_inverse=True)[1].astype(np.int64)
    return codes


def _latest(column: pa.ChunkedArray, order: Indexes, starts: Indexes, ends: Indexes) -> Indexes:
    """Returns for every key the index of its newest value, -1 if all are null."""
    valid = column.is_valid().to_numpy()[order]
    last = np.maximum.accumulate(np.where(valid, np.arange(len(order)), -1))[ends]
    indexes: Indexes = np.where(last >= starts, order[last], -1)
    return indexes
