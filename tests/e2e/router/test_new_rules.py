"""A changed project under way: new rules, new connections, disabled, moved and removed ones."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from router.rules.compiled import compile_project
from router.settings import RouterSettings
from shared.jetstream.broker import Broker
from shared.project.read import decode_project
from shared.project.snapshot import ConfigSnapshot
from shared.telemetry.metrics import Telemetry
from tests.support.router import limit_queues, project, put, reading, routing, snapshot, state_of, until

SMALL = RouterSettings(pending_frames=4)

# each frame is a synced write, and a busy disk takes its time
pytestmark = pytest.mark.timeout(240)


async def test_new_rules_come_into_force_between_frames_and_unchanged_connections_notice_nothing(
    broker: Broker, telemetry: Telemetry
) -> None:
    accepted: list[str] = []
    stop = asyncio.Event()

    async def load() -> None:
        while not stop.is_set():
            id_ = f"m{len(accepted)}"
            await put(broker, [id_], event="even" if len(accepted) % 2 == 0 else "odd")
            accepted.append(id_)

    async with (
        routing(broker, telemetry, snapshot({"kept": {}, "changed": {}, "gone": {}})) as router,
        reading(broker, "kept", "changed", "gone", "added") as (kept, changed, gone, added),
    ):
        loading = asyncio.create_task(load())
        await until(lambda: len(kept.ids) > 30)
        for revision in range(2, 12):
            where = {"field": "event", "eq": "even" if revision % 2 else "odd"}
            connections = {"kept": {}, "changed": {"where": where}, "added": {}}
            await router.apply(compile_project(snapshot(connections, revision))["shop"])
            await asyncio.sleep(0.05)
        await router.apply(compile_project(snapshot({"kept": {}, "changed": {}, "added": {}}, 12))["shop"])
        mark = len(accepted)
        await until(lambda: len(accepted) > mark + 30)
        stop.set()
        await loading
        await until(lambda: len(kept.ids) == len(accepted) and accepted[-1] in changed.ids and accepted[-1] in added.ids)
    assert kept.ids == accepted
    assert gone.ids == accepted[: len(gone.ids)]
    assert added.ids == accepted[len(accepted) - len(added.ids) :]
    assert 30 < len(added.ids) < len(accepted)
    assert not changed.twice()
    assert changed.ids == sorted(changed.ids, key=lambda id_: int(id_[1:]))
    assert set(accepted[mark + 1 :]) <= set(changed.ids)
    assert kept.repeats == changed.repeats == added.repeats == 0


async def test_a_new_connection_begins_in_the_past_if_it_asks_for_that_and_only_once(
    broker: Broker, telemetry: Telemetry
) -> None:
    before = snapshot({"one": {}})
    after = snapshot({"one": {"backfill": "1h"}, "late": {"backfill": "1h"}, "plain": {}, "off": {"enabled": False}}, 2)
    enabled = snapshot({"one": {}, "late": {"backfill": "1h"}, "plain": {}, "off": {"backfill": "1h"}}, 3)
    async with reading(broker, "one", "late", "plain", "off") as (one, late, plain, off):
        async with routing(broker, telemetry, before) as router:
            for index in range(20):
                await put(broker, [f"m{index}", f"m{index // 2}"])
            await until(lambda: len(one.ids) == 20)
            await router.apply(compile_project(after)["shop"])
            await put(broker, ["live"])
            await until(lambda: "live" in late.ids and plain.ids == ["live"])
        assert (await state_of(broker)).connections == ["late", "one", "plain"]
        async with routing(broker, telemetry, enabled):
            await until(lambda: len(off.ids) == 21)
            await put(broker, ["again"])
            await until(lambda: all(queue.ids[-1:] == ["again"] for queue in (one, late, plain, off)))
    everything = [*(f"m{index}" for index in range(20)), "live", "again"]
    assert one.ids == late.ids == off.ids == everything
    assert plain.ids == ["live", "again"]
    assert not one.repeats + late.repeats + plain.repeats + off.repeats


async def test_a_backfill_reaches_as_far_back_as_it_says(broker: Broker, telemetry: Telemetry) -> None:
    await put(broker, ["old"])
    await asyncio.sleep(3)
    await put(broker, ["young"])
    async with reading(broker, "one", "late", "none") as (one, late, none):
        async with routing(broker, telemetry, snapshot({"one": {}})):
            await until(lambda: one.ids == ["old", "young"])
        # added while no router ran, and once with nothing in reach
        later = snapshot({"one": {}, "late": {"backfill": "2.5s"}, "none": {"backfill": "0.001s"}}, 2)
        async with routing(broker, telemetry, later):
            await put(broker, ["live"])
            await until(lambda: late.ids[-1:] == none.ids == one.ids[-1:] == ["live"])
    assert late.ids in (["young", "live"], ["live"])  # a busy machine takes its time
    assert none.ids == ["live"]


async def test_a_disabled_connection_gets_nothing_and_keeps_what_it_was_owed(broker: Broker, telemetry: Telemetry) -> None:
    await limit_queues(broker, 5)
    on: dict[str, dict[str, Any]] = {"full": {}, "free": {}}
    off: dict[str, dict[str, Any]] = {"full": {"enabled": False}, "free": {}}
    async with reading(broker, "free") as (free,):
        async with routing(broker, telemetry, snapshot(on), SMALL) as router:
            for index in range(40):
                await put(broker, [f"owed{index}"])
            await until(lambda: telemetry.value("router_connection_stopped", connection="full") == 1)
            await until(lambda: len(free.ids) == 40)
            await router.apply(compile_project(snapshot(off, 2))["shop"])
            for index in range(10):
                await put(broker, [f"missed{index}"])
            await until(lambda: len(free.ids) == 50)
        async with routing(broker, telemetry, snapshot(off, 2), SMALL) as router, reading(broker, "full") as (full,):
            await put(broker, ["missed too"])
            await until(lambda: len(free.ids) == 51)
            await router.apply(compile_project(snapshot(on, 3))["shop"])
            await put(broker, ["again"])
            await until(lambda: "again" in full.ids)
    assert full.ids == [f"owed{index}" for index in range(40)] + ["again"]


async def test_a_connection_added_again_begins_a_lane_where_its_backfill_begins(broker: Broker, telemetry: Telemetry) -> None:
    await put(broker, ["a"])
    async with reading(broker, "one") as (one,), routing(broker, telemetry, snapshot({"other": {}})) as router:
        await until(lambda: telemetry.value("account_accepted_events", site="shop") == 1)
        await router.apply(compile_project(snapshot({"one": {}, "other": {}}))["shop"])
        await put(broker, ["b"])
        await until(lambda: one.ids == ["b"])
        await router.apply(compile_project(snapshot({"other": {}}))["shop"])
        await router.apply(compile_project(snapshot({"one": {"backfill": "1h"}, "other": {}}, 2))["shop"])
        await until(lambda: one.ids == ["b", "a", "b"])
    assert [lane.rpartition("@")[2] for lane in one.lanes] == ["2", "1", "1"]


async def test_a_connection_that_was_moved_to_another_site_gets_frames_with_lower_sequences_too(
    broker: Broker, telemetry: Telemetry
) -> None:
    """Two routers do not keep to one order: the loader must not take the frames of one site for repeats of the other's."""
    await put(broker, ["b1", "b2"], site="blog")
    config = decode_project({**project({"one": {}}), "sites": {"shop": {}, "blog": {}}})
    moved = decode_project(
        {**project({"one": {}}), "sites": {"shop": {}, "blog": {}}, "connections": {"one": {"site": "blog", "destination": "wh"}}}
    )
    async with reading(broker, "one") as (one,):
        async with routing(broker, telemetry, ConfigSnapshot(1, config)):
            await put(broker, ["s1"])
            await until(lambda: one.ids == ["s1"])
        async with routing(broker, telemetry, ConfigSnapshot(2, moved), site="blog"):
            await until(lambda: len(one.ids) == 3)
    assert one.ids == ["s1", "b1", "b2"]
    assert one.repeats == 0
