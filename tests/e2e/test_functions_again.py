"""Events that functions want to see again, in a real broker: each goes on once, and keeps its number when a runtime dies."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from functions_runtime.again import DELAYS, Again, policy_of
from functions_runtime.rules.outcome import Later
from shared.events.frame import Head, RequestContext, decode_frame, encode_frame, pack
from shared.events.headers import Place
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.queue_reader import QueueReader

PLACE = Place("live-x-shop@1", 7, 3)


def later(name: str, failures: int, delay: float) -> Later:
    frame = pack("shop", [RequestContext(0, "segment", "web")], [Head(name, "track")], [b"{}"])
    return Later(f"{name}.{failures}", encode_frame(frame), events=1, failures=failures, delay=delay)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@contextlib.asynccontextmanager
async def session(broker: Broker, queue: str, clock: Clock) -> AsyncIterator[Again]:
    """What waits, as a runtime that has just taken the lease knows it, and follows it."""
    reader = QueueReader(
        broker, topology.RETRY, topology.retry_subject("functions", queue), f"functions-{queue.partition('.')[0]}", most_held=-1
    )
    async with reader:
        again = Again(broker, reader, queue, clock)
        await again.read_all()
        following = asyncio.ensure_future(again.take_in())
        try:
            yield again
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def waits(again: Again, events: int) -> None:
    async with asyncio.timeout(60):
        while again.events != events:
            await asyncio.sleep(0.01)


@pytest.fixture
async def _streams(broker: Broker) -> None:
    await topology.ensure(broker, topology.TopologySettings())


@pytest.mark.usefixtures("_streams")
async def test_what_is_due_goes_on_once_and_keeps_its_number_over_a_death(broker: Broker) -> None:
    clock, queue = Clock(), "again.1"
    async with session(broker, queue, clock) as again:
        await again.put(PLACE, later("late", 1, 60))
        await again.put(PLACE, later("soon", 2, 10))
        await waits(again, 2)
        assert await again.take_due() is None
        assert again.next_in() == 10
        clock.now += 11
        first = await again.take_due()
        assert first is not None
        assert (first.failures, first.place.seq) == (2, 1_011_000)
        assert decode_frame(await again.payload(first.seq)).heads[0].message_id == "soon"
    async with session(broker, queue, clock) as again:  # the former one died before it was done
        clock.now += 60
        assert await again.take_due() == first
        await again.done(first)
        second = await again.take_due()
        assert second is not None
        assert (second.failures, second.place.seq) == (1, 1_071_000)
        await again.done(second)
        assert await again.take_due() is None
        assert (again.events, again.next_in()) == (0, None)
    async with session(broker, queue, clock) as again:
        assert await again.take_due() is None


@pytest.mark.usefixtures("_streams")
async def test_a_death_after_a_message_is_gone_and_before_that_is_noted_repeats_nothing(broker: Broker) -> None:
    clock, queue = Clock(), "gone.1"
    async with session(broker, queue, clock) as again:
        await again.put(PLACE, later("one", 1, 1))
        await waits(again, 1)
        clock.now += 2
        due = await again.take_due()
        assert due is not None
        await again._reader.remove([due.seq])
    async with session(broker, queue, clock) as again:
        assert await again.take_due() is None
        await again.put(PLACE, later("two", 1, 0))
        await waits(again, 1)
        due = await again.take_due()
        assert due is not None
        assert due.place.seq == 1_002_001


@pytest.mark.usefixtures("_streams")
async def test_a_frame_that_comes_again_stores_nothing_twice_however_late(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, queue = Clock(), "twice.1"
    async with session(broker, queue, clock) as again:
        await again.put(PLACE, later("one", 1, 60))
        await waits(again, 1)
        monkeypatch.setattr(again, "_broker", None)  # nothing can be sent
        await again.put(PLACE, later("one", 1, 60))
        with pytest.raises(AttributeError):
            await again.put(PLACE, later("one", 2, 60))


@pytest.mark.parametrize(
    ("config", "delays"),
    [
        ({}, DELAYS),
        ({"retries": 2}, DELAYS[:2]),
        ({"retries": 0}, ()),
        ({"delays": [1, 0.5]}, (60.0, 30.0)),
        ({"retries": 3, "delays": [1, 2]}, (60.0, 120.0, 120.0)),
    ],
)
def test_a_function_says_how_often_it_is_tried_again(config: dict[str, object], delays: tuple[float, ...]) -> None:
    policy = policy_of(config)
    assert tuple(policy.delay(failures) for failures in range(1, len(delays) + 1)) == delays
    assert policy.delay(len(delays) + 1) is None


def test_a_function_that_is_tried_again_without_end_takes_no_memory() -> None:
    """A list of so many delays took all memory of the runtime."""
    policy = policy_of({"retries": 10**15, "delays": [1, 2]})
    assert (policy.delay(1), policy.delay(10**12), policy.delay(10**15 + 1)) == (60.0, 120.0, None)
