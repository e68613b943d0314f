"""Segment's own SDKs, unmodified, against a real edge: what they say they delivered is what is stored, by ids."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from shared.jetstream.broker import Broker
from tests.e2e.ingest.edge import Edge, edge_here, edge_process, start, stop
from tests.support.nats import NatsServer
from tests.support.sdks import node_sdks, python_sdk, run

__all__ = ["node_sdks"]

HERE = Path(__file__).parent
OLD_VERSION = "2.3.4"
KINDS = ["track", "identify", "page", "screen", "group", "alias"]


@pytest.fixture(scope="session")
def old_python_sdk() -> Path:
    """The folder with segment-analytics-python 2.3.4, which knows no Authorization header."""
    return python_sdk(f"segment-analytics-python=={OLD_VERSION}")


async def check(edge: Edge, sent: dict[str, Any], rounds: int) -> None:
    assert sent["problems"] == []
    stored = await edge.events()
    assert Counter(each.head.message_id for each in stored) == Counter(sent["delivered"])
    assert Counter(each.head.type for each in stored) == dict.fromkeys(KINDS, rounds)
    for each in stored:
        event = each.materialised()
        assert event["context"]["library"]["name"] in ("analytics-python", "@segment/analytics-node")
        assert event["sentAt"] >= event["originalTimestamp"]
        assert abs((event["timestamp"] - event["receivedAt"]).total_seconds()) < 60
    skus = {
        event["properties"]["items"][0]["sku"] for event in (each.materialised() for each in stored) if event["type"] == "track"
    }
    assert skus == {f"é-{number}" for number in range(rounds)}
    assert await edge.dead() == []


@pytest.mark.timeout(200)
@pytest.mark.parametrize("encoding", ["gzip", "plain"])
@pytest.mark.parametrize("version", ["2.4.0", OLD_VERSION])
async def test_the_python_sdk_delivers_every_call(
    nats: NatsServer, broker: Broker, old_python_sdk: Path, version: str, encoding: str
) -> None:
    path = {"PYTHONPATH": str(old_python_sdk)} if version == OLD_VERSION else {}
    async with edge_here(nats, broker) as edge:
        sent = await run([sys.executable, str(HERE / "segment_sender.py"), edge.url, "web", "40", "0", encoding], **path)
        assert sent["version"] == version
        assert sent["queued"]
        await check(edge, sent, 40)


@pytest.mark.timeout(200)
async def test_the_node_sdk_delivers_every_call(nats: NatsServer, broker: Broker, node_sdks: Path) -> None:
    async with edge_here(nats, broker) as edge:
        sent = await run(["node", str(HERE / "node" / "send.cjs"), edge.url, "web", "40"], NODE_PATH=str(node_sdks))
        await check(edge, sent, 40)


@pytest.mark.timeout(200)
async def test_a_wrong_key_is_reported_to_the_sdk_as_it_expects(nats: NatsServer, broker: Broker, old_python_sdk: Path) -> None:
    async with edge_here(nats, broker) as edge:
        for path in ({}, {"PYTHONPATH": str(old_python_sdk)}):
            sent = await run([sys.executable, str(HERE / "segment_sender.py"), edge.url, "nobody", "2", "0", "plain"], **path)
            assert len(sent["problems"]) == 1
            assert "the write key is unknown" in sent["problems"][0]
        assert await edge.ids() == []


@pytest.mark.timeout(200)
@pytest.mark.parametrize("sdk", ["python", "node"])
async def test_an_sdk_gets_through_a_restart_of_the_edge_and_of_the_broker(
    nats: NatsServer, broker: Broker, tmp_path: Path, node_sdks: Path, sdk: str
) -> None:
    async with edge_process(nats, broker, tmp_path, PENSTOCK_INGEST_DEADLINE="1s") as edge:
        command = (
            [sys.executable, str(HERE / "segment_sender.py"), edge.url, "web", "400", "5", "gzip"]
            if sdk == "python"
            else ["node", str(HERE / "node" / "send.cjs"), edge.url, "web", "400", "5"]
        )
        sender = asyncio.create_task(run(command, NODE_PATH=str(node_sdks)))
        while not await edge.ids():
            await asyncio.sleep(0.01)
        stop(edge)
        assert 0 < len(await edge.ids()) < 2400, "the restart came too late to matter"
        await start(edge, nats, {"PENSTOCK_INGEST_DEADLINE": "1s"})
        nats.kill()
        await asyncio.sleep(0.3)
        nats.start()
        sent = await sender
        assert sent["problems"] == []
        assert set(await edge.ids()) == set(sent["delivered"])
