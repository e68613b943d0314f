"""The source `clickhouse`: every type of the server, collapsing engines, statements that fail in the middle or are left."""

from __future__ import annotations

import asyncio
import datetime as dt
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from aiohttp import web

from connector_runner.contract import Rows, Said
from connector_runner.sources.clickhouse.stream import ArrowPieces
from connector_runner.sources.clickhouse.types import parts_of, target_of
from shared.errors import NotConnected, SetupError, Transient
from tests.support.clickhouse import Place
from tests.support.sql_sources import CURSOR, TABLE, Database, clickhouse_database, ids, rows_of

UTC = dt.UTC
INSTANT = dt.datetime(2026, 7, 1, 10, tzinfo=UTC)
UUID = "61f0c404-5cb3-11e7-907b-a6006ad3dba0"

TYPES: dict[str, tuple[str, str, Any]] = {
    "flag": ("Bool", "true", True),
    "u64": ("UInt64", "18446744073709551615", 2**64 - 1),
    "i8": ("Int8", "-128", -128),
    "i128": ("Int128", "'-170141183460469231731687303715884105728'", Decimal(-(2**127))),
    "u128": ("UInt128", "7", Decimal(7)),
    "u256": ("UInt256", "'115792089237316195423570985008687907853269984665640564039457584007913129639935'", str(2**256 - 1)),
    "f32": ("Float32", "0.1", struct.unpack("f", struct.pack("f", 0.1))[0]),
    "d256": (
        "Decimal(76, 30)",
        "'-1234567890123456789012345678901234567890123456.000000000000000000000000000001'",
        Decimal("-1234567890123456789012345678901234567890123456.000000000000000000000000000001"),
    ),
    "day": ("Date", "'2026-07-01'", dt.date(2026, 7, 1)),
    "day32": ("Date32", "'1901-01-01'", dt.date(1901, 1, 1)),
    "at": ("DateTime('Europe/Berlin')", "'2026-07-01 12:00:00'", INSTANT),
    "at64": ("DateTime64(6, 'Europe/Berlin')", "'2026-07-01 12:00:00.000001'", INSTANT + dt.timedelta(microseconds=1)),
    "word": ("LowCardinality(Nullable(String))", "'✓ \\\\'", "✓ \\"),
    "raw": ("String", "unhex('61ff62')", "a�b"),
    "fixed": ("FixedString(3)", "'abc'", "abc"),
    "kind": ("Enum8('a\\'b' = 1, 'c, (d' = 2)", "'a\\'b'", "a'b"),
    "uuid": ("UUID", f"'{UUID}'", UUID),
    "v4": ("IPv4", "'127.0.0.1'", "127.0.0.1"),
    "v6": ("IPv6", "'::1'", "::1"),
    "ids": ("Array(UUID)", f"['{UUID}']", [UUID]),
    "days": ("Array(Nullable(DateTime('UTC')))", "['2026-07-01 10:00:00', NULL]", [INSTANT, None]),
    "pair": ("Tuple(UInt8, Enum8('x' = 1))", "(1, 'x')", {"1": 1, "2": "x"}),
    "named": ("Tuple(a UInt8, `b c` Array(Int128))", "(1, [5])", {"a": 1, "b c": ["5"]}),
    "counts": ("Map(LowCardinality(String), DateTime('UTC'))", "map('k', '2026-07-01 10:00:00')", [("k", INSTANT)]),
    "maybe": ("Nullable(Decimal(9, 2))", "'1.50'", Decimal("1.50")),
    "sum_": ("SimpleAggregateFunction(sum, UInt64)", "3", 3),
    "spot": ("Point", "(1, 2)", "[1,2]"),
}


@pytest.fixture
async def database(clickhouse: Place, tmp_path: Path) -> Database:
    return await clickhouse_database(clickhouse, tmp_path)


