"""The whole way of a sync: a connector, the queue, DuckDB, with the real services, and processes that are killed in the middle."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any

import pytest

from shared.jetstream import topology
from shared.jetstream.broker import Broker, connect
from shared.jetstream.kv import Bucket
from shared.project.snapshot import StoredProject, apply_project, resolve
from shared.syncs.progress import key_of, progress_of
from shared.syncs.records import Ask, RunRecord, ask, log_of, newest_run
from tests.support.duckdb_file import opened
from tests.support.stack import stack

pytestmark = pytest.mark.timeout(240)

CODE = """
import json, os, time
from pathlib import Path
from penstock.source import stream

HERE = Path({folder!r})

@stream(primary_key="id", cursor="at")
def users(since=None):
    for n in range(int((HERE / "count").read_text())):
        if since is None or n >= since:
            yield {{"id": n, "at": n, "name": f"user {{n}}"}}
            if n % 500 == 499:
                time.sleep({pause})

@stream
def tags():
    yield [{{"tag": t}} for t in (HERE / "tags").read_text().split()]
"""


def project(folder: Path, *, pause: float = 0.0, schedule: str = "", **sync: Any) -> dict[str, Any]:
    code = CODE.format(folder=str(folder), pause=pause)
    return {
        "destinations": {"wh": {"type": "duckdb", "path": str(folder / "wh.duckdb")}},
        "connectors": {"mine": {"type": "python", "code": code}},
        "syncs": {"mine-wh": {"connector": "mine", "destination": "wh", "schedule": schedule, "period": "200ms", **sync}},
    }


async def put(broker: Broker, document: dict[str, Any]) -> None:
    await apply_project(broker, StoredProject(document, resolve(document)))


async def ended(broker: Broker, number: int) -> RunRecord:
    bucket = Bucket(broker, topology.STATE_BUCKET)
    async with asyncio.timeout(100):
        while True:
            record = await newest_run(bucket, "mine-wh")
            if record is not None and record.number >= number and record.status not in ("running", "interrupted"):
                return record
            await asyncio.sleep(0.1)


async def more_loaded(broker: Broker, than: float) -> float:
    """Waits until rows were loaded after a time (epoch seconds); returns when they were."""
    async with asyncio.timeout(100):
        async for entry in Bucket(broker, topology.STATE_BUCKET).watch(key_of("mine-wh")):
            if (at := progress_of(entry).rows_at) > than:
                return at
    raise AssertionError("the watch ended")


async def wanted(broker: Broker, what: Any = "run", **more: Any) -> None:
    await ask(Bucket(broker, topology.STATE_BUCKET), "mine-wh", Ask(id=uuid.uuid4().hex, what=what, at=0.0, **more))


def rows(folder: Path, table: str, column: str) -> list[Any]:
    with opened(folder / "wh.duckdb", read_only=True) as link:
        return sorted(row[0] for row in link.execute(f"select {column} from {table}").fetchall())


async def test_rows_come_once_and_states_carry_over(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("2000")
    (tmp_path / "tags").write_text("a b")
    with stack(tmp_path) as running:
        await asyncio.to_thread(running.start_all, "loader", "connector_runner")
        async with connect(running.nats.url, "test") as broker:
            await put(broker, project(tmp_path))
            await wanted(broker)
            first = await ended(broker, 1)
            (tmp_path / "count").write_text("2300")
            (tmp_path / "tags").write_text("b c")
            await wanted(broker)
            second = await ended(broker, 2)
            await wanted(broker, afresh=True, streams=("users",))
            third = await ended(broker, 3)
            log = await log_of(Bucket(broker, topology.STATE_BUCKET), "mine-wh", 2)
    assert (first.status, first.error) == ("succeeded", "")
    assert {name: (of.rows, of.loaded, of.write, of.status) for name, of in first.streams.items()} == {
        "users": (2000, 2000, "merge", "succeeded"),
        "tags": (2, 2, "replace", "succeeded"),
    }
    assert second.status == "succeeded"
    assert second.streams["users"].rows <= 301
    assert {name: of.rows for name, of in third.streams.items()} == {"users": 2300}
    assert log is not None
    assert rows(tmp_path, "users", "id") == list(range(2300))
    assert rows(tmp_path, "tags", "tag") == ["b", "c"]


async def test_no_row_is_lost_when_runner_and_loader_are_killed(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("6000")
    (tmp_path / "tags").write_text("a b")
    with stack(tmp_path) as running:
        services = ("loader", "connector_runner", "connector_runner-2")
        await asyncio.to_thread(running.start_all, *services)
        async with connect(running.nats.url, "test") as broker:
            await put(broker, project(tmp_path, pause=0.3, schedule="every 1h"))
            at = 0.0
            for victim in (*services, "loader"):
                at = await more_loaded(broker, at)
                await asyncio.to_thread(running.kill, victim)
                await asyncio.to_thread(running.start, victim)
            record = await ended(broker, 1)
    assert (record.status, record.error) == ("succeeded", "")
    assert rows(tmp_path, "users", "id") == list(range(6000))
    assert rows(tmp_path, "tags", "tag") == ["a", "b"]


async def test_a_failure_is_said_and_what_a_person_cancels_ends(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("many")
    (tmp_path / "tags").write_text("a")
    with stack(tmp_path) as running:
        await asyncio.to_thread(running.start_all, "loader", "connector_runner")
        async with connect(running.nats.url, "test") as broker:
            await put(broker, project(tmp_path, retries=0))
            await wanted(broker)
            failed = await ended(broker, 1)
            (tmp_path / "count").write_text("100000")
            await put(broker, project(tmp_path, retries=0, pause=1.0))
            await wanted(broker)
            bucket = Bucket(broker, topology.STATE_BUCKET)
            async with asyncio.timeout(60):
                while (
                    (record := await newest_run(bucket, "mine-wh")) is None
                    or record.number < 2
                    or "users" not in record.streams
                    or not record.streams["users"].loaded
                ):
                    await asyncio.sleep(0.1)
            await wanted(broker, "cancel", number=2)
            cancelled = await ended(broker, 2)
    assert failed.status in ("partial", "failed")
    assert "invalid literal" in failed.error
    assert failed.streams["tags"].status == "succeeded"
    assert failed.streams["users"].status == "failed"
    assert cancelled.status == "cancelled"
    assert cancelled.streams["users"].status == "cancelled"
    assert 0 < len(rows(tmp_path, "users", "id")) < 100_000
