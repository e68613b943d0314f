"""Frames: nothing lost, nothing twice, order kept, and a failure or a cancelled request that hurts nobody else."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter

import msgspec
import pytest

from ingest.intake.packer import HEAD_BYTES, Overloaded, PackerSettings, open_packer
from shared.errors import NotConnected
from shared.events.frame import Frame, Head, RequestContext, decode_frame
from shared.events.shards import Shard, part_of, shard_subject


class Broker:
    """Receives frames; holds them while `gate` is closed, and fails those whose ids are in `failing`."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.subjects: list[str] = []
        self.ids: list[str] = []
        self.waited: list[float] = []
        self.durable: set[str] = set()
        self.failing: set[int] = set()
        self.under_way = 0
        self.most_under_way = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def send(self, subject: str, payload: bytes, msg_id: str, events: int, waited_seconds: float, trails: object) -> None:
        frame = decode_frame(payload)
        assert len(frame) == events
        number = len(self.frames)
        self.frames.append(frame)
        self.subjects.append(subject)
        self.ids.append(msg_id)
        self.waited.append(waited_seconds)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
            if number in self.failing:
                raise NotConnected("the broker is away")
            self.durable.update(head.message_id for head in frame.heads)
        finally:
            self.under_way -= 1

    def sent_ids(self) -> list[str]:
        return [head.message_id for frame in self.frames for head in frame.heads]


def events(prefix: str, count: int, size: int = 10, user: str = "u") -> tuple[list[Head], list[bytes]]:
    return (
        [Head(f"{prefix}-{number}", "page", None, user) for number in range(count)],
        [f"{prefix}-{number}".encode().ljust(size) for number in range(count)],
    )


def context(key: str = "k") -> RequestContext:
    return RequestContext(1, "test", key)


def frame_ids() -> itertools.count[int]:
    return itertools.count()


def check_frames(frames: list[Frame]) -> None:
    """Every event stands beside its own body and its own request."""
    for frame in frames:
        for head, body in zip(frame.heads, frame.bodies(), strict=True):
            assert body.decode().strip() == head.message_id
            assert frame.requests[head.request].key == head.message_id.rsplit("-", 1)[0]


def settings(**given: object) -> PackerSettings:
    return PackerSettings(**{"linger_seconds": 0.0, **given})  # type: ignore[arg-type]  # tests name the fields


async def test_events_of_concurrent_requests_share_a_frame_and_keep_their_own_request() -> None:
    broker, numbers = Broker(), frame_ids()
    async with open_packer(broker.send, lambda: f"f{next(numbers)}", settings()) as packer:
        waiting = [packer.submit("shop", context(f"r{n}"), *events(f"r{n}", 3)) for n in range(20)]
        await asyncio.gather(*waiting)
    assert len(broker.frames) == 1
    assert broker.subjects == ["events.shop.0"]
    assert broker.sent_ids() == [f"r{n}-{e}" for n in range(20) for e in range(3)]
    check_frames(broker.frames)


async def test_a_request_resolves_only_when_every_frame_with_its_events_is_durable() -> None:
    broker, numbers = Broker(), frame_ids()
    async with open_packer(broker.send, lambda: f"f{next(numbers)}", settings(max_events=10, window=2)) as packer:
        broker.gate.clear()
        future = packer.submit("shop", context("r"), *events("r", 35))
        while broker.under_way < 2:
            await asyncio.sleep(0)
        assert not future.done()
        broker.gate.set()
        await future
        assert len(broker.durable) == 35
    assert [len(frame) for frame in broker.frames] == [10, 10, 10, 5]
    assert broker.sent_ids() == [f"r-{n}" for n in range(35)]
    assert broker.most_under_way == 2
    assert len(set(broker.ids)) == 4