async def test_every_type_of_the_server_arrives_whole(database: Database) -> None:
    columns = ", ".join(f"{name} {native}" for name, (native, _, _) in TYPES.items())
    values = ", ".join(value for _, value, _ in TYPES.values())
    more = "lines Nested(sku String, n UInt8), state AggregateFunction(uniq, UInt8)"
    await database.run(
        f"CREATE TABLE every (id Int64, {columns}, {more}) ENGINE = MergeTree ORDER BY id",
        f"INSERT INTO every (id, {', '.join(TYPES)}, `lines.sku`, `lines.n`) SELECT 1, {values}, ['a'], [2]",
    )
    messages = await database.read(full=True, table="every")
    (row,) = rows_of(messages)
    assert {name: row[name] for name in TYPES} == {name: value for name, (_, _, value) in TYPES.items()}
    assert (row["lines.sku"], row["lines.n"]) == (["a"], [2])
    assert "state" not in row
    assert any(isinstance(each, Said) and "every.state" in each.text for each in messages)


@pytest.mark.parametrize(
    ("native", "values"),
    [
        ("UInt256", ["0", "'115792089237316195423570985008687907853269984665640564039457584007913129639935'"]),
        ("Decimal(76, 30)", ["-1.5", "'0.000000000000000000000000000001'"]),
        ("LowCardinality(Nullable(String))", ["'a'", "'b \\' \\\\'", "'ü'"]),
        ("DateTime64(9, 'Asia/Tokyo')", ["'2026-01-01 00:00:00.000000001'", "'2026-01-01 00:00:00.000000002'"]),
        # these two are one text in their own zone
        ("DateTime('Europe/Berlin')", ["toDateTime('2026-10-25 00:30:00', 'UTC')", "toDateTime('2026-10-25 01:30:00', 'UTC')"]),
        ("Nullable(DateTime)", ["'2026-01-01 00:00:00'", "'2100-01-01 00:00:00'"]),
        ("DateTime", ["'2026-01-01 00:00:00'", "'2100-01-01 00:00:00'"]),
        ("Date", ["'1970-01-01'", "'2149-06-06'"]),
        ("UUID", [f"'{UUID}'", "'00000000-0000-0000-ffff-ffffffffffff'"]),
    ],
)
async def test_a_column_of_any_sorted_type_can_be_the_cursor(database: Database, native: str, values: list[str]) -> None:
    cursor = database.name(CURSOR)
    rows = ", ".join(f"({id_}, {value})" for id_, value in enumerate(values * 3))
    await database.run(
        f"CREATE TABLE {database.name(TABLE)} (id Int64, {cursor} {native}) ENGINE = MergeTree ORDER BY id",
        f"INSERT INTO {database.name(TABLE)} VALUES {rows}",
    )
    states: dict[Any, bytes] = {}
    first = await database.read(states, page_rows=2)
    assert sorted(ids(first)) == list(range(3 * len(values)))
    again = set(ids(await database.read(states)))
    assert len(again) == 3, "the rows of the highest value come again"


async def test_collapsing_tables_are_read_in_their_last_form(database: Database) -> None:
    await database.make()
    await database.run("SYSTEM STOP MERGES")
    await database.add({1: "00:00:01", 2: "00:00:02"})
    await database.add({1: "00:00:03"})
    assert (await database.streams())[TABLE].primary_key == (("id",),)
    assert sorted(ids(await database.read(full=True))) == [1, 2]
    assert sorted(ids(await database.read(full=True, final=False))) == [1, 1, 2]
    assert (await database.streams(final=False))[TABLE].primary_key == ()


async def test_texts_that_are_no_utf_8_inside_of_lists_are_for_a_person(database: Database) -> None:
    await database.run("CREATE TABLE t (id Int64, a Array(String)) ENGINE = Memory", "INSERT INTO t SELECT 1, [unhex('ff')]")
    with pytest.raises(SetupError, match=r'"a".*no UTF-8'):
        await database.read(full=True, table="t")


async def test_a_view_that_fails_in_the_middle_is_an_error_and_not_a_short_stream(database: Database) -> None:
    await database.run("CREATE VIEW late AS SELECT number AS id, throwIf(number = 99999) AS x FROM numbers(100000)")
    with pytest.raises(Transient):
        await database.read(full=True, table="late")


def stream(tables: int = 3) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.table({"id": pa.array(range(10), pa.int64()), "text": [f"x{n}" for n in range(10)]})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        for _ in range(tables):
            writer.write_table(table)
    found: bytes = sink.getvalue().to_pybytes()
    return found


