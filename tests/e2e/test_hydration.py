"""Hydration on its whole way: an API that is away, a runtime that is killed while it asks, an id that is gone; each delivery arrives once."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import duckdb
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.support.stack import stack

pytestmark = pytest.mark.timeout(240)
RUNTIME = "functions_runtime"
AMOUNT = 60


class Vendor:
    """An API that is away first, and hangs on the id 13 until it is let go."""

    def __init__(self) -> None:
        self.away = True
        self.asked: Counter[str] = Counter()
        self.refused: list[str] = []
        self.hung, self.let_go = asyncio.Event(), asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        id_ = request.match_info["id"]
        self.asked[id_] += 1
        if request.headers.get("authorization") != "Bearer s3cret":
            self.refused.append(id_)
            return web.Response(status=401)
        if id_ == "13" and not self.away:
            self.hung.set()
            await self.let_go.wait()
        if self.away:
            return web.Response(status=503)
        return web.Response(status=404) if id_ == "7" else web.json_response({"id": int(id_), "total": 1.5})


def project(warehouse: Path, url: str, token: Path) -> dict[str, Any]:
    hydrate = {
        "url": url,
        "headers": {"Authorization": f"Bearer ${{file:{token}}}"},
        "into": "properties.order",
        "delays": ["200ms"] * 50,
        "timeout": "30s",
    }
    return {
        "sites": {"shop": {"keys": [{"id": "web", "kind": "browser"}]}},
        "destinations": {"wh": {"type": "duckdb", "path": str(warehouse)}},
        "webhooks": {"orders": {"site": "shop", "type": "open", "message_id": ["id"], "hydrate": hydrate}},
        "connections": {"c": {"site": "shop", "destination": "wh", "layout": "single_table", "batch": {"period": "1s"}}},
    }


def loaded(warehouse: Path) -> dict[str, tuple[float | None, int | None]]:
    """Returns the total and the status that each delivery got, by its id."""
    try:
        with duckdb.connect(str(warehouse), read_only=True) as link:
            rows = link.execute("select message_id, order_total, context_webhook_hydration_status from events").fetchall()
    except (duckdb.IOException, duckdb.CatalogException, duckdb.BinderException):  # the loader has it open, or is not so far
        return {}
    assert len({row[0] for row in rows}) == len(rows)
    return {message_id: (total, status) for message_id, total, status in rows}


async def test_deliveries_wait_for_their_api_and_arrive_once_although_the_runtime_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_SECRETS_FOLDERS", str(tmp_path))
    warehouse, token, vendor = tmp_path / "wh.duckdb", tmp_path / "token", Vendor()
    token.write_text("s3cret")
    application = web.Application()
    application.router.add_get("/orders/{id}", vendor.answer)
    environment = {
        "PENSTOCK_FUNCTIONS_EGRESS": "127.0.0.1",
        "PENSTOCK_FUNCTIONS_LEASE": "2s",
        "PENSTOCK_SECRETS_FOLDERS": str(tmp_path),
    }
    async with TestServer(application) as server:
        with stack(tmp_path, environment) as running:
            await running.apply(project(warehouse, f"{server.make_url('/orders/')}{{id}}", token))
            await asyncio.to_thread(running.start_all, "ingest", "router", RUNTIME, "loader")
            async with aiohttp.ClientSession() as session, asyncio.timeout(200):
                address = f"http://127.0.0.1:{running.port}/webhooks/orders"
                for first in range(0, AMOUNT, 10):
                    body = [{"id": number} for number in range(first, first + 10)]
                    async with session.post(address, json=body) as answer:
                        assert answer.status == 200
                while not vendor.asked:
                    await asyncio.sleep(0.05)
                vendor.away = False
                await vendor.hung.wait()
                await asyncio.to_thread(running.kill, RUNTIME)
                vendor.let_go.set()
                await asyncio.to_thread(running.start, RUNTIME)
                while len(found := await asyncio.to_thread(loaded, warehouse)) < AMOUNT:
                    await asyncio.sleep(0.2)
            assert found == {f"orders:{number}": (None, 404) if number == 7 else (1.5, 200) for number in range(AMOUNT)}
            assert vendor.refused == []
            assert running.metric(RUNTIME, "functions_hydrated_total", webhook="orders", result="ok") >= 1
