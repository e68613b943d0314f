"""The columnar builder beside a simple slow reading of the same rules (`reference.py`), on random events over several batches."""

from __future__ import annotations

import json
import math
from datetime import datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loader.contract.warehouse import Kind
from loader.rows import columns
from shared.events.event import facts_of, materialise
from tests.unit.loader.reference import Table
from tests.unit.loader.shaping import REQUEST, Desk, capabilities, frame_of, kinds_of

WIDEN = frozenset(
    {(Kind.BOOLEAN, Kind.BIGINT), (Kind.BIGINT, Kind.DOUBLE), (Kind.BIGINT, Kind.TEXT), (Kind.DOUBLE, Kind.TEXT)}
    | {(Kind.BOOLEAN, Kind.TEXT), (Kind.BIGINT, Kind.DECIMAL), (Kind.TIMESTAMP, Kind.TEXT), (Kind.DECIMAL, Kind.TEXT)}
)
KEYS = st.one_of(
    st.sampled_from(
        ["a", "b", "c", "aB", "a_b", "A", "", "!", "1", "user_id", "userId", "event", "__sql_type_a", "JITSU_TABLE_NAME"]
    ),
    st.sampled_from(["x" * 70, "é" * 40, "_seq", "_unmapped_data", "__proto__", "a.b", "timestamp", "message_id", "🙂"]),
)
TEXTS = ["2026-09-01T12:00:00Z", "2026-09-01 12:00:00.123456+02", "2026-09-01", "12", "007", "1.5", "1e3", "true", "F", "", "nan"]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([2**53 + 1, 2**63, -(2**63), 10**38, 2**64, 1e21, 1e-7, -0.0, 1.0, 2.5, 1e300]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(TEXTS),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
    st.sampled_from(["9007199254740993", "9223372036854775808", "1e-400", "2026-02-30T00:00:00Z", "x\0y", "\\u0000"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=6,
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=5)
EVENTS = st.fixed_dictionaries(
    {}, optional={"properties": OBJECTS, "traits": OBJECTS, "a": VALUES, "a_b": VALUES, "userId": SCALARS}
)
PICKS = st.lists(st.integers(0, 4), min_size=1, max_size=30)


SIZES = {"WINDOW_ROWS": 7, "FEW_ROWS": 3, "MAX_SHAPES": 2, "MAX_SHAPE_KEYS": 3}
"""Of the builder's windows: so small that a few events go all its ways."""


@settings(max_examples=50)
@given(
    on_conflict=st.sampled_from(["unmapped", "widen", "variant", "dead_letter"]),
    sizes=st.sampled_from([SIZES, {}]),
    pool=st.lists(EVENTS, min_size=5, max_size=5),
    batches=st.lists(PICKS, min_size=1, max_size=3),
    limit=st.integers(20, 63),
)
def test_rows_are_those_of_the_simple_reading(
    on_conflict: str, sizes: dict[str, int], pool: list[dict[str, Any]], batches: list[list[int]], limit: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, size in sizes.items():
            patch.setattr(columns, name, size)
        desk = Desk({"on_conflict": on_conflict, "max_columns": 1500}, capabilities(widen=WIDEN, name_limit=limit))
        table = Table(desk.shaper.rules.namer, on_conflict, WIDEN)
        for picks in batches:
            events = [pool[pick] for pick in picks]
            frame = frame_of(events)
            facts = facts_of(REQUEST)
            full = [materialise(body, head, facts) for body, head in zip(frame.bodies(), frame.heads, strict=True)]
            expected = [row for row in table.load(full) if row is not None]
            loaded = desk.load(*events)
            assert len(loaded.dead) == len(events) - len(expected)
            assert [comparable(row) for row in loaded.rows()] == [comparable(row) for row in expected]
            if expected:
                assert kinds_of(desk.live["events"]) == table.kinds


def comparable(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a row so that equal means the same: types told apart, documents decoded, nulls of unknown zone names left out."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if name == "_unmapped_data":
            found[name] = json.loads(value) if isinstance(value, str) else value
        elif isinstance(value, datetime):
            found[name] = value.timestamp()
        elif isinstance(value, float):
            found[name] = ("double", value, math.copysign(1, value))
        else:
            found[name] = (type(value).__name__, document(value) if isinstance(value, str) else value)
    return found


def document(text: str) -> Any:
    """Returns the JSON in a text, so that two ways to write a number in it are one."""
    try:
        return msgspec.json.decode(text) if text[:1] == "[" else text
    except msgspec.DecodeError:
        return text
