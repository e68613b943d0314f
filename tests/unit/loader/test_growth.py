"""How many tables and columns clients can make."""

from __future__ import annotations

from loader.contract.warehouse import Kind
from tests.unit.loader.shaping import Desk, capabilities, table_of


def test_an_event_with_too_many_new_keys_adds_no_column_and_loses_no_value() -> None:
    desk = Desk({"max_new_columns": 5})
    wide = {f"k{n}": n for n in range(6)}
    loaded = desk.load({"a": 1, "b": 2}, {**wide, "a": 3}, {"k0": 7})
    (row, other, third) = loaded.rows()
    assert (row["a"], row["b"]) == (1, 2)
    # what another event brings is a column
    assert (other["a"], other["k0"], third["k0"]) == (3, 0, 7)
    assert "k1" not in other
    assert loaded.unmapped()[1] == {f"k{n}": n for n in range(1, 6)}


def test_an_event_with_as_many_new_keys_as_allowed_adds_them_also_beside_others() -> None:
    loaded = Desk({"max_new_columns": 2}).load({"a": 1, "b": 2}, {"c": 3, "d": 4})
    assert [row.get(name) for row, name in zip(loaded.rows() * 2, "acbd", strict=True)] == [1, 3, 2, 4]


def test_columns_that_are_there_or_are_forced_do_not_count() -> None:
    there = {f"k{n}": Kind.BIGINT for n in range(6)}
    live = table_of((), message_id=Kind.TEXT, type=Kind.TEXT, received_at=Kind.TIMESTAMP, timestamp=Kind.TIMESTAMP, **there)
    desk = Desk({"max_new_columns": 1, "column_types": {"forced": "bigint"}}, live={"events": live})
    (row,) = desk.load({**dict.fromkeys(there, 1), "forced": 1, "new": 1}).rows()
    assert (row["k5"], row["forced"], row["new"]) == (1, 1, 1)


def test_files_which_have_no_table_to_use_up_take_wide_events() -> None:
    loaded = Desk({"max_new_columns": 1}, capabilities(merge="no", evolve=False)).load({"a": 1, "b": 2})
    assert loaded.rows()[0]["b"] == 2


def test_events_of_more_tables_than_allowed_go_to_the_overflow_table() -> None:
    desk = Desk({"layout": "segment", "max_tables": 2, "overflow_table": "Rest"})
    names = ["one", "two", "three", "two", "four", "Three"]
    loaded = desk.load(*({"event": name, "properties": {"n": n}} for n, name in enumerate(names)), {"type": "page"})
    assert {table: len(rows) for table, rows in loaded.tables.items()} == {"tracks": 6, "one": 1, "two": 2, "rest": 3, "pages": 1}
    assert [(row["event_text"], row["n"]) for row in loaded.rows("rest")] == [("three", 2), ("four", 4), ("Three", 5)]


def test_tables_that_are_loaded_already_have_their_place() -> None:
    desk = Desk({"layout": "segment", "max_tables": 1}, tables={"two"})
    assert set(desk.load({"event": "one"}, {"event": "two"}).tables) == {"tracks", "two", "other_events"}


def test_a_template_is_bounded_alike() -> None:
    desk = Desk({"table": "{{ event.kind }}", "max_tables": 1})
    assert {name: len(rows) for name, rows in desk.load(*({"kind": f"t{n}"} for n in range(4))).tables.items()} == {
        "t0": 1,
        "other_events": 3,
    }
