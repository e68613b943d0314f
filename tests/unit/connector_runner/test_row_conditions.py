"""`where` on rows: each condition says of a column what it says of the column's JSON, row by row."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from connector_runner.json_rows import json_rows
from connector_runner.rules.conditions import Conditions
from shared.rules.operators import OPERATORS
from shared.rules.where import read_where

ROWS = 60
TEXTS = [
    "",
    "a",
    "abc",
    "äöü",
    "b",
    "2024-01-01T00:00:00Z",
    "2024-01-01T01:00:00+01:00",
    "2024-01-01",
    "1",
    "true",
    "é\U0001f600",
    "zz",
]
DOUBLES = [0.0, -0.0, 1.0, 0.1, 1.5, 100.0, -3.25, 1e300, float("nan"), float("inf"), 2.0**53, 9007199254740993.0]
INTEGERS = [0, 1, -1, 2, 100, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), 7]
MOMENTS = [1704067200_000_000, 1704067200_000_001, -62_135_596_800_000_000, 253_402_300_799_000_000, -3_600_000_000]
DATES = [date(2024, 1, 1), date(1999, 12, 31), date(2024, 1, 2)]
DECIMALS = [Decimal("0.10"), Decimal("1.00"), Decimal("1.50"), Decimal("-3.25"), Decimal("100.00"), Decimal("12345678901.25")]


def cents(values: list[Decimal]) -> list[Decimal]:
    return [each.quantize(Decimal("0.01")) for each in values]


COLUMNS: dict[str, tuple[pa.DataType, list[Any]]] = {
    "text": (pa.string(), TEXTS),
    "large_text": (pa.large_string(), TEXTS),
    "view": (pa.string_view(), TEXTS),
    "category": (pa.dictionary(pa.int32(), pa.string()), TEXTS),
    "double": (pa.float64(), DOUBLES),
    "single": (pa.float32(), [0.5, 0.1, -2.0, float("nan")]),
    "integer": (pa.int64(), INTEGERS),
    "small": (pa.int8(), [0, 1, -128, 127]),
    "natural": (pa.uint64(), [0, 1, 2**64 - 1, 100]),
    "boolean": (pa.bool_(), [True, False]),
    "moment": (pa.timestamp("us"), MOMENTS),
    "instant": (pa.timestamp("us", "UTC"), MOMENTS),
    "instant_there": (pa.timestamp("ms", "Europe/Berlin"), [datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 6, 1, 12, tzinfo=UTC)]),
    "second": (pa.timestamp("s"), [1704067200, 1704067201]),
    "early": (pa.timestamp("s"), [1704067200, -62_135_596_801]),
    "late": (pa.timestamp("ms", "UTC"), [1704067200_000, 253_402_300_800_000]),
    "nanosecond": (pa.timestamp("ns"), [1704067200_000_000_000, 1704067200_000_000_001]),
    "date": (pa.date32(), DATES),
    "time": (pa.time64("us"), [time(1, 2, 3), time(23, 0)]),
    "duration": (pa.duration("ms"), [timedelta(seconds=1), timedelta(seconds=100)]),
    "bytes": (pa.binary(), [b"", b"abc"]),
    "price": (pa.decimal128(13, 2), cents(DECIMALS)),
    "wide": (pa.decimal256(76, 38), [*DECIMALS, Decimal("0.1000000000000000055511151231257827"), Decimal(2**70)]),
    "fine": (pa.decimal128(38, 15), [Decimal("0.100000000000000"), Decimal("12345678901.250000000000001")]),
    "whole": (pa.decimal128(20, 0), [Decimal(0), Decimal(1), Decimal(2**53 + 1), Decimal(100)]),
    "list": (pa.list_(pa.string()), [[], ["a"], ["b", None, "abc"]]),
    "numbers": (pa.list_(pa.int64()), [[1, 2], [100], []]),
    "object": (pa.struct([("x", pa.int64()), ("y", pa.struct([("z", pa.string())]))]), [{"x": 1, "y": {"z": "a"}}, {"x": None, "y": None}, {"x": 100, "y": {"z": None}}]),
    "map": (pa.map_(pa.string(), pa.int64()), [[("x", 1)], [("z", 100)], []]),
    "nothing": (pa.null(), []),
    "json": (pa.json_(pa.string()), ['{"x": 1}', '"a"', "[1, 100]", "null", '{"y": {"z": "abc"}}', "1.0", "true"]),
}  # fmt: skip
OPERANDS: list[Any] = [
    "", "a", "abc", "äöü", "b", "é", "2024-01-01T00:00:00Z", "2024-01-01T00:00:00.000001+00:00", "2024-01-01", "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z", "1970-01-01T00:00:00.5Z", 0, 1, 1.0, 1.5, 0.1, 0.5, -1, 100, 127, 128, -200, 2**53, 2**53 + 1, 2.0**53, 2**64, -(2**70), 1e300, 12345678901.25, True, False,
]  # fmt: skip
INSIDE = {
    "list": ["0", "x"],
    "numbers": ["1"],
    "object": ["x", "y", "y.z", "w"],
    "map": ["x"],
    "json": ["x", "y.z", "1"],
    "text": ["x"],
}


def operand(draw: random.Random, name: str) -> Any:
    texts = [each for each in OPERANDS if isinstance(each, str)]
    match name:
        case "in" | "not_in":
            return draw.choices(OPERANDS, k=draw.choice((1, 2, 5, 20)))
        case "gt" | "gte" | "lt" | "lte":
            return draw.choice([each for each in OPERANDS if not isinstance(each, bool)])
        case "starts_with" | "ends_with":
            return draw.choice(texts)
        case "matches":
            return draw.choice(["*", "a*", "?", "2024*", "*[b-z]"])
        case "regex":
            return draw.choice(["^a", "01", "ü$", "^$"])
        case "exists":
            return draw.choice((True, False))
        case "type":
            return draw.choice(["string", ["number", "boolean"], "object", "array"])
    return draw.choice(OPERANDS)


def condition(draw: random.Random) -> dict[str, Any]:
    name = draw.choice([*COLUMNS, "absent"])
    path = draw.choice([name, *(f"{name}.{each}" for each in INSIDE.get(name, ()))])
    chosen = draw.choice(list(OPERATORS))
    return {"field": path, chosen: operand(draw, chosen)}


def table(draw: random.Random) -> pa.Table:
    made = {}
    for name, (type_, values) in COLUMNS.items():
        drawn = [None if not values or draw.random() < 0.2 else draw.choice(values) for _ in range(ROWS)]
        storage = type_.storage_type if isinstance(type_, pa.BaseExtensionType) else type_
        array = pa.array(drawn, storage)
        made[name] = pa.ExtensionArray.from_storage(type_, array) if storage is not type_ else array
    return pa.concat_tables([pa.table(made).slice(3, 20), pa.table(made).slice(23)])


def agree(where: Any, rows: pa.Table, decoded: list[Any]) -> None:
    node = read_where(where)
    assert node is not None
    conditions = Conditions(node)
    expected = [conditions.judge(row) for row in decoded]
    found = conditions.of_table(rows)
    assert found.dtype == np.bool_
    wrong = [(row, each) for row, each, other in zip(decoded, expected, found.tolist(), strict=True) if each != other]
    assert not wrong, f"{where}: {wrong[0]}"


@pytest.mark.parametrize("seed", range(3))
def test_columns_and_their_json_meet_the_same_conditions(seed: int) -> None:
    draw = random.Random(seed)
    rows = table(draw)
    lines = list(json_rows(rows))
    decoded = [msgspec.json.decode(line) for line in lines]
    for _ in range(500):
        agree(condition(draw), rows, decoded)
    for _ in range(60):
        combined = {draw.choice(("all", "any")): [condition(draw), {"not": condition(draw)}, condition(draw)]}
        agree(combined, rows, decoded)
    each = Conditions(read_where([condition(draw), condition(draw)]))  # type: ignore[arg-type]
    for line, row in zip(lines, decoded, strict=True):
        assert each.judge(each.read(line)) is each.judge(row)
        assert each.tells(each.read(line)) is each.tells(row)
    assert each.table_tells(rows).tolist() == [each.tells(row) for row in decoded]


@pytest.mark.parametrize("name", sorted(COLUMNS))
def test_every_operator_is_asked_of_every_type(name: str) -> None:
    draw = random.Random(name)
    rows = table(draw)
    decoded = [msgspec.json.decode(line) for line in json_rows(rows)]
    for chosen in OPERATORS:
        for each in OPERANDS if chosen in ("eq", "gt", "gte", "lt", "lte") else [operand(draw, chosen) for _ in range(6)]:
            if chosen == "eq" or type(each) is not bool:
                agree({"field": name, chosen: each}, rows, decoded)


@pytest.mark.parametrize(
    "make", [lambda: pa.table({"a": pa.array([], pa.int64())}), lambda: pa.table({"a": pa.chunked_array([], pa.string())})]
)
def test_no_rows_have_no_answers(make: Callable[[], pa.Table]) -> None:
    node = read_where({"field": "a", "ne": 1})
    assert node is not None
    assert Conditions(node).of_table(make()).tolist() == []


def test_a_row_that_the_decoder_refuses_is_read_more_slowly_or_not_at_all() -> None:
    node = read_where({"field": "ä", "gt": 1})
    assert node is not None
    conditions = Conditions(node)
    assert conditions.judge(conditions.read('{"ä": 2, "x": NaN}'.encode()))
    with pytest.raises(ValueError, match="JSON"):
        conditions.read(b"{")
