"""The source `mysql`: every type of the server, long values, rows of many packets, statements that end with their read."""

from __future__ import annotations

import asyncio
import datetime as dt
import struct
from contextlib import aclosing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from connector_runner.contract import Checkpoint, Rows, Selected
from connector_runner.sources.mysql.decode import Packets, table_of
from shared.errors import SetupError, Transient
from tests.support.mysql import MySQLServer, run_sql
from tests.support.sql_sources import CURSOR, TABLE, Database, ids, mysql_database, rows_of

UTC = dt.UTC

TYPES: dict[str, tuple[str, str, Any]] = {
    "tiny": ("tinyint(1)", "2", 2),
    "small": ("smallint unsigned", "65535", 65535),
    "medium": ("mediumint", "-8388608", -8388608),
    "big": ("bigint", "-9223372036854775808", -(2**63)),
    "ubig": ("bigint unsigned", "18446744073709551615", 2**64 - 1),
    "amount": (
        "decimal(65,30)",
        "12345678901234567890123456789012345.000000000000000000000000000001",
        Decimal("12345678901234567890123456789012345.000000000000000000000000000001"),
    ),
    "short_amount": ("decimal(10,2) unsigned", "0.10", Decimal("0.10")),
    "float_": ("float", "16777216", 16777216.0),
    "third": ("float", "0.1", struct.unpack("f", struct.pack("f", 0.1))[0]),
    "double_": ("double", "0.1", 0.1),
    "bits": ("bit(64)", "b'1000000000000000000000000000000000000000000000000000000000000001'", 2**63 + 1),
    "day": ("date", "'9999-12-31'", dt.date(9999, 12, 31)),
    "at": ("datetime(6)", "'1000-01-01 00:00:00.000001'", dt.datetime(1000, 1, 1, microsecond=1)),  # noqa: DTZ001 - it has no zone
    "stamp": ("timestamp(3) null", "'2026-07-01 12:00:00.5'", dt.datetime(2026, 7, 1, 10, 0, 0, 500000, tzinfo=UTC)),
    "clock": ("time(3)", "'-838:59:59'", "-838:59:59.000"),
    "year_": ("year", "2026", 2026),
    "fixed": ("char(4)", "'ab'", "ab"),
    "latin": ("varchar(20) character set latin1", "'Zoë'", "Zoë"),
    "words": ("longtext", "'\\\\ \\' \\t \\n 🙂'", "\\ ' \t \n 🙂"),
    "kind": ("enum('a','b''c')", "'b\\'c'", "b'c"),
    "kinds": ("set('a','b')", "'a,b'", "a,b"),
    "bytes_": ("varbinary(10)", "x'00ff27'", b"\x00\xff'"),
    "blob_": ("longblob", "x'00'", b"\x00"),
    "doc": ("json", "'{\"a\": [1, null]}'", '{"a": [1, null]}'),
    "place": ("point", "point(1, 2)", "POINT(1 2)"),
    "zero_day": ("date", "'0000-00-00'", None),
    "half_day": ("datetime", "'2026-00-10 00:00:00'", None),
    "zero_stamp": ("timestamp null", "0", None),
}


@pytest.fixture
async def database(mysql_dsn: str, tmp_path: Path) -> Database:
    return await mysql_database(mysql_dsn, tmp_path)


async def test_every_type_of_the_server_arrives_whole(database: Database) -> None:
    columns = ", ".join(f"{name} {native}" for name, (native, _, _) in TYPES.items())
    values = ", ".join(value for _, value, _ in TYPES.values())
    await database.run(
        "SET sql_mode = '', time_zone = '+02:00'",
        f"CREATE TABLE every (id int primary key, {columns})",
        f"INSERT INTO every VALUES (1, {values}), (2{', NULL' * len(TYPES)})",
    )
    whole, nulls = rows_of(await database.read(full=True, table="every"))
    assert {name: whole[name] for name in TYPES} == {name: value for name, (_, _, value) in TYPES.items()}
    assert {name: value for name, value in nulls.items() if value is not None} == {"id": 2}
    assert (await database.streams())["every"].json_schema["properties"]["doc"] == {}
    (row, _) = rows_of(await database.read(full=True, table="every", booleans=True))
    assert row["tiny"] is True


