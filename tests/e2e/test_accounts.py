"""The accounts of router and loader against a real broker: after crashes, full queues, disabled and removed connections."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from router.lanes.account import Account
from router.lanes.state import SiteState, StateKeeper
from router.rules.compiled import compile_project
from router.settings import RouterSettings
from router.site import SiteRouter
from shared.jetstream.broker import Broker
from shared.settings import ServiceSettings
from shared.streams.waiting import look_ahead, look_at_queue
from shared.telemetry.metrics import Telemetry
from tests.support.router import limit_queues, put, reading, routing, snapshot, waiting

SMALL = RouterSettings(pending_frames=2)
EVENTS = 30

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    opened = Telemetry("router-test", ServiceSettings())
    yield opened
    opened.shutdown()


async def state_of(broker: Broker) -> SiteState:
    return await StateKeeper(broker, "shop").load() or SiteState()


async def routed(broker: Broker, position: int) -> SiteState:
    async with asyncio.timeout(30):
        while (state := await state_of(broker)).position < position or state.behind:  # stored by another task
            await asyncio.sleep(0.02)
    return state


def problems(state: SiteState) -> list[str]:
    return [
        f"{name}: received {account.received(state.accepted)}, ended {account.ended}"
        for name, account in state.accounts.items()
        if account.received(state.accepted) != account.ended
    ]


async def test_counts_of_the_router_survive_being_killed_again_and_again(
    broker: Broker, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = snapshot({"all": {}, "some": {"where": [{"field": "event", "in": ["x"]}]}, "none": {"sample": 0.0001}})
    last = 0
    for number in range(EVENTS):
        last = await put(broker, [f"{number}", f"{number}-b"], event="x" if number % 2 else "y")
    await put(broker, ["1"], event="x")
    last = await put(broker, ["last"], event="y")
    published = broker.publisher.publish
    for writes in (2, 9, 20, 31):
        router = SiteRouter(broker, compile_project(config)["shop"], telemetry, SMALL)
        left, enough = writes, asyncio.Event()

        async def publish(*args: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                enough.set()  # noqa: B023 - called in this round only
                await asyncio.Event().wait()
            return await published(*args, **named)

        monkeypatch.setattr(broker.publisher, "publish", publish)
        task = asyncio.create_task(router.run(asyncio.Event()))
        await enough.wait()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    monkeypatch.undo()
    async with routing(broker, telemetry, config, SMALL):
        state = await routed(broker, last)
    assert state.accepted == 2 * EVENTS + 2
    assert not problems(state)
    assert state.accounts["all"] == Account(queue="all", left=None, forwarded=2 * EVENTS + 1, dropped={"duplicate": 1})
    assert state.accounts["some"].forwarded == EVENTS
    assert (await look_at_queue(broker, "all")).events == 2 * EVENTS + 1
    assert (await look_ahead(broker, "shop", state.position)).frames == 0
    ahead = await look_ahead(broker, "shop", 0)
    assert (ahead.frames, ahead.exact) == (EVENTS + 2, False)


async def test_counts_of_the_router_survive_full_queues_and_disabled_and_removed_connections(
    broker: Broker, telemetry: Telemetry
) -> None:
    await limit_queues(broker, 3)
    both = snapshot({"slow": {}, "quick": {}})
    async with reading(broker, "quick"), routing(broker, telemetry, both, SMALL) as router:
        for number in range(12):
            last = await put(broker, [f"{number}"])
        async with asyncio.timeout(30):
            while "slow" not in (state := await state_of(broker)).behind or state.position < last:
                await asyncio.sleep(0.02)
        owed = state.behind["slow"].owed
        account = state.accounts["slow"]
        assert account.received(state.accepted) == account.ended + owed == 12
        assert (await look_at_queue(broker, "slow")).events == account.forwarded == await waiting(broker, "slow")
        assert telemetry.value("account_waiting_events", connection="slow", place="events") == owed
        await router.apply(compile_project(snapshot({"slow": {"enabled": False}, "quick": {}}, revision=2))["shop"])
        for number in range(5):
            await put(broker, [f"while-disabled-{number}"])
        async with asyncio.timeout(30):
            while (state := await state_of(broker)).accepted < 17:
                await asyncio.sleep(0.02)
        account = state.accounts["slow"]
        assert account.received(state.accepted) == account.ended + state.behind["slow"].owed == 12
        await router.apply(compile_project(snapshot({"slow": {}, "new": {}}, revision=3))["shop"])
        last = await put(broker, ["end"])
        async with reading(broker, "slow", "new"):
            state = await routed(broker, last)
        assert not problems(state)
        assert state.accounts.keys() == {"slow", "new"}
        assert state.accounts["slow"].forwarded == 13
        assert state.accounts["new"].forwarded == 1
        assert telemetry.value("account_received_events", connection="slow") == 13
        assert 'connection="quick"' not in "".join(
            line for line in telemetry.exposition().decode().splitlines() if line.startswith("account_")
        )
    assert not [line for line in telemetry.exposition().decode().splitlines() if line.startswith("account_")]


async def test_a_connection_that_is_disabled_while_no_router_works_is_owed_nothing_of_that_time(
    broker: Broker, telemetry: Telemetry
) -> None:
    off = snapshot({"wh": {"enabled": False}, "other": {}}, revision=2)
    async with routing(broker, telemetry, snapshot({"wh": {}, "other": {}})):
        await routed(broker, await put(broker, ["before"]))
    async with routing(broker, telemetry, off) as router:
        state = await routed(broker, await put(broker, ["meanwhile"]))
        assert state.accounts["wh"].received(state.accepted) == state.accounts["wh"].ended == 1
        await router.apply(compile_project(snapshot({"wh": {}, "other": {}}, revision=3))["shop"])
        state = await routed(broker, await put(broker, ["after"]))
    assert not problems(state)
    assert state.accounts["wh"].forwarded == 2
    assert state.lives["wh"].gaps == [(2, 2)]
