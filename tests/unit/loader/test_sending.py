"""The parts of the event way: pace, chunks, keys, delays."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from loader.contract.events import SendLimits
from loader.delivery.sending.cut import cut
from loader.delivery.sending.job import Item, Source, frame_of, key_of, user_of
from loader.delivery.sending.later import delay_of
from loader.delivery.sending.pace import Pace
from loader.queue.collect import Held
from shared.events.frame import Head, RequestContext, pack
from shared.events.headers import Place
from shared.jetstream.reader import Message


def held(seq: int, events: int = 10, lane: str = "live-a") -> Held:
    return Held(Message("", b"x" * 100, {}, seq, 0.0, 0), Place(lane, seq, events))


def seqs(frames: list[Held], cuts: dict[str, list[int]] | None = None, **bounds: int) -> list[list[int]]:
    limits = {"max_events": 30, "max_bytes": 10_000, "max_frames": 100, **bounds}
    return [[each.place.seq for each in chunk] for chunk in cut(frames, lambda lane: (cuts or {}).get(lane, []), **limits)]


def test_chunks_are_of_one_lane_and_bounded() -> None:
    frames = [held(1), held(2), held(3), held(4), held(5, lane="replay-x"), held(6)]
    assert seqs(frames) == [[1, 2, 3], [4], [5], [6]]
    assert seqs(frames[:4], max_bytes=200) == [[1, 2], [3, 4]]
    assert seqs(frames[:4], max_frames=1) == [[1], [2], [3], [4]]
    assert seqs([held(1, 1000), held(2, 1000)]) == [[1], [2]]


def test_a_chunk_that_was_planned_keeps_its_frames_whatever_the_bounds_are() -> None:
    frames = [held(seq) for seq in range(1, 8)]
    assert seqs(frames, {"live-a": [5, 6]}) == [[1, 2, 3, 4, 5], [6], [7]]
    assert seqs(frames[:3], {"live-a": [5]}) == [[1, 2, 3]]


def source(lane: str = "live-a", user: str = "u") -> Source:
    request = RequestContext(received_at=0, protocol="segment", key="k")
    heads = [Head(f"m{number}", "track", user_id=user) for number in range(4)]
    return Source(lane, pack("shop", [request], heads, [msgspec.json.encode({"n": number}) for number in range(4)]))


def items(*places: tuple[int, int]) -> list[Item]:
    one = source()
    return [Item(one, number, seq, number, "u") for seq, number in places]


def test_a_call_with_the_same_events_has_the_same_key_and_others_have_others() -> None:
    assert key_of("c", items((7, 2))) == "c/live-a/7/2"
    several = [items((7, 0), (7, 1), (7, 2)), items((7, 0), (7, 1)), items((7, 0), (7, 1), (7, 3)), items((7, 0), (8, 1), (8, 2))]
    assert len({key_of("c", each) for each in several}) == len(several)
    assert key_of("c", several[0]) == key_of("c", items((7, 0), (7, 1), (7, 2)))


def test_a_frame_of_events_of_several_frames_holds_them_as_they_were() -> None:
    one, two = source(), source(user="v")
    frame = frame_of([Item(one, 1, 7, 1, "u"), Item(two, 3, 8, 3, "v")])
    assert [(head.message_id, head.user_id, head.request) for head in frame.heads] == [("m1", "u", 0), ("m3", "v", 1)]
    assert frame.bodies() == [b'{"n":1}', b'{"n":3}']


def test_users_have_the_same_name_in_every_process() -> None:
    assert user_of(Head("m", "track", user_id="u1")) == USER
    assert user_of(Head("m", "track", user_id="u1")) == user_of(Head("n", "page", user_id="u1", anonymous_id="a"))
    assert user_of(Head("m", "track", anonymous_id="a")) != user_of(Head("m", "track", anonymous_id="b"))


def test_waits_grow_from_seconds_to_an_hour() -> None:
    assert [delay_of(SendLimits(), failures) for failures in (1, 2, 3, 4, 5, 6, 7, 10_000)] == [
        10,
        30,
        90,
        270,
        810,
        2430,
        3600,
        3600,
    ]


USER = "92994d683f4e6ad5"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def begins(pace: Pace) -> bool:
    """Whether a call may go out at once."""
    turn = asyncio.ensure_future(pace.turn())
    for _ in range(5):
        await asyncio.sleep(0)
    if turn.done():
        return turn.result() is not None
    turn.cancel()
    return False


async def test_single_failures_pause_nobody(clock: Clock) -> None:
    pace = Pace(SendLimits(calls_at_once=4), asyncio.Event(), clock)
    for _ in range(100):
        pace.failed(clock.now, "500")
        pace.failed(clock.now, "500")
        pace.succeeded()
    assert await begins(pace)


async def test_failures_in_a_row_let_one_call_at_a_time_through_until_one_succeeds(clock: Clock) -> None:
    pace = Pace(SendLimits(calls_at_once=4), asyncio.Event(), clock)
    for _ in range(4):
        pace.failed(clock.now, "no answer")
    assert pace.why
    assert not await begins(pace)
    clock.now += 1.1
    assert await begins(pace)
    assert not await begins(pace)
    pace.failed(clock.now, "no answer")
    clock.now += 1.1
    assert not await begins(pace)
    clock.now += 1.0
    assert await begins(pace)
    assert pace.succeeded()
    assert await begins(pace)
    assert await begins(pace)


async def test_calls_that_were_under_way_when_a_pause_began_do_not_lengthen_it(clock: Clock) -> None:
    pace = Pace(SendLimits(calls_at_once=3), asyncio.Event(), clock)
    began = clock.now
    clock.now += 1
    for _ in range(20):
        pace.failed(began, "no answer")
    assert pace.paused_for == pytest.approx(1.0)


async def test_a_pause_that_is_asked_for_is_kept(clock: Clock) -> None:
    pace = Pace(SendLimits(), asyncio.Event(), clock)
    pace.hold(clock.now, 30.0, "429")
    clock.now += 29
    assert not await begins(pace)
    clock.now += 1.5
    assert await begins(pace)
    pace.hold(clock.now, 10.0**9, "429")
    assert pace.paused_for <= 86_400


async def test_the_rate_spreads_calls(clock: Clock) -> None:
    pace = Pace(SendLimits(calls_a_second=10), asyncio.Event(), clock)
    assert await begins(pace)
    assert not await begins(pace)
    clock.now += 0.11
    assert await begins(pace)
    clock.now += 60
    assert [await begins(pace) for _ in range(4)].count(True) <= 2


async def test_no_call_begins_once_the_service_drains(clock: Clock) -> None:
    ended = asyncio.Event()
    pace = Pace(SendLimits(), ended, clock)
    pace.hold(clock.now, 30.0, "429")
    turn = asyncio.ensure_future(pace.turn())
    await asyncio.sleep(0)
    ended.set()
    pace.wake()
    assert await turn is None
