"""The note of a connection that its dead letters have stopped: two loaders, two people, and clocks that are set."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from loader.watch import stop as module
from loader.watch.limit import Limit, TooManyDeadError
from loader.watch.stop import OPENING, Stops, forget_notes, read_stop, resume, stop_key
from shared.errors import Conflict
from shared.jetstream import topology
from shared.jetstream.broker import Broker, connect
from shared.jetstream.kv import Bucket
from shared.project.model import DeadLimit
from shared.telemetry.health import Health
from tests.support.nats import nats_server

QUEUE = "c.1"
REACHED = TooManyDeadError("90 of 100 events would be dead letters")


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    with nats_server(tmp_path / "nats", sync="2m") as server:
        async with connect(server.url, "test", patience_seconds=60) as connected:
            await topology.ensure(connected, topology.TopologySettings())
            yield connected


class Gauges:
    def __init__(self) -> None:
        self.now: dict[str, float] = {}

    def gauge(self, name: str, value: float, **_: str) -> None:
        self.now[name] = value

    def forget(self, name: str, **_: str) -> None:
        self.now.pop(name, None)


class Loader:
    """What a loader has of a connection."""

    def __init__(self, broker: Broker, definition: str = "as applied", queue: str = QUEUE) -> None:
        self.health, self.gauges, self.moment = Health(), Gauges(), 1000.0
        self.draining = asyncio.Event()
        context = SimpleNamespace(broker=broker, draining=self.draining, health=self.health, telemetry=self.gauges)
        self.limit = Limit(DeadLimit(events=10, ratio=0.5), lambda: self.moment)
        self.stops = Stops(cast("Any", context), "c", queue, definition, self.limit)

    async def is_stopped(self) -> bool:
        """Says whether the connection may not load."""
        holding = asyncio.ensure_future(self.stops.hold())
        while not holding.done():
            if self.gauges.now:
                assert "stopped by its dead letters" in self.health.warnings["connection c"]
                self.draining.set()
                await holding
                self.draining.clear()
                return True
            await asyncio.sleep(0)
        await holding
        return False

    def reaches_limit(self) -> None:
        self.stops.stop(REACHED)

    @property
    def is_free(self) -> bool:
        """Whether the limit does not hold."""
        try:
            self.limit.weigh(100, {"type_conflict": 100})
        except TooManyDeadError:
            return False
        return True


async def test_a_loader_that_was_frozen_before_it_noted_a_stop_does_not_undo_what_others_decided(broker: Broker) -> None:
    frozen, successor = Loader(broker), Loader(broker)
    assert not await frozen.is_stopped()
    frozen.reaches_limit()  # and here it freezes
    assert not await successor.is_stopped()
    successor.reaches_limit()
    assert await successor.is_stopped()
    assert await resume(broker, QUEUE)
    assert not await successor.is_stopped()
    assert not await frozen.is_stopped()
    assert await read_stop(broker, QUEUE) is None
    for loader in (successor, frozen):  # each stops it again by what it sees now
        loader.reaches_limit()
        assert await loader.is_stopped()
        assert await resume(broker, QUEUE)
        assert not await frozen.is_stopped()
        assert not await successor.is_stopped()


async def test_a_stop_that_was_not_noted_before_the_lease_was_lost_is_forgotten(broker: Broker) -> None:
    loader = Loader(broker)
    assert not await loader.is_stopped()
    loader.reaches_limit()
    loader.stops.begin()
    assert not await loader.is_stopped()


async def test_another_loader_leaves_it_stopped_until_another_definition_is_applied(broker: Broker) -> None:
    first = Loader(broker)
    await first.is_stopped()
    first.reaches_limit()
    assert await first.is_stopped()
    assert await Loader(broker).is_stopped()
    assert not await Loader(broker, "another").is_stopped()
    assert not await Loader(broker).is_stopped()


async def test_a_connection_that_goes_on_is_not_ready_before_its_destination_is_open(broker: Broker) -> None:
    loader = Loader(broker)
    await loader.is_stopped()
    loader.reaches_limit()
    holding = asyncio.ensure_future(loader.stops.hold())
    async with asyncio.timeout(60):
        while not loader.gauges.now:
            await asyncio.sleep(0.01)
        assert await resume(broker, QUEUE)
        await holding
    assert loader.health.problems["connection c"] == OPENING
    assert loader.health.warnings == {}


@pytest.mark.parametrize("hours", [-24, 0])
async def test_the_time_without_a_limit_is_not_longer_where_a_clock_is_set_back(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    loader = Loader(broker)
    await loader.is_stopped()
    loader.limit.note(9, {"type_conflict": 9})
    loader.reaches_limit()
    assert await loader.is_stopped()
    assert await resume(broker, QUEUE, 600)
    at = time.time()
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: at + 3600 * hours))
    for seconds in (300, 290):  # a session ends by a fault and another begins
        assert not await loader.is_stopped()
        assert loader.is_free
        loader.moment += seconds
    loader.moment += 20
    assert not await loader.is_stopped()
    assert not loader.is_free
    loader.limit.weigh(9, {"type_conflict": 9})  # what died before does not count any more


async def test_a_clock_set_forward_ends_the_time_without_a_limit_and_not_the_loading(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = Loader(broker)
    await loader.is_stopped()
    loader.reaches_limit()
    assert await loader.is_stopped()
    assert await resume(broker, QUEUE, 600)
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: time.time() + 3600))
    assert not await loader.is_stopped()
    assert not loader.is_free


async def test_of_people_who_resume_at_the_same_time_one_does(broker: Broker) -> None:
    loader = Loader(broker)
    await loader.is_stopped()
    loader.reaches_limit()
    assert await loader.is_stopped()

    async def person() -> bool:
        with contextlib.suppress(Conflict):
            return await resume(broker, QUEUE)
        return False

    assert sorted(await asyncio.gather(*(person() for _ in range(5)))) == [False] * 4 + [True]
    assert not await loader.is_stopped()
    assert not await resume(broker, QUEUE)


async def test_a_note_that_cannot_be_read_stops_nothing_and_is_written_over(broker: Broker) -> None:
    bucket = Bucket(broker, topology.STATE_BUCKET)
    await bucket.put(stop_key(QUEUE), b"{")
    loader = Loader(broker)
    assert not await loader.is_stopped()
    loader.reaches_limit()
    assert await loader.is_stopped()


async def test_notes_of_connections_that_were_removed_are_taken_away(broker: Broker) -> None:
    for queue in (QUEUE, "d.1"):
        loader = Loader(broker, queue=queue)
        await loader.is_stopped()
        loader.reaches_limit()
        assert await loader.is_stopped()
    await forget_notes(broker, stop_key(""), lambda queue: queue == QUEUE)
    assert await Bucket(broker, topology.STATE_BUCKET).keys("stop.") == [stop_key("d.1")]
