"""Hints of functions, and SQL types people force."""

from __future__ import annotations

from typing import Any

import pytest

from loader.contract.warehouse import Kind
from loader.rows.hints import kind_of_type, type_of_hint
from loader.rows.shape import HINTS_IGNORED
from tests.unit.loader.shaping import Desk, kinds_of


@pytest.mark.parametrize(
    ("native", "kind"),
    [
        ("BOOLEAN", Kind.BOOLEAN),
        ("bigint", Kind.BIGINT),
        ("Double  Precision", Kind.DOUBLE),
        ("numeric(38, 0)", Kind.DECIMAL),
        ("numeric(12,2)", Kind.OTHER),
        ("numeric", Kind.OTHER),
        ("timestamptz(3)", Kind.TIMESTAMP),
        ("timestamp (3) with time zone", Kind.TIMESTAMP),
        ("varchar(20)", Kind.TEXT),
        ("character varying(20)", Kind.TEXT),
        ("date", Kind.DATE),
        ("jsonb", Kind.JSON),
        ("geography(Point)", Kind.OTHER),
        ("smallint", Kind.BIGINT),
        ("real", Kind.DOUBLE),
        ("bigint(20)", Kind.OTHER),
        ("", Kind.OTHER),
    ],
)
def test_a_type_of_sql_has_a_kind_or_is_read_by_the_warehouse_itself(native: str, kind: Kind) -> None:
    assert kind_of_type(native) is kind


@pytest.mark.parametrize(
    ("hint", "forced"),
    [
        ("jsonb", (Kind.JSON, "jsonb")),
        ("numeric(12,2)", (Kind.OTHER, "numeric(12,2)")),
        (["text", "varchar(20)"], (Kind.TEXT, "varchar(20)")),
        (["bigint"], (Kind.BIGINT, "bigint")),
        ("timestamp (3) with time zone", (Kind.TIMESTAMP, "timestamp (3) with time zone")),
    ],
)
def test_a_hint_is_a_type_or_a_type_and_its_ddl(hint: Any, forced: tuple[Kind, str]) -> None:
    assert type_of_hint(hint) == forced


@pytest.mark.parametrize(
    "hint",
    [
        "",
        "text; DROP TABLE x",
        "text) --",
        "text default 'x'",
        "text, b text",
        ["a", "b", "c"],
        [],
        5,
        None,
        {"a": 1},
        "x" * 200,
        "a\nb",
    ],
)
def test_what_does_not_look_like_a_type_is_no_hint(hint: Any) -> None:
    assert type_of_hint(hint) is None


def test_a_functions_hints_decide_types_and_never_reach_the_table() -> None:
    desk = Desk({"layout": "segment"})
    loaded = desk.load(
        {
            "type": "track",
            "event": "E",
            "properties": {
                "total": 5,
                "__sql_type_total": "numeric(12,2)",
                "tags": ["a"],
                "__sql_type_tags": ["json", "jsonb"],
                "address": {"city": "Ulm", "geo": {"lat": 1.5, "__sql_type_lat": "x"}, "__sql_type": "json"},
                "nested": {"code": 7, "__sql_type_code": "varchar(9)"},
                "bad": 1,
                "__sql_type_bad": "text; DROP TABLE x",
            },
        },
        trusted=True,
    )
    schema = desk.live["e"]
    assert schema is not None
    assert (schema.columns["total"].kind, schema.columns["total"].native) == (Kind.OTHER, "numeric(12,2)")
    assert (schema.columns["tags"].kind, schema.columns["tags"].native) == (Kind.JSON, "jsonb")
    assert (schema.columns["address"].kind, schema.columns["address"].native) == (Kind.JSON, "json")
    assert (schema.columns["nested_code"].kind, schema.columns["nested_code"].native) == (Kind.TEXT, "varchar(9)")
    assert schema.columns["bad"].kind is Kind.BIGINT
    (row,) = loaded.rows("e")
    assert row["address"] == '{"city":"Ulm","geo":{"lat":1.5}}'
    assert (row["total"], row["tags"], row["nested_code"]) == ("5", '["a"]', "7")
    assert not any("sql_type" in name for name in row)
    assert loaded.batch.notes[HINTS_IGNORED] == 1


def test_a_function_may_choose_the_table() -> None:
    desk = Desk({"layout": "segment", "table": "{{ event.nothing }}"})
    loaded = desk.load({"type": "track", "event": "E", "JITSU_TABLE_NAME": "Chosen One", "properties": {"a": 1}}, trusted=True)
    assert {table: rows[0]["a"] for table, rows in loaded.tables.items()} == {"chosen_one": 1}
    assert "jitsu_table_name" not in loaded.rows("chosen_one")[0]


def test_hints_of_one_event_do_not_linger() -> None:
    desk = Desk({"table": "{{ event.t }}"})
    desk.load({"t": "one", "a": 1, "__sql_type_a": "text"}, {"t": "two", "a": 1}, trusted=True)
    desk.load({"t": "three", "a": 1})
    assert [kinds_of(desk.live[table])["a"] for table in ("one", "two", "three")] == [Kind.TEXT, Kind.BIGINT, Kind.BIGINT]


def test_types_of_the_project_file_win_over_hints_and_values() -> None:
    desk = Desk({"column_types": {"a": "date", "properties_total": "numeric(12,2)"}})
    loaded = desk.load(
        {"a": "2026-09-01", "__sql_type_a": "text", "properties": {"total": 1.5}}, {"a": "not a date", "properties": {"total": "x"}},
        trusted=True,
    )  # fmt: skip
    schema = desk.live["events"]
    assert schema is not None
    assert (schema.columns["a"].kind, schema.columns["a"].native) == (Kind.DATE, "date")
    assert (schema.columns["properties_total"].kind, schema.columns["properties_total"].native) == (Kind.OTHER, "numeric(12,2)")
    assert loaded.column("properties_total") == ["1.5", None]
    assert loaded.unmapped() == [None, {"a": "not a date", "properties_total": "x"}]
