"""Change data capture of a database that is written to while everything around it is killed: each destination is right in the end.

Four syncs read one database, each with its own slot: rows that are marked, that go, that have versions, and that are appended.
`PENSTOCK_FAULT_SEED` repeats a schedule, `PENSTOCK_FAULT_ROUNDS` makes it longer.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from shared.jetstream import topology
from shared.jetstream.broker import Broker, connect
from shared.jetstream.kv import Bucket
from shared.syncs.records import RunRecord, newest_run
from tests.support.changes import NAMES, Attacker, rows_by_key
from tests.support.duckdb_file import opened
from tests.support.postgres import PostgresServer
from tests.support.sender import seed_of
from tests.support.stack import Stack, stack

pytestmark = pytest.mark.timeout(600)
PATIENCE_SECONDS = 20.0
SYNCS = {"marked": ("pg", {"write": "merge"}), "gone": ("duck", {"write": "merge", "deletes": "hard"}),
         "versions": ("duck", {"write": "history"}), "log": ("pg", {"write": "append"})}  # fmt: skip


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    settings = {"wal_level": "logical", "max_replication_slots": "10", "max_wal_senders": "10", "max_prepared_transactions": "10"}
    with PostgresServer(durable=False, settings=settings) as made:
        yield made


def project(server: PostgresServer, folder: Path) -> dict[str, Any]:
    def sync(name: str) -> dict[str, Any]:
        into, how = SYNCS[name]
        streams = {f"public.{table}": {**how, "table": f"{name}_{table}"} for table in NAMES}
        return {
            "connector": name,
            "destination": into,
            "schedule": "every 10s",
            "period": "200ms",
            "retries": 20,
            "streams": streams,
        }

    return {
        "destinations": {
            "pg": {"type": "postgres", "dsn": server.dsn("target")},
            "duck": {"type": "duckdb", "path": str(folder / "wh.duckdb")},
        },
        "connectors": {
            name: {"type": "postgres", "dsn": server.dsn("shop"), "method": "cdc", "follow": "3s", "checkpoint_rows": 50}
            for name in SYNCS
        },
        "syncs": {name: sync(name) for name in SYNCS},
    }


async def ran(broker: Broker, name: str) -> RunRecord:
    """Asks for a run that begins now; returns its record."""
    bucket = Bucket(broker, topology.STATE_BUCKET)
    before = await newest_run(bucket, name)
    number = before.number if before is not None else 0
    async with asyncio.timeout(200):
        while True:
            record = await newest_run(bucket, name)
            if record is not None and record.number >= number + 2 and record.status not in ("running", "interrupted"):
                return record
            await asyncio.sleep(0.2)


def _stop(server: PostgresServer) -> None:
    """Stops a server as an operator does, who loses patience in the end."""
    server.send_signal(signal.SIGINT)
    ends_at = time.monotonic() + PATIENCE_SECONDS
    while server.running and time.monotonic() < ends_at:
        time.sleep(0.05)
    server.kill()


async def assail(running: Stack, server: PostgresServer, chance: random.Random, rounds: int) -> list[str]:
    done = []
    for _ in range(rounds):
        await asyncio.sleep(chance.uniform(0.3, 2.5))
        what = chance.choice(["loader", "connector_runner", "walsender", "walsender", "freeze", "immediate", "fast"])
        done.append(what)
        match what:
            case "walsender":
                driver = await asyncpg.connect(server.dsn("shop"))
                await driver.fetch(
                    "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active_pid IS NOT NULL"
                )
                await driver.close()
            case "fast":  # waits until what was sent is stored
                await asyncio.to_thread(_stop, server)
                await asyncio.to_thread(server.start)
            case "immediate":
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
            case "freeze":
                name = chance.choice(["loader", "connector_runner"])
                running.freeze(name)
                await asyncio.sleep(chance.uniform(0.5, 3.5))
                running.thaw(name)
            case _:
                await asyncio.to_thread(running.kill, what)
                await asyncio.to_thread(running.start, what)
    return done


async def test_every_destination_is_right_in_the_end_whatever_dies_meanwhile(tmp_path: Path, server: PostgresServer) -> None:
    seed = seed_of(os.environ.get("PENSTOCK_FAULT_SEED"))
    print(f"PENSTOCK_FAULT_SEED={seed}")
    chance, rounds = random.Random(seed), int(os.environ.get("PENSTOCK_FAULT_ROUNDS", "4"))
    keeper = await asyncpg.connect(server.dsn())
    await keeper.execute("CREATE DATABASE shop")
    await keeper.execute("CREATE DATABASE target")
    await keeper.close()
    attacker, enough = Attacker(server.dsn("shop"), seed), asyncio.Event()
    await attacker.prepare()
    with stack(tmp_path) as running:
        await asyncio.to_thread(running.start_all, "loader", "connector_runner")
        async with connect(running.nats.url, "test") as broker:
            writers = [asyncio.ensure_future(attacker.write(number, enough)) for number in range(3)]
            await running.apply(project(server, tmp_path))
            await asyncio.sleep(6)
            committed = set(attacker.committed)  # what comes from here on stands in the log
            done = await assail(running, server, chance, rounds)
            await asyncio.sleep(1)
            enough.set()
            await asyncio.gather(*writers)
            expected = await attacker.state()
            records = dict(zip(SYNCS, await asyncio.gather(*(ran(broker, name) for name in SYNCS)), strict=True))
    print(done, attacker.transactions, {name: (each.number, each.status, each.error) for name, each in records.items()})
    assert {name: (each.status, each.error) for name, each in records.items()} == dict.fromkeys(SYNCS, ("succeeded", ""))
    target = await asyncpg.connect(server.dsn("target"))
    with opened(tmp_path / "wh.duckdb", read_only=True) as link:
        for table in NAMES:
            chosen = "SELECT id, v, body FROM"
            marked = await target.fetch(f"{chosen} marked_{table} WHERE _deleted_at IS NULL")
            gone = link.execute(f"{chosen} gone_{table}").fetchall()
            versions = link.execute(f"{chosen} versions_{table} WHERE _current").fetchall()
            for name, rows in (("marked", marked), ("gone", gone), ("versions", versions)):
                found = rows_by_key(rows)
                wrong = {key for key in found.keys() | expected[table].keys() if found.get(key) != expected[table].get(key)}
                assert not wrong, (
                    name,
                    table,
                    len(wrong),
                    [(key, found.get(key), expected[table].get(key)) for key in sorted(wrong)[:5]],
                )
    seen = {(row["id"], row["v"]) for row in await target.fetch("SELECT id, v FROM log_plain")}
    await target.close()
    assert attacker.committed - committed
    assert not attacker.committed - committed - seen