@pytest.mark.parametrize(
    ("native", "values"),
    [
        ("bigint unsigned not null", ["0", "18446744073709551614", "18446744073709551615"]),
        ("decimal(65,30)", ["-1.5", "0", "0.000000000000000000000000000001"]),
        ("varchar(20)", ["'a'", "'A'", "'b \\' \\\\'", "'ü'"]),
        ("varbinary(20)", ["x'00'", "x'27'", "x'ff5c'"]),
        ("date", ["'0000-00-00'", "'2026-00-01'", "'2026-01-01'"]),
        ("timestamp null", ["'1970-01-01 00:00:01'", "'2026-01-01'", "'2037-01-01'"]),
        ("year", ["1901", "2000", "2155"]),
    ],
)
async def test_a_column_of_any_sorted_type_can_be_the_cursor(database: Database, native: str, values: list[str]) -> None:
    cursor = database.name(CURSOR)
    rows = ", ".join(f"({id_}, {value})" for id_, value in enumerate(values * 3))
    await database.run(
        "SET sql_mode = ''",
        f"CREATE TABLE {database.name(TABLE)} (id int, {cursor} {native}, UNIQUE KEY (id))",
        f"INSERT INTO {database.name(TABLE)} VALUES {rows}",
    )
    states: dict[Any, bytes] = {}
    first = await database.read(states, page_rows=2)
    assert sorted(ids(first)) == list(range(3 * len(values)))
    assert sum(isinstance(each, Checkpoint) for each in first) > 2
    highest = {row["id"] for row in rows_of(first) if row["id"] % len(values) == len(values) - 1}
    assert highest <= set(ids(await database.read(states))) < set(ids(first))


@pytest.mark.parametrize("native", ["enum('b','a')", "float", "json", "bit(3)"])
async def test_a_type_that_the_server_does_not_compare_as_it_sorts_is_no_cursor(database: Database, native: str) -> None:
    await database.run(f"CREATE TABLE {database.name(TABLE)} (id int, {database.name(CURSOR)} {native})")
    with pytest.raises(SetupError, match="cannot be a cursor; choose one of id"):
        await database.read()


async def test_a_key_of_texts_and_bytes_makes_pages_too(database: Database) -> None:
    await database.run(
        f"CREATE TABLE {database.name(TABLE)} (id int, a varchar(9), b binary(2), {database.name(CURSOR)} int not null, PRIMARY KEY (a, b))",
        f"INSERT INTO {database.name(TABLE)} SELECT seq, concat('\\'', seq % 3), char(seq), 1 FROM seq_1_to_30",
    )
    messages = await database.read({}, page_rows=4)
    assert sorted(ids(messages)) == list(range(1, 31)), "each once"
    assert sum(isinstance(each, Checkpoint) for each in messages) == 8


async def test_values_of_every_length_arrive_and_tables_stay_small(database: Database) -> None:
    lengths = [0, 1, 250, 251, 252, 65535, 65536, 2**24 - 20, 2**24, 2**24 + 5, 3]
    await database.run("SET GLOBAL max_allowed_packet = 67108864", "CREATE TABLE t (id int primary key, v longblob)")
    for id_, length in enumerate(lengths):
        await database.run(f"INSERT INTO t VALUES ({id_}, repeat('x', {length}))")
    messages = await database.read(full=True, table="t")
    assert [len(row["v"]) for row in rows_of(messages)] == lengths
    tables = [each.rows for each in messages if isinstance(each, Rows)]
    assert all(each.nbytes <= 8 * 1024 * 1024 or each.num_rows == 1 for each in tables)


