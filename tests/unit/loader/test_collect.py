"""What makes a load due, and how a backlog is cut into chunks."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from loader.queue.collect import Bounds, Held, Holding, chunks
from shared.clock import Clock
from shared.events.headers import Place, live_lane
from shared.jetstream.reader import Message


def held(seq: int, events: int = 10, size: int = 100, lane: str = "live", at: float = 0.0) -> Held:
    return Held(Message("deliver.c", b"x" * size, {}, seq, at, 0), Place(lane, seq, events))


class Machine:
    """A machine's two clocks, in seconds; `set` is the one that people set."""

    def __init__(self) -> None:
        self.set, self.steady = 1000.0, 0.0
        self.clock = Clock(lambda: int(self.set * 1e9), lambda: int(self.steady * 1e9))

    def pass_seconds(self, seconds: float) -> None:
        self.set += seconds
        self.steady += seconds


def test_a_load_is_due_when_the_oldest_frame_has_waited_its_period() -> None:
    machine = Machine()
    holding = Holding(Bounds(300.0, 1000, 10_000, 100), machine.clock)
    assert holding.due_in() is None
    holding.add(held(1, at=950.0))
    machine.pass_seconds(200)
    holding.add(held(2, at=1200.0))
    assert holding.due_in() == 50.0
    machine.pass_seconds(51)
    assert holding.due_in() == 0.0
    assert len(holding.take()) == 2
    holding.add(held(3, at=1251.0))
    assert holding.due_in() == 300.0


def test_a_clock_set_back_makes_no_frame_wait_longer_than_its_period() -> None:
    machine = Machine()
    holding = Holding(Bounds(10.0, 1000, 10_000, 100), machine.clock)
    holding.add(held(1, at=1000.0))
    for _ in range(2):
        machine.set -= 3600
        machine.pass_seconds(4)
    assert holding.due_in() == 2.0
    holding.take()
    holding.add(held(2, at=1008.0))  # the broker has stamped it with the hour that comes again
    assert holding.due_in() == 10.0


def test_a_load_is_due_at_once_when_a_bound_is_reached() -> None:
    clock = Machine().clock
    by_events = Holding(Bounds(300.0, 20, 10_000, 100), clock)
    by_bytes = Holding(Bounds(300.0, 1000, 150, 100), clock)
    by_frames = Holding(Bounds(300.0, 1000, 10_000, 2), clock)
    for number in (1, 2):
        by_events.add(held(number, at=1000.0))
        by_bytes.add(held(number, at=1000.0))
        by_frames.add(held(number, at=1000.0))
    assert (by_events.due_in(), by_bytes.due_in(), by_frames.due_in()) == (0.0, 0.0, 0.0)
    assert len(by_events.take()) == 2
    assert (len(by_events), by_events.events, by_events.bytes, by_events.due_in()) == (0, 0, 0, None)


frames = st.lists(st.tuples(st.sampled_from(["live", "replay-1"]), st.integers(1, 900), st.integers(1, 900)), max_size=60)


@given(frames, st.dictionaries(st.sampled_from(["live", "replay-1"]), st.integers(0, 70)))
def test_chunks_keep_every_frame_once_in_order_one_lane_each_and_bounded(
    given_frames: list[tuple[str, int, int]], ends: dict[str, int]
) -> None:
    seqs: Counter[str] = Counter()
    made: list[Held] = []
    for lane, events, size in given_frames:
        seqs[lane] += 1
        made.append(held(seqs[lane], events, size, lane))
    cut = list(chunks(made, ends, max_events=1000, max_bytes=1000))
    for lane in seqs:
        assert [each.place.seq for chunk in cut for each in chunk if each.place.lane == lane] == list(range(1, seqs[lane] + 1))
    for chunk in cut:
        lanes = {each.place.lane for each in chunk}
        assert len(lanes) == 1
        end = ends.get(lanes.pop(), 0)
        planned = [each.place.seq <= end for each in chunk]
        assert all(planned) or not any(planned), "a plan of before a crash is a load of its own"
        if not any(planned) and len(chunk) > 1:
            assert sum(each.place.events for each in chunk) <= 1000
            assert sum(each.size for each in chunk) <= 1000


def test_chunks_keep_frames_apart_that_may_not_be_loaded_together_and_all_of_a_lane_in_order() -> None:
    made = [held(seq) for seq in (1, 2, 3, 4, 5)]
    cut = chunks(made, {}, apart=lambda place: place.seq in (3, 4))
    assert [[each.place.seq for each in chunk] for chunk in cut] == [[1, 2], [3, 4], [5]]


def test_frames_from_before_and_after_a_change_of_shards_stay_in_their_order() -> None:
    one, two = live_lane("i", "shop", 1), live_lane("i", "shop", 5, shard="2.0")
    other = live_lane("i", "shop", 5, shard="2.1")
    frames = [held(1, lane=one), held(5, lane=two), held(6, lane=other), held(7, lane=two), held(9, lane=one)]
    assert [[each.place.seq for each in chunk] for chunk in chunks(frames, {})] == [[1], [5, 7], [6], [9]]
    # frames that come again promise no order, and must not make a load of each
    rewound = [held(1, lane=one), held(5, lane=two), held(2, lane=one), held(7, lane=two), held(3, lane=one)]
    again = [replace(each, place=each.place._replace(rewind=1)) if each.place.lane == one else each for each in rewound]
    assert [[each.place.seq for each in chunk] for chunk in chunks(again, {})] == [[1], [5, 7], [2, 3]]
