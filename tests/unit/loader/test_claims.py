"""Two paths, one name."""

from __future__ import annotations

import itertools
from typing import Any

from loader.contract import Kind
from loader.names import Namer
from tests.unit.loader.shaping import Desk, capabilities, kinds_of, table_of

NAMER = Namer(capabilities())
NESTED = NAMER.suffixed("a_b", ("a", "b"))
FLAT = NAMER.suffixed("a_b", ("a_b",))


def test_paths_whose_values_never_meet_share_a_column() -> None:
    loaded = Desk().load({"a_b": 1}, {"a": {"b": 2}}, {"aB": 3})
    assert loaded.column("a_b") == [1, 2, 3]


def test_paths_that_meet_in_a_row_are_two_columns() -> None:
    loaded = Desk().load({"a_b": 1, "a": {"b": 2}}, {"a": {"b": 3}})
    assert (loaded.column("a_b"), loaded.column(NESTED)) == ([1, None], [2, 3])


def test_which_path_keeps_the_name_does_not_depend_on_who_came_first() -> None:
    events: list[dict[str, Any]] = [{"a": {"b": 2}}, {"a_b": 1, "a": {"b": 3}}, {"a": {"b": 5}, "a_b": 4}, {"a_b": 6}]
    for order in itertools.permutations(events):
        rows = Desk().load(*order).rows()
        assert {row.get("a_b") for row in rows} == {None, 1, 4, 6}
        assert {row.get(NESTED) for row in rows} == {None, 2, 3, 5}


def test_a_path_that_once_got_its_own_column_keeps_it_in_later_batches_and_after_a_restart() -> None:
    desk = Desk()
    desk.load({"a_b": 1, "a": {"b": 2}})
    again = Desk(live=desk.live)
    for chosen in (desk, again):
        loaded = chosen.load({"a": {"b": 7}})
        assert loaded.rows()[0][NESTED] == 7
        assert not loaded.fitted.patches


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
