"""The destinations alone: Arrow tables into Postgres, MySQL, ClickHouse, DuckDB and S3 through the plug-ins: `python -m bench.loading.destinations`.

Rows have 30 columns and about 800 bytes. For each size of load and way of writing it prints rows/s, CPU microseconds a row of this
process and of the server, and the ratio of its rate to a ceiling measured just before with the same rows: for Postgres a bare COPY of
bytes encoded beforehand, into a table without an index; for MySQL (MariaDB) a bare LOAD DATA LOCAL of such text; for
ClickHouse a bare INSERT of an Arrow stream that is ready, into the same table; for
DuckDB a bare INSERT from Arrow on a connection that stays open. Durable servers: fsync is on. At the end, loads of 30 rows, as a stream
makes them. For S3 the ceiling is pyarrow, which writes the same Parquet to the same server; the two take turns, load by load.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import psutil
import pyarrow as pa

from bench import history
from loader import registry
from loader.contract.warehouse import Column, Environment, Kind, LoadPlan, Session, TableLoad, TablePatch
from loader.types.lattice import ARROW
from shared.threads import ThreadGate
from tests.support.clickhouse import ClickHouseServer, ask
from tests.support.mysql import MySQLServer
from tests.support.postgres import PostgresServer
from tests.support.s3 import S3Server, moto_server

SHAPE = {
    "message_id": Kind.TEXT,
    **{f"text_{number}": Kind.TEXT for number in range(17)},
    **{f"int_{number}": Kind.BIGINT for number in range(4)},
    **{f"double_{number}": Kind.DOUBLE for number in range(3)},
    "context": Kind.JSON,
    "received_at": Kind.TIMESTAMP,
    "sent_at": Kind.TIMESTAMP,
    "timestamp": Kind.TIMESTAMP,
    "is_new": Kind.BOOLEAN,
}
CHUNKS = (10_000, 50_000, 100_000)
TYPES = ("postgres", "mysql", "clickhouse", "duckdb", "s3")


class Server(Protocol):
    """A database server whose CPU counts."""

    def processes(self) -> list[psutil.Process]:
        """Returns its processes."""
        ...


@dataclass(frozen=True, slots=True)
class Cost:
    """What some work took: wall seconds, CPU seconds of this process and of the server."""

    seconds: float
    client: float
    server: float


def make_rows(count: int, first: int = 0) -> pa.Table:
    """Returns rows with ids of their own."""
    chance = random.Random(first)
    times = pa.array([1_767_225_600_000_000 + (first + number) * 1000 for number in range(count)], pa.timestamp("us", "UTC"))
    columns: dict[str, Any] = {}
    for name, kind in SHAPE.items():
        if name == "message_id":
            columns[name] = [str(uuid.UUID(int=chance.getrandbits(128), version=4)) for _ in range(count)]
        elif kind is Kind.TEXT:
            columns[name] = [f"{name} of visitor {number % 997} {'x' * 8}" for number in range(count)]
        elif kind is Kind.BIGINT:
            columns[name] = [number * 31 for number in range(count)]
        elif kind is Kind.DOUBLE:
            columns[name] = [number * 0.37 for number in range(count)]
        elif kind is Kind.JSON:
            columns[name] = [f'{{"page":{{"path":"/item/{number}"}},"tags":[1,2,3]}}' for number in range(count)]
        elif kind is Kind.TIMESTAMP:
            columns[name] = times
        else:
            columns[name] = [number % 2 == 0 for number in range(count)]
    return pa.table({name: pa.array(values, ARROW[SHAPE[name]]) for name, values in columns.items()})


async def measure(work: Callable[[], Awaitable[object]], server: Server | None) -> Cost:
    """Runs work and returns what it took."""
    server_before, client_before, started = _server_cpu(server), time.process_time(), time.perf_counter()
    await work()
    seconds = time.perf_counter() - started
    return Cost(seconds, time.process_time() - client_before, _server_cpu(server) - server_before)


def print_line(title: str, rows: int, cost: Cost, ceiling: Cost | None) -> None:
    """Prints one result."""
    ratio = "" if ceiling is None else f"  ratio {ceiling.seconds / cost.seconds:4.2f}"
    server = f"  server {cost.server / rows * 1e6:5.1f}" if cost.server else ""
    print(
        f"  {title:34} {rows / cost.seconds:9,.0f} rows/s  client {cost.client / rows * 1e6:5.1f}{server} µs/row{ratio}",
        flush=True,
    )


async def run(
    document: dict[str, Any], server: Server | None, rows: int, bare: Callable[[Sequence[pa.Table]], Awaitable[Cost]]
) -> None:
    """Measures one destination at every size of load."""
    gate = ThreadGate(2)
    destination = await registry.open_destination("wh", document, Environment(gate))
    session = await destination.open_session("bench", 1)
    columns = tuple(Column(name, kind) for name, kind in SHAPE.items())
    sequence = 0
    for chunk in CHUNKS:
        count = max(1, rows // chunk)
        batches = [make_rows(chunk, number * chunk) for number in range(count)]
        print(f"{document['type']}, {count} loads of {chunk:,} rows, {batches[0].nbytes / chunk:.0f} bytes a row")
        ceiling = await bare(batches)
        print_line("bare", count * chunk, ceiling, None)
        for title, write, key in (
            ("append", "append", None),
            ("merge, all new", "merge", ("message_id",)),
            ("merge, all repeats", "merge", ("message_id",)),
        ):
            table = f"{write}_{chunk}"
            await session.patch(TablePatch(table, columns, primary_key=key, cursor="received_at" if key else None))

            async def load(table: str = table, write: Any = write, batches: Sequence[pa.Table] = batches) -> None:
                nonlocal sequence
                for batch in batches:
                    sequence += 1
                    await _load(session, sequence, table, batch, write)

            cost = await measure(load, server)
            print_line(title, count * chunk, cost, ceiling)
            case = f"{document['type']}, {title}, loads of {chunk:,}" + (
                f", linger {document['linger']}" if "linger" in document else ""
            )
            history.keep("destinations", case, {"rate of the ceiling": ceiling.seconds / cost.seconds})
    print(f"{document['type']}, loads of 30 rows one after the other")
    for write in ("append", "merge"):
        batches = [make_rows(30, 10_000_000 + number) for number in range(100)]
        took: list[float] = []
        cpu = time.process_time()
        for batch in batches:
            sequence += 1
            started = time.perf_counter()
            await _load(session, sequence, f"{write}_{CHUNKS[0]}", batch, write)
            took.append(time.perf_counter() - started)
        took.sort()
        busy = (time.process_time() - cpu) / len(batches)
        print(
            f"  {write:34} p50 {took[50] * 1e3:5.1f} ms  p99 {took[98] * 1e3:5.1f} ms  client {busy * 1e3:4.1f} ms CPU a load",
            flush=True,
        )
    await session.close()
    await destination.close()
    gate.close()


@asynccontextmanager
async def bare_postgres(server: PostgresServer) -> AsyncIterator[Callable[[Sequence[pa.Table]], Awaitable[Cost]]]:
    """Yields the ceiling: COPY of bytes that are ready."""
    import asyncpg

    from loader.warehouses.postgres.bulk import encode
    from loader.warehouses.postgres.types import TYPES

    documents = [name for name, kind in SHAPE.items() if kind is Kind.JSON]
    link = await asyncpg.connect(server.dsn())
    ddl = ", ".join(f'"{name}" {TYPES.natives[kind]}' for name, kind in SHAPE.items())

    async def bare(batches: Sequence[pa.Table]) -> Cost:
        ready = [list(encode(batch, documents)) for batch in batches]
        await link.execute(f"DROP TABLE IF EXISTS bare; CREATE TABLE bare ({ddl})")

        async def copy() -> None:
            for chunks in ready:
                await link.copy_to_table("bare", source=_each(chunks), format="binary", columns=list(SHAPE))

        return await measure(copy, server)

    yield bare
    await link.close()


@asynccontextmanager
async def bare_mysql(server: MySQLServer) -> AsyncIterator[Callable[[Sequence[pa.Table]], Awaitable[Cost]]]:
    """Yields the ceiling: LOAD DATA LOCAL of text that is ready."""
    from loader.warehouses.mysql.connect import Options, connect
    from loader.warehouses.mysql.dialect import SQL
    from loader.warehouses.mysql.encode import FORMAT, encode

    link = await connect(Options(dsn=server.dsn()), "bench")
    ddl = ", ".join(f"`{name}` {SQL.types.natives[kind]}" for name, kind in SHAPE.items())

    async def bare(batches: Sequence[pa.Table]) -> Cost:
        ready = [[bytes(chunk) for chunk in encode(batch)] for batch in batches]
        await link.run("DROP TABLE IF EXISTS bare")
        await link.run(f"CREATE TABLE bare ({ddl}) ENGINE = InnoDB")

        async def load() -> None:
            for chunks in ready:
                await link.load_local(f"LOAD DATA LOCAL INFILE {{name}} INTO TABLE bare {FORMAT}", chunks, _nothing, _nothing)

        return await measure(load, server)

    yield bare
    link.close()


@asynccontextmanager
async def bare_duckdb(folder: Path) -> AsyncIterator[Callable[[Sequence[pa.Table]], Awaitable[Cost]]]:
    """Yields the ceiling: INSERT from Arrow on a connection that stays open."""
    import duckdb

    from loader.warehouses.duckdb.types import TYPES

    ddl = ", ".join(f'"{name}" {TYPES.natives[kind]}' for name, kind in SHAPE.items())
    with duckdb.connect(str(folder / "bare.duckdb")) as link:
        link.execute("SET threads = 1")

        async def bare(batches: Sequence[pa.Table]) -> Cost:
            link.execute(f"DROP TABLE IF EXISTS bare; CREATE TABLE bare ({ddl})")

            async def insert() -> None:
                for batch in batches:
                    link.register("batch", batch)
                    link.execute("INSERT INTO bare SELECT * FROM batch")
                    link.unregister("batch")

            return await measure(insert, None)

        yield bare


async def run_s3(server: S3Server, rows: int) -> None:
    """Measures Parquet in a bucket beside pyarrow, in turns."""
    from pyarrow import fs, parquet

    bucket = server.new_bucket()
    gate = ThreadGate(2)
    destination = await registry.open_destination("wh", server.document(bucket), Environment(gate))
    session = await destination.open_session("bench", 1)
    address = server.url.removeprefix("http://")
    files = fs.S3FileSystem(access_key=server.key, secret_key=server.secret, endpoint_override=address, scheme="http")

    async def bare(number: int, batch: pa.Table) -> None:
        await gate.run(parquet.write_table, batch, f"{bucket}/bare/{number}.parquet", filesystem=files, compression="zstd")

    async def ours(number: int, batch: pa.Table) -> None:
        await _load(session, number, "ours", batch, "append")

    for chunk in CHUNKS:
        spent: dict[str, list[Cost]] = {"bare": [], "append": []}
        count = max(2, rows // chunk)
        for number in range(count):
            batch = make_rows(chunk, number * chunk)
            for title, work in (("bare", bare), ("append", ours)) if number % 2 else (("append", ours), ("bare", bare)):
                spent[title].append(await measure(partial(work, chunk + number, batch), None))
        print(f"s3, {count} loads of {chunk:,} rows, {batch.nbytes / chunk:.0f} bytes a row")
        ceiling, cost = (Cost(sum(one.seconds for one in costs), sum(one.client for one in costs), 0) for costs in spent.values())
        print_line("bare", count * chunk, ceiling, None)
        print_line("append", count * chunk, cost, ceiling)
    await session.close()
    await destination.close()
    gate.close()


@asynccontextmanager
async def bare_clickhouse(server: ClickHouseServer) -> AsyncIterator[Callable[[Sequence[pa.Table]], Awaitable[Cost]]]:
    """Yields the ceiling: INSERT of an Arrow stream that is ready, into the same table, as one block, synced."""
    from loader.warehouses.clickhouse.inserts import ONE_BLOCK
    from loader.warehouses.clickhouse.types import NATIVES

    ddl = ", ".join(f"{name} Nullable({NATIVES[kind]})" for name, kind in SHAPE.items())
    table = (
        f"CREATE TABLE bare ({ddl}) ENGINE = MergeTree PARTITION BY toYYYYMM(received_at) ORDER BY (received_at, message_id)"
        " SETTINGS allow_nullable_key = 1, fsync_after_insert = 1, fsync_part_directory = 1"
    )

    async def bare(batches: Sequence[pa.Table]) -> Cost:
        ready = [_stream(batch) for batch in batches]
        ask(server.place, "DROP TABLE IF EXISTS bare SYNC")
        ask(server.place, table)

        async def insert() -> None:
            for body in ready:
                await asyncio.to_thread(ask, server.place, "INSERT INTO bare FORMAT ArrowStream\n", body, **ONE_BLOCK)

        return await measure(insert, server)

    yield bare


def _stream(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(rows, max_chunksize=8192)
    stream: bytes = sink.getvalue().to_pybytes()
    return stream


async def main(rows: int, types: Sequence[str]) -> None:
    """Measures the destinations named."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        folder = Path(name)
        if "postgres" in types:
            with PostgresServer(durable=True) as server:
                async with bare_postgres(server) as bare:
                    await run({"type": "postgres", "dsn": server.dsn()}, server, rows, bare)
        if "mysql" in types:
            with MySQLServer(durable=True) as mysql:
                async with bare_mysql(mysql) as bare:
                    await run({"type": "mysql", "dsn": mysql.dsn()}, mysql, rows, bare)
        if "clickhouse" in types:
            with ClickHouseServer() as engine:
                place = engine.place
                login = {"url": place.url, "user": place.user, "password": place.password}
                async with bare_clickhouse(engine) as bare:
                    await run({"type": "clickhouse", **login}, engine, rows, bare)
        if "duckdb" in types:
            async with bare_duckdb(folder) as bare:
                for linger in (0.2, 0):
                    print(f"linger {linger}")
                    path = folder / f"linger-{linger}.duckdb"
                    await run({"type": "duckdb", "path": str(path), "linger": linger}, None, rows, bare)
        if "s3" in types:
            with moto_server() as store:
                await run_s3(store, rows)


async def _load(session: Session, sequence: int, table: str, batch: pa.Table, write: Any) -> None:
    key, cursor = (("message_id",), "received_at") if write == "merge" else ((), None)
    await session.load(LoadPlan("bench", "live", sequence, sequence), [TableLoad(table, batch, write, key, cursor)])


async def _each(chunks: Sequence[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def _nothing() -> None:
    """Hears that rows moved."""


def _server_cpu(server: Server | None) -> float:
    used = 0.0
    for process in server.processes() if server is not None else ():
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        used += times.user + times.system
    return used


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=300_000, help="rows for each size and way of writing")
    parser.add_argument("--type", action="append", choices=TYPES, help="only this destination")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.rows, arguments.type or TYPES))