@pytest.mark.parametrize("size", [1_000, 30_000, 90_000])
async def test_frames_keep_their_bound_of_bytes_unless_one_event_alone_exceeds_it(size: int) -> None:
    broker, numbers = Broker(), frame_ids()
    async with open_packer(broker.send, lambda: f"f{next(numbers)}", settings(max_bytes=64_000)) as packer:
        await asyncio.gather(*(packer.submit("shop", context(f"r{n}"), *events(f"r{n}", 7, size)) for n in range(10)))
    for frame in broker.frames:
        assert len(frame) == 1 or sum(frame.sizes) + HEAD_BYTES * len(frame) <= 64_000
    assert Counter(broker.sent_ids()) == Counter(f"r{n}-{e}" for n in range(10) for e in range(7))
    check_frames(broker.frames)


async def test_what_requests_hold_beside_their_events_bounds_a_frame_too() -> None:
    broker, numbers = Broker(), frame_ids()
    large = b'{"context":{"a":"%s"}}' % (b"x" * 40_000)
    async with open_packer(
        broker.send, lambda: f"f{next(numbers)}", settings(max_bytes=100_000, max_held_bytes=900_000)
    ) as packer:
        waiting = []
        for n in range(20):
            request = msgspec.structs.replace(context(f"r{n}"), defaults=large if n % 2 else None, user_agent="ä" * 100)
            waiting.append(packer.submit("shop", request, *events(f"r{n}", 3)))
        assert packer.held_bytes > 10 * len(large)
        await asyncio.gather(*waiting)
        with pytest.raises(Overloaded):
            while True:
                packer.submit("shop", request, *events(f"r{n}", 1))
    assert packer.held_bytes == 0
    assert all(sum(each.client_bytes for each in frame.requests) <= 100_000 for frame in broker.frames)
    assert [len(frame) for frame in broker.frames[:4]] == [15, 12, 12, 12]
    check_frames(broker.frames)


async def test_while_the_window_is_full_frames_grow_and_wait_their_turn_in_order() -> None:
    broker, numbers = Broker(), frame_ids()
    async with open_packer(broker.send, lambda: f"f{next(numbers)}", settings(window=1)) as packer:
        broker.gate.clear()
        first = packer.submit("shop", context("a"), *events("a", 1))
        while not broker.under_way:
            await asyncio.sleep(0)
        later = []
        for n in range(50):
            later.append(packer.submit("shop", context(f"r{n}"), *events(f"r{n}", 4)))
            await asyncio.sleep(0)
        assert len(broker.frames) == 1
        broker.gate.set()
        await asyncio.gather(first, *later)
    assert [len(frame) for frame in broker.frames] == [1, 200]
    assert broker.sent_ids()[1:] == [f"r{n}-{e}" for n in range(50) for e in range(4)]
    assert broker.most_under_way == 1


async def test_a_failed_frame_fails_its_requests_and_no_others() -> None:
    broker, numbers = Broker(), frame_ids()
    broker.failing = {1}
    async with open_packer(broker.send, lambda: f"f{next(numbers)}", settings(max_events=10)) as packer:
        whole = packer.submit("shop", context("a"), *events("a", 8))
        split = packer.submit("shop", context("b"), *events("b", 5))
        inside = packer.submit("shop", context("c"), *events("c", 4))
        after = packer.submit("shop", context("d"), *events("d", 9))
        results = await asyncio.gather(whole, split, inside, after, return_exceptions=True)
    assert [type(result) for result in results] == [type(None), NotConnected, NotConnected, NotConnected]
    assert {frozenset(head.message_id[0] for head in frame.heads) for frame in broker.frames} == {
        frozenset("ab"),
        frozenset("bcd"),
        frozenset("d"),
    }
    assert packer.held_bytes == 0