def test_a_stream_is_cut_into_batches_wherever_the_bytes_break() -> None:
    whole = stream()
    for size in (1, 7, 64, 1000, len(whole)):
        pieces, batches = ArrowPieces(), []
        for start in range(0, len(whole), size):
            assert not pieces.ended
            batches += list(pieces.feed(whole[start : start + size]))
        assert pieces.ended
        assert pa.Table.from_batches(batches).column("id").to_pylist() == 3 * list(range(10))


@asynccontextmanager
async def front(answer: Any) -> AsyncIterator[tuple[str, list[str]]]:
    """Yields the address of a server, which answers statements that read rows so and questions of the catalogue with one table, and
    what it was asked."""
    asked: list[str] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        sql = (await request.read()).decode()
        asked.append(sql)
        if "ArrowStream" in sql:
            response = web.StreamResponse()
            await response.prepare(request)
            await answer(response)
            return response
        data = (
            '["t","id","Int64","1"],["t","text","String","0"]'
            if "system.columns" in sql
            else '["t","MergeTree",null,null]'
            if "system.tables" in sql
            else ""
        )
        return web.Response(text=f'{{"data": [{data}]}}')

    application = web.Application()
    application.router.add_post("/", handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", asked
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("tail", "error", "words"),
    [
        (b"", NotConnected, "broke off|not a ClickHouse"),
        (b"Code: 241. DB::Exception: Memory limit exceeded. (MEMORY_LIMIT_EXCEEDED)", Transient, "Memory limit"),
        (b"Code: 497. DB::Exception: Not enough privileges. (ACCESS_DENIED)", SetupError, "grant SELECT"),
    ],
)
async def test_an_answer_that_ends_early_is_an_error_with_the_servers_words(
    database: Database, tail: bytes, error: type[Exception], words: str
) -> None:
    async def answer(response: web.StreamResponse) -> None:
        await response.write(stream()[:-40] if not tail else stream()[:-8] + tail)

    async with front(answer) as (url, asked):
        with pytest.raises(error, match=words):
            await database.read(full=True, table="t", url=url)
        assert asked


async def test_leaving_a_read_tells_the_server_to_end_its_statement(database: Database) -> None:
    left = asyncio.Event()

    async def answer(response: web.StreamResponse) -> None:
        await response.write(stream()[:-8])
        await left.wait()

    async with front(answer) as (url, asked):
        messages = await database.read(full=True, table="t", most=1, url=url)
        left.set()
        assert isinstance(messages[0], Rows)
    assert any(sql.startswith("KILL QUERY WHERE query_id = '") for sql in asked)


async def test_a_cancelled_read_tells_the_server_too(database: Database) -> None:
    begun, left = asyncio.Event(), asyncio.Event()

    async def answer(response: web.StreamResponse) -> None:
        begun.set()
        await left.wait()

    async with front(answer) as (url, asked):
        reading = asyncio.create_task(database.read(full=True, table="t", url=url))
        await begun.wait()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        left.set()
    assert any(sql.startswith("KILL QUERY") for sql in asked)


@pytest.mark.parametrize(
    ("native", "target"),
    [
        ("Array(Array(Nullable(UUID)))", "Array(Array(Nullable(String)))"),
        ("Tuple(`a, (b` Enum8('x, (' = 1), c String)", "Tuple(`a, (b` String, c String)"),
        ("Map(String, Tuple(DateTime, Int8))", "Map(String, Tuple(DateTime64(0, 'UTC'), Int8))"),
        ("Nested(a UInt8, b Date)", "Array(Tuple(a UInt8, b Date32))"),
        ("Array(JSON)", None),
        ("Variant(String, UInt8)", None),
    ],
)
def test_a_type_is_rewritten_part_by_part(native: str, target: str | None) -> None:
    assert target_of(native) == target


def test_parts_are_cut_outside_of_quotes_and_brackets() -> None:
    assert list(parts_of("a Enum8('x\\', (' = 1, 'y' = 2), `b,` Tuple(A, B)")) == [
        "a Enum8('x\\', (' = 1, 'y' = 2)",
        "`b,` Tuple(A, B)",
    ]
