"""The loader process and Kafka: killed loaders, two loaders, brokers that are away; compared by sets of ids that a consumer reads."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.control.status.balance import settle_balance
from shared.jetstream import topology
from shared.jetstream.broker import Broker, connect
from shared.jetstream.lease import holder
from tests.e2e.loader_support import dead, drained, not_ready, put, queue, start
from tests.support.kafka_broker import PRODUCE, KafkaFront, Tansu, front_of
from tests.support.kafka_topics import create, ids, in_order, read
from tests.support.stack import Stack, stack

pytestmark = pytest.mark.timeout(240)
AWAY_SECONDS = float(os.environ.get("PENSTOCK_FAULT_AWAY", "2"))
TIMEOUT_SECONDS = 120.0
"""Of the destination; brokers that are away for longer see another session."""


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Stack]:
    with stack(tmp_path) as started:
        yield started


@pytest.fixture(scope="module")
def tansu() -> Iterator[Tansu]:
    with Tansu() as broker:
        yield broker


def project(front: KafkaFront, topic: str, **options: Any) -> dict[str, Any]:
    bus = {"type": "kafka", "bootstrap_servers": front.servers, "topic": topic, "retry_delay": 0.2, **options}
    return {
        "sites": {"shop": {"keys": [{"id": "k"}]}},
        "destinations": {"bus": bus},
        "connections": {"c": {"site": "shop", "destination": "bus", "mode": "stream"}},
    }


def events(first: int, count: int, users: int = 5) -> list[dict[str, Any]]:
    return [{"messageId": f"m{n}", "type": "track", "userId": f"u{n % users}", "n": n} for n in range(first, first + count)]


def everything(count: int) -> Counter[str]:
    return Counter(f"m{n}" for n in range(count))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def at_rest(broker: Broker, delivered: int) -> None:
    """Waits until nothing waits; every event is counted once."""
    await drained(broker)
    await drained(broker, topology.RETRY)
    balance = await settle_balance(broker, "shop", "c", await queue(broker))
    assert (balance.delivered, sum(balance.dead.values()), balance.all_waiting) == (delivered, 0, 0), balance
    assert await dead(broker) == []


async def test_a_loader_that_is_killed_repeats_only_records_whose_acknowledgement_was_not_noted(
    running: Stack, tansu: Tansu
) -> None:
    async with front_of(tansu) as front, connect(running.nats.url, "test") as broker:
        await create(front.servers, "killed")
        await start(running, project(front, "killed", calls_at_once=2, batch_events=10))
        for frame in range(8):
            await put(broker, frame + 1, events(frame * 250, 250))
        for calls in (20, 60, 100):
            await until(lambda calls=calls: front.requests[PRODUCE] >= calls)  # type: ignore[misc]
            running.kill("loader")
            running.start("loader")
        await at_rest(broker, 2000)
        found = await read(front.servers, "killed", 2000)
        assert set(ids(found)) == set(everything(2000))
        assert in_order(found)


async def test_a_loader_that_is_frozen_and_wakes_up_loses_nothing_to_its_successor(running: Stack, tansu: Tansu) -> None:
    async with front_of(tansu) as front, connect(running.nats.url, "test") as broker:
        await create(front.servers, "frozen")
        await start(running, project(front, "frozen", calls_at_once=2, batch_events=10))
        for frame in range(4):
            await put(broker, frame + 1, events(frame * 250, 250))
        await until(lambda: front.requests[PRODUCE] >= 20)
        running.freeze("loader")
        running.start("loader-2")
        async with asyncio.timeout(60):
            while not (await holder(broker, "loader.c") or "").endswith(f"-{running.pids['loader-2']}"):
                await asyncio.sleep(0.1)
        for frame in range(4, 8):
            await put(broker, frame + 1, events(frame * 250, 250))
        running.thaw("loader")
        await at_rest(broker, 2000)
        found = await read(front.servers, "frozen", 2000)
        assert set(ids(found)) == set(everything(2000))
        assert in_order(found)
        # again comes only what was under way when it froze, and what was acknowledged since its last note: once more, by the successor
        assert max(Counter(ids(found)).values()) <= 2


@pytest.mark.parametrize("how", ["frozen", "refuses"])
async def test_brokers_that_are_away_double_nothing_and_ready_says_why(running: Stack, tansu: Tansu, how: str) -> None:
    async with front_of(tansu) as front, connect(running.nats.url, "test") as broker:
        await create(front.servers, f"away-{how}")
        await start(running, project(front, f"away-{how}", batch_events=10))
        for frame in range(8):
            await put(broker, frame + 1, events(frame * 250, 250))
        await until(lambda: front.requests[PRODUCE] >= 20)
        if how == "frozen":
            front.vanish()
        else:
            await front.away()
        async with asyncio.timeout(AWAY_SECONDS + 60):
            if how == "frozen":
                while "no acknowledgement from 127.0.0.1" not in await not_ready(running):
                    await asyncio.sleep(0.2)
            await asyncio.sleep(AWAY_SECONDS)
        if how == "frozen":
            front.flow()
        else:
            await front.back()
        await at_rest(broker, 2000)
        found = await read(front.servers, f"away-{how}", 2000)
        if AWAY_SECONDS < TIMEOUT_SECONDS / 2:
            assert ids(found) == everything(2000)
        assert set(ids(found)) == set(everything(2000))
        assert in_order(found)
        async with asyncio.timeout(60):
            while await not_ready(running):
                await asyncio.sleep(0.1)


async def test_brokers_that_are_away_when_a_loader_starts_lose_nothing(running: Stack, tansu: Tansu) -> None:
    async with front_of(tansu) as front, connect(running.nats.url, "test") as broker:
        await create(front.servers, "late")
        await front.away()
        await running.apply(project(front, "late"))
        running.start("loader")
        await put(broker, 1, events(0, 500))
        async with asyncio.timeout(60):
            while "cannot connect" not in await not_ready(running):
                await asyncio.sleep(0.2)
        await front.back()
        await at_rest(broker, 500)
        found = await read(front.servers, "late", 500)
        assert ids(found) == everything(500)
        assert in_order(found)
