"""What a router survives: frames that nothing can read, streams that are lost, a broker that dies, a successor."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
from nats.js.api import StreamConfig

from router.settings import RouterSettings
from shared.errors import Fenced
from shared.events.dead import decode_dead
from shared.events.frame import decode_frame, encode_frame
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.telemetry.metrics import Telemetry
from tests.e2e.router.test_full_queues import has_more_than
from tests.support.nats import NatsServer
from tests.support.router import Queue, frame, limit_queues, put, reading, routing, snapshot, until, waiting

SMALL = RouterSettings(pending_frames=4)

# each frame is a synced write, and a busy disk takes its time
pytestmark = pytest.mark.timeout(240)


async def test_an_unreadable_frame_goes_to_the_dead_letters_whole_and_its_neighbours_go_on(
    broker: Broker, telemetry: Telemetry
) -> None:
    damaged = decode_frame(frame([{"messageId": "x"}] * 30))
    damaged.block = b"not compressed data"
    config = snapshot({"one": {"where": {"field": "properties.x", "exists": False}}})
    async with routing(broker, telemetry, config), reading(broker, "one") as (one,):
        await put(broker, ["a"])
        await broker.publisher.publish(topology.events_subject("shop"), b"\xc1 not a frame")
        await broker.publisher.publish(topology.events_subject("shop"), encode_frame(damaged))
        await put(broker, ["b"])
        await until(lambda: one.ids == ["a", "b"])
    letters = [
        decode_dead((await broker.js.get_msg(topology.DEAD, seq)).data or b"")[0]
        for seq in range(1, (await broker.js.stream_info(topology.DEAD)).state.messages + 1)
    ]
    assert [letter.body for letter in letters] == [b"\xc1 not a frame", encode_frame(damaged)]
    assert {letter.reason for letter in letters} == {"frame_unreadable"}
    assert "cannot be decompressed" in letters[1].detail
    assert [letter.origin.split(":")[1] for letter in letters] == ["2", "3"]


async def test_events_created_anew_are_routed_from_their_first_frame_on_a_lane_of_their_own(
    broker: Broker, telemetry: Telemetry
) -> None:
    config = snapshot({"one": {}})
    async with reading(broker, "one") as (one,):
        async with routing(broker, telemetry, config):
            for index in range(5):
                await put(broker, [f"old{index}"])
            await until(lambda: len(one.ids) == 5)
        events = next(stream for stream in topology.streams(topology.TopologySettings()) if stream.name == topology.EVENTS)
        await broker.js.delete_stream(topology.EVENTS)
        await broker.js.add_stream(StreamConfig(**vars(events)))
        await put(broker, ["new0"])
        async with routing(broker, telemetry, config):
            await put(broker, ["new1"])
            await until(lambda: len(one.ids) == 7)
    assert one.ids[5:] == ["new0", "new1"]
    assert one.seqs[5:] == [1, 2]
    assert len(set(one.lanes)) == 2


async def test_what_was_in_the_queues_is_read_again_when_their_stream_is_lost(broker: Broker, telemetry: Telemetry) -> None:
    config = snapshot({"one": {}})
    async with routing(broker, telemetry, config):
        await put(broker, ["a"])
        await put(broker, ["b"])
        async with asyncio.timeout(60):
            while await waiting(broker, "one") < 2:
                await asyncio.sleep(0.01)
    queues = next(stream for stream in topology.streams(topology.TopologySettings()) if stream.name == topology.DELIVER)
    await broker.js.delete_stream(topology.DELIVER)
    await broker.js.add_stream(StreamConfig(**vars(queues)))
    async with reading(broker, "one") as (one,), routing(broker, telemetry, config):
        await put(broker, ["c"])
        await until(lambda: one.ids == ["a", "b", "c"])
        await until(lambda: telemetry.value("account_forwarded_events", connection="one") == 3)
    assert one.repeats == 0


@pytest.mark.slow
async def test_a_broker_that_dies_and_comes_back_costs_time_only(broker: Broker, nats: NatsServer, telemetry: Telemetry) -> None:
    await limit_queues(broker, 8)
    accepted: list[str] = []
    stop = asyncio.Event()

    async def load() -> None:
        while not stop.is_set():
            await put(broker, [f"m{len(accepted)}", f"m{len(accepted) // 2}"])
            accepted.append(f"m{len(accepted)}")
            await asyncio.sleep(0.005)

    slow = Queue("slow")
    async with routing(broker, telemetry, snapshot({"slow": {}, "quick": {}}), SMALL), reading(broker, "quick") as (quick,):
        loading = asyncio.create_task(load())
        for _ in range(3):
            await until(lambda: telemetry.value("router_connection_stopped", connection="slow") == 1)
            await asyncio.to_thread(nats.kill)
            await asyncio.to_thread(nats.start)
            async with reading(broker, slow):
                await until(partial(has_more_than, slow, len(slow.ids) + 50))
        stop.set()
        await loading
        async with reading(broker, slow):
            await until(lambda: len(slow.ids) >= len(accepted) and len(quick.ids) >= len(accepted))
    assert quick.ids == accepted
    assert slow.ids == accepted


async def test_a_router_that_was_overtaken_is_refused_and_stops(broker: Broker, telemetry: Telemetry) -> None:
    config = snapshot({"one": {}})
    async with reading(broker, "one") as (one,):
        with pytest.raises(Fenced):  # the second router is what makes the first one fail
            async with routing(broker, telemetry, config):
                await put(broker, ["a"])
                await until(lambda: one.ids == ["a"])
                async with routing(broker, telemetry, config):
                    await put(broker, ["b"])
                    await until(lambda: one.ids == ["a", "b"])
    assert one.repeats <= 1
    assert one.ids == ["a", "b"]
