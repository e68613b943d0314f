"""The router against a real broker: what connections get, in which order, and what survives full queues, changes and restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from nats.js.api import StreamConfig

from router.lanes.state import SiteState, StateKeeper
from router.rules.compiled import compile_project
from router.settings import RouterSettings
from shared.errors import Fenced
from shared.events.dead import decode_dead
from shared.events.frame import decode_frame, encode_frame
from shared.events.outcome import DropReason
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.project.model import decode_project
from shared.project.snapshot import ConfigSnapshot
from shared.settings import ServiceSettings
from shared.telemetry.metrics import Telemetry
from tests.support.nats import NatsServer
from tests.support.router import Queue, frame, limit_queues, project, put, reading, routing, snapshot, until, waiting

SMALL = RouterSettings(pending_frames=4)

# each frame is a synced write, and a busy disk takes its time
pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    """Counters that begin at zero."""
    opened = Telemetry("router-test", ServiceSettings())
    yield opened
    opened.shutdown()


async def state_of(broker: Broker) -> SiteState:
    state = await StateKeeper(broker, "shop").load()
    assert state is not None
    return state


async def test_frames_go_to_every_connection_of_the_site_as_they_are(broker: Broker, telemetry: Telemetry) -> None:
    first = await put(broker, ["a", "b"])
    async with routing(broker, telemetry, snapshot({"one": {}, "two": {}})), reading(broker, "one", "two") as (one, two):
        second = await put(broker, ["c"])
        await until(lambda: len(one.ids) == len(two.ids) == 3)
    stored = await broker.js.get_msg(topology.EVENTS, first)
    assert one.ids == two.ids == ["a", "b", "c"]
    assert one.seqs == two.seqs == [first, second]
    assert one.payloads[0] == two.payloads[0] == stored.data
    assert len(set(one.lanes + two.lanes)) == 1
    assert one.lanes[0].startswith("live-")
    assert (await state_of(broker)).position == second


async def test_conditions_choose_events_and_a_frame_with_none_sends_nothing(broker: Broker, telemetry: Telemetry) -> None:
    config = snapshot(
        {
            "pages": {"where": {"field": "type", "eq": "page"}},
            "big": {"where": [{"field": "type", "eq": "track"}, {"field": "properties.total", "gt": 10}]},
            "all": {},
        }
    )
    async with routing(broker, telemetry, config), reading(broker, "pages", "big", "all") as (pages, big, everything):
        await put(broker, ["t1"], properties={"total": 5})
        await put(broker, ["p1", "p2"], type="page")
        await put(broker, ["t2"], properties={"total": 50})
        await until(lambda: len(everything.ids) == 4 and pages.ids == ["p1", "p2"] and big.ids == ["t2"])
    assert len(pages.seqs) == len(big.seqs) == 1
    assert telemetry.value("router_events_dropped_total", connection="big", reason=DropReason.FILTERED) == 3


async def test_a_message_id_is_delivered_once_also_within_a_frame_and_over_a_restart(
    broker: Broker, telemetry: Telemetry
) -> None:
    config = snapshot({"one": {}})
    async with reading(broker, "one") as (one,):
        async with routing(broker, telemetry, config):
            await put(broker, ["a", "b", "a"])
            await put(broker, ["b", "c"])
            await put(broker, ["a", "c"])
            await until(lambda: len(one.ids) >= 3)
        await put(broker, ["c", "d"])
        async with routing(broker, telemetry, config):
            await put(broker, ["d", "a", "e"])
            await until(lambda: "e" in one.ids)
    assert one.ids == ["a", "b", "c", "d", "e"]
    assert one.repeats == 0


async def test_without_a_window_repeats_pass(broker: Broker, telemetry: Telemetry) -> None:
    async with routing(broker, telemetry, snapshot({"one": {}}, dedupe_window="0s")), reading(broker, "one") as (one,):
        await put(broker, ["a", "a"])
        await put(broker, ["a"])
        await until(lambda: len(one.ids) == 3)


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
        await asyncio.sleep(0.5)
        state = await state_of(broker)
        assert state.position == 300
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
        async with asyncio.timeout(10):
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
