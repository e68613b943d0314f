"""Row filters, privacy rules and nested columns on the whole way: changes of Postgres, through the services, into tables of Postgres."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from shared.jetstream import topology
from shared.jetstream.broker import Broker, connect
from shared.jetstream.kv import Bucket
from shared.project.snapshot import StoredProject, apply_project, resolve
from shared.syncs.records import Ask, RunRecord, ask, log_of, newest_run
from tests.support.stack import stack

pytestmark = pytest.mark.timeout(240)

PEOPLE = 20
FILL = f"""
CREATE TABLE people (id int PRIMARY KEY, country text, email text, profile jsonb);
INSERT INTO people SELECT n, CASE WHEN n % 2 = 0 THEN 'DE' ELSE 'FR' END, 'p' || n || '@x.io',
    jsonb_build_object('city', 'city ' || n, 'phone', 'secret ' || n) FROM generate_series(1, {PEOPLE}) AS n
"""
CHANGE = """
UPDATE people SET country = 'FR' WHERE id = 2;
UPDATE people SET country = 'DE' WHERE id = 1;
DELETE FROM people WHERE id IN (4, 3);
UPDATE people SET email = 'new@x.io' WHERE id IN (6, 5)
"""


@pytest.fixture
async def database(postgres_dsn: str) -> AsyncIterator[str]:
    name = f"rules_{uuid4().hex[:12]}"
    keeper = await asyncpg.connect(postgres_dsn)
    await keeper.execute(f"CREATE DATABASE {name}")
    dsn = f"{postgres_dsn.rpartition('/')[0]}/{name}"
    await execute(dsn, FILL)
    yield dsn
    for slot in await keeper.fetch("SELECT slot_name, active_pid FROM pg_replication_slots WHERE database = $1", name):
        if slot["active_pid"]:
            await keeper.fetch("SELECT pg_terminate_backend($1, 5000)", slot["active_pid"])
        await keeper.execute("SELECT pg_drop_replication_slot($1)", slot["slot_name"])
    await keeper.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await keeper.close()


async def execute(dsn: str, statements: str) -> None:
    driver = await asyncpg.connect(dsn)
    await driver.execute(statements)
    await driver.close()


async def run(broker: Broker, number: int) -> RunRecord:
    bucket = Bucket(broker, topology.STATE_BUCKET)
    await ask(bucket, "pg-wh", Ask(id=str(number), what="run", at=0.0))
    async with asyncio.timeout(100):
        while True:
            record = await newest_run(bucket, "pg-wh")
            if record is not None and record.number >= number and record.status not in ("running", "interrupted"):
                assert (record.status, record.error) == ("succeeded", "")
                return record
            await asyncio.sleep(0.1)


async def stored(dsn: str) -> dict[int, dict[str, Any]]:
    driver = await asyncpg.connect(dsn)
    found = {row["id"]: dict(row) for row in await driver.fetch("SELECT * FROM wh.people")}
    await driver.close()
    return found


def hashed(email: str) -> str:
    return hmac.new(b"salt", email.encode(), hashlib.sha256).hexdigest()


@pytest.mark.parametrize("deletes", ["soft", "hard"])
async def test_only_rows_that_meet_where_are_there_and_leave_with_their_change(
    tmp_path: Path, database: str, deletes: str
) -> None:
    people = {
        "columns": ["id", "email", "profile.city"],
        "where": {"field": "country", "eq": "DE"},
        "privacy": [{"field": "email", "do": "hash", "secret": "salt"}],
        "deletes": deletes,
    }
    document = {
        "destinations": {"wh": {"type": "postgres", "dsn": database, "schema": "wh"}},
        "connectors": {"pg": {"type": "postgres", "dsn": database, "method": "cdc"}},
        "syncs": {"pg-wh": {"connector": "pg", "destination": "wh", "period": "200ms", "streams": {"public.people": people}}},
    }
    with stack(tmp_path) as running:
        await asyncio.to_thread(running.start_all, "loader", "connector_runner")
        async with connect(running.nats.url, "test") as broker:
            await apply_project(broker, StoredProject(document, resolve(document)))
            first = await run(broker, 1)
            german = await stored(database)
            await execute(database, CHANGE)
            second = await run(broker, 2)
            log = await log_of(Bucket(broker, topology.STATE_BUCKET), "pg-wh", 1)
            told = {
                name: running.metric("connector_runner", name, sync="pg-wh", **labels)
                for name, labels in (
                    ("sync_rows_read_total", {}),
                    ("sync_rows_dropped_total", {"reason": "filtered"}),
                    ("sync_run_seconds_count", {}),
                )
            }
            loaded = {
                name: running.metric("loader", name, sync="pg-wh")
                for name in (
                    "loader_sync_rows_total", "loader_sync_bytes_total", "loader_sync_batches_total", "loader_sync_batch_seconds_count",
                    "loader_sync_load_seconds_count", "loader_sync_last_load_seconds",
                )
            }  # fmt: skip
    assert set(german) == set(range(2, PEOPLE + 1, 2))
    assert all(row["email"] == hashed(f"p{number}@x.io") for number, row in german.items())
    assert all(json.loads(row["profile"]) == {"city": f"city {number}"} for number, row in german.items())
    assert not {"country", "_before"} & set(german[2])
    of = first.streams["public.people"]
    assert (of.rows, of.filtered, of.removals, of.loaded) == (PEOPLE, 10, 10, 10)
    assert log is not None
    assert any("10 of 20 rows do not meet `where`" in line.text for line in log.lines)
    of_runs = [each.streams["public.people"] for each in (first, second)]
    assert told["sync_rows_read_total"] == sum(each.rows for each in of_runs)
    assert told["sync_rows_dropped_total"] == sum(each.filtered - each.removals for each in of_runs)
    assert told["sync_run_seconds_count"] == 2
    assert loaded["loader_sync_rows_total"] >= sum(each.loaded for each in of_runs) > 0
    assert loaded["loader_sync_bytes_total"] > 1000
    assert loaded["loader_sync_batches_total"] == loaded["loader_sync_batch_seconds_count"] >= 2
    assert loaded["loader_sync_load_seconds_count"] >= 2
    assert time.time() - 600 < loaded["loader_sync_last_load_seconds"] <= time.time() + 1

    now = await stored(database)
    there = {number for number, row in now.items() if row.get("_deleted_at") is None}
    assert there == (set(german) | {1}) - {2, 4}
    assert set(now) - there == ({4, 3} if deletes == "soft" else set())
    if deletes == "soft":
        assert (now[4]["email"], now[3]["email"]) == (hashed("p4@x.io"), None)
    assert now[1]["email"] == hashed("p1@x.io")
    assert now[6]["email"] == hashed("new@x.io")
    of = second.streams["public.people"]
    assert (of.rows, of.filtered) == (6, 2)
