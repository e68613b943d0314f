"""The accounts of router and loader against a real broker: after crashes, full queues, disabled and removed connections."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from loader.delivery import leftovers
from router.forwarding import removed as module
from router.forwarding.account import Account
from router.forwarding.state import SiteState, StateKeeper
from router.rules.compiled import compile_project
from router.settings import RouterSettings
from router.site import SiteRouter
from shared.errors import NotConnected, Transient
from shared.events.headers import Place, write_place
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.identity import identify
from shared.jetstream.kv import Bucket
from shared.project.snapshot import StoredProject, apply_project, current_snapshot
from shared.settings import ServiceSettings
from shared.streams.ended import Counts, Ended, Pending, decode_ended, ended_key
from shared.streams.removed import Removed, add_up, list_removed, note_removed
from shared.streams.waiting import SetAside, Waiting, look_ahead, look_at_functions, look_at_queue
from shared.telemetry.metrics import Telemetry
from tests.support.router import limit_queues, put, reading, routing, snapshot, waiting

SMALL = RouterSettings(pending_frames=2)
EVENTS = 30

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    opened = Telemetry("router-test", ServiceSettings())
    yield opened
    opened.shutdown()


async def state_of(broker: Broker) -> SiteState:
    return await StateKeeper(broker, "shop").load() or SiteState()


async def routed(broker: Broker, position: int) -> SiteState:
    async with asyncio.timeout(60):
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
        async with asyncio.timeout(60):
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
        async with asyncio.timeout(60):
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


async def test_a_connection_that_is_disabled_or_removed_while_no_router_works_is_counted_up_to_there(
    broker: Broker, telemetry: Telemetry
) -> None:
    await limit_queues(broker, 3)
    three: dict[str, dict[str, Any]] = {"full": {}, "gone": {}, "on": {}}
    async with reading(broker, "on"):
        async with routing(broker, telemetry, snapshot(three), SMALL):
            for number in range(8):
                last = await put(broker, [f"{number}"])
            async with asyncio.timeout(60):
                while (state := await state_of(broker)).position < last or not {"full", "gone"} <= state.behind.keys():
                    await asyncio.sleep(0.02)
            forwarded = {name: account.forwarded for name, account in state.accounts.items()}
        other = snapshot({"full": {"enabled": False}, "on": {}}, 2)
        async with routing(broker, telemetry, other, SMALL):
            last = await put(broker, ["not theirs"])
            async with asyncio.timeout(60):
                while (state := await state_of(broker)).position < last:
                    await asyncio.sleep(0.02)
    full = state.accounts["full"]
    assert full.received(state.accepted) == 8 == full.forwarded + state.behind["full"].owed
    (gone,) = await list_removed(broker)
    assert (gone.connection, gone.received, gone.forwarded) == ("gone", 8, forwarded["gone"])
    assert gone.dropped == {"removed": 8 - forwarded["gone"]}
    async with reading(broker, "on", "full"), routing(broker, telemetry, snapshot({"full": {}, "on": {}}, 3), SMALL):
        last = await put(broker, ["theirs"])
        state = await routed(broker, last)
    assert not problems(state)
    assert state.accounts["full"].forwarded == 9


async def test_accounts_of_removed_connections_and_sites_are_shown_and_the_oldest_added_up(
    broker: Broker, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT", 1)
    document = {"sites": {"shop": {"keys": [{"id": "k"}]}}, "destinations": {"wh": {"type": "none"}}, "connections": {}}
    sites = {"sites": {"blog": {"keys": [{"id": "b"}]}}}
    ended = Ended(counts=Counts(live=4, delivered=3, dead={"type_conflict": 1}), sent=4)
    with_site = {**document, "connections": {"c": {"site": "shop", "destination": "wh"}}}
    await apply_project(broker, StoredProject(with_site, with_site))
    config = await current_snapshot(broker)
    await put(broker, ["1", "2"])
    async with routing(broker, telemetry, config, SMALL):
        await routed(broker, await put(broker, ["3", "4", "5"]))
    await broker.js.purge_stream(topology.DELIVER)
    stats = Bucket(broker, topology.STATS_BUCKET)
    await stats.put(ended_key(config.queue_of("c")), msgspec.json.encode(Ended(counts=Counts(live=5, delivered=5), sent=5)))
    await apply_project(broker, StoredProject(sites, sites))
    for number, at in (("1-a", 1.0), ("2-b", 2.0)):
        await note_removed(
            broker,
            Removed(
                site="shop", connection="old", queue=f"old.{number}", at=at, received=6, forwarded=4, dropped={"filtered": 2}
            ),
        )
        await stats.put(ended_key(f"old.{number}"), msgspec.json.encode(ended))
    keeper = module.Keeper(broker, telemetry, "me")
    for _ in range(2):
        await keeper.run_once()
        assert [shown(telemetry, connection="c"), shown(telemetry, connection="(older)"), shown(telemetry, connection="")] == [
            {"received": 5, "delivered": 5},
            {"received": 12, "delivered": 6, "dropped": 4, "dead": 2},
            {"accepted": 5},
        ]
    assert [each.connection for each in await list_removed(broker)] == ["c"]
    assert not (await state_of(broker)).accounts


async def test_counts_of_a_store_that_the_broker_lost_are_no_account_in_the_new_one(broker: Broker) -> None:
    removed = Removed(site="shop", connection="c", queue="c.1-a", at=1.0, received=6, forwarded=6)
    counted = (await identify(broker, topology.EVENTS)).incarnation
    await broker.js.delete_stream(topology.EVENTS)
    await topology.ensure(broker, topology.TopologySettings())
    with pytest.raises(Transient, match="created again"):
        await note_removed(broker, removed, incarnation=counted)
    assert await list_removed(broker) == []
    await note_removed(broker, removed, incarnation=(await identify(broker, topology.EVENTS)).incarnation)
    assert [each.queue for each in await list_removed(broker)] == ["c.1-a"]


async def test_a_large_queue_of_a_removed_connection_goes_in_portions_and_is_counted_once_though_answers_are_lost(
    broker: Broker, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "PORTION", 4)
    purge, lost = leftovers._purge, iter([False, True])
    queue = "c.0-x"

    async def purged(*arguments: Any) -> None:
        await purge(*arguments)
        if next(lost, False):
            raise NotConnected("no answer")

    monkeypatch.setattr(leftovers, "_purge", purged)
    for seq in range(1, 11):
        headers = write_place(Place("live-1-shop", seq, 2, 2 * seq))
        await broker.publisher.publish(topology.deliver_subject(queue), b"", msg_id=f"q{seq}", headers=headers)
    stats, early = Bucket(broker, topology.STATS_BUCKET), {"live-1-shop:9": "1"}
    await stats.put(ended_key(queue), msgspec.json.encode(Ended(early=early)))
    context = SimpleNamespace(broker=broker, telemetry=telemetry, config=SimpleNamespace(current=snapshot({})))
    sweeper = leftovers.Sweeper(cast("Any", context), cast("Any", None))
    with pytest.raises(NotConnected):
        await sweeper.sweep("c", 1)
    assert (await look_at_queue(broker, queue)).frames == 2, "what was counted is gone already"
    await sweeper.sweep("c", 1, lambda: False)
    assert (await look_at_queue(broker, queue)).frames == 2, "the lease is wanted"
    await sweeper.sweep("c", 1)
    assert (await look_at_queue(broker, queue)).frames == 0
    ended = decode_ended(entry.value if (entry := await stats.get(ended_key(queue))) else None)
    assert (ended.counts.live, ended.counts.dropped, ended.early) == (20, {"removed": 19}, {})
    assert telemetry.value("loader_events_dropped_total", connection="c", reason="removed") == 19


async def test_what_waits_before_functions_of_a_removed_connection_is_counted_and_taken_away_once(
    broker: Broker, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "PORTION", 3)
    queue, lane = "c.0-a", "live-1-shop"

    async def put_frame(subject: str, place: Place) -> None:
        headers = write_place(place)
        await broker.publisher.publish(subject, b"x", msg_id=f"{subject}.{place.lane}.{place.seq}", headers=headers)

    for seq in range(1, 6):  # the fifth left the functions, and is there still
        await put_frame(topology.deliver_subject(queue), Place(lane, seq, 2, 2 * seq))
    for seq in range(5, 12):
        await put_frame(topology.functions_subject(queue), Place(lane, seq, 2, 2 * seq))
    await put_frame(topology.retry_subject("functions", queue), Place(lane, 1, 1))
    # one event of the first frame went back to wait for another attempt
    stats = Bucket(broker, topology.STATS_BUCKET)
    before = Ended(counts=Counts(live=2, delivered=1, made=-1), through={lane: 1}, sent=2)
    await stats.put(ended_key(queue), msgspec.json.encode(before))
    removed = Removed(site="shop", connection="c", queue=queue, at=1.0, received=22, forwarded=22)
    functions = await look_at_functions(broker, queue)
    waiting = add_up(removed, before, await look_at_queue(broker, queue), SetAside({}, {}), functions)
    assert (functions.frames.events, functions.again.events) == (14, 1)
    context = SimpleNamespace(
        broker=broker, telemetry=telemetry, config=SimpleNamespace(current=snapshot({}, revision=2)), instance="test"
    )
    await leftovers.Sweeper(cast("Any", context), cast("Any", None)).sweep("c", 1)
    ended = decode_ended(entry.value if (entry := await stats.get(ended_key(queue))) else None)
    found = add_up(removed, ended, await look_at_queue(broker, queue), SetAside({}, {}), await look_at_functions(broker, queue))
    assert (found.waiting, found.problems, found.made) == (0, [], 0)
    assert (found.received, found.delivered, found.dropped) == (22, 1, {"removed": 21})
    assert waiting.waiting == 10 + 14 + 1, "what is about to leave a place is counted there still"


def shown(telemetry: Telemetry, connection: str) -> dict[str, float]:
    found: Counter[str] = Counter()
    for line in telemetry.exposition().decode().splitlines():
        if line.startswith(module.METRIC + "{") and f'connection="{connection}"' in line:
            found[line.partition('fate="')[2].partition('"')[0]] += int(float(line.rsplit(" ", 1)[1]))
    return {fate: amount for fate, amount in found.items() if amount}


def test_what_a_router_sent_and_did_not_store_is_known_by_the_frames() -> None:
    removed = Removed(
        site="s", connection="c", queue="c.1-a", at=1.0, received=10, forwarded=4, dropped={"filtered": 1, "removed": 5}
    )
    nothing = SetAside({}, {})
    taken = Ended(counts=Counts(live=6, delivered=6), sent=6)
    found = add_up(removed, taken, Waiting(), nothing)
    assert (found.received, found.delivered, found.dropped, found.problems) == (10, 6, {"filtered": 1, "removed": 3}, [])
    more = add_up(removed, Ended(counts=Counts(live=11, delivered=11), sent=11), Waiting(), nothing)
    assert (more.received, more.dropped, more.problems) == (12, {"filtered": 1, "removed": 0}, [])
    assert add_up(removed, msgspec.structs.replace(taken, counts=Counts(live=7, delivered=7)), Waiting(), nothing).problems
    assert add_up(removed, msgspec.structs.replace(taken, counts=Counts(live=6, delivered=5)), Waiting(), nothing).problems
    load = Pending(lane="l", last=9, tables=["t"], source="l", through=9, counts=Counts(live=4, delivered=4), sent=10)
    cut_off = add_up(removed, msgspec.structs.replace(taken, pending=load, sent=10), Waiting(), nothing)
    assert (cut_off.delivered, cut_off.waiting, cut_off.settled) == (6, 4, False)
