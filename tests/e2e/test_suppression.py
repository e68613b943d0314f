"""Events of a forgotten person: left out by the service that meets them first, counted, and their neighbours untouched."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.control import suppressing
from penstock.control.status.balance import settle_balance
from shared.events.frame import Head, RequestContext, encode_frame, pack
from shared.forget.listing import suppress
from shared.jetstream import topology
from shared.jetstream.broker import Broker, connect
from shared.project.snapshot import current_snapshot
from tests.e2e.loader_support import drained, put
from tests.faults.places import Files
from tests.support.receiver import Receiver
from tests.support.stack import Stack, stack

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Stack]:
    with stack(tmp_path) as started:
        yield started


def event(number: int, user: str) -> dict[str, Any]:
    return {"messageId": f"m{number}", "type": "track", "event": "Bought", "userId": user}


def send(running: Stack, events: list[dict[str, Any]]) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{running.port}/v1/batch",
        json.dumps({"batch": events, "writeKey": "k"}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.status == 200


async def until_counted(running: Stack, service: str, metric: str, amount: int) -> None:
    async with asyncio.timeout(60):
        while await asyncio.to_thread(running.metric, service, metric, reason="forgotten") < amount:
            await asyncio.sleep(0.05)


async def route(broker: Broker, events: list[dict[str, Any]]) -> None:
    """Puts a frame into EVENTS, as an edge does that has not heard of the list yet."""
    request = RequestContext(received_at=1_772_366_400_000_000, protocol="segment", key="k", kind="server")
    heads = [Head(each["messageId"], "track", "Bought", each["userId"]) for each in events]
    payload = encode_frame(pack("shop", [request], heads, [json.dumps(each).encode() for each in events]))
    await broker.publisher.publish(topology.events_subject("shop"), payload, msg_id="frame")


async def test_each_service_leaves_out_what_it_is_the_first_to_meet(running: Stack) -> None:
    files = Files(running.folder / "files")
    async with Receiver() as receiver, connect(running.nats.url, "test") as broker:
        await running.apply(
            {
                "sites": {"shop": {"keys": [{"id": "k"}]}},
                "destinations": {"lake": files.destination, "crm": {"type": "webhook", "url": receiver.url}},
                "connections": {
                    "c": {"site": "shop", "destination": "lake", "mode": "stream", "layout": "passthrough"},
                    "calls": {"site": "shop", "destination": "crm", "mode": "stream"},
                },
            }
        )
        digests = await suppress(broker, ["jane", "device-1"], "r1")
        await put(broker, 1, [event(0, "jane"), event(1, "joe")])
        await put(broker, 1, [event(2, "joe"), event(3, "jane")], connection="calls")
        running.start_all("loader")
        await until_counted(running, "loader", "loader_events_dropped_total", 2)
        await route(broker, [event(4, "jane"), event(5, "joe")])
        running.start_all("router")
        await until_counted(running, "router", "router_events_dropped_total", 2)
        running.start_all("ingest")
        send(running, [event(6, "jane"), event(7, "joe"), {**event(8, "jim"), "anonymousId": "device-1"}])
        await until_counted(running, "ingest", "ingest_events_dropped_total", 2)
        wanted, called, passed = {"m1", "m5", "m7"}, {"m2", "m5", "m7"}, {"m9"}
        async with asyncio.timeout(120):  # those of joe are through before he is forgotten
            while not (wanted <= set((await files.rows()).get("events", ())) and called <= set(receiver.ids)):
                await asyncio.sleep(0.05)
        # the list changes while all run
        assert await suppressing.add(broker, ["joe"]) == 1
        assert await suppressing.remove(broker, ["jim"], digests) == 2
        assert [each.by for each in await suppressing.entries(broker)] == ["suppress"]
        assert [each.suppressed for each in await suppressing.check(broker, ["joe", "jane"])] == [True, False]
        while await asyncio.to_thread(running.metric, "ingest", "ingest_events_dropped_total", reason="forgotten") < 3:
            send(running, [event(9, "joe")])
        number, rows = 10, set[str]()
        async with asyncio.timeout(120):
            # each service hears of the change for itself
            while not rows & set(receiver.ids) & passed - {"m9"}:
                send(running, [event(number, "jane")])
                passed.add(f"m{number}")
                number += 1
                await asyncio.sleep(0.05)
                rows = set((await files.rows()).get("events", ()))
        await drained(broker)
        # m9 passed for as long as the edge had not heard of it
        assert set((await files.rows())["events"]) - passed == wanted
        assert set(receiver.ids) - passed == called
        for connection in ("c", "calls"):
            queue = (await current_snapshot(broker)).queue_of(connection)
            balance = await settle_balance(broker, "shop", connection, queue)
            assert balance.all_waiting == 0, balance
