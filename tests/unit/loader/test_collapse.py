"""Repeats inside a batch."""

from __future__ import annotations

import warnings
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.contract.warehouse import Kind
from loader.fitting.collapse import collapse, collapse_marked
from shared.events.frame import Head, pack
from tests.unit.loader.shaping import REQUEST, Desk, capabilities, table_of


def test_without_repeats_the_table_is_the_same_one() -> None:
    rows = pa.table({"id": ["a", "b"], "n": [1, 2]})
    assert collapse(rows, ["id"], None, coalesce=False) == (rows, None)


ROWS = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.integers(0, 1),
        st.one_of(st.none(), st.integers(0, 3)),
        st.one_of(st.none(), st.text(max_size=2)),
    ),
    min_size=1,
    max_size=30,
)


@given(ROWS, st.booleans(), st.booleans())
@pytest.mark.filterwarnings("error")
def test_the_newest_row_of_every_key_wins_as_if_they_had_come_one_by_one(
    rows: list[Any], by_cursor: bool, coalesce: bool
) -> None:
    table = pa.table(
        {
            "k": pa.array([row[0] for row in rows]),
            "j": pa.array([row[1] for row in rows]),
            "cursor": pa.array([row[2] for row in rows], type=pa.int64()),
            "value": pa.array([row[3] for row in rows], type=pa.string()),
        }
    )
    kept, events = collapse(table, ["k", "j"], "cursor" if by_cursor else None, coalesce)
    ordered = (
        sorted(enumerate(rows), key=lambda each: (each[1][2] is not None, each[1][2] or 0, each[0]))
        if by_cursor
        else list(enumerate(rows))
    )
    expected: dict[Any, list[Any]] = {}
    winners: dict[Any, int] = {}
    for place, row in ordered:
        stored = expected.get(row[:2])
        if stored is not None and coalesce:
            row = tuple(new if new is not None else old for new, old in zip(row, stored, strict=True))
        expected[row[:2]] = list(row)
        winners[row[:2]] = place
    order = sorted(winners, key=lambda key: winners[key])
    assert [list(row.values()) for row in kept.to_pylist()] == [expected[key] for key in order]
    if events is not None:
        assert events.tolist() == [winners[key] for key in order]


@given(ROWS, st.booleans())
@pytest.mark.filterwarnings("error")
def test_a_row_that_marks_a_deletion_stands_behind_the_row_that_it_marks(rows: list[Any], by_cursor: bool) -> None:
    table = pa.table(
        {
            "k": pa.array([row[0] for row in rows]),
            "cursor": pa.array([row[2] for row in rows], type=pa.int64()),
            "gone": pa.array([row[3] for row in rows], type=pa.string()),
            "place": pa.array(range(len(rows))),
        }
    )
    kept, events = collapse_marked(table, ["k"], "cursor" if by_cursor else None, "gone")
    ordered = list(enumerate(rows))
    if by_cursor:
        ordered.sort(key=lambda each: (each[1][2] is not None, each[1][2] or 0, each[0]))
    expected: dict[str, list[int]] = {}
    for place, row in ordered:
        if row[3] is None:
            expected[row[0]] = [place]
        else:
            expected[row[0]] = [each for each in expected.get(row[0], []) if rows[each][3] is None] + [place]
    found: dict[str, list[int]] = {}
    for row in kept.to_pylist():
        found.setdefault(row["k"], []).append(row["place"])
    assert found == expected
    if events is not None:
        assert events.tolist() == kept["place"].to_pylist()


def test_the_last_repeat_of_a_message_is_loaded() -> None:
    loaded = Desk({"deduplicate": True}).load({"messageId": "a", "n": 1}, {"messageId": "b", "n": 2}, {"messageId": "a", "n": 3})
    (ready,) = loaded.finished.ready
    assert [(row["message_id"], row["n"]) for row in loaded.rows()] == [("b", 2), ("a", 3)]
    assert ready.events.tolist() == [1, 2]
    assert (ready.load.write, ready.load.key, ready.load.cursor) == ("merge", ("message_id",), "received_at")


