"""Rows and changes out of PostgreSQL by the connector `postgres`: `python -m bench.syncs.postgres_source`.

A server of its own on this machine, synced to disk as in production. Narrow rows: a number, a text, a double, a boolean, a time. Beside the
source stands a bare `COPY … TO STDOUT`, whose bytes are thrown away, in the same run; and a bare pipe of COPY into another table, which a
sync into Postgres is measured by. Changes: how many a second are read that wait in the log, of small transactions and of one large;
and how long a change takes from its commit to the reader, while another process commits at a steady rate.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import asyncpg
import uvloop

from connector_runner import registry
from connector_runner.contract import Checkpoint, Environment, Rows, Selected, Source, StreamName
from tests.support.postgres import PostgresServer

TABLE = "CREATE TABLE {} (id bigint PRIMARY KEY, name text, amount double precision, ok boolean, at timestamptz)"
FILL = "INSERT INTO {} SELECT i, 'user ' || i, i / 7.0, i % 2 = 0, now() + i * interval '1 s' FROM generate_series({}, {}) i"


async def opened(dsn: str, **options: Any) -> tuple[Source, list[Selected]]:
    """Returns a connector and its one stream, selected."""
    plugin, parsed = registry.parse_options("bench", {"type": "postgres", "dsn": dsn, **options})
    folder = Path(tempfile.gettempdir())
    source = await plugin.open_source("bench", parsed, Environment(folder, folder, lambda _: None))
    streams = await source.discover()
    mode = "incremental" if options.get("method") == "cdc" else "full_refresh"
    return source, [Selected(each, mode, each.cursor, each.primary_key) for each in streams]  # type: ignore[arg-type]


async def drained(source: Source, selected: list[Selected], states: dict[StreamName | None, bytes]) -> tuple[int, float]:
    """Reads to the end; returns rows and seconds, and puts the newest states into `states`."""
    began, rows = time.perf_counter(), 0
    async with aclosing(source.read(selected, dict(states))) as messages:
        async for message in messages:
            if isinstance(message, Rows):
                rows += len(message.rows)
            elif isinstance(message, Checkpoint):
                states[message.stream] = message.state
    return rows, time.perf_counter() - began


async def bare_copy(dsn: str) -> float:
    """Returns the seconds of a COPY whose bytes are thrown away."""
    driver = await asyncpg.connect(dsn)

    async def forget(data: bytes) -> None:
        del data

    began = time.perf_counter()
    await driver.copy_from_query("SELECT * FROM narrow", output=forget, format="csv")
    seconds = time.perf_counter() - began
    await driver.close()
    return seconds


async def bare_pipe(dsn: str) -> float:
    """Returns the seconds of a COPY into another table with a primary key, through this process."""
    out, into = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    await into.execute("DROP TABLE IF EXISTS target; " + TABLE.format("target"))
    blocks: asyncio.Queue[bytes | None] = asyncio.Queue(4)

    async def given() -> Any:
        while (block := await blocks.get()) is not None:
            yield block

    async def read() -> None:
        await out.copy_from_query("SELECT * FROM narrow", output=blocks.put, format="binary")
        await blocks.put(None)

    began = time.perf_counter()
    await asyncio.gather(read(), into.copy_to_table("target", source=given(), format="binary"))
    seconds = time.perf_counter() - began
    await out.close()
    await into.execute("DROP TABLE target")
    await into.close()
    return seconds


def writer(dsn: str, a_second: int, seconds: float) -> None:
    """Commits at a steady rate; each row says when."""

    async def write() -> None:
        driver = await asyncpg.connect(dsn)
        insert = await driver.prepare("INSERT INTO moments VALUES ($1, clock_timestamp())")
        began = time.monotonic()
        for number in range(int(a_second * seconds)):
            await asyncio.sleep(max(0.0, began + number / a_second - time.monotonic()))
            await insert.fetch(number)
        await driver.close()

    uvloop.run(write())


async def latencies(dsn: str, a_second: int, seconds: float) -> list[float]:
    """Returns the milliseconds from each commit to the reader, sorted."""
    driver = await asyncpg.connect(dsn)
    await driver.execute("CREATE TABLE moments (id bigint PRIMARY KEY, at timestamptz)")
    source, selected = await opened(dsn, method="cdc", tables=["moments"], follow="1h", slot="bench_moments")
    found: list[float] = []
    process = multiprocessing.get_context("spawn").Process(target=writer, args=(dsn, a_second, seconds))
    async with aclosing(source.read(selected, {})) as messages:
        async for message in messages:
            if isinstance(message, Checkpoint) and not process.pid:
                process.start()
            if isinstance(message, Rows):
                now = time.time()
                found += [(now - at.timestamp()) * 1000 for at in message.rows["at"].to_pylist()]
                if len(found) >= int(a_second * seconds):
                    break
    process.join()
    await source.cleanup()  # type: ignore[attr-defined]
    await source.close()
    await driver.close()
    return sorted(found)


async def changes(dsn: str, transactions: int, large: int) -> Mapping[str, float]:
    """Returns changes a second that wait in the log, by kind of transaction."""
    driver = await asyncpg.connect(dsn)
    await driver.execute(TABLE.format("changed"))
    source, selected = await opened(dsn, method="cdc", tables=["changed"], slot="bench_changed")
    states: dict[StreamName | None, bytes] = {}
    await drained(source, selected, states)
    await driver.execute("SET synchronous_commit = off")
    await driver.execute(
        f"DO $$ BEGIN FOR i IN 1..{transactions} LOOP INSERT INTO changed VALUES (i, 'user ' || i, i / 7.0, true, now()); COMMIT; END LOOP; END $$"
    )
    await driver.execute("SET synchronous_commit = on; INSERT INTO changed VALUES (0)")
    small, seconds = await drained(source, selected, states)
    found = {"one row a transaction": small / seconds}
    await driver.execute(FILL.format("changed", transactions + 1, transactions + large))
    rows, seconds = await drained(source, selected, states)
    found["one large transaction of inserts"] = rows / seconds
    await driver.execute(f"UPDATE changed SET amount = 0 WHERE id <= {large}")
    rows, seconds = await drained(source, selected, states)
    found["one large transaction of updates"] = rows / seconds
    await source.cleanup()  # type: ignore[attr-defined]
    await source.close()
    await driver.close()
    return found


async def measure(dsn: str, arguments: argparse.Namespace) -> None:
    """Measures everything and prints it."""
    driver = await asyncpg.connect(dsn)
    await driver.execute(f"{TABLE.format('narrow')}; {FILL.format('narrow', 1, arguments.rows)}")
    await driver.execute("VACUUM ANALYZE narrow")
    await driver.close()
    source, selected = await opened(dsn, tables=["narrow"])
    for _ in range(2):
        bare = arguments.rows / await bare_copy(dsn)
        rows, seconds = await drained(source, selected, {})
        print(f"  whole: {rows / seconds:,.0f} rows/s; a bare COPY: {bare:,.0f}; ratio {rows / seconds / bare:.2f}")
    await source.close()
    print(f"  a bare pipe of COPY into a table: {arguments.rows / await bare_pipe(dsn):,.0f} rows/s")
    for what, rate in (await changes(dsn, arguments.changes, arguments.changes * 4)).items():
        print(f"  changes, {what}: {rate:,.0f}/s")
    found = await latencies(dsn, arguments.rate, arguments.seconds)
    middle, late = found[len(found) // 2], found[int(len(found) * 0.99)]
    print(
        f"  from commit to reader at {arguments.rate} changes/s: {middle:.0f} ms in the middle, 99 % within {late:.0f} ms, at most {found[-1]:.0f} ms"
    )
    print(f"  most memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MB")


def main() -> None:
    """Parses the arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--changes", type=int, default=50_000, help="small transactions; four times as many rows in a large one")
    parser.add_argument("--rate", type=int, default=500, help="transactions a second while the log is followed")
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args(sys.argv[1:])
    with PostgresServer(
        durable=True, settings={"wal_level": "logical", "shared_buffers": "512MB", "max_wal_size": "4GB"}
    ) as server:
        uvloop.run(measure(server.dsn(), arguments))


if __name__ == "__main__":
    main()
