"""The whole way of feeds: sources, site, DuckDB, with the real services, and runners that are killed in the middle."""

from __future__ import annotations

import asyncio
import contextlib
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pytest

from shared.jetstream.broker import connect
from shared.project.snapshot import StoredProject, apply_project, resolve
from tests.contract.feeds import of_kafka, of_kinesis, of_mqtt, of_nats
from tests.contract.feeds.source import Source
from tests.support.feeds import record
from tests.support.stack import stack

pytestmark = pytest.mark.timeout(240)
KINDS: dict[str, Any] = {"kafka": of_kafka, "kinesis": of_kinesis, "mqtt": of_mqtt, "nats": of_nats}
ROUNDS, EACH = 4, 600


def project(sources: dict[str, Source], folder: Path) -> dict[str, Any]:
    return {
        "sites": {"shop": {}},
        "feeds": {name: {"site": "shop", "event": "order", **source.document} for name, source in sources.items()},
        "destinations": {"wh": {"type": "duckdb", "path": str(folder / "wh.duckdb")}},
        "connections": {
            "shop-wh": {
                "site": "shop",
                "destination": "wh",
                "layout": "passthrough",
                "table": "orders",
                "batch": {"period": "1s"},
            }
        },
    }


async def test_records_reach_the_warehouse_once_although_runners_are_killed(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as held:
        sources: dict[str, Source] = {}
        for name, kind in KINDS.items():
            server = held.enter_context(kind.server(tmp_path / name))
            sources[name] = await held.enter_async_context(kind.open_source(server))
        running = held.enter_context(stack(tmp_path))
        services = ("router", "loader", "connector_runner", "connector_runner-2")
        await asyncio.to_thread(running.start_all, *services)
        document = project(sources, tmp_path)
        async with connect(running.nats.url, "test") as broker:
            await apply_project(broker, StoredProject(document, resolve(document)))

        async def put(number: int) -> None:
            values = range(number * EACH, (number + 1) * EACH)
            await asyncio.gather(*(source.put([record(n, kind=name) for n in values]) for name, source in sources.items()))

        for number in range(ROUNDS):
            putting = asyncio.create_task(put(number))
            victim = services[2 + number % 2]
            await asyncio.to_thread(running.kill, victim)
            await asyncio.to_thread(running.start, victim)
            await putting

        wanted = {(name, n) for name in KINDS for n in range(ROUNDS * EACH)}
        async with asyncio.timeout(120):
            while not wanted <= (rows := await asyncio.to_thread(_rows, tmp_path / "wh.duckdb")).keys():
                await asyncio.sleep(0.2)
        assert rows.keys() == wanted
        assert {row: times for row, times in rows.items() if times > 1} == {}
        said = "".join([await asyncio.to_thread(_metrics, running.admin[name]) for name in services[2:]])
        assert all(f'feeds_records_total{{feed="{name}"}}' in said for name in KINDS)


def _metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        return str(answer.read().decode())


def _rows(path: Path) -> Counter[tuple[str, int]]:
    try:
        with duckdb.connect(str(path), read_only=True) as link:
            return Counter(link.execute("select properties_kind, properties_n from orders").fetchall())
    except duckdb.Error:  # the loader has it open, or has made no table yet
        return Counter()
