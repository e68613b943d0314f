"""Two paths, one name."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from loader.contract.warehouse import Kind
from loader.types.names import Namer
from tests.unit.loader.shaping import Desk, Row, capabilities, kinds_of, table_of

NAMER = Namer(capabilities())
NESTED = NAMER.suffixed("a_b", ("a", "b"))
FLAT = NAMER.suffixed("a_b", ("a_b",))


def test_paths_whose_values_never_meet_share_a_column() -> None:
    loaded = Desk().load({"a_b": 1}, {"a": {"b": 2}}, {"aB": 3})
    assert loaded.column("a_b") == [1, 2, 3]


def test_paths_that_meet_in_a_row_are_two_columns_of_that_row() -> None:
    loaded = Desk().load({"a_b": 1, "a": {"b": 2}}, {"a": {"b": 3}})
    assert (loaded.column("a_b"), loaded.column(NESTED)) == ([1, 3], [2, None])


def test_which_path_keeps_the_name_does_not_depend_on_who_came_first() -> None:
    events: list[dict[str, Any]] = [{"a": {"b": 2}}, {"a_b": 1, "a": {"b": 3}}, {"a": {"b": 5}, "a_b": 4}, {"a_b": 6}]
    for order in itertools.permutations(events):
        rows = Desk().load(*order).rows()
        assert [(row.get("a_b"), row.get(NESTED)) for row in sorted(rows, key=lambda row: row["a_b"])] == [
            (1, 3),
            (2, None),
            (4, 5),
            (6, None),
        ]


FOLDED = NAMER.suffixed("order_id", ("orderId",))
EXACT = NAMER.suffixed("order_id", ("order_id",))


@pytest.mark.parametrize("known", [{"order_id": 1}, None])
def test_one_event_with_both_spellings_moves_no_other_value(known: Row | None) -> None:
    desk = Desk()
    if known is not None:
        desk.load(known)
    desk.load({"order_id": 2, "orderId": 3})
    for chosen in (desk, Desk(live=desk.live)):
        loaded = chosen.load({"order_id": 4}, {"orderId": 5}, {"orderId": 6, "order_id": 7}, {"order_id": 8})
        assert loaded.column("order_id") == [4, 5, 7, 8]
        assert loaded.column(FOLDED) == [None, None, 6, None]


def test_the_path_that_a_column_was_made_for_keeps_it_whatever_else_is_sent() -> None:
    desk = Desk()
    desk.load({"orderId": 1})
    for chosen in (desk, Desk(live=desk.live)):
        loaded = chosen.load({"order_id": 2, "orderId": 3}, {"order_id": 4}, {"orderId": 5})
        assert loaded.column("order_id") == [3, 4, 5]
        assert loaded.column(EXACT) == [2, None, None]


def test_in_a_table_that_others_made_the_exact_spelling_is_the_columns() -> None:
    desk = Desk(live={"events": table_of(order_id=Kind.BIGINT)})
    loaded = desk.load({"orderId": 3, "order_id": 2}, {"orderId": 4})
    assert loaded.column("order_id") == [2, 4]
    assert loaded.column(FOLDED) == [3, None]


def test_a_long_path_is_remembered_too() -> None:
    long = {"a": {"b": {"x" * 4000: 1}}}
    desk = Desk()
    desk.load(long)
    folded = {"a": {"b": {"X" * 4000: 2}}}
    loaded = desk.load({"a": {"b": {**folded["a"]["b"], **long["a"]["b"]}}})
    assert sorted(value for value in loaded.rows()[0].values() if value in (1, 2)) == [1, 2]
    assert all(len(column.owner or "") <= 300 for column in (desk.live["events"] or table_of()).columns.values())


def test_a_suffix_column_somebody_chose_in_advance_does_not_swallow_the_other_value() -> None:
    loaded = Desk().load({"a_b": 1, "a": {"b": 2}, NESTED: 3})
    (row,) = loaded.rows()
    assert {1, 2, 3} <= set(row.values())


def test_even_taking_every_hash_in_advance_loses_nothing() -> None:
    names = [NAMER.suffixed("a_b", ("a", "b"), length) for length in (8, 16, 32, 48)]
    loaded = Desk().load({"a_b": 1, "a": {"b": 2}, **{name: 10 + place for place, name in enumerate(names)}})
    row = loaded.rows()[0]
    unmapped = loaded.unmapped()[0] or {}
    assert {1, 2, 10, 11, 12, 13} <= {*row.values(), *unmapped.values()}


def test_names_the_warehouse_takes_for_one_collide() -> None:
    desk = Desk({"original_names": True}, capabilities(case="lower"))
    (row,) = desk.load({"Total": 1, "TOTAL": 2, "total": 3}).rows()
    values = [value for name, value in row.items() if name.lower().startswith("total")]
    assert sorted(values) == [1, 2, 3]
    assert len({name.lower() for name in row}) == len(row)


def test_a_column_is_used_as_the_live_table_spells_it() -> None:
    desk = Desk({}, capabilities(case="upper"), {"events": table_of(USER_ID=Kind.TEXT, TOTAL=Kind.BIGINT)})
    loaded = desk.load({"userId": "u", "total": 5})
    assert (loaded.rows()[0]["USER_ID"], loaded.rows()[0]["TOTAL"]) == ("u", 5)


def test_long_names_that_are_cut_stay_apart() -> None:
    desk = Desk()
    loaded = desk.load({"x" * 80 + "a": 1, "x" * 80 + "b": 2, "é" * 40: 3})
    assert {1, 2, 3} <= set(loaded.rows()[0].values())
    assert all(len(name.encode()) <= 63 for name in kinds_of(desk.live["events"]))


def test_the_suffix_of_a_reserved_name_is_there_even_when_the_layouts_column_is_not() -> None:
    loaded = Desk({"layout": "segment"}).load({"type": "track", "event": "E", "properties": {"user_id": "p"}})
    (row,) = loaded.rows("e")
    assert "user_id" not in row
    assert row[NAMER.suffixed("user_id", ("properties", "user_id"))] == "p"


def test_flat_and_nested_spelling_have_different_suffixes() -> None:
    assert NESTED != FLAT
