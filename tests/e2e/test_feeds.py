"""The whole way of a feed: Kafka, site, DuckDB, with the real services, and runners that are killed in the middle."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from pathlib import Path
from typing import Any

import duckdb
import pytest
from aiokafka import AIOKafkaProducer

from shared.jetstream.broker import connect
from shared.project.snapshot import StoredProject, apply_project, resolve
from tests.support.kafka_mock import mock_cluster
from tests.support.stack import stack

pytestmark = pytest.mark.timeout(240)
COUNT = 6_000


def project(servers: str, folder: Path) -> dict[str, Any]:
    return {
        "sites": {"shop": {}},
        "feeds": {
            "orders": {
                "site": "shop", "type": "kafka", "bootstrap_servers": servers, "topics": ["orders"], "session_timeout": "1s",
                "event": "order", "user_id": "{value.user}",
            }
        },
        "destinations": {"wh": {"type": "duckdb", "path": str(folder / "wh.duckdb")}},
        "connections": {
            "shop-wh": {"site": "shop", "destination": "wh", "layout": "passthrough", "table": "orders", "deduplicate": False, "batch": {"period": "1s"}}
        },
    }  # fmt: skip


async def test_records_reach_the_warehouse_once_although_runners_are_killed(tmp_path: Path) -> None:
    with mock_cluster(1) as cluster, stack(tmp_path) as running:
        cluster.join_at_once()
        cluster.create("orders", 3)
        services = ("router", "loader", "connector_runner", "connector_runner-2")
        await asyncio.to_thread(running.start_all, *services)
        document = project(cluster.servers, tmp_path)
        async with connect(running.nats.url, "test") as broker:
            await apply_project(broker, StoredProject(document, resolve(document)))
        producer = AIOKafkaProducer(bootstrap_servers=cluster.servers)
        await producer.start()
        for n in range(COUNT):
            await producer.send("orders", json.dumps({"n": n, "user": f"u{n % 9}"}).encode(), key=b"%d" % (n % 9))
            if n and n % 1_500 == 0:
                await producer.flush()
                victim = services[2 + n // 1_500 % 2]
                await asyncio.to_thread(running.kill, victim)
                await asyncio.to_thread(running.start, victim)
        await producer.flush()
        await producer.stop()

        async with asyncio.timeout(120):
            while len(rows := await asyncio.to_thread(_rows, tmp_path / "wh.duckdb")) < COUNT:
                await asyncio.sleep(0.2)
        assert sorted(rows) == list(range(COUNT))
        said = [await asyncio.to_thread(_metrics, running.admin[name]) for name in services[2:]]
        assert any('feeds_records_total{feed="orders"}' in each for each in said)


def _metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def _rows(path: Path) -> list[int]:
    try:
        with duckdb.connect(str(path), read_only=True) as link:
            return [row[0] for row in link.execute("select properties_n from orders").fetchall()]
    except duckdb.Error:  # the loader has it open, or has made no table yet
        return []
