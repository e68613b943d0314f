"""RudderStack's own SDKs, unmodified, against a real edge: what they say they delivered is what is stored, by ids."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from shared.jetstream.broker import Broker
from tests.e2e.ingest.edge import Edge, edge_here
from tests.support.nats import NatsServer
from tests.support.sdks import node_sdks, python_sdk, run

__all__ = ["node_sdks"]

HERE = Path(__file__).parent
KINDS = ["track", "identify", "page", "screen", "group", "alias"]
ROUNDS = 40


@pytest.fixture(scope="session")
def rudder_python() -> Path:
    """The folder with rudder-sdk-python."""
    return python_sdk("rudder-sdk-python==2.1.9")


async def check(edge: Edge, sent: dict[str, Any], library: str) -> None:
    assert sent["problems"] == []
    stored = await edge.events()
    assert Counter(each.head.message_id for each in stored) == Counter(sent["delivered"])
    assert Counter(each.head.type for each in stored) == dict.fromkeys(KINDS, ROUNDS)
    events = [each.materialised() for each in stored]
    assert {event["context"]["library"]["name"] for event in events} == {library}
    assert {event["properties"]["items"][0]["sku"] for event in events if event["type"] == "track"} == {
        f"é-{number}" for number in range(ROUNDS)
    }
    assert {(event.get("traits") or event["context"]["traits"])["plan"] for event in events if event["type"] == "identify"} == {
        "pro"
    }
    assert all(abs((event["timestamp"] - event["receivedAt"]).total_seconds()) < 60 for event in events)
    assert await edge.dead() == []


@pytest.mark.parametrize("packing", ["gzip", "plain"])
async def test_the_python_sdk_delivers_every_call(nats: NatsServer, broker: Broker, rudder_python: Path, packing: str) -> None:
    async with edge_here(nats, broker) as edge:
        command = [sys.executable, str(HERE / "rudder_sender.py"), edge.url, "web", str(ROUNDS), packing]
        await check(edge, await run(command, PYTHONPATH=str(rudder_python)), "analytics-python")


@pytest.mark.parametrize("packing", ["gzip", "plain"])
async def test_the_node_sdk_delivers_every_call(nats: NatsServer, broker: Broker, node_sdks: Path, packing: str) -> None:
    async with edge_here(nats, broker) as edge:
        command = ["node", str(HERE / "node" / "rudder.cjs"), edge.url, "web", str(ROUNDS), packing]
        await check(edge, await run(command, NODE_PATH=str(node_sdks)), "analytics-node")
