"""The ways to write rows of syncs, into tables that grow: `python -m bench.syncs.writes mysql|postgres|duckdb|clickhouse`.

Narrow rows in loads of `--load` rows, as a sync brings them: first all keys are new until `--rows` are there, then all come again with
newer values. For each way it prints rows/s of the first and of the last load of both halves: where the last is much slower than the
first, a statement costs more with each row that is there. History goes by a time, and without any cursor (`history, by arrival`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from loader import registry
from loader.contract.warehouse import Column, Environment, Kind, LoadPlan, Session, TableLoad, TablePatch
from loader.contract.writes import CURRENT, VALID_FROM, VALID_TO
from shared.threads import ThreadGate
from tests.support.clickhouse import ClickHouseServer
from tests.support.mysql import MySQLServer
from tests.support.postgres import PostgresServer

STARTED = 1_767_225_600_000_000
SHAPE = {
    "id": Kind.BIGINT,
    "name": Kind.TEXT,
    "amount": Kind.DOUBLE,
    "version": Kind.BIGINT,
    "ok": Kind.BOOLEAN,
    "at": Kind.TIMESTAMP,
    "gone": Kind.TIMESTAMP,
}
OWN = {VALID_FROM: Kind.TIMESTAMP, VALID_TO: Kind.TIMESTAMP, CURRENT: Kind.BOOLEAN}


class Way(NamedTuple):
    """A way to write. `write`: as `TableLoad`."""

    write: Any
    cursor: str | None = "at"
    deleted: str | None = None


WAYS = {
    "merge": Way("merge"),
    "merge with deletions": Way("merge", deleted="gone"),
    "insert_only": Way("insert_only", cursor=None),
    "history": Way("history"),
    "history, by arrival": Way("history", cursor=None),
    "history, by a number": Way("history", cursor="version"),
}


def rows_of(first: int, count: int, version: int, *, text: bool) -> pa.Table:
    """Returns rows; of a later version each tenth is a deletion."""
    numbers = range(first, first + count)
    times = [STARTED + version * 86_400_000_000 + number for number in numbers]
    return pa.table(
        {
            "id": pa.array([f"key-{number:010d}" for number in numbers]) if text else pa.array(numbers, pa.int64()),
            "name": [f"user {number} {version}" for number in numbers],
            "amount": [number / 7 for number in numbers],
            "version": [version * 2 + number % 2 for number in numbers],
            "ok": [number % 2 == 0 for number in numbers],
            "at": pa.array(times, pa.timestamp("us", "UTC")),
            "gone": pa.array(
                [at if version and number % 10 == 0 else None for at, number in zip(times, numbers, strict=True)],
                pa.timestamp("us", "UTC"),
            ),
        }
    )


@contextlib.contextmanager
def opened(type_: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Yields a destination's part of the project file, running."""
    match type_:
        case "postgres":
            with PostgresServer(settings={"shared_buffers": "512MB", "max_wal_size": "4GB"}) as postgres:
                yield {"type": "postgres", "dsn": postgres.dsn()}
        case "mysql":
            with MySQLServer() as mysql:
                yield {"type": "mysql", "dsn": mysql.dsn()}
        case "clickhouse":
            with ClickHouseServer() as clickhouse:
                yield {
                    "type": "clickhouse",
                    "url": clickhouse.place.url,
                    "user": clickhouse.place.user,
                    "password": clickhouse.place.password,
                }
        case _:
            yield {"type": "duckdb", "path": str(folder / "warehouse.duckdb")}


async def written(session: Session, name: str, way: Way, arguments: argparse.Namespace, first: int) -> int:
    """Measures one way; `first`: the number of its first load. Returns that of the next."""
    table, sequence = f"t{first}", first
    shape = {**SHAPE, "id": Kind.TEXT if arguments.text else Kind.BIGINT, **(OWN if way.write == "history" else {})}
    key: Sequence[str] = ("id", VALID_FROM) if way.write == "history" else ("id",)
    await session.patch(
        TablePatch(
            table,
            add=tuple(Column(each, kind) for each, kind in shape.items()),
            primary_key=tuple(key),
            cursor=way.cursor,
            deletes=way.deleted is not None,
            history=way.write == "history",
        )
    )
    for version, what in enumerate(("new keys", "newer rows")):
        rates: list[float] = []
        for start in range(0, arguments.rows, arguments.load):
            rows = rows_of(start, arguments.load, version, text=arguments.text)
            load = TableLoad(
                table=table,
                rows=rows,
                write=way.write,
                key=("id",),
                cursor=way.cursor,
                deleted=way.deleted,
                at=datetime.now(UTC) if way.write == "history" else None,
            )
            began = time.perf_counter()
            await session.load(LoadPlan("bench", "lane", sequence, sequence), [load])
            rates.append(arguments.load / (time.perf_counter() - began))
            sequence += 1
        print(f"  {name}, {what}: {rates[0]:,.0f} rows/s at first, {rates[-1]:,.0f} at last, least {min(rates):,.0f}", flush=True)
    return sequence


async def run(document: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Measures one destination."""
    gate = ThreadGate(2)
    destination = await registry.open_destination("wh", document, Environment(gate))
    session = await destination.open_session("bench", 1)
    can, sequence = destination.capabilities, 1
    for name, way in WAYS.items():
        if arguments.way and name not in arguments.way:
            continue
        if (way.write == "history" and not can.history) or (way.deleted and not can.deletes):
            print(f"  {name}: left out, {document['type']} cannot")
            continue
        sequence = await written(session, name, way, arguments, sequence)
    await session.close()
    await destination.close()
    gate.close()


def main() -> None:
    """Parses the arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("type", choices=["postgres", "mysql", "clickhouse", "duckdb"])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--load", type=int, default=100_000)
    parser.add_argument("--way", action="append", choices=list(WAYS), help="only this one; may be given several times")
    parser.add_argument("--text", action="store_true", help="the key is a text")
    arguments = parser.parse_args(sys.argv[1:])
    with tempfile.TemporaryDirectory() as name, opened(arguments.type, Path(name)) as document:
        print(f"{arguments.type}, {arguments.rows:,} rows in loads of {arguments.load:,}")
        asyncio.run(run(document, arguments))


if __name__ == "__main__":
    main()
