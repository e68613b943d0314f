"""Routers as processes: killed, frozen past their lease, drained, and several at once."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import shutil
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import nats.errors as nats_errors
import pytest
from nats.js.errors import NotFoundError

from router.forwarding.state import state_key
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.jetstream.lease import holder
from tests.support.nats import NatsServer
from tests.support.router import (
    Queue,
    apply,
    forget_message_ids,
    limit_queues,
    project,
    put,
    reading,
    router_process,
    until,
    waiting,
)


@dataclass
class Load:
    """Events under way: each frame holds new ids and repeats of old ones."""

    accepted: list[str] = field(default_factory=list)
    frames: int = 0


@contextlib.asynccontextmanager
async def load(broker: Broker, pause_seconds: float = 0.005) -> AsyncIterator[Load]:
    """Accepts events while the context is open."""
    state, stop, dice = Load(), asyncio.Event(), random.Random(7)

    async def feed() -> None:
        while not stop.is_set():
            new = [f"m{len(state.accepted) + index}" for index in range(dice.randint(1, 30))]
            old = dice.sample(state.accepted, min(len(state.accepted), dice.randint(0, 3)))
            await put(broker, [*new, *old], event=f"e{state.frames % 3}")
            state.accepted.extend(new)
            state.frames += 1
            await asyncio.sleep(pause_seconds)

    task = asyncio.create_task(feed())
    try:
        yield state
    finally:
        stop.set()
        await task


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_routers_killed_at_any_moment_lose_and_repeat_nothing(broker: Broker, nats: NatsServer, tmp_path: Path) -> None:
    await limit_queues(broker, 40)
    await apply(broker, project({"all": {}, "some": {"where": {"field": "event", "eq": "e1"}}, "slow": {}}))
    dice = random.Random(11)
    some = Queue("some")
    async with reading(broker, "all", some) as (everything, _), reading(broker, "slow", pause_seconds=0.01) as (slow,):
        async with load(broker) as accepted:
            turns = itertools.count()
            # until the kills repeated something, which they do unless a router is quicker than its load; else they show nothing
            while (turn := next(turns)) < 4 or not everything.repeats + slow.repeats:
                with router_process(nats.url, tmp_path / f"router{turn}.log", PENSTOCK_DELIVER_MAX_FRAMES="40") as router:
                    reached = accepted.frames + 20
                    await until(lambda: bool(everything.seqs) and everything.seqs[-1] >= reached, 60)  # noqa: B023
                    # the router set the broker's memory for ids right at its start
                    await forget_message_ids(broker)
                    await asyncio.sleep(dice.random())
                    router.kill()
        with router_process(nats.url, tmp_path / "router.log") as router:
            ids = accepted.accepted
            await until(lambda: len(everything.ids) >= len(ids) and len(slow.ids) >= len(ids), 120)
            await asyncio.sleep(0.3)
            router.signal(signal.SIGTERM)
            assert await asyncio.to_thread(router.wait) == 0
    assert everything.ids == ids
    assert slow.ids == ids
    assert not some.twice()
    assert 0 < len(some.ids) < len(ids)
    assert set(some.ids) < set(ids)


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_a_router_frozen_past_its_lease_does_no_harm_when_it_wakes(
    broker: Broker, nats: NatsServer, tmp_path: Path
) -> None:
    await limit_queues(broker, 20)
    await apply(broker, project({"all": {}, "slow": {}}))
    slow = Queue("slow")
    async with reading(broker, "all") as (everything,), load(broker) as accepted:
        with router_process(nats.url, tmp_path / "first.log", PENSTOCK_DELIVER_MAX_FRAMES="20") as first:
            await until(lambda: len(everything.ids) > 300)
            await forget_message_ids(broker)
            first.signal(signal.SIGSTOP)
            frozen = accepted.frames
            with router_process(nats.url, tmp_path / "second.log", PENSTOCK_DELIVER_MAX_FRAMES="20") as second:
                await until(lambda: everything.seqs[-1] > frozen + 100)
                async with reading(broker, slow):
                    first.signal(signal.SIGCONT)
                    reached = accepted.frames + 200
                    await until(lambda: everything.seqs[-1] > reached)
                    await until(lambda: "left to another replica" in (tmp_path / "first.log").read_text())
                    assert first.running
                # and back: what was the first router takes over from the second
                second.kill()
                reached = accepted.frames + 100
                async with reading(broker, slow):
                    await until(lambda: everything.seqs[-1] > reached)
        ids = accepted.accepted
        with router_process(nats.url, tmp_path / "third.log"):
            async with reading(broker, slow):
                reached = len(ids)
                await until(lambda: len(everything.ids) >= reached and len(slow.ids) >= reached)
    assert everything.ids[:reached] == ids[:reached]
    assert slow.ids[:reached] == ids[:reached]


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_a_drained_router_hands_its_site_over_at_once_and_a_new_project_takes_effect_without_restart(
    broker: Broker, nats: NatsServer, tmp_path: Path
) -> None:
    await apply(broker, project({"all": {}}))
    with router_process(nats.url, tmp_path / "first.log", PENSTOCK_ROUTER_LEASE="30s") as first:
        async with reading(broker, "all") as (everything,), load(broker) as accepted:
            await until(lambda: len(everything.ids) > 100)
            with router_process(nats.url, tmp_path / "second.log", PENSTOCK_ROUTER_LEASE="30s"):
                await apply(broker, project({"all": {}, "late": {}}))
                async with reading(broker, "late") as (late,):  # its queue is named with the project that adds it
                    await until(lambda: len(late.ids) > 100)
                    first.signal(signal.SIGTERM)
                    assert await asyncio.to_thread(first.wait) == 0
                    reached = accepted.frames + 100
                    await until(lambda: everything.seqs[-1] > reached)
                    assert (await holder(broker, "router.shop") or "").startswith("router-")
                    await apply(broker, project({"late": {}}))
                    await until(lambda: everything.seqs[-1] < late.seqs[-1] - 50)
                    await apply(broker, project({"late": {"where": [{"field": "type", "gt": []}]}, "never": {}}))
                    reached = accepted.frames + 50
                    await until(lambda: late.seqs[-1] > reached)
                    assert await waiting(broker, "never") == 0
    assert everything.ids == accepted.accepted[: len(everything.ids)]
    start = accepted.accepted.index(late.ids[0])
    assert late.ids == accepted.accepted[start : start + len(late.ids)]
    assert everything.repeats == late.repeats == 0


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_a_broker_that_lost_its_store_is_used_again_without_a_restart(
    broker: Broker, nats: NatsServer, tmp_path: Path
) -> None:
    await apply(broker, project({"old": {}}))
    with router_process(nats.url, tmp_path / "router.log"):
        async with reading(broker, "old") as (old,):
            for number in range(5):
                await put(broker, [f"old{number}"])
            await until(lambda: len(old.ids) == 5)
        await asyncio.to_thread(nats.kill)
        shutil.rmtree(nats.directory / "store")
        await asyncio.to_thread(nats.start)
        await streams_are_there(broker)
        await apply(broker, project({"new": {}}))
        for number in range(10):  # more than there were: nothing may be read behind the old position first
            await put(broker, [f"new{number}"])
        async with reading(broker, "new") as (new,):
            await until(lambda: len(new.ids) >= 10)
    assert new.ids == [f"new{number}" for number in range(10)]
    assert len(set(new.lanes)) == 1


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_a_site_that_cannot_be_routed_leaves_the_other_sites_of_the_process_alone(
    broker: Broker, nats: NatsServer, tmp_path: Path
) -> None:
    document = project({"good": {}, "bad": {"site": "blog"}})
    document["sites"]["blog"] = {}
    await Bucket(broker, topology.STATE_BUCKET).put(state_key("blog"), b'{"position":"of a later version"}')
    await apply(broker, document)
    with router_process(nats.url, tmp_path / "router.log") as router:
        async with reading(broker, "good") as (good,):
            for number in range(30):
                await put(broker, [f"m{number}"])
                if number == 15:
                    await until(lambda: router.log.read_text().count("work failed") > 1)
            await until(lambda: len(good.ids) == 30)
        assert router.running


async def streams_are_there(broker: Broker) -> None:
    """Waits until services have made them."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(NotFoundError, OSError, TimeoutError, nats_errors.Error):
                await broker.js.stream_info(topology.EVENTS)  # the last that is made
                return
            await asyncio.sleep(0.1)
