"""Changes of a PostgreSQL table into another PostgreSQL database, through the real services: `python -m bench.syncs.changes`.

First how many changes a second a run brings that wait in the log: of transactions of one row, of one large transaction of inserts, of
updates. Then how long a change takes from its commit until its row is committed in the destination, while another process commits at a steady rate
and the sync follows the log with a `period` of 100 ms: by the clock of the one server that has both databases (`track_commit_timestamp`).
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import asyncpg
import uvloop

from bench.kit.stack import Stack
from bench.kit.sync_runs import broker_of, costs, ended, meter, one_run, postgres, project, services, wanted
from bench.whole.path import psql
from tests.support.postgres import PostgresServer

TABLE = "CREATE TABLE changed (id bigint PRIMARY KEY, name text, amount double precision, ok boolean, at timestamptz)"
INSERT = "INSERT INTO changed SELECT i, 'user ' || i, i / 7.0, true, clock_timestamp() FROM generate_series({}, {}) i"
SMALL = "DO $$ BEGIN FOR i IN {}..{} LOOP INSERT INTO changed VALUES (i, 'user ' || i, i / 7.0, true, now()); COMMIT; END LOOP; END $$"
FROM = 100_000_000
"""Numbers of rows whose time is measured begin here."""


def writer(dsn: str, transactions: int, rows: int, seconds: float) -> None:
    """Commits at a steady rate; each row says when it was written."""

    async def write() -> None:
        driver = await asyncpg.connect(dsn)
        insert = await driver.prepare(
            "INSERT INTO changed SELECT i, 'user ' || i, i / 7.0, true, clock_timestamp() FROM generate_series($1::bigint, $2) i"
        )
        began = time.monotonic()
        for number in range(int(transactions * seconds)):
            await asyncio.sleep(max(0.0, began + number / transactions - time.monotonic()))
            await insert.fetch(FROM + number * rows, FROM + number * rows + rows - 1)
        await driver.close()

    uvloop.run(write())


def waiting(server: PostgresServer, running: Stack, arguments: argparse.Namespace) -> None:
    """Measures runs that bring what waits in the log."""
    asyncio.run(one_run(running, 1))  # the copy
    small, large = arguments.changes, arguments.changes * 4
    kinds = {
        "transactions of one row": (SMALL.format(1, small), small),
        "one large transaction of inserts": (INSERT.format(small + 1, small + large), large),
        "one large transaction of updates": (f"UPDATE changed SET amount = 0 WHERE id <= {large}", large),
    }
    for number, (what, (statement, changes)) in enumerate(kinds.items(), 2):
        psql(server, statement)
        with meter(running, server) as found:
            record, seconds = asyncio.run(one_run(running, number))
        if record.rows < changes:
            raise RuntimeError(f"{changes} changes were made, {record.rows} came")
        print(f"  {what}: {changes / seconds:,.0f} changes/s, {seconds:.2f} s; {costs(found, changes)}", flush=True)


async def arrived(running: Stack, server: PostgresServer, number: int, transactions: int, rows: int, seconds: float) -> float:
    """Follows a writer until all its rows are in the destination; returns the seconds behind its end."""
    async with broker_of(running) as broker:
        await wanted(broker)
        process = multiprocessing.get_context("spawn").Process(target=writer, args=(server.dsn(), transactions, rows, seconds))
        await asyncio.sleep(2)  # the run follows then
        process.start()
        target = await asyncpg.connect(server.dsn("target"))
        await asyncio.to_thread(process.join)
        began = time.monotonic()
        while (
            await target.fetchval("SELECT count(*) FROM public.changed WHERE id >= $1", FROM) < int(transactions * seconds) * rows
        ):
            if time.monotonic() - began > 60:
                raise RuntimeError("not all rows came")
            await asyncio.sleep(0.1)
        late = time.monotonic() - began
        await target.close()
        await ended(broker, number)
        return late


def moments(server: PostgresServer) -> str:
    """Returns the time from the write of a row to its commit in the destination."""
    query = (
        "SELECT round(1000 * percentile_cont(p) WITHIN GROUP (ORDER BY extract(epoch FROM pg_xact_commit_timestamp(xmin) - at)))"
        f" FROM public.changed, unnest(ARRAY[0.5, 0.99, 1]) p WHERE id >= {FROM}"
        f" AND at > (SELECT min(at) + interval '1 s' FROM public.changed WHERE id >= {FROM}) GROUP BY p ORDER BY p"
    )
    answer = psql_in(server, query).split()
    return f"{answer[0]} ms in the middle, 99 % within {answer[1]} ms, at most {answer[2]} ms"


def psql_in(server: PostgresServer, query: str) -> str:
    """Returns what a query in the target answers."""

    async def asked() -> str:
        target = await asyncpg.connect(server.dsn("target"))
        try:
            return "\n".join(str(row[0]) for row in await target.fetch(query))
        finally:
            await target.close()

    return asyncio.run(asked())


def main() -> None:
    """Parses the arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--changes", type=int, default=50_000, help="small transactions; four times as many rows in the large ones"
    )
    parser.add_argument("--transactions", type=int, default=200, help="a second, while the log is followed")
    parser.add_argument("--rows", type=int, default=10, help="of a transaction then")
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args(sys.argv[1:])
    with tempfile.TemporaryDirectory() as name, postgres() as server:
        for query in ("CREATE DATABASE target", TABLE, INSERT.format(0, 0)):
            psql(server, query)
        folder = Path(name)
        with services(folder, folder / "cache") as running:
            connector = {"type": "postgres", "dsn": server.dsn(), "method": "cdc", "tables": ["changed"]}
            into = {"type": "postgres", "dsn": server.dsn("target")}
            how = {"streams": {"public.changed": {"mode": "incremental", "write": "merge"}}}
            asyncio.run(running.apply(project(connector, into, **how)))
            waiting(server, running, arguments)
            follow = {**connector, "follow": f"{arguments.seconds + 8:g}s"}
            asyncio.run(running.apply(project(follow, into, period="100ms", **how)))
            with meter(running, server) as found:
                late = asyncio.run(arrived(running, server, 5, arguments.transactions, arguments.rows, arguments.seconds))
            rate, rows = arguments.transactions * arguments.rows, int(arguments.transactions * arguments.seconds) * arguments.rows
            print(f"  at {rate:,} changes/s: {moments(server)}; the last {late:.1f} s behind the writer; {costs(found, rows)}")


if __name__ == "__main__":
    main()
