"""What holds for any event: nothing is lost, nothing is invented, nothing raises."""

from __future__ import annotations

import json
import math
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loader.contract.warehouse import Kind
from loader.types.moments import parse_one
from tests.unit.loader.shaping import Desk, Loaded, capabilities

RESERVED = {
    "messageId", "type", "receivedAt", "timestamp", "originalTimestamp", "sentAt", "context", "writeKey", "_metadata", "integrations",
    "JITSU_TABLE_NAME",
}  # fmt: skip


def _is_a_clients(key: str) -> bool:
    return not key.startswith("__sql_type") and key not in RESERVED


KEYS: st.SearchStrategy[str] = st.one_of(
    st.sampled_from(
        ["a", "b", "A", "aB", "a_b", "", "!", "id", "userId", "user_id", "_unmapped_data", "1", "event", "type_", "n"]
    ),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8),
).filter(_is_a_clients)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**80), 2**80),
    st.integers(-3, 3),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12),
    st.sampled_from(["2026-09-01T12:00:00Z", "2026-09-01", "12", "1.5", "true", "x" * 50]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=8,
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=5)
POLICIES = st.fixed_dictionaries(
    {},
    optional={
        "on_conflict": st.sampled_from(["unmapped", "widen", "variant"]),
        "schema_policy": st.sampled_from(["evolve", "columns"]),
        "max_columns": st.integers(6, 12),
        "original_names": st.booleans(),
        "layout": st.sampled_from(["passthrough", "single_table", "segment"]),
    },
)


def leaves(value: Any) -> list[Any]:
    """Returns what must be found again: scalars that are no null, and arrays whole."""
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    return [] if value is None else [value]


def canonical(value: Any) -> Any:
    """Returns what a value is the same as in a column of any type: text of numbers and times, JSON of arrays."""
    if isinstance(value, datetime):
        return f"time {value.astimezone(UTC).isoformat()}"
    if isinstance(value, list | dict):
        return f"json {json.dumps(value, sort_keys=True)}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        moment = parse_one(value)
        if moment is not None:
            return f"time {moment.isoformat()}"
        if value[:1] in "[{" and value[:1]:
            try:
                return f"json {json.dumps(json.loads(value), sort_keys=True)}"
            except ValueError:
                return value
        return value
    if isinstance(value, float):
        return "0" if value == 0 else _plain(value)
    return str(value)


def _plain(value: float) -> str:
    from decimal import Decimal

    text = format(Decimal(repr(value)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


OWN = {
    "segment": {"id", "received_at", "timestamp", "uuid_ts"},
    "single_table": {"message_id", "messageId", "type", "received_at", "receivedAt", "timestamp"},
}
"""Columns of the layouts that every row of these tests has."""
ENTITIES = ("users", "accounts")


def found(loaded: Loaded, message: str, layout: str) -> Counter[Any]:
    """Returns the values of an event's rows, the layout's own left out."""
    own = {"_unmapped_data", *OWN["segment" if layout == "segment" else "single_table"]}
    values: Counter[Any] = Counter()
    for rows in loaded.tables.values():
        for row in rows:
            if message not in (row.get("message_id"), row.get("messageId"), row.get("id") if layout == "segment" else None):
                continue
            values.update(canonical(value) for name, value in row.items() if name not in own and value is not None)
            if row.get("_unmapped_data"):
                values.update(canonical(value) for value in json.loads(row["_unmapped_data"]).values())
    return values


@settings(max_examples=50)
@given(st.lists(OBJECTS, min_size=1, max_size=4), POLICIES)
def test_every_leaf_of_every_event_is_found_exactly_once(objects: list[dict[str, Any]], options: dict[str, Any]) -> None:
    options = {"column_types": {}, **options}
    if options.get("schema_policy") == "columns":
        options["schema_policy"] = "evolve"  # tables are new here
    widen = frozenset({(Kind.BIGINT, Kind.DOUBLE), (Kind.BIGINT, Kind.TEXT), (Kind.DOUBLE, Kind.TEXT)})
    desk = Desk(options, capabilities(widen=widen))
    for _ in range(2):  # the second time the tables exist
        loaded = desk.load(*({"type": "thing", "properties": each} for each in objects))
        assert not loaded.dead
        for number, each in enumerate(objects):
            expected = Counter(canonical(leaf) for leaf in leaves(each))
            assert _numbers(found(loaded, f"m{number}", desk.connection.layout)) == _numbers(expected)


def _numbers(values: Counter[Any]) -> Counter[Any]:
    """Lets `1`, `1.0` and `true` be one where a column's type made them so."""
    same: Counter[Any] = Counter()
    for value, count in values.items():
        text = {"true": "1", "false": "0", "-0": "0"}.get(value, value)
        try:
            number = float(text)
            text = number if math.isfinite(number) and float(text) == number and len(text) < 400 else text
        except ValueError:
            pass
        same[text] += count
    return same


@settings(max_examples=40)
@given(
    st.lists(OBJECTS, min_size=1, max_size=5),
    st.sampled_from(["track", "page", "screen", "identify", "group", "alias", "x"]),
    POLICIES,
    st.sampled_from(["keep", "lower", "upper"]),
    st.integers(20, 63),
)
def test_no_event_raises_and_rows_are_as_many_as_events(
    objects: list[dict[str, Any]], kind: str, options: dict[str, Any], case: str, limit: int
) -> None:
    desk = Desk({**options, "deduplicate": True}, capabilities(case=case, name_limit=limit))
    if options.get("schema_policy") == "columns":
        desk.live = {}
    events = [{**each, "type": kind} for each in objects]
    loaded = desk.load(*events)
    refused = {dead.index for dead in loaded.dead}
    for ready in loaded.finished.ready:
        assert ready.load.rows.num_rows == len(ready.events)
        assert len({desk.shaper.rules.namer.key(name) for name in ready.load.rows.column_names}) == ready.load.rows.num_columns
        assert all(0 < len(name.encode()) <= limit for name in ready.load.rows.column_names)
        if ready.load.table not in ENTITIES:
            assert ready.load.rows.num_rows <= len(objects) - len(refused)
    if not refused:
        main = [ready for ready in loaded.finished.ready if ready.load.table not in ENTITIES]
        assert any(ready.load.rows.num_rows == len(objects) for ready in main)


@settings(max_examples=40)
@given(st.lists(st.binary(max_size=30), min_size=1, max_size=5))
@pytest.mark.parametrize("layout", ["segment", "single_table", "passthrough"])
def test_any_bytes_are_a_row_or_a_dead_letter(layout: str, bodies: list[bytes]) -> None:
    loaded = Desk({"layout": layout}).load(*bodies)
    rows = next((len(rows) for table, rows in loaded.tables.items() if table in ("events", "tracks")), 0)
    assert rows + len(loaded.dead) == len(bodies)


@settings(max_examples=40)
@given(st.lists(OBJECTS, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_names_and_types_of_a_batch_do_not_depend_on_the_order_of_events(objects: list[dict[str, Any]], chance: Any) -> None:
    shuffled = list(objects)
    chance.shuffle(shuffled)
    one, two = (Desk().load(*({"properties": each} for each in order)) for order in (objects, shuffled))
    assert set(one.fitted.patches[0].add) == set(two.fitted.patches[0].add)
