"""An edge that starts while the broker is away takes events into its journal, and they arrive when the broker is back."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import aiohttp
import pytest

from shared.events.frame import decode_frame
from shared.jetstream import topology
from shared.jetstream.broker import connect
from shared.jetstream.reader import StreamReader
from tests.support.stack import stack

PROJECT = {"sites": {"shop": {"keys": [{"id": "k"}]}}}


@pytest.mark.timeout(240)
async def test_an_edge_started_without_its_broker_takes_events_and_loses_none(tmp_path: Path) -> None:
    places = {"PENSTOCK_CACHE_DIR": str(tmp_path / "cache"), "PENSTOCK_INGEST_SPOOL_DIR": str(tmp_path / "spool")}
    with stack(tmp_path / "stack", places) as running:
        await running.apply(PROJECT)
        running.start("ingest")
        running.wait_ready("ingest")
        running.kill("ingest")
        running.nats.kill()
        running.start("ingest")
        url = f"http://127.0.0.1:{running.port}/v1/track"
        event = {"event": "Bought", "anonymousId": "a", "messageId": "m1", "writeKey": "k"}
        async with aiohttp.ClientSession() as session, asyncio.timeout(60):
            while True:
                with contextlib.suppress(aiohttp.ClientConnectorError):
                    async with session.post(url, json=event) as answer:
                        assert answer.status == 200, await answer.text()
                        break
                await asyncio.sleep(0.1)
        assert "going on with the last good project" in running.log("ingest")
        running.nats.start()
        running.wait_ready("ingest")
        async with connect(running.nats.url, "test") as broker, StreamReader(broker, topology.EVENTS) as reader:
            message = await reader.next(60)
            assert message is not None
            assert [head.message_id for head in decode_frame(message.payload).heads] == ["m1"]
            assert await reader.next(1) is None
