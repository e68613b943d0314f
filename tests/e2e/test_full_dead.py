"""DEAD really full, first while nobody makes room and then while a router does: every event is accounted for, and a real loss shows."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from penstock.control.status import balance as module
from penstock.control.status.audit import audit
from penstock.control.status.balance import Balance, read_balances
from router.room import dead
from shared.jetstream import topology
from shared.jetstream.broker import Broker, connect
from shared.jetstream.lease import hold
from shared.project.snapshot import current_snapshot
from tests.e2e.loader_support import drained, in_duckdb
from tests.support.stack import stack

pytestmark = pytest.mark.timeout(240)

LIMIT = 1024 * 1024
REQUESTS, EVENTS = 45, 20
SENT = REQUESTS * EVENTS + 1


async def send(port: int, *values: Any, first: int) -> None:
    batch = [
        {"type": "track", "event": "Bought", "userId": "u", "messageId": f"m{first + number}", "properties": {"n": value}}
        for number, value in enumerate(values)
    ]
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://127.0.0.1:{port}/v1/batch", json={"batch": batch}, headers={"X-Write-Key": "k"}) as answer,
    ):
        assert answer.status == 200


async def balance(broker: Broker) -> Balance:
    (found,) = (await read_balances(broker, await current_snapshot(broker)))[1]
    assert found.problems == []
    return found


async def test_while_dead_is_full_letters_wait_in_the_queue_and_when_it_evicts_the_accounts_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TRIES", 8)
    file = tmp_path / "wh.duckdb"
    connection = {
        "site": "shop", "destination": "wh", "mode": "stream", "layout": "single_table", "deduplicate": False,
        "on_conflict": "dead_letter", "dead_limit": "off",
    }  # fmt: skip
    document = {
        "sites": {"shop": {"keys": [{"id": "k"}]}},
        "destinations": {"wh": {"type": "duckdb", "path": str(file)}},
        "connections": {"c": connection},
    }
    with stack(tmp_path, {"PENSTOCK_DEAD_MAX_BYTES": str(LIMIT)}) as running:
        await running.apply(document)
        async with connect(running.nats.url, "test") as broker:
            info = await broker.js.stream_info(topology.DEAD)
            info.config.max_bytes = LIMIT
            await broker.js.update_stream(info.config)
            async with hold(broker, dead.LEASE, "test"):  # no router makes room
                await asyncio.to_thread(running.start_all)
                await send(running.port, 1, first=0)
                while not running.metric("loader", "account_delivered_events", connection="c"):
                    await asyncio.sleep(0.05)
                for number in range(REQUESTS):
                    values = [os.urandom(700).hex() for _ in range(EVENTS)]
                    await send(running.port, *values, first=1 + number * EVENTS)
                while "maximum bytes exceeded" not in running.log("loader"):
                    await asyncio.sleep(0.1)
                full = await balance(broker)
                assert (full.received, full.delivered) == (SENT, 1)
                assert full.all_waiting > 0, "a letter that cannot be kept is not counted, its event waits"
                assert full.received == full.delivered + sum(full.dead.values()) + full.all_waiting
            await drained(broker)
            after = await balance(broker)
            assert (after.delivered, after.dead, after.all_waiting) == (1, {"type_conflict": SENT - 1}, 0)
            async with asyncio.timeout(60):
                while not running.metric("router", "dead_letters_evicted_total", stage="loader", source="c"):
                    await asyncio.sleep(0.05)
            result = await audit(broker, await current_snapshot(broker))
            assert result.passed
            assert any("that DEAD holds no more" in note for note in result.notes)
            await in_duckdb(file, "DELETE FROM events")
            result = await audit(broker, await current_snapshot(broker))
            assert [(finding.what, "m0" in finding.ids) for finding in result.findings] == [
                ("forwarded, and neither in the destination nor in the dead letters", True)
            ]
