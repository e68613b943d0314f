"""Rows that come as objects or Arrow tables have the columns and values that an event's would have."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from loader import registry
from loader.contract.warehouse import Capabilities, Kind
from loader.rows.given import shape_rows
from loader.rows.runs import NUL_REPLACED
from loader.types.names import Namer
from shared.events.rescue import NOT_FINITE
from shared.reading.written import Guess, as_type

POSTGRES = registry.plugin("postgres").CAPABILITIES
assert isinstance(POSTGRES, Capabilities)
NAMER = Namer(POSTGRES)


def shaped(rows: Any) -> tuple[dict[str, tuple[Kind, dict[int, Any]]], Any]:
    """Returns by column its kind and its values by row; and the batch."""
    batch = shape_rows(rows, "t", NAMER)
    found = {}
    for source, (part,) in batch.tables["t"].columns:
        found[source.name] = (part.kind, dict(zip(part.rows.tolist(), part.values.to_pylist(), strict=True)))
    return found, batch


def arrow(**columns: pa.Array) -> pa.Table:
    return pa.table(columns)


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (pa.array([1, None, -3], pa.int8()), Kind.BIGINT, {0: 1, 2: -3}),
        (pa.array([2**63], pa.uint64()), Kind.DECIMAL, {0: Decimal(2**63)}),
        (pa.array([1], pa.uint64()), Kind.BIGINT, {0: 1}),
        (pa.array([True, None]), Kind.BOOLEAN, {0: True}),
        (pa.array([1.5, float("nan"), float("inf")], pa.float32()), Kind.DOUBLE, {0: 1.5}),
        (pa.array([Decimal("1.10"), Decimal("12345678901234567.89")], pa.decimal128(19, 2)), Kind.NUMBER, {0: "1.1", 1: "12345678901234567.89"}),
        (pa.array([Decimal(10**30)], pa.decimal128(38, 0)), Kind.DECIMAL, {0: Decimal(10**30)}),
        (pa.array([Decimal(10**60)], pa.decimal256(70, 0)), Kind.NUMBER, {0: "1" + "0" * 60}),
        (pa.array([1_767_225_600], pa.timestamp("s")), Kind.TIMESTAMP, {0: dt.datetime(2026, 1, 1, tzinfo=dt.UTC)}),
        (pa.array([1_767_225_600_000_000_999], pa.timestamp("ns", "Europe/Berlin")), Kind.TIMESTAMP, {0: dt.datetime(2026, 1, 1, tzinfo=dt.UTC)}),
        (pa.array([dt.date(2026, 1, 1)]), Kind.DATE, {0: dt.date(2026, 1, 1)}),
        (pa.array(["a\0b", "", None]), Kind.TEXT, {0: "a\ufffdb", 1: ""}),
        (pa.array(["x", "y", "x"]).dictionary_encode(), Kind.TEXT, {0: "x", 1: "y", 2: "x"}),
        (pa.array(["x"], pa.large_string()), Kind.TEXT, {0: "x"}),
        (pa.array([b"\xff\x00"]), Kind.TEXT, {0: "/wA="}),
        (pa.array([[1, None], []]), Kind.JSON, {0: "[1,null]", 1: "[]"}),
        (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), Kind.JSON, {0: '{"a":1}'}),
        (pa.array([[{"at": dt.date(2026, 1, 1), "n": Decimal("1.5")}]]), Kind.JSON, {0: '[{"at":"2026-01-01","n":1.5}]'}),
        (pa.array(['{"a": 1.10}', None, "3"], pa.json_()), Kind.JSON, {0: '{"a": 1.10}', 2: "3"}),
        (pa.array(['{"a":"\\u0000"}', '"\\\\u0000"'], pa.json_()), Kind.JSON, {0: '{"a":"\\ufffd"}', 1: '"\\\\u0000"'}),
        (pa.array([dt.time(1, 2, 3)]), Kind.TEXT, {0: "01:02:03"}),
    ],
)  # fmt: skip
def test_each_arrow_type_becomes_a_kind(values: pa.Array, kind: Kind, expected: dict[int, Any]) -> None:
    assert shaped(arrow(v=values))[0] == {"v": (kind, expected)}


def test_a_decimal_asks_for_a_column_of_its_scale_but_in_the_key() -> None:
    money, wide = pa.array([Decimal("1.10")], pa.decimal128(12, 2)), pa.array([Decimal("1.1")], pa.decimal256(76, 38))
    rows = arrow(
        total=money,
        id=money,
        of=pa.array([{"tax": Decimal("0.25")}]),
        any=wide,
        whole=pa.array([Decimal(7)], pa.decimal128(5, 0)),
    )
    batch = shape_rows(rows, "t", NAMER, compared=["id"])
    assert batch.tables["t"].hints == {("total",): (Kind.OTHER, "numeric(38,2)"), ("of", "tax"): (Kind.OTHER, "numeric(38,2)")}


def test_members_of_a_struct_are_columns_as_those_of_an_object() -> None:
    rows = [{"id": 1, "customer": {"name": "A", "of": {"city": None}}}, {"id": 2, "customer": None}, {"id": 3}]
    from_objects, _ = shaped(rows)
    from_arrow, batch = shaped(pa.Table.from_pylist(rows))
    assert from_objects == from_arrow == {
        "id": (Kind.BIGINT, {0: 1, 1: 2, 2: 3}),
        "customer_name": (Kind.TEXT, {0: "A"}),
    }  # fmt: skip
    assert batch.dead_letters({2: ("x", "why")})[0].index == 2


def test_lost_values_are_counted() -> None:
    _, batch = shaped(arrow(v=pa.array([1.0, float("nan")]), w=pa.array(["\0\0", "x"])))
    assert batch.notes == {NOT_FINITE: 1, NUL_REPLACED: 2}


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (["1", "-2", None], "integer", [1, -2, None]),
        (["1", "2.50"], "number", [1.0, 2.5]),
        (["true", "FALSE"], "boolean", [True, False]),
        (["007", "1"], "text", ["007", "1"]),
        (["+7"], "text", ["+7"]),
        (["1e3"], "text", ["1e3"]),
        (["12345678901234567890"], "text", ["12345678901234567890"]),
        (["0.12345678901234567"], "text", ["0.12345678901234567"]),
        (["0.000123"], "number", [0.000123]),
        (["1", "x"], "text", ["1", "x"]),
        (["", "1"], "text", ["", "1"]),
        ([None, None], "text", [None, None]),
        (["true", "1"], "text", ["true", "1"]),
        (["NaN"], "text", ["NaN"]),
    ],
)
def test_a_column_of_text_has_a_type_only_if_all_its_values_have(
    values: list[str | None], kind: str, expected: list[Any]
) -> None:
    column = pa.chunked_array([pa.array(values[:1], pa.string()), pa.array(values[1:], pa.string())])
    guess = Guess()
    for chunk in column.chunks:
        guess.look(pa.chunked_array([chunk]))
    assert guess.kind == kind
    assert as_type(column, guess.kind).to_pylist() == expected
