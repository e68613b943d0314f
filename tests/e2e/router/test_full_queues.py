"""A queue that is full stops its own connection, which catches up later without loss or repeat."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from router.settings import RouterSettings
from shared.events.outcome import DropReason
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.telemetry.metrics import Telemetry
from tests.support.router import Queue, limit_queues, put, reading, routing, snapshot, state_of, until, waiting

SMALL = RouterSettings(pending_frames=4)

# each frame is a synced write, and a busy disk takes its time
pytestmark = pytest.mark.timeout(240)


async def test_a_full_queue_stops_its_connection_only_and_it_catches_up_when_there_is_room(
    broker: Broker, telemetry: Telemetry
) -> None:
    await limit_queues(broker, 10)
    config = snapshot({"full": {"where": {"field": "event", "ne": "left out"}}, "free": {}})
    ids = [f"m{index}" for index in range(300)]
    async with reading(broker, "free") as (free,), routing(broker, telemetry, config, SMALL):
        for index, id_ in enumerate(ids):
            # every tenth is a repeat of one long ago, every seventh is filtered
            await put(
                broker, [id_, ids[index // 2]] if index % 10 == 9 else [id_], event="left out" if index % 7 == 6 else "kept"
            )
        await until(lambda: len(free.ids) == 300)
        assert telemetry.value("router_connection_stopped", connection="full") == 1
        assert await waiting(broker, "full") == 10
        async with asyncio.timeout(60):
            while (state := await state_of(broker)).position < 300:  # stored by another task
                await asyncio.sleep(0.05)
        assert state.behind["full"].seq < 40
        async with reading(broker, "full") as (full,):
            await until(lambda: len(full.ids) == 300 - 300 // 7)
            await until(lambda: telemetry.value("router_connection_stopped", connection="full") == 0)
            await put(broker, ["after"])
            await until(lambda: "after" in full.ids and "after" in free.ids)
    assert full.ids == [id_ for index, id_ in enumerate(ids) if index % 7 != 6] + ["after"]
    assert full.repeats == 0
    assert (await state_of(broker)).behind == {}
    assert telemetry.value("router_events_dropped_total", connection="full", reason=DropReason.EXPIRED) == 0


async def test_a_connection_that_was_stopped_catches_up_after_a_restart_with_the_same_verdicts(
    broker: Broker, telemetry: Telemetry
) -> None:
    await limit_queues(broker, 5)
    config = snapshot({"full": {}, "free": {}})
    async with reading(broker, "free") as (free,):
        async with routing(broker, telemetry, config, SMALL):
            for index in range(100):
                await put(broker, [f"m{index}", f"m{index // 3}"])
            await until(lambda: len(free.ids) == 100)
            await until(lambda: telemetry.value("router_connection_stopped", connection="full") == 1)
        state = await state_of(broker)
        assert state.position == 100
        assert 0 < state.behind["full"].seq <= 15
        async with routing(broker, telemetry, config, SMALL), reading(broker, "full") as (full,):
            await put(broker, ["m5", "last"])
            await until(lambda: "last" in full.ids and "last" in free.ids)
    assert full.ids == free.ids == [f"m{index}" for index in range(100)] + ["last"]
    assert full.repeats == 0


def has_more_than(queue: Queue, ids: int) -> bool:
    return len(queue.ids) > ids


async def test_handing_over_under_load_loses_and_repeats_nothing(broker: Broker, telemetry: Telemetry) -> None:
    await limit_queues(broker, 8)
    accepted: list[str] = []
    stop = asyncio.Event()

    async def load() -> None:
        while not stop.is_set():
            ids = [f"m{len(accepted) + index}" for index in range(3)]
            await put(broker, [*ids, ids[0]])
            accepted.extend(ids)
            # a connection takes one frame after the other; leave it time to get nearer
            await asyncio.sleep(0.005)

    slow = Queue("slow")
    async with routing(broker, telemetry, snapshot({"slow": {}, "quick": {}}), SMALL), reading(broker, "quick") as (quick,):
        loading = asyncio.create_task(load())
        async with reading(broker, slow):
            await until(lambda: len(slow.ids) > 30)
        for _ in range(4):
            await until(lambda: telemetry.value("router_connection_stopped", connection="slow") == 1)
            async with reading(broker, slow):
                await until(lambda: telemetry.value("router_connection_stopped", connection="slow") == 0)
                reached = len(slow.ids) + 30
                await until(partial(has_more_than, slow, reached))
        stop.set()
        await loading
        async with reading(broker, slow):
            await until(lambda: len(slow.ids) >= len(accepted) and len(quick.ids) >= len(accepted))
    assert quick.ids == accepted
    assert slow.ids == accepted
    assert slow.repeats == 0


async def test_what_expired_while_a_connection_was_stopped_is_counted(broker: Broker, telemetry: Telemetry) -> None:
    await limit_queues(broker, 5)
    async with routing(broker, telemetry, snapshot({"full": {}, "free": {}}), SMALL), reading(broker, "free") as (free,):
        # more than a reader holds in memory
        for index in range(400):
            await put(broker, [f"a{index}", f"b{index}"])
        await until(lambda: len(free.ids) == 800)
        await until(lambda: telemetry.value("router_connection_stopped", connection="full") == 1)
        await broker.js.purge_stream(topology.EVENTS, seq=391)
        async with reading(broker, "full") as (full,):
            await put(broker, ["last"])
            await until(lambda: "last" in full.ids)
    lost = telemetry.value("router_events_dropped_total", connection="full", reason=DropReason.EXPIRED)
    assert lost > 0
    assert len(full.ids) + lost == 801
    assert full.ids == free.ids[: len(full.ids) - 21] + free.ids[780:]
