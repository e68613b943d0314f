"""What a plan takes away: sites, connections, and events that wait."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock.control.project.consequences import losses
from shared.events.headers import Place, write_place
from shared.jetstream import topology
from shared.jetstream.broker import connect
from shared.jetstream.kv import Bucket
from shared.project.snapshot import StoredProject
from shared.streams.reports import KNOWS, Told, key_of
from shared.telemetry.health import Report
from tests.support.nats import NatsServer

BEFORE = {
    "sites": {"shop": {}, "blog": {}},
    "connections": {"kept": {"site": "shop"}, "gone": {"site": "shop"}, "moved": {"site": "shop"}},
}
STORED = StoredProject({}, BEFORE, incarnations={"gone": "7-abcd"})
GONE = topology.queue_of("gone", "7-abcd")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path) as running:
        yield running


async def test_events_that_wait_for_a_removed_connection_are_counted_in_both_queues(server: NatsServer) -> None:
    after = {"sites": {"shop": {}}, "connections": {"kept": {"site": "shop"}, "moved": {"site": "blog"}}}
    async with connect(server.url, "test", patience_seconds=60) as broker:
        assert [loss.events for loss in await losses(broker, STORED, after)] == [0, 0, 0]  # no streams at all
        await topology.ensure(broker, topology.TopologySettings(events_max_bytes=2**24, dead_max_bytes=2**24))
        for subject, seq, events in (
            (topology.deliver_subject(GONE), 1, 3),
            (topology.deliver_subject(GONE), 2, 4),
            (topology.retry_subject("loader", GONE), 1, 5),
            (topology.deliver_subject("kept"), 1, 9),
        ):
            await broker.publisher.publish(
                subject, b"", msg_id=f"{subject}{seq}", headers=write_place(Place("lane", seq, events))
            )
        found = {loss.path: loss for loss in await losses(broker, STORED, after)}
    assert set(found) == {"sites.blog", "connections.gone", "connections.moved"}
    assert found["connections.gone"].events == 12
    assert str(found["connections.gone"]) == "connections.gone: the connection goes; 12 events that wait for it are not delivered"
    assert "moves from site 'shop' to 'blog'" in found["connections.moved"].what


async def test_a_key_that_stops_working_is_a_loss() -> None:
    def keys(*keys: dict[str, str]) -> dict[str, Any]:
        return {"sites": {"shop": {"keys": list(keys)}, "blog": {"keys": [{"id": "moved"}] if len(keys) < 3 else []}}}

    before = keys({"id": "web-3444abcd"}, {"id": "api", "secret": "a"}, {"id": "open"}, {"id": "kept"}, {"id": "moved"})
    after = keys({"id": "api", "secret": "b"}, {"id": "open", "secret": "c"})
    after["sites"]["shop"]["keys"].append({"id": "kept", "kind": "server"})
    found = await losses(None, StoredProject({}, before), after)  # type: ignore[arg-type]  # without connections no broker is asked
    assert [str(loss) for loss in found] == [
        "sites.shop.keys: requests with key web-3444… get 401",
        "sites.shop.keys: requests with key api and its old secret get 401",
        "sites.shop.keys: requests with key open and no secret get 401",
    ]
    after["sites"]["shop"]["enabled"] = False
    (loss,) = await losses(None, StoredProject({}, before), after)  # type: ignore[arg-type]
    assert "the site is turned off" in loss.what


async def test_nothing_is_lost_where_nothing_is_removed(server: NatsServer) -> None:
    async with connect(server.url, "test", patience_seconds=60) as broker:
        assert await losses(broker, StoredProject({}, {}), BEFORE) == []
        assert await losses(broker, STORED, BEFORE) == []


async def test_services_that_cannot_read_shards_of_a_connection_are_named_before_it_gets_some(server: NatsServer) -> None:
    after: dict[str, Any] = {
        "sites": BEFORE["sites"],
        "connections": {"kept": {"site": "shop", "shards": 2}, "gone": {"site": "shop"}, "moved": {"site": "shop"}},
    }
    async with connect(server.url, "test", patience_seconds=60) as broker:
        assert await losses(broker, STORED, after) == []  # no streams at all
        await topology.ensure(broker, topology.TopologySettings(events_max_bytes=2**24, dead_max_bytes=2**24))
        bucket = Bucket(broker, topology.LEASE_BUCKET)
        for instance, knows in (("new:1", KNOWS), ("old:1", KNOWS[:1])):
            told = Told(service="router", instance=instance, at=time.time(), report=Report(True), knows=knows)
            await bucket.put(key_of(instance), msgspec.json.encode(told), ttl_seconds=60)
        (loss,) = await losses(broker, STORED, after)
        assert loss.path == "connections.kept.shards"
        assert loss.what.startswith("upgrade first: router old:1 cannot read")
        assert await losses(broker, StoredProject({}, BEFORE, shards={"kept": 2}), after) == []