async def test_a_request_that_is_cancelled_costs_its_neighbours_nothing() -> None:
    broker, numbers = Broker(), frame_ids()
    async with open_packer(broker.send, lambda: f"f{next(numbers)}", settings(max_events=10)) as packer:
        broker.gate.clear()

        async def request(name: str) -> None:
            await packer.submit("shop", context(name), *events(name, 6))

        tasks = [asyncio.create_task(request(f"r{n}")) for n in range(6)]
        while not broker.under_way:
            await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.sleep(0)
        broker.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(result, asyncio.CancelledError) for result in results] == [True, False] * 3
    assert all(f"r{n}-{e}" in broker.durable for n in (1, 3, 5) for e in range(6))
    check_frames(broker.frames)
    assert len(set(broker.sent_ids())) == len(broker.sent_ids()) == 36
    assert packer.held_bytes == 0


async def test_too_many_waiting_bytes_are_refused_at_once_and_nothing_of_them_is_sent() -> None:
    broker, numbers = Broker(), frame_ids()
    async with open_packer(broker.send, lambda: f"f{next(numbers)}", settings(max_held_bytes=5_000)) as packer:
        broker.gate.clear()
        first = packer.submit("shop", context("a"), *events("a", 10))
        second = packer.submit("shop", context("b"), *events("b", 10))
        with pytest.raises(Overloaded, match="5000"):
            packer.submit("shop", context("c"), *events("c", 10))
        broker.gate.set()
        await asyncio.gather(first, second)
        await packer.submit("shop", context("d"), *events("d", 100))  # alone it may exceed the bound
    assert not any(name.startswith("c-") for name in broker.sent_ids())


async def test_partitions_keep_the_order_of_each_user_and_one_future_covers_them_all() -> None:
    broker, numbers = Broker(), frame_ids()
    async with open_packer(broker.send, lambda: f"f{next(numbers)}", settings(partitions=4, max_events=7)) as packer:
        waiting = []
        for n in range(30):
            heads, bodies = events(f"r{n}", 12)
            heads = [Head(head.message_id, head.type, None, f"user-{e % 5}") for e, head in enumerate(heads)]
            waiting.append(packer.submit("shop", context(f"r{n}"), heads, bodies))
        await asyncio.gather(*waiting)
    assert len(broker.durable) == 360
    for subject, frame in zip(broker.subjects, broker.frames, strict=True):
        assert {f"events.shop.{part_of(head.user_key, 4)}" for head in frame.heads} == {subject}
    for user in range(5):
        seen = [head.message_id for frame in broker.frames for head in frame.heads if head.user_id == f"user-{user}"]
        assert seen == [f"r{n}-{e}" for n in range(30) for e in range(12) if e % 5 == user]


@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 1), (2, 4), (4, 3)])
async def test_a_change_of_shards_overtakes_no_event_of_a_user(before: int, after: int) -> None:
    broker, numbers = Broker(), frame_ids()
    async with open_packer(broker.send, lambda: f"f{next(numbers)}", settings(max_events=7)) as packer:
        packer.spread({"shop": before})
        waiting = []
        for n in range(60):
            if n == 30:
                packer.spread({"shop": after} if after > 1 else {})
            heads, bodies = events(f"r{n}", 12)
            heads = [Head(head.message_id, head.type, None, f"user-{e % 5}") for e, head in enumerate(heads)]
            waiting.append(packer.submit("shop", context(f"r{n}"), heads, bodies))
            if n % 7 == 0:
                await asyncio.sleep(0)
        await asyncio.gather(*waiting)
        await packer.submit("shop", context("last"), *events("last", 3))
    assert len(broker.durable) == 723
    last = broker.subjects[-1]
    assert last in {shard_subject("shop", Shard(number, after)) for number in range(after)}
    for user in range(5):
        seen = [head.message_id for frame in broker.frames for head in frame.heads if head.user_id == f"user-{user}"]
        assert seen == [f"r{n}-{e}" for n in range(60) for e in range(12) if e % 5 == user]


