"""Snowplow's own trackers, unmodified, against a real edge: every parameter that they say they delivered is stored, by ids."""

from __future__ import annotations

import base64
import json
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
ROUNDS = 20
VISITOR = "5c37a5b7-55fe-4bb8-a6e2-ad4e6ad54ee2"


@pytest.fixture(scope="session")
def snowplow_python() -> Path:
    """The folder with Snowplow's tracker for Python."""
    return python_sdk("snowplow-tracker==1.1.0")


def decoded(parameters: dict[str, Any]) -> dict[str, Any]:
    """Parameters as an event keeps them: JSON out of base64 and its wrapper."""
    kept = {name: str(value) for name, value in parameters.items() if value not in (None, "")}
    for plain, coded in (("ue_pr", "ue_px"), ("co", "cx")):
        packed = kept.pop(coded, None)
        text = kept.pop(plain, None) if packed is None else base64.urlsafe_b64decode(packed + "==")
        if text is None:
            continue
        value = json.loads(text)["data"]
        if plain == "co":
            kept["contexts"] = value
        else:
            kept["schema"], kept["data"] = value["schema"], value["data"]
    return kept


async def check(edge: Edge, sent: dict[str, Any], kinds: int) -> None:
    assert sent["problems"] == []
    delivered = {each["eid"]: decoded(each) for each in sent["delivered"]}
    assert len(delivered) == kinds * ROUNDS
    stored = await edge.events()
    assert Counter(each.head.message_id for each in stored) == Counter(list(delivered))
    for each in stored:
        event = each.materialised()
        kept = dict(event["context"]["snowplow"])
        wanted = delivered[each.head.message_id]
        if "schema" in wanted:
            kept["data"] = event["properties"]
        kept.pop("stm")  # set when it is sent
        wanted.pop("stm", None)
        assert kept == {"nuid": VISITOR, **wanted}
        assert event["anonymousId"] == "d-1"
        assert abs((event["timestamp"] - event["receivedAt"]).total_seconds()) < 60 or "ttm" in kept
    assert await edge.dead() == []


@pytest.mark.parametrize("method", ["post", "get"])
async def test_the_node_tracker_delivers_every_event(nats: NatsServer, broker: Broker, node_sdks: Path, method: str) -> None:
    async with edge_here(nats, broker) as edge:
        command = ["node", str(HERE / "node" / "snowplow.cjs"), edge.url, "web", str(ROUNDS), method]
        await check(edge, await run(command, NODE_PATH=str(node_sdks)), 6)


@pytest.mark.parametrize("method", ["post", "get"])
async def test_the_python_tracker_delivers_every_event(
    nats: NatsServer, broker: Broker, snowplow_python: Path, method: str
) -> None:
    async with edge_here(nats, broker) as edge:
        command = [sys.executable, str(HERE / "snowplow_sender.py"), edge.url, "web", str(ROUNDS), method]
        await check(edge, await run(command, PYTHONPATH=str(snowplow_python)), 4)
