"""Bounds the new columns of one event, so that an event with thousands of keys does not use a table up.

Columns are never dropped, so a table that once has `max_columns` never gets another. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Sequence

import numpy as np

from loader.contract.warehouse import Column
from loader.fitting.claims import Claim
from loader.rows.layouts.contract import TableSpec
from loader.rows.rules import Rules


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


def key_first(claims: Sequence[Claim], live: Collection[str], rules: Rules, spec: TableSpec) -> Sequence[Claim]:
    """Returns the columns of a batch, those of key and cursor first if the table has no room for all.

    Args:
        live: keys of the table's columns.
        spec: of the table.
    """
    if len(claims) + len(live) < rules.max_columns or not rules.collapses(spec):
        return claims
    first = {rules.namer.key(name) for name in (*rules.key(spec), rules.discriminator or "")}
    return sorted(claims, key=lambda claim: claim.key not in first)


def first_columns(spec: TableSpec, live: Container[str], rules: Rules) -> Iterator[tuple[str, Column]]:
    """Yields, by key, the columns that a table lacks of those it has from its beginning."""
    for fixed in spec.columns:
        key = rules.namer.key(fixed.name)
        if key not in live:
            kind, native = rules.forced.get(key) or (rules.supported(fixed.kind), None)
            yield key, Column(fixed.name, kind, native)