async def test_sites_do_not_share_frames() -> None:
    broker, numbers = Broker(), frame_ids()
    async with open_packer(broker.send, lambda: f"f{next(numbers)}", settings()) as packer:
        await asyncio.gather(packer.submit("a", context("x"), *events("x", 2)), packer.submit("b", context("y"), *events("y", 2)))
    assert {(frame.site, subject) for frame, subject in zip(broker.frames, broker.subjects, strict=True)} == {
        ("a", "events.a.0"),
        ("b", "events.b.0"),
    }


async def test_leaving_the_context_sends_what_is_held() -> None:
    broker, numbers = Broker(), frame_ids()
    async with open_packer(broker.send, lambda: f"f{next(numbers)}", settings(linger_seconds=60.0)) as packer:
        await packer.submit("shop", context("a"), *events("a", 1))
        held = packer.submit("shop", context("b"), *events("b", 1))
    await held
    assert broker.durable == {"a-0", "b-0"}


async def test_an_error_in_the_context_fails_what_is_held_and_comes_out_as_itself() -> None:
    broker, numbers = Broker(), frame_ids()
    with pytest.raises(ZeroDivisionError):
        async with open_packer(broker.send, lambda: f"f{next(numbers)}", settings(linger_seconds=60.0)) as packer:
            await packer.submit("shop", context("a"), *events("a", 1))
            held = packer.submit("shop", context("b"), *events("b", 1))
            _ = 1 / 0
    with pytest.raises(Exception, match="stopping"):
        await held


async def test_an_idle_packer_has_no_timer_running() -> None:
    broker, numbers = Broker(), frame_ids()
    async with open_packer(broker.send, lambda: f"f{next(numbers)}", settings(linger_seconds=0.001)) as packer:
        for n in range(3):
            await packer.submit("shop", context(f"r{n}"), *events(f"r{n}", 1))
        await packer.drain()
        subjects = packer._every_subject()
        assert all(subject._timer is None for subject in subjects)
        assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("seed", range(5))
async def test_under_random_load_failures_and_cancellations_every_promise_holds(seed: int) -> None:
    chance = random.Random(seed)
    broker, numbers = Broker(), frame_ids()
    broker.failing = {chance.randrange(40) for _ in range(8)}
    limits = settings(max_events=13, max_bytes=6_000, window=2, linger_seconds=0.0005, partitions=chance.choice([1, 3]))
    acknowledged: set[str] = set()
    submitted: Counter[str] = Counter()

    async with open_packer(broker.send, lambda: f"f{next(numbers)}", limits) as packer:

        async def request(name: str) -> None:
            await asyncio.sleep(chance.random() * 0.02)
            heads, bodies = events(name, chance.randrange(1, 30), chance.randrange(8, 900))
            heads = [Head(head.message_id, head.type, None, str(chance.randrange(9))) for head in heads]
            submitted.update(head.message_id for head in heads)
            await packer.submit("shop", context(name), heads, bodies)
            acknowledged.update(head.message_id for head in heads)

        tasks = [asyncio.create_task(request(f"r{n}")) for n in range(100)]
        await asyncio.sleep(0.01)
        for task in chance.sample(tasks, 15):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert acknowledged
    assert acknowledged <= broker.durable
    assert Counter(broker.sent_ids()) == submitted
    assert max(submitted.values()) == 1
    check_frames(broker.frames)
    assert packer.held_bytes == 0
    assert broker.most_under_way <= 2 * limits.partitions


async def test_a_frame_knows_how_long_it_waited_behind_others() -> None:
    broker, numbers = Broker(), frame_ids()
    async with open_packer(broker.send, lambda: f"f{next(numbers)}", settings(window=1, max_events=1)) as packer:
        broker.gate.clear()
        waiting = [packer.submit("shop", context(f"r{n}"), *events(f"r{n}", 1)) for n in range(3)]
        await asyncio.sleep(0.05)
        broker.gate.set()
        await asyncio.gather(*waiting)
    assert broker.waited[0] < broker.waited[1] <= broker.waited[2]
    assert broker.waited[1] >= 0.05
