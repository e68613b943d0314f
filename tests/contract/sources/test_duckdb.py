"""The source `duckdb`: every type, files that another program writes, reads that are cancelled."""

from __future__ import annotations

import asyncio
import datetime as dt
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from connector_runner.contract import Rows, StreamName
from connector_runner.sources.duckdb.types import nested_of
from shared.errors import Transient
from tests.support.sql_sources import CURSOR, TABLE, Database, duckdb_database, ids, rows_of

UTC = dt.UTC
UUID = "61f0c404-5cb3-11e7-907b-a6006ad3dba0"

TYPES: dict[str, tuple[str, str, Any]] = {
    "flag": ("BOOLEAN", "true", True),
    "ubig": ("UBIGINT", "18446744073709551615", 2**64 - 1),
    "huge": ("HUGEINT", "-170141183460469231731687303715884105728", Decimal(-(2**127))),
    "uhuge": ("UHUGEINT", "7", Decimal(7)),
    "amount": ("DECIMAL(38,10)", "'1234567890123456789012345678.0000000001'", Decimal("1234567890123456789012345678.0000000001")),
    "double_": ("DOUBLE", "0.1", 0.1),
    "day": ("DATE", "'2026-07-01'", dt.date(2026, 7, 1)),
    "never": ("DATE", "'infinity'", None),
    "clock": ("TIME", "'12:00:00.000001'", dt.time(12, 0, 0, 1)),
    "zoned_clock": ("TIMETZ", "'12:00:00+02'", "12:00:00+02"),
    "moment": ("TIMESTAMP", "'2026-07-01 10:00:00.000001'", dt.datetime(2026, 7, 1, 10, 0, 0, 1)),  # noqa: DTZ001 - it has no zone
    "no_time": ("TIMESTAMP", "'-infinity'", None),
    "instant": ("TIMESTAMPTZ", "'2026-07-01 12:00:00+02'", dt.datetime(2026, 7, 1, 10, tzinfo=UTC)),
    "seconds": ("TIMESTAMP_S", "'2026-07-01 10:00:00'", dt.datetime(2026, 7, 1, 10)),  # noqa: DTZ001 - it has no zone
    "word": ("VARCHAR", "'✓ '' \\'", "✓ ' \\"),
    "kind": ("ENUM('a', 'b''c')", "'b''c'", "b'c"),
    "bytes_": ("BLOB", "'\\x00\\xFF'", b"\x00\xff"),
    "bits": ("BIT", "'0101'", "0101"),
    "uuid": ("UUID", f"'{UUID}'", UUID),
    "span": ("INTERVAL", "INTERVAL '1 month 2 days'", "1 month 2 days"),
    "doc": ("JSON", "'{\"a\": [1]}'", '{"a": [1]}'),
    "list_": ("INTEGER[]", "[1, NULL]", [1, None]),
    "array_": ("INTEGER[2]", "[1, 2]", [1, 2]),
    "struct_": ('STRUCT(a HUGEINT, "b ""c, (" UUID[])', "{'a': 5, 'b \"c, (': ['" + UUID + "']}", {"a": "5", 'b "c, (': [UUID]}),
    "map_": ("MAP(VARCHAR, INTERVAL)", "MAP {'k': INTERVAL 1 day}", [("k", "1 day")]),
    "union_": ("UNION(n INTEGER, s VARCHAR)", "'x'", "x"),
}


@pytest.fixture
async def database(tmp_path: Path) -> Database:
    return await duckdb_database(tmp_path)


async def test_every_type_arrives_whole(database: Database) -> None:
    columns = ", ".join(f"{name} {native}" for name, (native, _, _) in TYPES.items())
    values = ", ".join(value for _, value, _ in TYPES.values())
    await database.run(
        "SET TimeZone = 'Europe/Berlin'",
        f"CREATE TABLE every (id INTEGER PRIMARY KEY, {columns})",
        f"INSERT INTO every VALUES (1, {values}), (2{', NULL' * len(TYPES)})",
    )
    whole, nulls = rows_of(await database.read(full=True, table="every"))
    assert {name: whole[name] for name in TYPES} == {name: value for name, (_, _, value) in TYPES.items()}
    assert {name: value for name, value in nulls.items() if value is not None} == {"id": 2}


