"""Frames of connections with functions: they wait before the functions, and none behind them overtakes one that is in them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from nats.js.api import StreamConfig

from router.replay.run import replay
from router.rules.compiled import compile_project
from router.settings import RouterSettings
from shared.events.headers import SEQUENCE
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.queue_reader import QueueReader
from shared.streams.waiting import count_frames
from shared.telemetry.metrics import Telemetry
from tests.support.router import put, reading, routing, snapshot, until, waiting

SMALL = RouterSettings(pending_frames=4)

RULE: dict[str, Any] = {"privacy": [{"field": "properties.card", "do": "drop"}]}
STRAIGHT, THROUGH = snapshot({"wh": {}}, 1), snapshot({"wh": RULE}, 2)


async def in_functions(broker: Broker) -> int:
    return await count_frames(broker, topology.FUNCTIONS, topology.functions_subject("wh"))


async def until_in_functions(broker: Broker, frames: int) -> None:
    async with asyncio.timeout(60):
        while await in_functions(broker) != frames:
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def working(broker: Broker) -> AsyncIterator[None]:
    """Does what functions do to frames, but for the functions: each goes on as it came, under its place."""

    async def move() -> None:
        async with QueueReader(broker, topology.FUNCTIONS, topology.functions_subject("wh"), "functions-wh") as reader:
            async for message in reader:
                id_ = f"functions.{message.headers[SEQUENCE]}.{message.seq}"
                await broker.publisher.publish(
                    topology.deliver_subject("wh"), message.payload, msg_id=id_, headers=message.headers
                )
                await reader.ack([message.seq])

    task = asyncio.create_task(move())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_frames_wait_before_the_functions_of_their_connection(broker: Broker, telemetry: Telemetry) -> None:
    config = snapshot({"wh": RULE, "plain": {}})
    async with reading(broker, "plain", "wh") as (plain, wh), routing(broker, telemetry, config):
        for index in range(5):
            await put(broker, [f"m{index}"])
        await until(lambda: len(plain.ids) == 5)
        await until_in_functions(broker, 5)
        assert wh.ids == []
        async with working(broker):
            await until(lambda: wh.ids == plain.ids)
        await until(lambda: telemetry.value("account_forwarded_events", connection="wh") == 5)
    assert wh.seqs == plain.seqs
    assert wh.lanes == plain.lanes


async def test_without_functions_frames_wait_until_earlier_ones_have_left_them(broker: Broker, telemetry: Telemetry) -> None:
    async with reading(broker, "wh") as (wh,), routing(broker, telemetry, THROUGH) as router:
        for index in range(5):
            await put(broker, [f"m{index}"])
        await until_in_functions(broker, 5)
        await router.apply(compile_project(STRAIGHT)["shop"])
        for index in range(5, 10):
            await put(broker, [f"m{index}"])
        await until(lambda: telemetry.value("router_frames_total", site="shop") == 10)
        assert (wh.ids, await waiting(broker, "wh")) == ([], 0)
        async with working(broker):
            await until(lambda: len(wh.ids) == 10)
        await put(broker, ["m10"])
        await until(lambda: len(wh.ids) == 11)
    assert wh.ids == [f"m{index}" for index in range(11)]
    assert wh.repeats == 0


async def test_a_router_that_starts_without_functions_lets_a_former_ones_frames_leave_them_first(
    broker: Broker, telemetry: Telemetry
) -> None:
    async with routing(broker, telemetry, THROUGH):
        for index in range(3):
            await put(broker, [f"m{index}"])
        await until_in_functions(broker, 3)
    async with reading(broker, "wh") as (wh,):
        await put(broker, ["m3"])
        async with routing(broker, telemetry, STRAIGHT):
            await put(broker, ["m4"])
            async with working(broker):
                await until(lambda: len(wh.ids) == 5)
    assert wh.ids == [f"m{index}" for index in range(5)]


async def test_rules_that_come_and_go_under_load_lose_and_double_nothing(broker: Broker, telemetry: Telemetry) -> None:
    accepted: list[str] = []
    stop = asyncio.Event()

    async def load() -> None:
        while not stop.is_set():
            await put(broker, [f"m{len(accepted)}"])
            accepted.append(f"m{len(accepted)}")
            await asyncio.sleep(0.02)  # two hops more than the router has

    async with (
        reading(broker, "wh") as (wh,),
        working(broker),
        routing(broker, telemetry, STRAIGHT) as router,
    ):
        loading = asyncio.create_task(load())
        for revision in range(2, 9):
            await router.apply(compile_project(snapshot({"wh": {} if revision % 2 else RULE}, revision))["shop"])
            mark = len(accepted)
            await until(lambda mark=mark: len(wh.ids) > mark)  # type: ignore[misc]
        stop.set()
        await loading
        await until(lambda: len(wh.ids) == len(accepted))
    assert wh.ids == accepted


async def test_while_there_is_no_room_before_functions_frames_wait_in_events_and_then_come_in_their_order(
    broker: Broker, telemetry: Telemetry
) -> None:
    config = (await broker.js.stream_info(topology.FUNCTIONS)).config
    config.max_msgs_per_subject = 2
    await broker.js.update_stream(config)
    async with reading(broker, "wh") as (wh,), routing(broker, telemetry, THROUGH, SMALL):
        for index in range(60):
            await put(broker, [f"m{index}"])
        await until(lambda: telemetry.value("router_connection_stopped", connection="wh") == 1)
        assert (await in_functions(broker), wh.ids) == (2, [])
        async with working(broker):
            await until(lambda: len(wh.ids) == 60)
            await until(lambda: telemetry.value("router_connection_stopped", connection="wh") == 0)
    assert (wh.ids, wh.repeats) == ([f"m{index}" for index in range(60)], 0)


async def test_a_replay_goes_through_functions(broker: Broker) -> None:
    for index in range(4):
        await put(broker, [f"m{index}"])
    async with reading(broker, "wh") as (wh,):
        await replay(broker, THROUGH, "shop", replay_id="r1")
        assert (await in_functions(broker), wh.ids) == (4, [])
        async with working(broker):
            await until(lambda: len(wh.ids) == 4)
    assert set(wh.lanes) == {"replay-r1"}


async def test_what_was_before_functions_is_read_again_when_their_stream_is_lost(broker: Broker, telemetry: Telemetry) -> None:
    async with routing(broker, telemetry, THROUGH):
        await put(broker, ["a"])
        await put(broker, ["b"])
        await until_in_functions(broker, 2)
    queues = next(stream for stream in topology.streams(topology.TopologySettings()) if stream.name == topology.FUNCTIONS)
    await broker.js.delete_stream(topology.FUNCTIONS)
    await broker.js.add_stream(StreamConfig(**vars(queues)))
    async with reading(broker, "wh") as (wh,), routing(broker, telemetry, THROUGH), working(broker):
        await put(broker, ["c"])
        await until(lambda: wh.ids == ["a", "b", "c"])
