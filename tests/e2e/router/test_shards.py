"""Sites that several routers share: each event once, and every user's in order, while their number changes and routers die."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nats.js.api import StreamConfig

from router.forwarding.state import StateKeeper
from router.shards.keeper import carry_on
from router.shards.summed import read_site_state
from shared.errors import SetupError
from shared.events.headers import shard_of_lane, split_lane
from shared.events.shards import Shard, read_layout
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.jetstream.lease import holder
from shared.project.snapshot import current_snapshot
from shared.streams.removed import list_removed
from shared.streams.reports import key_of
from shared.streams.rewind import Rewind, Rewinds, answer_key, decode_answer, rewind_key
from tests.support.nats import NatsServer
from tests.support.router import apply, forget_message_ids, frame, limit_queues, project, reading, router_process, until
from tests.support.shards import by_user, drained, users

pytestmark = pytest.mark.timeout(240)


async def test_the_number_of_shards_changes_up_and_down_under_load(broker: Broker, nats: NatsServer, tmp_path: Path) -> None:
    connections = {"all": {}, "none": {"where": {"field": "event", "eq": "never"}}}
    await apply(broker, project(dict(connections)))
    with router_process(nats.url, tmp_path / "router.log"):
        async with reading(broker, "all") as (queue,):
            async with users(broker) as sending:
                await until(lambda: len(queue.ids) > 50)
                for shards in (4, 1, 3):
                    await sending.change(project(dict(connections), shards=shards))
                    await drained(broker, shards)
                    reached = len(queue.ids) + 60
                    await until(lambda: len(queue.ids) > reached)  # noqa: B023
            await until(lambda: len(queue.ids) >= len(sending.ids))
    assert sorted(queue.ids) == sorted(sending.ids)
    assert by_user(queue.ids) == by_user(sending.ids)
    layout = await read_layout(broker, "shop")
    assert layout is not None
    assert [split.of for split in layout.splits] == [1, 4, 1, 3]
    # each shard had users of its own, and a lane of its own
    assert len(set(queue.lanes)) > 6


async def spread(broker: Broker, prefix: str, frames: int = 6, each: int = 5) -> list[str]:
    """Accepts frames of several users that no edge packed by shard; returns their ids."""
    accepted: list[str] = []
    for number in range(frames):
        events = [{"messageId": f"{prefix}{number}-{user}", "userId": f"user-{user}"} for user in range(each)]
        await broker.publisher.publish(topology.events_subject("shop"), frame(events), msg_id=f"{prefix}{number}")
        accepted += [str(event["messageId"]) for event in events]
    return accepted


async def test_former_shards_send_again_what_a_lost_queue_or_a_destination_lacks(
    broker: Broker, nats: NatsServer, tmp_path: Path
) -> None:
    await apply(broker, project({"all": {}}))
    with router_process(nats.url, tmp_path / "router.log") as router:
        accepted = await spread(broker, "a")
        await apply(broker, project({"all": {}}, shards=3))
        await drained(broker, 3)
        accepted += await spread(broker, "b")
        await until_forwarded(broker, "all", len(accepted))
        router.kill()
        deliver = next(each for each in topology.streams(topology.TopologySettings()) if each.name == topology.DELIVER)
        await broker.js.delete_stream(topology.DELIVER)
        await broker.js.add_stream(StreamConfig(**vars(deliver)))
        router.start()
        async with reading(broker, "all") as (queue,):
            await until(lambda: len(queue.ids) >= len(accepted))
            assert sorted(queue.ids) == sorted(accepted)
            lanes = set(queue.lanes)
            assert len(lanes) == 4
            bucket = Bucket(broker, topology.STATE_BUCKET)
            asked = {lane: Rewind(number=1, first=max(1, split_lane(lane)[1]), last=100, level=0, holes={}) for lane in lanes}
            rewinds = Rewinds(queue=(await current_snapshot(broker)).queue_of("all"), lanes=asked)
            await bucket.put(rewind_key("all"), msgspec.json.encode(rewinds))
            async with asyncio.timeout(60):
                for lane in lanes:
                    begun: tuple[int, int] | None = None
                    while begun is None:
                        entry = await bucket.get(answer_key("all", shard_of_lane(lane)))
                        begun = decode_answer(entry.value if entry else None).begun.get(lane)
                    assert begun[0] == 1
            await until(lambda: queue.repeats >= len(queue.seqs))
    assert sorted(queue.ids) == sorted(accepted)


async def test_shards_go_on_when_events_was_created_again_and_hand_over_a_removed_connection(
    broker: Broker, nats: NatsServer, tmp_path: Path
) -> None:
    await apply(broker, project({"all": {}, "gone": {}}, shards=2))
    with router_process(nats.url, tmp_path / "router.log") as router:
        async with reading(broker, "all") as (queue,):
            accepted = await spread(broker, "a")
            await drained(broker, 2)
            accepted += await spread(broker, "b")
            await until(lambda: len(queue.ids) >= len(accepted))
            await until_forwarded(broker, "gone", len(accepted))
            await apply(broker, project({"all": {}}, shards=2))
            async with asyncio.timeout(60):
                while not (removed := await list_removed(broker)) or removed[0].forwarded < len(accepted):
                    await asyncio.sleep(0.02)
            assert (removed[0].received, removed[0].forwarded) == (len(accepted), len(accepted))
            await until_forwarded(broker, "all", len(accepted))
            router.kill()
            events = (await broker.js.stream_info(topology.EVENTS)).config
            await broker.js.delete_stream(topology.EVENTS)
            await broker.js.add_stream(StreamConfig(**vars(events)))
            router.start()
            accepted += await spread(broker, "c")
            await until(lambda: len(queue.ids) >= len(accepted))
        await until_forwarded(broker, "all", len(accepted))
        state = await read_site_state(broker, "shop")
    assert sorted(queue.ids) == sorted(accepted)
    assert state.accounts["all"].forwarded == state.accepted == len(accepted)


async def test_routers_share_shards_out_evenly_also_with_one_that_joins(broker: Broker, nats: NatsServer, tmp_path: Path) -> None:
    await apply(broker, project({"all": {}}, shards=4))
    with router_process(nats.url, tmp_path / "one.log"):
        await drained(broker, 4)
        async with users(broker, count=6) as sending, reading(broker, "all") as (queue,):
            await until(lambda: len(queue.ids) > 20)
            with router_process(nats.url, tmp_path / "two.log"):
                async with asyncio.timeout(60):
                    while True:
                        holders = [await holder(broker, f"router.{Shard(number, 4).key('shop')}") for number in range(4)]
                        if sorted(Counter(holders).values()) == [2, 2] and None not in holders:
                            break
                        await asyncio.sleep(0.1)
                reached = len(queue.ids) + 20
                await until(lambda: len(queue.ids) > reached)
            sending.ending.set()
            await until(lambda: len(queue.ids) >= len(sending.ids))
    assert by_user(queue.ids) == by_user(sending.ids)


async def test_a_router_frozen_before_the_first_change_sends_nothing_from_behind_it_when_it_wakes(
    broker: Broker, nats: NatsServer, tmp_path: Path
) -> None:
    await apply(broker, project({"all": {}}))
    with router_process(nats.url, tmp_path / "one.log") as frozen:
        async with users(broker, count=6) as sending, reading(broker, "all") as (queue,):
            await until(lambda: len(queue.ids) > 30)
            frozen.signal(signal.SIGSTOP)
            with router_process(nats.url, tmp_path / "two.log"):
                await sending.change(project({"all": {}}, shards=3))
                await drained(broker, 3)
                reached = len(queue.ids) + 100
                await until(lambda: len(queue.ids) > reached)
                await forget_message_ids(broker)
                frozen.signal(signal.SIGCONT)
                reached = len(queue.ids) + 100
                await until(lambda: len(queue.ids) > reached)
                sending.ending.set()
                await until(lambda: len(queue.ids) >= len(sending.ids))
    assert sorted(queue.ids) == sorted(sending.ids)
    assert by_user(queue.ids) == by_user(sending.ids)


async def until_forwarded(broker: Broker, connection: str, events: int) -> None:
    async with asyncio.timeout(60):
        while True:
            account = (await read_site_state(broker, "shop")).accounts.get(connection)
            if account is not None and account.forwarded >= events:
                return
            await asyncio.sleep(0.02)


@pytest.mark.slow
async def test_routers_killed_while_the_number_changes_lose_and_repeat_nothing(
    broker: Broker, nats: NatsServer, tmp_path: Path
) -> None:
    dice = random.Random(5)
    connections: dict[str, dict[str, Any]] = {"all": {}, "slow": {}}
    await limit_queues(broker, 30)
    await apply(broker, project(dict(connections)))
    environment = {"PENSTOCK_DELIVER_MAX_FRAMES": "30"}
    async with reading(broker, "all") as (everything,), reading(broker, "slow", pause_seconds=0.01) as (slow,):
        with (
            router_process(nats.url, tmp_path / "one.log", **environment) as one,
            router_process(nats.url, tmp_path / "two.log", **environment) as two,
        ):
            async with users(broker, count=8, pause_seconds=0.03) as sending:
                for shards in (4, 2, 3):
                    await sending.change(project(dict(connections), shards=shards))
                    await forget_message_ids(broker)
                    for _ in range(2):
                        await asyncio.sleep(dice.random())
                        victim = dice.choice([one, two])
                        victim.kill()
                        victim.start()
            await drained(broker, 3)
            await until(lambda: len(everything.ids) >= len(sending.ids) and len(slow.ids) >= len(sending.ids), 120)
    for queue in (everything, slow):
        assert sorted(queue.ids) == sorted(sending.ids)
        assert by_user(queue.ids) == by_user(sending.ids)
    states = [await StateKeeper(broker, "shop", Shard(number, 3)).load() for number in range(3)]
    assert all(state is not None and not state.behind for state in states)


async def test_a_site_gets_no_shards_while_a_router_of_an_earlier_release_lives(broker: Broker) -> None:
    reports = Bucket(broker, topology.LEASE_BUCKET)
    old = {"service": "router", "instance": "old-1", "at": time.time(), "report": {"ready": True}}
    await reports.put(key_of("old-1"), msgspec.json.encode(old), ttl_seconds=60)
    await reports.put(
        key_of("loader-1"), msgspec.json.encode({**old, "service": "loader", "instance": "loader-1"}), ttl_seconds=60
    )
    with pytest.raises(SetupError, match="site shop waits with its 4 shards: old-1 runs an earlier release"):
        await carry_on(broker, "shop", 4)
    assert await read_layout(broker, "shop") is None
    await reports.put(key_of("old-1"), msgspec.json.encode({**old, "knows": ["shards"]}), ttl_seconds=60)
    layout = await carry_on(broker, "shop", 4)
    assert layout is not None
    assert layout.wish == 4
