"""What makes a load due, and how a backlog is cut into chunks."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from loader.collect import Bounds, Held, Holding, chunks
from shared.headers import Place
from shared.jetstream.reader import Message


def held(seq: int, events: int = 10, size: int = 100, lane: str = "live", at: float = 0.0) -> Held:
    return Held(Message("deliver.c", b"x" * size, {}, seq, at, 0), Place(lane, seq, events))


def test_a_load_is_due_when_the_oldest_frame_has_waited_its_period() -> None:
    holding = Holding(Bounds(300.0, 1000, 10_000, 100))
    assert holding.due_in(0) is None
    holding.add(held(1, at=100.0))
    holding.add(held(2, at=350.0))
    assert holding.due_in(150.0) == 250.0
    assert holding.due_in(401.0) == 0.0
    assert holding.oldest_seconds(150.0) == 50.0


def test_a_load_is_due_at_once_when_a_bound_is_reached() -> None:
    by_events = Holding(Bounds(300.0, 20, 10_000, 100))
    by_bytes = Holding(Bounds(300.0, 1000, 150, 100))
    by_frames = Holding(Bounds(300.0, 1000, 10_000, 2))
    for number in (1, 2):
        by_events.add(held(number, at=100.0))
        by_bytes.add(held(number, at=100.0))
        by_frames.add(held(number, at=100.0))
    assert (by_events.due_in(100.0), by_bytes.due_in(100.0), by_frames.due_in(100.0)) == (0.0, 0.0, 0.0)
    assert len(by_events.take()) == 2
    assert (len(by_events), by_events.events, by_events.bytes, by_events.due_in(100.0)) == (0, 0, 0, None)


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