def test_without_a_discriminator_the_later_receipt_wins_in_the_batch_as_it_does_against_the_table() -> None:
    # two edges whose clocks differ: the second frame is of the edge that is behind
    desk = Desk({"deduplicate": True})
    for seq, (received, n) in enumerate([(2_000_000, 1), (1_000_000, 2)], 1):
        request = msgspec.structs.replace(REQUEST, received_at=REQUEST.received_at + received)
        desk.shaper.add(pack("shop", [request], [Head("a", "track")], [f'{{"n":{n}}}'.encode()]), seq)
    fitted = desk.fit(desk.shaper.take())
    ((row,),) = (ready.load.rows.to_pylist() for ready in fitted.finish({}).ready)
    assert row["n"] == 1


def test_the_largest_discriminator_wins_and_is_the_cursor() -> None:
    loaded = Desk({"deduplicate": True, "discriminator": "version", "primary_key": ["order", "line"]}).load(
        {"order": 1, "line": 1, "version": 3, "n": "new"},
        {"order": 1, "line": 1, "version": 2, "n": "old"},
        {"order": 1, "line": 2, "n": "none"},
        {"order": 1, "line": 1, "n": "null is oldest"},
    )
    assert [row["n"] for row in loaded.rows()] == ["new", "none"]
    load = loaded.finished.ready[0].load
    assert (load.key, load.cursor) == (("order", "line"), "version")


def test_a_cursor_the_table_has_and_the_batch_has_not_counts_as_null() -> None:
    live = table_of(["message_id"], message_id=Kind.TEXT, version=Kind.BIGINT)
    loaded = Desk({"deduplicate": True, "discriminator": "version"}, live={"events": live}).load({"n": 1})
    assert loaded.finished.ready[0].load.cursor == "version"
    assert loaded.column("version") == [None]


def test_rows_without_their_key_are_dead_letters_where_rows_are_merged() -> None:
    loaded = Desk({"deduplicate": True, "primary_key": ["order"]}).load({"order": 1}, {"n": 1}, {"order": None}, {"order": 2})
    assert [row["order"] for row in loaded.rows()] == [1, 2]
    assert [(dead.index, dead.reason) for dead in loaded.dead] == [(1, "missing_key"), (2, "missing_key")]
    assert "order" in loaded.dead[0].detail


def test_a_batch_in_which_no_row_has_its_key_changes_no_table() -> None:
    loaded = Desk({"deduplicate": True, "primary_key": ["order"]}).load({"n": 1}, {"n": 2})
    assert not loaded.fitted.patches
    assert not loaded.finished.ready
    assert [dead.reason for dead in loaded.dead] == ["missing_key"] * 2


def test_rows_without_their_key_are_loaded_as_they_are_where_nothing_is_merged() -> None:
    desk = Desk({"deduplicate": True, "primary_key": ["order"]}, capabilities(merge="no", evolve=False))
    loaded = desk.load({"order": 1}, {"n": 1}, {"order": 1})
    assert not loaded.dead
    assert len(loaded.rows()) == 3
    assert loaded.finished.ready[0].load.write == "append"


def test_files_collapse_repeats_in_the_batch_and_append() -> None:
    desk = Desk({"deduplicate": True}, capabilities(merge="no", evolve=False))
    loaded = desk.load({"messageId": "a", "n": 1}, {"messageId": "a", "n": 2})
    assert [row["n"] for row in loaded.rows()] == [2]
    assert loaded.finished.ready[0].load.write == "append"


def test_appending_keeps_every_repeat() -> None:
    loaded = Desk({"deduplicate": False}).load({"messageId": "a"}, {"messageId": "a"})
    assert len(loaded.rows()) == 2
    assert loaded.fitted.patches[0].primary_key is None


def test_collapsing_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        collapse(pa.table({"k": [1, 1], "c": [2, None]}), ["k"], "c", coalesce=True)


def test_a_patch_names_the_cursor_so_that_a_table_can_be_made_with_it() -> None:
    loaded = Desk({"deduplicate": True, "discriminator": "version"}).load({"version": 1})
    (patch,) = loaded.fitted.patches
    assert (patch.primary_key, patch.cursor) == (("message_id",), "version")
    (patch,) = Desk().load({"version": 1}).fitted.patches
    assert (patch.primary_key, patch.cursor) == (None, None)


def test_nulls_are_filled_from_stored_rows_only_where_the_destination_can() -> None:
    event = {"type": "identify", "userId": "u", "traits": {"plan": "free"}}
    for coalesce in (True, False):
        loaded = Desk({"layout": "segment"}, capabilities(merge="eventually", coalesce=coalesce)).load(event)
        (users,) = (ready.load for ready in loaded.finished.ready if ready.load.table == "users")
        assert (users.write, users.coalesce) == ("merge", coalesce)