@pytest.mark.parametrize(
    ("native", "values"),
    [
        ("HUGEINT", ["-1", "170141183460469231731687303715884105727"]),
        ("DECIMAL(38,10)", ["-1.5", "0.0000000001"]),
        ("VARCHAR", ["'a'", "'b '' \\'", "'ü'"]),
        ("TIMESTAMPTZ", ["'2026-01-01 00:00:00.000001+02'", "'2026-01-01 00:00:00+00'"]),
        ("TIMESTAMP_NS", ["'2026-01-01 00:00:00.000000001'", "'2026-01-01 00:00:00.000000002'"]),
        ("DATE", ["'2026-01-01'", "'infinity'"]),
        ("UUID", ["'00000000-0000-0000-ffff-ffffffffffff'", f"'{UUID}'"]),
    ],
)
async def test_a_column_of_any_sorted_type_can_be_the_cursor(database: Database, native: str, values: list[str]) -> None:
    cursor = database.name(CURSOR)
    rows = ", ".join(f"({id_}, {value})" for id_, value in enumerate(values * 3))
    await database.run(
        f"CREATE TABLE {database.name(TABLE)} (id BIGINT, {cursor} {native})", f"INSERT INTO {database.name(TABLE)} VALUES {rows}"
    )
    states: dict[Any, bytes] = {}
    first = await database.read(states, page_rows=2)
    assert sorted(ids(first)) == list(range(3 * len(values)))
    assert len(ids(await database.read(states))) == 3, "the rows of the highest value come again"


async def test_tables_of_other_schemas_are_named_with_them(database: Database) -> None:
    await database.run(
        "CREATE SCHEMA more", "CREATE TABLE more.t (id INTEGER)", "CREATE TABLE t (id INTEGER)", "INSERT INTO more.t VALUES (1)"
    )
    async with database.source() as source:
        assert {each.known_as for each in await source.discover()} == {StreamName("t"), StreamName("t", "more")}
    async with database.source(include=["more.*"]) as source:
        assert {each.known_as for each in await source.discover()} == {StreamName("t", "more")}


async def test_a_file_that_another_program_writes_is_waited_for_and_its_holder_is_named(database: Database) -> None:
    await database.run("CREATE TABLE t AS SELECT 1 AS id")
    script = "import duckdb, sys; link = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script, database.document["path"]]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdin is not None
        assert writer.stdout.readline() == "open\n"
        with pytest.raises(Transient, match=rf"written by another program.*process {writer.pid}.*read_copy"):
            await database.streams(lock_timeout=0)
        async with database.source(lock_timeout=0) as source:
            assert "written by another program" in (await source.check()).message
        waiting = asyncio.create_task(database.streams(lock_timeout=60))
        writer.stdin.close()
        assert set(await waiting) == {"t"}


async def test_the_file_is_free_once_the_source_is_closed_and_a_read_changes_nothing(database: Database) -> None:
    await database.run("CREATE TABLE t AS SELECT range AS id FROM range(100000)")
    before = Path(database.document["path"]).read_bytes()
    messages = await database.read(full=True, table="t", most=2)
    assert isinstance(messages[1], Rows)
    assert Path(database.document["path"]).read_bytes() == before
    await database.run("INSERT INTO t VALUES (-1)")
    assert len(ids(await database.read(full=True, table="t"))) == 100_001


async def test_a_cancelled_read_ends_what_duckdb_does(database: Database) -> None:
    await database.run(
        "CREATE VIEW slow AS SELECT count(*) AS id FROM range(1000000000) AS a, range(1000000) AS b WHERE a.range * b.range % 7 = 3"
    )
    reading = asyncio.create_task(database.read(full=True, table="slow"))
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    await database.run("CREATE TABLE free (id INTEGER)")


@pytest.mark.parametrize(
    ("native", "nested"),
    [
        ("INTEGER[][3]", "INTEGER[][3]"),
        ("ENUM('[', 'a')[]", "VARCHAR[]"),
        ('STRUCT(a INTEGER, "x y" MAP(VARCHAR, HUGEINT))', 'STRUCT("a" INTEGER, "x y" MAP(VARCHAR, VARCHAR))'),
        ("VARCHAR", None),
    ],
)
def test_a_nested_type_is_rewritten_part_by_part(native: str, nested: str | None) -> None:
    assert nested_of(native) == nested
