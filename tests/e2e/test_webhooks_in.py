"""Webhooks from the wire to the warehouse, as people know them from Fivetran: an address each, tables made by the first event, and a reload from the archive."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import aiohttp
import duckdb
import pytest

from penstock.control.runs import find_run, rebuild
from shared.archive.note import read_note
from shared.events.dead import decode_dead
from shared.jetstream import topology
from shared.jetstream.broker import Broker, connect
from shared.jetstream.identity import identify
from shared.jetstream.reader import StreamReader
from tests.support.stack import stack

pytestmark = pytest.mark.timeout(240)
SECRET = "gh-secret"
ISSUES, ORDERS, BROKEN = 60, 40, 5


def project(path: Path) -> dict[str, Any]:
    return {
        "sites": {"hooks": {}},
        "webhooks": {
            "github": {"site": "hooks", "type": "github", "secret": SECRET},
            "orders": {"site": "hooks", "type": "open", "format": "packed", "message_id": ["id"]},
        },
        "destinations": {"wh": {"type": "duckdb", "path": str(path)}},
        "connections": {"hooks-wh": {"site": "hooks", "destination": "wh", "layout": "webhook", "batch": {"period": "1s"}}},
    }


async def post(session: aiohttp.ClientSession, url: str, body: bytes, **headers: str) -> int:
    async with session.post(url, data=body, headers=headers) as answer:
        return answer.status


async def issue(session: aiohttp.ClientSession, base: str, number: int) -> int:
    body = json.dumps({"action": "opened", "issue": {"number": number}}).encode()
    sign = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    headers = {"X-Hub-Signature-256": f"sha256={sign}", "X-GitHub-Event": "issues", "X-GitHub-Delivery": f"d{number}"}
    return await post(session, f"{base}/github", body, **headers)


async def test_deliveries_are_rows_once_what_cannot_be_read_is_told_and_all_comes_again_from_the_archive(tmp_path: Path) -> None:
    file = tmp_path / "wh.duckdb"
    environment = {"PENSTOCK_ROUTER_ARCHIVE_DIR": str(tmp_path / "archive"), "PENSTOCK_ROUTER_ARCHIVE_PERIOD": "1s"}
    with stack(tmp_path, environment) as running:
        await running.apply(project(file))
        await asyncio.to_thread(running.start_all)
        base = f"http://127.0.0.1:{running.port}/webhooks"
        async with aiohttp.ClientSession() as session, connect(running.nats.url, "test") as broker:
            twice = [issue(session, base, number) for number in range(ISSUES)] + [
                issue(session, base, number) for number in range(0, ISSUES, 3)
            ]
            orders = [json.dumps([{"id": f"{n}-{m}", "lines": [m]} for m in range(4)]).encode() for n in range(ORDERS // 4)]
            sent = [post(session, f"{base}/orders", body) for body in orders]
            broken = [post(session, f"{base}/orders", b'{"id": %d' % number) for number in range(BROKEN)]
            assert set(await asyncio.gather(*twice, *sent, *broken)) == {200}
            assert await post(session, f"{base}/github", b"{}") == 401
            assert await post(session, f"{base}/nobody", b"{}") == 404
            await loaded(file)
            assert running.metric("ingest", "ingest_events_rejected_total", site="hooks", reason="malformed_json") == BROKEN
            assert running.metric("ingest", "ingest_requests_refused_total", code="missing_signature", key="github") == 1
            assert await letters(broker) == {b'{"id": %d' % number for number in range(BROKEN)}

            await forget_events(broker)
            running.kill("loader")
            file.unlink()
            file.with_name("wh.duckdb.wal").unlink(missing_ok=True)
            run = await rebuild(broker, "hooks-wh")
            running.start("loader")
            async with asyncio.timeout(120):
                while not (run := await find_run(broker, run.id)).is_over:
                    await asyncio.sleep(0.1)
            assert run.state == "done", run
            await loaded(file)


async def loaded(file: Path) -> None:
    """Waits until the warehouse has every delivery, and checks that it has each once, in columns as Fivetran makes them."""
    issues = {f"github:d{number}": number for number in range(ISSUES)}
    orders = {f"orders:{n}-{m}" for n in range(ORDERS // 4) for m in range(4)}
    async with asyncio.timeout(60):
        while not (len(found := await asyncio.to_thread(rows, file, "github")) >= len(issues)) or not (
            len(packed := await asyncio.to_thread(rows, file, "orders")) >= len(orders)
        ):
            await asyncio.sleep(0.2)
    # behind the id stands a hash of the signed bytes
    assert {row["_id"].rpartition(":")[0]: json.loads(row["issue"])["number"] for row in found} == issues
    assert len(found) == len(issues)
    assert {(row["_event"], row["action"], row["_ip"]) for row in found} == {("issues", "opened", "127.0.0.1")}
    assert {row["_id"] for row in packed} == orders
    assert len(packed) == len(orders)
    assert all(json.loads(row["data"])["lines"] == [row["_index"]] for row in packed)
    assert packed[0].keys() == {"_id", "_index", "_created", "_ip", "_event", "data", "_fivetran_synced"}


def rows(file: Path, table: str) -> list[dict[str, Any]]:
    try:
        with duckdb.connect(str(file), read_only=True) as link:
            found = link.execute(f'select * from "{table}"')
            names = [each[0] for each in found.description or ()]
            return [dict(zip(names, row, strict=True)) for row in found.fetchall()]
    except duckdb.Error:  # the loader has it open, or has made no table yet
        return []


async def letters(broker: Broker) -> set[bytes]:
    found: set[bytes] = set()
    async with StreamReader(broker, topology.DEAD, topology.dead_subject("ingest", "hooks")) as reader, asyncio.timeout(30):
        while len(found) < BROKEN:
            message = await reader.next(30)
            assert message is not None
            found |= {letter.body for letter in decode_dead(message.payload)}
    return found


async def forget_events(broker: Broker) -> None:
    """Removes all frames from EVENTS, once the archive has them."""
    last = (await identify(broker, topology.EVENTS)).last_seq
    async with asyncio.timeout(60):
        while (note := await read_note(broker, "hooks")) is None or max(note.position, note.seen) < last:
            await asyncio.sleep(0.1)
    await broker.js.purge_stream(topology.EVENTS, seq=last + 1)
