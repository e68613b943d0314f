"""Rows arrive as they were sent: every type, every text, nulls, many tables, many rows."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import psutil
import pyarrow as pa
import pytest

from loader.contract.warehouse import Kind, TableLoad
from shared.errors import NotConnected
from tests.support.destinations.opened import Open, append, arrow, make, plan
from tests.support.destinations.subject import Row

ALL = {
    "id": Kind.BIGINT,
    "boolean": Kind.BOOLEAN,
    "bigint": Kind.BIGINT,
    "double": Kind.DOUBLE,
    "decimal": Kind.DECIMAL,
    "received_at": Kind.TIMESTAMP,
    "date": Kind.DATE,
    "text": Kind.TEXT,
    "json": Kind.JSON,
}
VALUES: list[Row] = [
    {
        "boolean": True,
        "bigint": 2**63 - 1,
        "double": 0.1 + 0.2,
        "decimal": Decimal("9" * 38),
        "received_at": datetime(2026, 2, 28, 23, 59, 59, 999999, UTC),
        "date": date(2026, 2, 28),
        "text": "plain",
        "json": '{"a": [1, {"b": null}], "c": "é\\"\\\\"}',
    },
    {
        "boolean": False,
        "bigint": -(2**63),
        "double": -1.7976931348623157e308,
        "decimal": Decimal("-" + "9" * 38),
        "received_at": datetime(1969, 12, 31, 23, 59, 59, 1, UTC),
        "date": date(1, 1, 1),
        "text": "",
        "json": "[]",
    },
    {
        "bigint": 0,
        "double": 5e-324,
        "decimal": Decimal(0),
        "received_at": datetime(9999, 12, 31, 23, 59, 59, 999999, UTC),
        "date": date(9999, 12, 31),
        "text": "quote \" ' comma , semicolon ; backslash \\ tab \t newline \n return \r emoji 😀 אבג \\N \\. NULL",
        "json": '"text"',
    },
    {"double": -0.0, "text": "x" * 100_000, "json": "null"},
    {},
]


def same(found: Row, sent: Row, wh: Open) -> bool:
    expected = {name: sent.get(name) for name in ALL}
    got: dict[str, Any] = dict(found)
    for row in (expected, got):
        row["json"] = None if row["json"] is None else json.loads(row["json"])
    return got == expected


async def test_a_row_of_all_types_is_read_back_equal(wh: Open) -> None:
    session = await wh.session()
    await make(session, "t", ALL)
    sent = [{**values, "id": number} for number, values in enumerate(VALUES)]
    await append(session, 1, "t", ALL, *sent)
    found = await wh.rows("t", ALL)
    assert len(found) == len(sent)
    for got, row in zip(found, sent, strict=True):
        assert same(got, row, wh), (got, row)


@pytest.mark.needs("merge")
async def test_a_merged_row_of_all_types_is_read_back_equal(wh: Open) -> None:
    session = await wh.session()
    await make(session, "t", ALL, ["id"], "received_at")
    sent = [{**values, "id": number} for number, values in enumerate(VALUES)]
    load = TableLoad("t", arrow(ALL, sent), "merge", ("id",), "received_at")
    for sequence in (1, 2):
        await session.load(plan(sequence), [load])
        found = await wh.rows("t", ALL)
        for got, row in zip(found, sent, strict=True):
            assert same(got, row, wh), (got, row)


@pytest.mark.needs("evolve")
async def test_columns_the_rows_do_not_have_are_left_alone(wh: Open) -> None:
    session = await wh.session()
    await make(session, "t", ALL)
    await append(session, 1, "t", {"id": Kind.BIGINT, "text": Kind.TEXT}, {"id": 1, "text": "a"})
    await append(session, 2, "t", {"date": Kind.DATE, "id": Kind.BIGINT}, {"id": 2, "date": date(2026, 1, 1)})
    shape = {"id": Kind.BIGINT, "text": Kind.TEXT, "date": Kind.DATE}
    assert await wh.rows("t", shape) == [
        {"id": 1, "text": "a", "date": None},
        {"id": 2, "text": None, "date": date(2026, 1, 1)},
    ]


async def test_rows_in_slices_and_chunks_all_arrive(wh: Open) -> None:
    session = await wh.session()
    shape = {"id": Kind.BIGINT, "flag": Kind.BOOLEAN, "text": Kind.TEXT, "received_at": Kind.TIMESTAMP}
    await make(session, "t", shape)
    at = datetime(2026, 2, 3, tzinfo=UTC)
    sent = [{"id": n, "flag": None if n % 7 == 0 else n % 3 == 0, "text": f"row {n}", "received_at": at} for n in range(5003)]
    whole = arrow(shape, sent)
    parts = pa.concat_tables(
        [whole.slice(0, 7), whole.slice(7, 2000), *[whole.slice(n, 1) for n in range(2007, 2107)], whole.slice(2107)]
    )
    await session.load(plan(1), [TableLoad("t", parts)])
    assert await wh.rows("t", shape) == sent


async def test_all_tables_of_a_plan_arrive(wh: Open) -> None:
    session = await wh.session()
    shape = {"id": Kind.TEXT}
    for table in ("tracks", "order_completed", "users"):
        await make(session, table, shape)
    loads = [TableLoad(table, arrow(shape, [{"id": table}])) for table in ("tracks", "order_completed", "users")]
    report = await session.load(plan(1, 9), loads)
    assert report.rows == {"tracks": 1, "order_completed": 1, "users": 1}
    for table in ("tracks", "order_completed", "users"):
        assert await wh.rows(table, shape) == [{"id": table}]


async def test_two_loads_of_one_table_in_a_plan_both_arrive(wh: Open) -> None:
    session = await wh.session()
    await make(session, "t", {"id": Kind.BIGINT, "a": Kind.TEXT, "b": Kind.TEXT})
    one = TableLoad("t", arrow({"id": Kind.BIGINT, "a": Kind.TEXT}, [{"id": 1, "a": "x"}]))
    two = TableLoad("t", arrow({"id": Kind.BIGINT, "b": Kind.TEXT}, [{"id": 2, "b": "y"}]))
    report = await session.load(plan(1), [one, two])
    assert report.rows == {"t": 2}
    shape = {"id": Kind.BIGINT, "a": Kind.TEXT, "b": Kind.TEXT}
    assert await wh.rows("t", shape) == [{"id": 1, "a": "x", "b": None}, {"id": 2, "a": None, "b": "y"}]


async def test_a_check_passes_every_step_and_leaves_nothing(wh: Open) -> None:
    results = await wh.destination.check()
    replaces, stages = wh.capabilities.replace, "staging" in wh.subject.document
    steps = ["reach", "create", "write", "read", *(["replace"] if replaces else []), "drop", *(["stage"] if stages else [])]
    assert [(result.step, result.ok) for result in results] == [(step, True) for step in steps], results
    again = await wh.session()
    assert await again.marks() == {}


async def test_a_closed_session_loads_nothing_more(wh: Open) -> None:
    session = await wh.session()
    shape = {"id": Kind.TEXT}
    await make(session, "t", shape)
    await session.close()
    await session.close()
    with pytest.raises(NotConnected):
        await append(session, 1, "t", shape, {"id": "a"})
    assert await wh.rows("t", shape) == []


@contextmanager
def peak_of_memory() -> Iterator[list[int]]:
    """Yields a list that grows by the bytes this process holds, every few milliseconds."""
    process = psutil.Process()
    seen = [process.memory_info().rss]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            seen.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join()


@pytest.mark.slow
async def test_load_after_load_in_bounded_memory(wh: Open) -> None:
    session = await wh.session()
    shape = {"id": Kind.BIGINT, "text": Kind.TEXT, "n": Kind.DOUBLE, "received_at": Kind.TIMESTAMP, "ok": Kind.BOOLEAN}
    await make(session, "t", shape)
    loads, size = 6, 50_000
    base = pa.table(
        {
            "text": pa.array([f"some text of row {n}" for n in range(size)]),
            "n": pa.array([n * 0.5 for n in range(size)]),
            "received_at": pa.array([1_770_000_000_000_000 + n for n in range(size)], pa.timestamp("us", "UTC")),
            "ok": pa.array([n % 2 == 0 for n in range(size)]),
        }
    )
    peaks = []
    for number in range(loads):
        ids = pa.array(range(number * size, (number + 1) * size), pa.int64())
        with peak_of_memory() as peak:
            await session.load(plan(number + 1), [TableLoad("t", base.add_column(0, "id", ids))])
        peaks.append(max(peak))
    # what the first three loads needed is what the next three may need: less than two loads of this size take as rows of Python
    assert max(peaks[3:]) - max(peaks[:3]) < 32 * 1024 * 1024, [peak >> 20 for peak in peaks]
    found = await wh.subject.rows("t", shape)
    assert len(found) == loads * size
    assert {row["id"] for row in found} == set(range(loads * size))
