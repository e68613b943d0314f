"""Rows in columns become JSON without losing a digit, a moment or a byte."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import pyarrow as pa
import pytest

from connector_runner.json_rows import SLICE_ROWS, json_rows

AT = datetime(2026, 1, 2, 3, 4, 5, 678901)  # noqa: DTZ001  # columns without a zone, too


@pytest.mark.parametrize(
    ("value", "type_", "written"),
    [
        (2**63 - 1, pa.int64(), "9223372036854775807"),
        (2**64 - 1, pa.uint64(), "18446744073709551615"),
        (Decimal("12345678901234567890.123456789"), pa.decimal128(38, 9), "12345678901234567890.123456789"),
        (Decimal("1.50"), pa.decimal256(60, 2), "1.50"),
        (float("nan"), pa.float64(), "null"),
        (None, pa.float64(), "null"),
        (True, pa.bool_(), "true"),
        (b"\x00\xff", pa.binary(), '"AP8="'),
        (AT, pa.timestamp("us"), '"2026-01-02T03:04:05.678901"'),
        (AT.replace(tzinfo=UTC), pa.timestamp("us", "Europe/Berlin"), '"2026-01-02T03:04:05.678901Z"'),
        (1_767_322_800_000_000_001, pa.timestamp("ns", "UTC"), '"2026-01-02T03:00:00.000000001Z"'),
        (400_000_000_000, pa.timestamp("s"), '"14645-06-30T15:06:40"'),
        (date(1, 2, 3), pa.date32(), '"0001-02-03"'),
        (time(1, 2, 3), pa.time64("us"), '"01:02:03.000000"'),
        (timedelta(seconds=1, microseconds=5), pa.duration("us"), "1.000005"),
        ("Größe 'x' \"y\" \n", pa.large_string(), '"Größe \'x\' \\"y\\" \\n"'),
        ("a", pa.dictionary(pa.int8(), pa.string()), '"a"'),
        ([AT, None], pa.list_(pa.timestamp("us")), '["2026-01-02T03:04:05.678901",null]'),
        (
            {"at": AT, "deep": [{"n": Decimal("0.1")}]},
            pa.struct([("at", pa.timestamp("ms")), ("deep", pa.list_(pa.struct([("n", pa.decimal128(5, 1))])))]),
            '{"at":"2026-01-02T03:04:05.678","deep":[{"n":0.1}]}',
        ),
        ('{"n": 1.50}', pa.json_(), '{"n": 1.50}'),
        ([("a", 1), ("b", None)], pa.map_(pa.string(), pa.int32()), '{"a":1,"b":null}'),
        ([(1, AT)], pa.map_(pa.int32(), pa.timestamp("us")), '[[1,"2026-01-02T03:04:05.678901"]]'),
    ],
)
def test_a_value_keeps_all_that_it_says(value: object, type_: pa.DataType, written: str) -> None:
    rows = pa.table({"v": pa.array([value, None], type_, safe=False)})
    assert [each.decode() for each in json_rows(rows)] == [f'{{"v":{written}}}', '{"v":null}']


def test_rows_come_in_order_whatever_their_number_and_chunks() -> None:
    ids = [list(range(SLICE_ROWS + 7)), list(range(SLICE_ROWS + 7, 2 * SLICE_ROWS + 30))]
    rows = pa.table({"id": pa.chunked_array(ids), "Zahl №": pa.chunked_array(ids)})
    assert [json.loads(each)["id"] for each in json_rows(rows)] == ids[0] + ids[1]
    assert [json.loads(each)["id"] for each in json_rows(rows.slice(3, 2))] == [3, 4]