async def test_leaving_a_read_ends_its_statement_on_the_server(database: Database) -> None:
    await database.run(
        "CREATE TABLE t (id int primary key, v varchar(200))", "INSERT INTO t SELECT seq, repeat('x', 200) FROM seq_1_to_200000"
    )
    async with database.source() as source:
        (stream,) = await source.discover()
        async with aclosing(source.read([Selected(stream, "full_refresh")], {})) as messages:
            async for message in messages:
                if isinstance(message, Rows):
                    break
        assert not await running(database)
        assert [each.name for each in await source.discover()] == ["t"], "the source goes on with another link"


async def test_a_read_that_is_cancelled_while_the_server_works_ends_its_statement(database: Database) -> None:
    await database.run(
        "CREATE TABLE t (id int primary key)", "INSERT INTO t VALUES (1)", "CREATE VIEW slow AS SELECT id, sleep(600) FROM t"
    )
    reading = asyncio.create_task(database.read(full=True, table="slow"))
    async with asyncio.timeout(60):
        while not await running(database):
            await asyncio.sleep(0.01)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        while await running(database):
            await asyncio.sleep(0.01)


async def running(database: Database) -> list[Any]:
    name = database.document["dsn"].rpartition("/")[2]
    return await run_sql(
        database.document["dsn"],
        f"SELECT info FROM information_schema.processlist WHERE db = '{name}' AND info NOT LIKE '%processlist%'",
    )


async def test_a_server_that_dies_in_the_middle_is_for_another_try(mysql: MySQLServer, tmp_path: Path) -> None:
    database = await mysql_database(mysql.dsn(), tmp_path)
    await database.run(
        "CREATE TABLE t (id int primary key, v varchar(200))", "INSERT INTO t SELECT seq, repeat('x', 200) FROM seq_1_to_100000"
    )
    async with database.source() as source:
        (stream,) = await source.discover()
        with pytest.raises(Transient):
            async for message in source.read([Selected(stream, "full_refresh")], {}):
                if isinstance(message, Rows):
                    mysql.kill()
    mysql.start()
    assert len(ids(await database.read(full=True, table="t"))) == 100_000


async def test_a_table_that_may_not_be_read_is_named_with_what_to_grant(database: Database) -> None:
    name = database.document["dsn"].rpartition("/")[2]
    user = f"u_{name[-8:]}"
    await database.run(
        "CREATE TABLE mine (id int primary key)",
        "CREATE TABLE other (id int primary key, secret int)",
        f"CREATE USER '{user}'@'127.0.0.1' IDENTIFIED BY 'p@:/?#ß'",
        f"GRANT SELECT ON {name}.mine TO '{user}'@'127.0.0.1'",
    )
    login = {"user": user, "password": "p@:/?#ß"}
    assert set(await database.streams(**login)) == {"mine"}
    streams = await database.streams()
    async with database.source(**login) as source:
        with pytest.raises(SetupError, match="grant SELECT"):
            async for _ in source.read([Selected(streams["other"], "full_refresh")], {}):
                pass


def test_packets_are_cut_wherever_the_bytes_break() -> None:
    rows = [b"\x01a\xfb", b"\x00\x02bc", b"\xfc\x2c\x01" + b"x" * 300 + b"\x01z"]
    wire = b"".join(struct.pack("<I", len(row))[:3] + b"\x00" + row for row in rows)
    fields = [("a", pa.string()), ("b", pa.string())]
    expected = [{"a": "a", "b": None}, {"a": "", "b": "bc"}, {"a": "x" * 300, "b": "z"}]
    for size in range(1, len(wire)):
        packets = Packets()
        for start in range(0, len(wire), size):
            assert not packets.feed(wire[start : start + size])
        assert packets.feed(b"\x05\x00\x00\x00\xfe\x00\x00\x02\x00")
        assert table_of(*packets.take(), fields).to_pylist() == expected
    failed = Packets()
    assert failed.feed(wire + b"\x09\x00\x00\x00\xff\x15\x04#28000x")
    assert failed.failed is not None
    assert failed.held
