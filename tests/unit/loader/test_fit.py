"""Fitting a batch to tables that exist: types, conflicts, policies, races."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from loader.contract.warehouse import Column, Kind, TableSchema
from loader.fitting.fit import FittedBatch, fit, fit_batch
from shared.errors import TableChanged
from tests.unit.loader.shaping import RECEIVED, STAMP, Desk, capabilities, kinds_of, patched, table_of

BASE = {"message_id": Kind.TEXT, "type": Kind.TEXT, "received_at": Kind.TIMESTAMP, "timestamp": Kind.TIMESTAMP}
SEPTEMBER = "2026-09-01T00:00:00Z"


def desk_with(kind: Kind, *, widen: frozenset[tuple[Kind, Kind]] = frozenset(), **options: Any) -> Desk:
    """A desk whose table has a column `v` of a kind."""
    return Desk(options, capabilities(widen=widen), {"events": table_of(**BASE, v=kind)})


@pytest.mark.parametrize(
    ("values", "kind", "stored"),
    [
        ([True, False], Kind.BOOLEAN, [True, False]),
        ([1, 2], Kind.BIGINT, [1, 2]),
        ([True, 2], Kind.BIGINT, [1, 2]),
        ([1, 2.5], Kind.DOUBLE, [1.0, 2.5]),
        ([True, 2.5], Kind.DOUBLE, [1.0, 2.5]),
        ([2**53 + 1, 2.5], Kind.TEXT, ["9007199254740993", "2.5"]),
        ([2**70, 2.5], Kind.DOUBLE, [float(2**70), 2.5]),
        ([2**70 + 1, 2.5], Kind.TEXT, ["1180591620717411303425", "2.5"]),
        ([1, "x"], Kind.TEXT, ["1", "x"]),
        ([True, "x", 1e21], Kind.TEXT, ["true", "x", "1000000000000000000000"]),
        (["a", ["b"]], Kind.TEXT, ["a", '["b"]']),
        ([["b"], 1], Kind.TEXT, ['["b"]', "1"]),
        ([["b"]], Kind.TEXT, ['["b"]']),
        ([SEPTEMBER, "2026-09-01 02:00:00+02"], Kind.TIMESTAMP, [datetime(2026, 9, 1, tzinfo=UTC)] * 2),
        ([SEPTEMBER, "soon"], Kind.TEXT, [SEPTEMBER, "soon"]),
        ([SEPTEMBER, 1], Kind.TEXT, [SEPTEMBER, "1"]),
        (["2026-09-01", SEPTEMBER], Kind.TEXT, ["2026-09-01", SEPTEMBER]),
        (["2026-09-01"], Kind.TEXT, ["2026-09-01"]),
    ],
)
def test_a_new_column_gets_the_join_of_the_batch(values: list[Any], kind: Kind, stored: list[Any]) -> None:
    desk = Desk()
    loaded = desk.load(*({"v": value} for value in values))
    assert kinds_of(desk.live["events"])["v"] is kind
    assert loaded.column("v") == stored


@pytest.mark.parametrize(("kind", "value", "stored"), [(Kind.DECIMAL, 2**70, str(2**70)), (Kind.TIMESTAMP, SEPTEMBER, SEPTEMBER)])
def test_a_kind_the_destination_cannot_create_is_text_as_it_was_sent(kind: Kind, value: Any, stored: str) -> None:
    desk = Desk({}, capabilities(kinds=frozenset(Kind) - {kind}))
    assert desk.load({"v": value}).column("v") == [stored]
    assert kinds_of(desk.live["events"])["v"] is Kind.TEXT


@pytest.mark.parametrize(
    ("kind", "value", "stored"),
    [
        (Kind.BIGINT, "42", 42),
        (Kind.BIGINT, 3.0, 3),
        (Kind.DOUBLE, 7, 7.0),
        (Kind.TEXT, SEPTEMBER, SEPTEMBER),
        (Kind.TEXT, 1.5, "1.5"),
        (Kind.TIMESTAMP, "2026-09-01", datetime(2026, 9, 1, tzinfo=UTC)),
        (Kind.JSON, ["a"], '["a"]'),
        (Kind.JSON, "a", '"a"'),
        (Kind.JSON, True, "true"),
        (Kind.OTHER, 1.5, "1.5"),
        (Kind.OTHER, ["a"], '["a"]'),
    ],
)
def test_a_value_is_converted_to_a_column_that_exists(kind: Kind, value: Any, stored: Any) -> None:
    desk = desk_with(kind)
    loaded = desk.load({"v": value})
    assert loaded.column("v") == [stored]
    assert not loaded.fitted.patches


def test_unmapped_keeps_the_row_and_the_value_under_its_column() -> None:
    desk = desk_with(Kind.BIGINT)
    loaded = desk.load({"v": "many", "w": 1}, {"v": 5}, {"v": ["x"]}, {"v": 2.5}, {"v": SEPTEMBER}, {"v": 'a"\n'})
    assert loaded.column("v") == [None, 5, None, None, None, None]
    assert loaded.unmapped() == [{"v": "many"}, None, {"v": ["x"]}, {"v": 2.5}, {"v": SEPTEMBER}, {"v": 'a"\n'}]
    assert kinds_of(desk.live["events"])["_unmapped_data"] is Kind.JSON
    assert not loaded.dead
    assert loaded.finished.unmapped == {("events", "v"): 5}


def test_several_values_without_a_place_are_one_object() -> None:
    live = table_of(**BASE, v=Kind.BIGINT, w=Kind.BOOLEAN)
    loaded = Desk(live={"events": live}).load({"v": "x", "w": "y", "z": 1})
    assert loaded.unmapped() == [{"v": "x", "w": "y"}]


def test_unmapped_data_of_another_type_takes_text_or_refuses_the_event() -> None:
    text = Desk(live={"events": table_of(**BASE, v=Kind.BIGINT, _unmapped_data=Kind.TEXT)})
    assert text.load({"v": "x"}).unmapped() == [{"v": "x"}]
    number = Desk(live={"events": table_of(**BASE, v=Kind.BIGINT, _unmapped_data=Kind.BIGINT)})
    loaded = number.load({"v": "x"}, {"v": 1})
    assert loaded.column("v") == [1]
    assert [(dead.index, dead.reason) for dead in loaded.dead] == [(0, "type_conflict")]


def test_widen_alters_the_column_to_the_join_where_the_destination_can() -> None:
    desk = desk_with(Kind.BIGINT, widen=frozenset({(Kind.BIGINT, Kind.DOUBLE)}), on_conflict="widen")
    loaded = desk.load({"v": 1}, {"v": 2.5})
    (patch,) = loaded.fitted.patches
    assert patch.widen == (Column("v", Kind.DOUBLE),)
    assert loaded.column("v") == [1.0, 2.5]


def test_widen_goes_no_further_than_the_destination_and_keeps_the_rest_unmapped() -> None:
    desk = desk_with(Kind.BIGINT, widen=frozenset({(Kind.BIGINT, Kind.DOUBLE)}), on_conflict="widen")
    loaded = desk.load({"v": 1}, {"v": "x"})
    assert loaded.column("v") == [1, None]
    assert loaded.unmapped() == [None, {"v": "x"}]
    exact = desk_with(Kind.BIGINT, widen=frozenset({(Kind.BIGINT, Kind.DOUBLE)}), on_conflict="widen")
    loaded = exact.load({"v": 2**53 + 1}, {"v": 2.5})
    assert loaded.column("v") == [None, 2.5]
    assert loaded.unmapped() == [{"v": 2**53 + 1}, None]


def test_widen_alters_nothing_for_values_that_convert() -> None:
    desk = desk_with(Kind.BIGINT, widen=frozenset({(Kind.BIGINT, Kind.TEXT)}), on_conflict="widen")
    loaded = desk.load({"v": "42"})
    assert not loaded.fitted.patches
    assert loaded.column("v") == [42]


def test_variant_puts_each_kind_in_a_column_of_its_own() -> None:
    desk = desk_with(Kind.BIGINT, on_conflict="variant")
    loaded = desk.load({"v": "x"}, {"v": 2.5}, {"v": 7}, {"v": ["l"]}, {"v": "y"})
    assert loaded.column("v") == [None, None, 7, None, None]
    assert loaded.column("v__text") == ["x", None, None, None, "y"]
    assert loaded.column("v__double") == [None, 2.5, None, None, None]
    assert loaded.column("v__json") == [None, None, None, '["l"]', None]
    again = desk.load({"v": "z"})
    assert again.column("v__text") == ["z"]
    assert not again.fitted.patches


def test_variant_puts_values_of_two_keys_that_share_a_column_in_one_sibling() -> None:
    desk = Desk({"on_conflict": "variant"})
    desk.load({"aB": 1})
    loaded = desk.load({"aB": "x"}, {"a_b": "y"}, {"a_b": 2})
    assert loaded.column("a_b__text") == ["x", "y", None]
    assert loaded.column("a_b") == [None, None, 2]


def test_a_number_with_a_scale_takes_numbers_and_other_values_do_not_cost_the_row() -> None:
    desk = Desk({"column_types": {"total": "numeric(12,2)"}})
    values = [1, 2.5, "3.75", "n/a", True, [1], "NaN", 1e21, 2**70, "2026-09-01T12:00:00Z", "1e3", "007", ""]
    loaded = desk.load(*({"total": value} for value in values))
    fitting = {0: "1", 1: "2.5", 2: "3.75", 4: "1", 7: "1" + "0" * 21, 8: str(2**70)}
    assert loaded.column("total") == [fitting.get(index) for index in range(len(values))]
    assert [entry["total"] if entry else None for entry in loaded.unmapped()] == [
        None if index in fitting else value for index, value in enumerate(values)
    ]


def test_a_variant_column_that_a_client_uses_itself_is_left_to_it() -> None:
    loaded = desk_with(Kind.BIGINT, on_conflict="variant").load({"v": "x", "v__text": "mine"})
    assert loaded.column("v__text") == ["mine"]
    assert loaded.unmapped() == [{"v": "x"}]


def test_dead_letter_refuses_the_event_in_every_table_and_names_what_was_wrong() -> None:
    desk = Desk({"layout": "segment", "on_conflict": "dead_letter"})
    desk.load({"type": "track", "event": "E", "properties": {"v": 1}})
    loaded = desk.load(
        {"type": "track", "event": "E", "properties": {"v": 2}},
        {"type": "track", "event": "E", "properties": {"v": "x", "new": 1}},
        {"type": "page"},
        {"type": "track", "event": "E", "properties": {"v": "y"}},
    )
    assert {table: len(rows) for table, rows in loaded.tables.items()} == {"tracks": 1, "e": 1, "pages": 1}
    dead, other = loaded.dead
    assert other.detail.endswith('found text "y"')
    assert (dead.seq, dead.index, dead.head.message_id, dead.reason) == (2, 1, "m1", "type_conflict")
    assert json.loads(dead.body)["properties"] == {"v": "x", "new": 1}
    assert dead.detail == 'table "e": column "v" is bigint, expected a value that converts to it, found text "x"'
    assert "new" not in kinds_of(desk.live["e"])


def test_columns_adds_columns_and_no_tables() -> None:
    desk = Desk({"schema_policy": "columns", "table": "{{ event.t }}"}, live={"old": table_of(**BASE, t=Kind.TEXT)})
    loaded = desk.load({"t": "old", "v": 1}, {"t": "new", "v": 1})
    assert loaded.column("v", "old") == [1]
    assert [(dead.index, dead.reason) for dead in loaded.dead] == [(1, "schema_strict")]
    assert 'table "new"' in loaded.dead[0].detail


def test_freeze_adds_no_columns_but_the_one_that_loses_nothing() -> None:
    desk = desk_with(Kind.BIGINT, schema_policy="freeze", on_conflict="variant", system_columns=["_loaded_at"])
    loaded = desk.load({"v": 1, "new": {"x": "y"}}, {"v": "x"})
    assert set(kinds_of(desk.live["events"])) == {*BASE, "v", "_unmapped_data"}
    assert loaded.unmapped() == [{"new_x": "y"}, {"v": "x"}]
    assert not loaded.dead


def test_strict_refuses_what_does_not_fit_and_changes_nothing() -> None:
    desk = desk_with(Kind.BIGINT, schema_policy="strict", on_conflict="widen", widen=frozenset({(Kind.BIGINT, Kind.TEXT)}))
    loaded = desk.load({"v": 1}, {"v": "x"}, {"v": 2, "new": 1})
    assert not loaded.fitted.patches
    assert loaded.column("v") == [1]
    assert [(dead.index, dead.reason) for dead in loaded.dead] == [(1, "type_conflict"), (2, "schema_strict")]
    assert '"new"' in loaded.dead[1].detail


@pytest.mark.parametrize(("options", "limit"), [({"max_columns": 7}, 1600), ({}, 8)])
def test_columns_beyond_the_limit_go_to_unmapped_data(options: dict[str, Any], limit: int) -> None:
    desk = Desk(options, capabilities(max_columns=limit), {"events": table_of(**BASE, v=Kind.BIGINT)})
    loaded = desk.load({"v": 1, "a": 2, "b": 3, "c": 4, "d": 5})
    kinds = kinds_of(desk.live["events"])
    assert len(kinds) <= 8
    assert {"a", "b", "_unmapped_data"} <= set(kinds)
    assert loaded.unmapped() == [{"c": 4, "d": 5}]
    again = desk.load({"v": 1, "a": 2, "e": 6})
    assert not again.fitted.patches
    assert again.unmapped() == [{"e": 6}]


def test_system_columns_tell_of_the_load_and_of_the_order() -> None:
    desk = Desk({"system_columns": ["_loaded_at", "_seq", "_load_id"]})
    desk.seq = 41
    loaded = desk.load({"_seq": "client", "n": 1}, b"broken", {"n": 2})
    assert loaded.column("_seq") == [42 * 65_536, 42 * 65_536 + 2]
    assert loaded.column("_load_id") == ["load-1", "load-1"]
    assert loaded.column("_loaded_at") == [STAMP.loaded_at] * 2
    assert "client" in loaded.rows()[0].values()


def test_a_table_that_fits_needs_no_patch() -> None:
    desk = Desk({"deduplicate": True})
    assert desk.load({"v": 1}).fitted.patches
    assert not desk.load({"v": 2}).fitted.patches


def test_a_different_primary_key_is_patched() -> None:
    desk = Desk({"deduplicate": True}, live={"events": table_of(["timestamp"], **BASE)})
    (patch,) = desk.load({}).fitted.patches
    assert patch.primary_key == ("message_id",)
    assert not desk.load({}).fitted.patches


def test_a_column_somebody_else_added_meanwhile_with_another_type_is_respected() -> None:
    desk = Desk({"system_columns": ["_load_id"]})
    batch = desk.shape({"v": "x"}, {"v": "42"})
    fitted = desk.fit(batch)
    (patch,) = fitted.patches
    theirs = patched(patched(None, patch), type(patch)("events", add=(Column("v", Kind.BIGINT),)))
    finished = fitted.finish({"events": TableSchema({**theirs.columns, "_unmapped_data": Column("_unmapped_data", Kind.JSON)})})
    rows = finished.ready[0].load.rows.to_pylist()
    assert [row["v"] for row in rows] == [None, 42]
    assert rows[0]["_unmapped_data"] == '{"v":"x"}'


def raced(desk: Desk) -> tuple[FittedBatch, dict[str, TableSchema | None]]:
    """Two tracks, fitted; then somebody makes `v` a bigint before our patch comes."""
    fitted = desk.fit(
        desk.shape(
            {"type": "track", "event": "E", "properties": {"v": "x"}}, {"type": "track", "event": "E", "properties": {"v": "42"}}
        )
    )
    live: dict[str, TableSchema | None] = {patch.table: patched(None, patch) for patch in fitted.patches}
    table = live["e"]
    assert table is not None
    live["e"] = TableSchema({**table.columns, "v": Column("v", Kind.BIGINT)}, table.primary_key)
    return fitted, live


def test_a_race_that_needs_another_patch_refuses_nothing_and_starts_over() -> None:
    desk = Desk({"layout": "segment"})
    fitted, live = raced(desk)
    with pytest.raises(TableChanged, match='"e"'):
        fitted.finish(live)
    again = fit_batch(fitted.batch, live, desk.shaper.rules, STAMP)
    (patch,) = again.patches
    assert [column.name for column in patch.add] == ["_unmapped_data"]
    finished = again.finish({"e": patched(live["e"], patch)})
    assert not finished.dead
    assert [ready.load.rows.num_rows for ready in finished.ready] == [2, 2]


def test_a_table_that_is_gone_after_its_patch_starts_over() -> None:
    desk = Desk()
    fitted = desk.fit(desk.shape({"v": 1}))
    with pytest.raises(TableChanged):
        fitted.finish({"events": None})


def test_a_race_under_dead_letter_refuses_the_event_in_every_table() -> None:
    desk = Desk({"layout": "segment", "on_conflict": "dead_letter"})
    fitted, live = raced(desk)
    finished = fitted.finish(live)
    assert {ready.load.table: ready.load.rows.num_rows for ready in finished.ready} == {"tracks": 1, "e": 1}
    assert [(dead.index, dead.reason) for dead in finished.dead] == [(0, "type_conflict")]
    assert finished.batch.rows == 2
    names = {ready.load.table: set(ready.load.rows.column_names) for ready in finished.ready}
    for table, columns in names.items():
        schema = live[table]
        assert schema is not None
        assert columns <= set(schema.columns)


def test_a_column_the_destination_made_as_text_takes_the_values_as_text() -> None:
    desk = Desk()
    batch = desk.shape({"v": 1.5, "w": SEPTEMBER, "l": [1]})
    fitted = desk.fit(batch)
    columns = {column.name: Column(column.name, Kind.TEXT, "varchar") for column in fitted.patches[0].add}
    (ready,) = fitted.finish({"events": TableSchema(columns)}).ready
    (row,) = ready.load.rows.to_pylist()
    assert (row["v"], row["w"], row["l"]) == ("1.5", SEPTEMBER, "[1]")
    assert row["received_at"] == RECEIVED.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def test_files_get_the_schema_of_the_batch_without_a_patch() -> None:
    desk = Desk({"schema_policy": "strict"}, capabilities(evolve=False, merge="no"))
    loaded = desk.load({"v": 1}, {"v": 2.5})
    assert not loaded.fitted.patches
    assert loaded.column("v") == [1.0, 2.5]


def test_rows_lead_back_to_their_events_after_collapsing_and_in_parts() -> None:
    desk = Desk({"deduplicate": True})
    loaded = desk.load(*({"messageId": f"m{number % 4}", "n": number} for number in range(10)))
    (ready,) = loaded.finished.ready
    assert [row["n"] for row in ready.load.rows.to_pylist()] == [6, 7, 8, 9]
    part = ready.part([1, 3])
    assert part.load.rows["n"].to_pylist() == [7, 9]
    assert part.events.tolist() == [7, 9]
    assert (part.load.table, part.load.write, part.load.key) == (ready.load.table, "merge", ready.load.key)


def test_when_the_destination_refuses_a_row_an_older_repeat_takes_its_place() -> None:
    desk = Desk({"deduplicate": True})
    loaded = desk.load({"messageId": "a", "n": 1}, {"messageId": "a", "n": 2}, {"messageId": "b", "n": 3})
    (ready,) = loaded.finished.ready
    refused = int(ready.events[ready.load.rows["message_id"].to_pylist().index("a")])
    rest = fit_batch(loaded.batch.without([refused]), desk.live, desk.shaper.rules, STAMP).finish(desk.live)
    assert rest.ready[0].load.rows["n"].to_pylist() == [1, 3]
    assert rest.ready[0].events.tolist() == [0, 2]


def test_a_batch_without_some_events_is_as_if_they_had_never_come() -> None:
    events = [{"n": number, f"k{number % 3}": str(number), "o": {"x": [number]} if number % 2 else None} for number in range(20)]
    desk, other = Desk(), Desk()
    rest = desk.shape(*events).without(number for number in range(20) if number % 4 != 1)
    fitted = fit_batch(rest, {}, desk.shaper.rules, STAMP)
    expected = fit_batch(other.shape(*events[1::4]), {}, other.shaper.rules, STAMP)
    assert set(fitted.patches[0].add) == set(expected.patches[0].add)
    one, two = (each.finish({patch.table: patched(None, patch) for patch in each.patches}) for each in (fitted, expected))
    columns = [name for name in one.ready[0].load.rows.column_names if name != "message_id"]
    assert one.ready[0].load.rows.select(columns).equals(two.ready[0].load.rows.select(columns))
    assert one.ready[0].events.tolist() == [1, 5, 9, 13, 17]


def test_one_table_can_be_fitted_by_itself() -> None:
    desk = Desk()
    batch = desk.shape({"v": 1})
    fitted = fit(batch.tables["events"], None, desk.shaper.rules, STAMP)
    assert fitted.patch is not None
    after = fitted.against(patched(None, fitted.patch))
    ready = after.ready()
    assert ready is not None
    assert ready.load.rows["v"].to_pylist() == [1]
    assert (after.patch, after.refused, after.unmapped) == (None, {}, {})
