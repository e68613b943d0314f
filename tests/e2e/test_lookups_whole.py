"""A lookup on the whole way: events wait for its first table, a runtime is killed while they wait, a broken table is told; each event arrives once."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import aiohttp
import duckdb
import pytest

from tests.support.stack import stack

pytestmark = pytest.mark.timeout(240)
SERVICES = ("ingest", "router", "functions_runtime", "loader")
RUNTIME = "functions_runtime"


def project(warehouse: Path, table: Path) -> dict[str, Any]:
    return {
        "sites": {"shop": {"keys": [{"id": "web", "kind": "browser"}]}},
        "destinations": {"wh": {"type": "duckdb", "path": str(warehouse)}},
        "lookups": {"products": {"file": str(table), "key": "sku", "every": "1s"}},
        "connections": {
            "c": {
                "site": "shop",
                "destination": "wh",
                "layout": "single_table",
                "batch": {"period": "1s"},
                "lookups": [{"table": "products", "key": "properties.sku", "into": "properties.product", "missing": "null"}],
            }
        },
    }


async def send(session: aiohttp.ClientSession, port: int, first: int, amount: int, sku: str = "A-1") -> None:
    batch = [
        {"type": "track", "event": "Order", "messageId": f"m{number}", "anonymousId": "a", "properties": {"sku": sku}}
        for number in range(first, first + amount)
    ]
    async with session.post(f"http://127.0.0.1:{port}/v1/batch", json={"batch": batch, "writeKey": "web"}) as answer:
        assert answer.status == 200


def loaded(warehouse: Path) -> dict[str, str | None]:
    """Returns the name that each event got, by its id."""
    try:
        with duckdb.connect(str(warehouse), read_only=True) as link:
            rows = link.execute("select message_id, product_name from events").fetchall()
    except (duckdb.IOException, duckdb.CatalogException):  # the loader has it open, or has made no table yet
        return {}
    assert len({message_id for message_id, _ in rows}) == len(rows)
    return dict(rows)


async def until(warehouse: Path, wanted: dict[str, str | None]) -> None:
    async with asyncio.timeout(60):
        while len(found := await asyncio.to_thread(loaded, warehouse)) < len(wanted):
            await asyncio.sleep(0.2)
    assert found == wanted


async def said(url: str, part: str, text: str) -> None:
    """Waits until `/ready` says something of a part."""
    async with asyncio.timeout(60):
        while True:
            try:
                with await asyncio.to_thread(urllib.request.urlopen, url) as answer:
                    report = json.load(answer)
            except urllib.error.HTTPError as error:
                report = json.load(error)
            except OSError:
                report = {}
            if text in json.dumps([report.get("warnings"), report.get("problems"), report]) and part in json.dumps(report):
                return
            await asyncio.sleep(0.1)


async def test_events_wait_for_the_first_table_and_go_on_with_the_last_one(tmp_path: Path) -> None:
    warehouse, table = tmp_path / "wh.duckdb", tmp_path / "products.csv"
    with stack(tmp_path) as running:
        await running.apply(project(warehouse, table))
        await asyncio.to_thread(running.start_all, *SERVICES)
        ready = f"http://127.0.0.1:{running.admin[RUNTIME]}/ready"
        async with aiohttp.ClientSession() as session:
            await send(session, running.port, 0, 50)
            await said(ready, "products", "cannot be read")
            running.kill(RUNTIME)
            running.start(RUNTIME)
            await said(ready, "products", "cannot be read")
            assert running.metric(RUNTIME, "functions_lookup_loads_total", table="products", result="failed") >= 1
            assert running.metric(RUNTIME, "functions_lookup_failing", table="products") == 1
            assert await asyncio.to_thread(loaded, warehouse) == {}

            table.write_text("sku,name\nA-1,Apple\nB-2,Bean\n")
            await until(warehouse, dict.fromkeys((f"m{number}" for number in range(50)), "Apple"))
            assert running.metric(RUNTIME, "functions_lookup_rows", table="products") == 2
            assert running.metric(RUNTIME, "functions_lookup_bytes", table="products") > 0
            assert running.metric(RUNTIME, "functions_lookup_failing", table="products") == 0
            assert running.metric(RUNTIME, "functions_lookup_read_seconds", table="products") > 1_700_000_000

            table.write_text("sku,name\nbroken\n")
            await send(session, running.port, 50, 1)
            await said(ready, "products", "stays in force")
            await send(session, running.port, 51, 9)
            await send(session, running.port, 60, 5, sku="unknown")
            names: dict[str, str | None] = dict.fromkeys((f"m{number}" for number in range(60)), "Apple")
            await until(warehouse, names | dict.fromkeys((f"m{number}" for number in range(60, 65)), None))
            assert running.metric(RUNTIME, "functions_lookup_missed_total", table="products") == 5
