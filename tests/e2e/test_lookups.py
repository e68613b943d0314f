"""Lookups under load: tables that are replaced, broken and mended while frames pass, from a file, Postgres, and MySQL, DuckDB beside."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import asyncpg
import duckdb
import pytest

from functions_runtime.definition import Definition
from functions_runtime.lookups.source import Source
from functions_runtime.lookups.tables import Tables, read
from functions_runtime.rules.packing import finish, prepare
from functions_runtime.sandbox import wire
from functions_runtime.sandbox.batch import Fate
from shared.errors import NotConnected, SetupError
from shared.events.frame import Frame, Head, RequestContext, pack
from shared.project.lookups import Lookup, LookupUse
from shared.project.model import Connection
from shared.reading.units import Duration
from shared.telemetry.health import Health

ROWS = 50
OFTEN = Duration(0.01)


@pytest.fixture
async def tables() -> AsyncIterator[Tables]:
    context: Any = SimpleNamespace(health=Health(), telemetry=MagicMock())
    context.health.good("service")
    made = Tables(context)
    yield made
    await made.close()


def write(file: Path, version: int) -> None:
    replace(file, "sku,version\n" + "".join(f"k{number},{version}\n" for number in range(ROWS)))


def replace(file: Path, text: str) -> None:
    aside = file.with_suffix(".part")
    aside.write_text(text)
    aside.rename(file)


def definition(**lookups: Source) -> Definition:
    uses = [LookupUse(table=name, key="sku", into=name, missing="dead_letter") for name in lookups]
    connection = Connection(site="shop", destination="wh", lookups=uses)
    return Definition("c", "c", connection, (), "duckdb", lookups)


def frame_of(first: int) -> Frame:
    ids = range(first, first + ROWS + 1)
    heads = [Head(f"m{number}", "track", "Order") for number in ids]
    bodies = [json.dumps({"messageId": f"m{number}", "sku": f"k{number - first}"}).encode() for number in ids]
    return pack("shop", [RequestContext(1_767_225_600_000_000, "segment", "web")], heads, bodies)


async def test_frames_see_whole_tables_of_a_file_and_of_postgres_while_both_are_replaced_broken_and_mended(
    tables: Tables, postgres_dsn: str, tmp_path: Path
) -> None:
    file = tmp_path / "products.csv"
    pool = await asyncpg.connect(postgres_dsn)
    await pool.execute("DROP TABLE IF EXISTS lookup_products; CREATE TABLE lookup_products (sku text, version int)")
    await pool.execute("INSERT INTO lookup_products SELECT 'k' || n, 0 FROM generate_series(0, $1 - 1) n", ROWS)
    wanted = definition(
        file=Source("file", Lookup(file=str(file), key="sku", every=OFTEN), {}),
        sql=Source(
            "sql",
            Lookup(destination="wh", table="lookup_products", key="sku", every=OFTEN),
            {"type": "postgres", "dsn": postgres_dsn},
        ),
    )
    with pytest.raises(SetupError, match=r'lookup "file": .*products.csv cannot be read'):
        await tables.join("c", wanted)
    write(file, 0)
    health = tables._context.health
    sent: set[str] = set()
    loaded: set[str] = set()
    dead: set[str] = set()
    seen: dict[str, set[int]] = {"file": set(), "sql": set()}

    async def change() -> None:
        version = 0
        while any(len(versions) < 4 for versions in seen.values()):
            version += 1
            write(file, version)
            await pool.execute("UPDATE lookup_products SET version = $1", version)
            await asyncio.sleep(0.01)

    async def until(said: bool) -> None:
        async with asyncio.timeout(60):
            while (len(health.warnings) == 2) is not said:
                await asyncio.sleep(0.01)

    async def pass_frames(while_: asyncio.Task[None]) -> None:
        while not while_.done():
            try:
                join = await tables.join("c", wanted)
            except (SetupError, NotConnected):
                await asyncio.sleep(0.01)  # as a worker does: the frame waits
                continue
            frame = frame_of(len(sent))
            sent.update(head.message_id for head in frame.heads)
            made = prepare(frame, None, join=join)
            finished = finish(made, [Fate(wire.SAME)] * len(made.given))
            dead.update(frame.heads[letter.index].message_id for letter in finished.letters)
            events = [json.loads(body) for body in finished.frame.bodies()]
            loaded.update(event["messageId"] for event in events)
            for name, versions in seen.items():
                (version,) = {event[name]["version"] for event in events}  # never half of one table and half of another
                versions.add(version)
            await asyncio.sleep(0)

    async with asyncio.timeout(60):
        await pass_frames(asyncio.create_task(change()))

    replace(file, "sku\nbroken,twice\n")
    await pool.execute("ALTER TABLE lookup_products RENAME TO lookup_away")
    await pass_frames(asyncio.create_task(until(True)))
    warned = health.report()
    assert warned.ready
    assert "line 2 has 2 fields" in warned.warnings["lookup file"]
    assert f"({ROWS} rows) stays in force" in warned.warnings["lookup file"]
    assert "lookup_products" in warned.warnings["lookup sql"]

    await pool.execute("ALTER TABLE lookup_away RENAME TO lookup_products; UPDATE lookup_products SET version = 99")
    write(file, 99)
    await pass_frames(asyncio.create_task(until(False)))
    async with asyncio.timeout(60):
        while not all(99 in versions for versions in seen.values()):
            await pass_frames(asyncio.create_task(asyncio.sleep(0.02)))
    assert loaded | dead == sent
    assert not loaded & dead
    assert len(dead) * (ROWS + 1) == len(sent), "the last key of each frame has no row"
    await pool.execute("DROP TABLE lookup_products")
    await pool.close()
    tables.leave("c")
    assert not tables._kept


async def test_mysql_and_duckdb_give_the_rows_of_a_table_and_of_a_query_and_their_own_words(
    mysql_dsn: str, tmp_path: Path
) -> None:
    path = tmp_path / "wh.duckdb"
    with duckdb.connect(str(path)) as link:
        link.execute("CREATE TABLE t AS SELECT 7 AS sku, 1.5::DECIMAL(9,2) AS price, DATE '2026-01-02' AS day")
    place: dict[str, Any] = {"type": "duckdb", "path": str(path), "threads": 1}
    found, _ = await read(Source("p", Lookup(destination="wh", table="t", key="sku"), place))
    assert found is not None
    assert found.find("7") == {"sku": 7, "price": 1.5, "day": "2026-01-02"}
    with pytest.raises(SetupError, match="nope"):
        await read(Source("p", Lookup(destination="wh", table="nope", key="sku"), place))
    place = {"type": "mysql", "dsn": mysql_dsn}
    query = "SELECT 'A' AS sku, 2 AS n UNION ALL SELECT 'B', NULL"
    found, _ = await read(Source("p", Lookup(connector="shop", query=query, key="sku"), place))
    assert found is not None
    assert [found.find(key) for key in "AB"] == [{"sku": "A", "n": 2}, {"sku": "B", "n": None}]
    with pytest.raises(SetupError, match="more than 1 rows"):
        await read(Source("p", Lookup(connector="shop", query=query, key="sku", max_rows=1), place))
    with pytest.raises(SetupError, match="nope"):
        await read(Source("p", Lookup(connector="shop", table="nope", key="sku"), place))
    for query in ("SELECT 1 AS sku; CREATE TABLE made_by_lookup (a int)", "SET SESSION TRANSACTION READ WRITE; SELECT 1 AS sku"):
        with pytest.raises(SetupError, match=r"(?i)syntax"):
            await read(Source("p", Lookup(connector="shop", query=query, key="sku"), place))
    with pytest.raises(SetupError, match="writes a file"):
        await read(Source("p", Lookup(connector="shop", query="SELECT 1 INTO OUTFILE '/tmp/penstock-lookup'", key="sku"), place))
    with pytest.raises(SetupError, match=r"(?i)read.only"):
        await read(Source("p", Lookup(connector="shop", query="CREATE TABLE made_by_lookup (a int)", key="sku"), place))
