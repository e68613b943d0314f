"""The streams and servers of a real broker as metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, cast

import aiohttp
import msgspec
import pytest

from router.room.measured import Stream, keep_measured, measure_servers, measure_streams, tell_stream
from shared.errors import NotConnected
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.service import ServiceContext
from shared.settings import ServiceSettings
from shared.telemetry.health import Health
from shared.telemetry.metrics import Telemetry
from shared.telemetry.names import GaugeName
from tests.support.nats import NatsServer
from tests.support.ports import free_port
from tests.support.router import put


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    opened = Telemetry("measured-test", ServiceSettings())
    yield opened
    opened.shutdown()


async def test_content_age_readers_and_room_of_streams_are_told(broker: Broker, telemetry: Telemetry) -> None:
    for number in range(3):
        await put(broker, [f"m{number}"])
    info = (await broker.js.stream_info(topology.EVENTS)).state
    subject = topology.deliver_subject("c")
    for number in range(5):
        await broker.publisher.publish(subject, b"x", msg_id=f"q{number}")
    await measure_streams(broker, telemetry, 4e9)

    def value(name: GaugeName, stream: str) -> float:
        return telemetry.value(name, stream=stream)

    assert (value("stream_messages", "EVENTS"), value("stream_last_sequence", "EVENTS")) == (3, 3)
    assert value("stream_bytes", "EVENTS") == info.bytes
    assert value("stream_limit_bytes", "DEAD") == topology.TopologySettings().dead_max_bytes
    assert 4e9 - value("stream_oldest_seconds", "EVENTS") > 1.7e9
    assert value("stream_oldest_seconds", "DEAD") == 0
    assert (value("stream_replicas", "EVENTS"), value("stream_replicas_current", "EVENTS")) == (1, 1)
    assert value("stream_messages", "KV_config") == 0
    assert (value("stream_messages", "DELIVER"), value("stream_readers", "DELIVER")) == (5, 0)
    await broker.js.pull_subscribe(subject, durable="c", stream=topology.DELIVER)
    consumer = await broker.js.pull_subscribe_bind("c", topology.DELIVER)
    held = await consumer.fetch(2, timeout=60)
    await measure_streams(broker, telemetry, 4e9)
    assert (value("stream_readers", "DELIVER"), value("stream_pending_messages", "DELIVER")) == (1, 3)
    assert value("stream_unacknowledged_messages", "DELIVER") == len(held) == 2
    assert value("stream_redelivered_messages", "DELIVER") == 0
    await held[0].nak()
    async with asyncio.timeout(60):
        while not any(each.metadata.num_delivered == 2 for each in await consumer.fetch(1, timeout=60)):
            pass
    await measure_streams(broker, telemetry, 4e9)
    assert value("stream_redelivered_messages", "DELIVER") == 1


async def test_a_server_tells_its_room_and_one_that_is_away_is_down(
    nats: NatsServer, broker: Broker, telemetry: Telemetry
) -> None:
    here, nowhere = f"127.0.0.1:{nats.monitor_port}", f"127.0.0.1:{free_port()}"
    addresses = [f"http://{here}/", f"http://{nowhere}"]
    async with aiohttp.ClientSession() as session:
        await measure_servers(session, addresses, telemetry)
        assert telemetry.value("broker_up", server=here) == 1
        assert telemetry.value("broker_up", server=nowhere) == 0
        assert (
            telemetry.value("broker_storage_limit_bytes", server=here) > telemetry.value("broker_storage_bytes", server=here) >= 0
        )
        assert telemetry.value("broker_memory_bytes", server=here) > 1e6
        assert telemetry.value("broker_connections", server=here) == 1
        assert telemetry.value("broker_api_requests", server=here) > 0
        assert telemetry.value("broker_api_errors", server=here) > 0  # each stream was looked for before it was made
        assert telemetry.value("broker_slow_consumers", server=here) == 0
        assert telemetry.value("broker_storage_reserved_bytes", server=here) > 2**20
        assert 0 <= telemetry.value("broker_cpu_cores", server=here) < 1000
        nats.stop()
        await measure_servers(session, addresses, telemetry)
    assert telemetry.value("broker_up", server=here) == 0
    assert telemetry.value("broker_memory_bytes") == 0
    with pytest.raises(NotConnected):
        await measure_streams(broker, telemetry, 0)


def test_copies_that_lag_and_a_stream_without_a_leader_are_told(telemetry: Telemetry) -> None:
    answer = {
        "config": {"name": "EVENTS", "max_bytes": -1, "num_replicas": 3},
        "state": {
            "messages": 1,
            "bytes": 9,
            "first_seq": 1,
            "first_ts": "0001-01-01T00:00:00Z",
            "last_seq": 1,
            "consumer_count": 0,
        },
        "cluster": {"leader": "n1", "replicas": [{"name": "n2", "current": True}, {"name": "n3", "current": False, "lag": 7}]},
    }
    tell_stream(msgspec.convert(answer, Stream), telemetry, 1.0)
    assert telemetry.value("stream_replicas_current", stream="EVENTS") == 2
    assert telemetry.value("stream_replica_lag_messages", stream="EVENTS") == 7
    assert telemetry.value("stream_limit_bytes") == 0
    tell_stream(msgspec.convert(answer | {"cluster": {"replicas": []}}, Stream), telemetry, 1.0)
    assert telemetry.value("stream_replicas_current", stream="EVENTS") == 0


async def test_one_router_measures_and_forgets_its_values_when_another_takes_over(broker: Broker, telemetry: Telemetry) -> None:
    await put(broker, ["m"])
    context = ServiceContext("router", "here", ServiceSettings(), broker, cast("Any", None), telemetry, Health())
    task = asyncio.create_task(keep_measured(context, ""))
    async with asyncio.timeout(60):
        while not telemetry.value("stream_messages", stream="EVENTS"):
            await asyncio.sleep(0.02)
    telemetry.gauge("stream_fill_ratio", 0.5, stream="EVENTS")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert telemetry.value("stream_messages") == 0
    assert telemetry.value("stream_fill_ratio", stream="EVENTS") == 0.5
