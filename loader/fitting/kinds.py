"""Chooses the kind of a new column from the values of a batch.

It is the join of their kinds, refined by the values. Text is a date-time if all of it is. Integers join doubles only if each of
them is exactly a double, else both are text. Arrays alone make text, because arrays are stored as text and a text column takes
any later value. Numbers with more digits than a double has are text, to keep their digits. A kind that the destination cannot
create is text. Pure.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

from loader.contract.warehouse import Kind
from loader.rows.columns import Part
from loader.types.convert import convert
from loader.types.lattice import inexact_as_double, join_all
from loader.types.moments import all_moments


def choose_kind(parts: Sequence[Part], creatable: Container[Kind]) -> tuple[Kind, list[Part]]:
    """Returns the kind and the same values, read as date-times if all of them are."""
    kinds = {part.kind for part in parts}
    if Kind.TEXT in kinds and kinds <= {Kind.TEXT, Kind.TIMESTAMP} and Kind.TIMESTAMP in creatable:
        moments = [_as_moments(part) for part in parts]
        read = [part for part in moments if part is not None]
        if len(read) == len(parts):
            return Kind.TIMESTAMP, read
    kind = join_all(kinds)
    if kind is Kind.DOUBLE and len(kinds) > 1 and not all(_exact(part) for part in parts):
        kind = Kind.TEXT
    if kind in (Kind.JSON, Kind.NUMBER) or kind not in creatable:
        kind = Kind.TEXT
    return kind, list(parts)


def _as_moments(part: Part) -> Part | None:
    if part.kind is Kind.TIMESTAMP:
        return part
    values = all_moments(part.values)
    return None if values is None else Part(Kind.TIMESTAMP, part.rows, values)


def _exact(part: Part) -> bool:
    """Whether every value of a part is exactly a double."""
    if part.kind is Kind.BIGINT:
        return not inexact_as_double(part.values.to_numpy()).any()
    if part.kind is Kind.DECIMAL:
        return convert(part.values, Kind.DECIMAL, Kind.DOUBLE)[1] is None
    return True
