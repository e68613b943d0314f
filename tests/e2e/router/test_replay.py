"""Replay by time and by sequence, beside live frames, into queues that fill up."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from router.replay.run import ReplayReport, replay
from shared.errors import ConfigError
from shared.events.outcome import DropReason
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from tests.support.router import limit_queues, put, reading, snapshot, until, waiting

CONFIG = snapshot({"one": {}, "odd": {"where": {"field": "event", "eq": "odd"}}, "off": {"enabled": False}}, revision=3)


async def accept(broker: Broker, first: int, last: int) -> None:
    for index in range(first, last):
        await put(broker, [f"m{index}"], event="odd" if index % 2 else "even", properties={"number": index})


async def test_a_range_of_sequences_is_sent_again_on_a_lane_of_its_own(broker: Broker) -> None:
    await accept(broker, 1, 21)
    async with reading(broker, "one", "odd") as (one, odd):
        report = await replay(broker, CONFIG, "shop", 5, 10, replay_id="r1")
        await until(lambda: len(one.ids) == 6 and len(odd.ids) == 3)
    assert one.ids == [f"m{index}" for index in range(5, 11)]
    assert one.seqs == list(range(5, 11))
    assert odd.ids == ["m5", "m7", "m9"]
    assert set(one.lanes + odd.lanes) == {"replay-r1"}
    assert (report.frames, report.events, report.first_seq, report.last_seq) == (6, 6, 5, 10)
    assert (report.connections["one"].events, report.connections["odd"].events) == (6, 3)
    assert report.connections["odd"].dropped == {DropReason.FILTERED: 3}
    assert "off" not in report.connections


async def test_a_range_of_time_is_sent_again(broker: Broker) -> None:
    await accept(broker, 0, 5)
    await asyncio.sleep(0.05)
    start = datetime.now(UTC)
    await accept(broker, 5, 10)
    end = datetime.now(UTC)
    await asyncio.sleep(0.05)
    await accept(broker, 10, 15)
    async with reading(broker, "one") as (one,):
        report = await replay(broker, CONFIG, "shop", start, end, replay_id="r1", connection="one")
        await until(lambda: len(one.ids) == 5)
    assert one.ids == [f"m{index}" for index in range(5, 10)]
    assert list(report.connections) == ["one"]
    assert await waiting(broker, "odd") == 0


async def test_further_conditions_narrow_those_of_the_connections(broker: Broker) -> None:
    await accept(broker, 0, 10)
    async with reading(broker, "one", "odd") as (one, odd):
        await replay(broker, CONFIG, "shop", replay_id="r1", where={"field": "properties.number", "gte": 6})
        await until(lambda: len(one.ids) == 4 and len(odd.ids) == 2)
    assert one.ids == ["m6", "m7", "m8", "m9"]
    assert odd.ids == ["m7", "m9"]


async def test_a_dry_run_counts_the_same_and_sends_nothing(broker: Broker) -> None:
    await accept(broker, 0, 10)
    await put(broker, ["m3", "new"], event="odd")
    seen: list[int] = []

    def note(report: ReplayReport) -> None:
        seen.append(report.frames)

    report = await replay(broker, CONFIG, "shop", replay_id="r1", dry_run=True, progress=note)
    assert report.connections["one"].events == 11
    assert report.connections["one"].dropped == {DropReason.DUPLICATE: 1}
    assert report.connections["odd"].events == 6
    assert seen == list(range(1, 12))
    assert (await broker.js.stream_info(topology.DELIVER)).state.messages == 0


async def test_a_replay_waits_while_a_queue_is_full(broker: Broker) -> None:
    await limit_queues(broker, 3)
    await accept(broker, 0, 40)
    running = asyncio.create_task(replay(broker, CONFIG, "shop", replay_id="r1", connection="one"))
    async with asyncio.timeout(60):
        while await waiting(broker, "one") < 3:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)
    assert not running.done()
    assert await waiting(broker, "one") == 3
    async with reading(broker, "one") as (one,):
        report = await running
        await until(lambda: len(one.ids) == 40)
    assert one.ids == [f"m{index}" for index in range(40)]
    assert report.connections["one"].events == 40


async def test_an_unreadable_frame_is_counted_and_the_rest_is_replayed(broker: Broker) -> None:
    await accept(broker, 0, 2)
    await broker.publisher.publish(topology.events_subject("shop"), b"nonsense")
    await accept(broker, 2, 4)
    async with reading(broker, "one") as (one,):
        report = await replay(broker, CONFIG, "shop", replay_id="r1", connection="one")
        await until(lambda: len(one.ids) == 4)
    assert report.unreadable == 1
    assert report.frames == 5


async def test_nothing_to_replay_ends_at_once(broker: Broker) -> None:
    assert (await replay(broker, CONFIG, "shop", replay_id="r1")).frames == 0
    await accept(broker, 0, 3)
    assert (await replay(broker, CONFIG, "shop", 10, replay_id="r2")).frames == 0
    assert (await replay(broker, CONFIG, "shop", datetime(2100, 1, 1, tzinfo=UTC), replay_id="r3")).frames == 0


async def test_an_unknown_site_or_connection_is_refused_with_the_known_ones(broker: Broker) -> None:
    with pytest.raises(ConfigError, match="no site is named 'ship'; known: shop"):
        await replay(broker, CONFIG, "ship", replay_id="r1")
    with pytest.raises(ConfigError, match="no enabled connection 'off'; known: odd, one"):
        await replay(broker, CONFIG, "shop", replay_id="r1", connection="off")
    with pytest.raises(ConfigError, match=r"where\.gt: expected a number"):
        await replay(broker, CONFIG, "shop", replay_id="r1", where={"field": "x", "gt": []})


class KilledError(Exception):
    """Stands for a kill."""


async def test_a_replay_goes_on_under_its_id_which_stands_for_one_range(broker: Broker) -> None:
    def kill(report: ReplayReport) -> None:
        if report.frames == 2:
            raise KilledError

    await accept(broker, 1, 6)
    async with reading(broker, "one") as (one,):
        with pytest.raises(KilledError):
            await replay(broker, CONFIG, "shop", 2, replay_id="r1", connection="one", progress=kill)
        await accept(broker, 6, 8)
        with pytest.raises(ConfigError, match="'r1' is of site shop, 2 to the newest, to one"):
            await replay(broker, CONFIG, "shop", 2, 7, replay_id="r1", connection="one")
        await replay(broker, CONFIG, "shop", 2, 7, replay_id="r1", connection="one", dry_run=True)
        again = await replay(broker, CONFIG, "shop", 2, replay_id="r1", connection="one")
        await replay(broker, CONFIG, "shop", 7, 7, replay_id="r2", connection="one")
        await until(lambda: one.ids[-1:] == ["m7"])
    assert one.ids == ["m2", "m3", "m4", "m5", "m7"]
    assert (again.first_seq, again.last_seq) == (2, 5)
