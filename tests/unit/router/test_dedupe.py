"""The dedupe window against a plain dict that knows when each id was last seen."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.window.dedupe import GENERATIONS, Window

WINDOW = 80.0
GENERATION = WINDOW / GENERATIONS


class Model:
    """What `Window` promises, written as plainly as possible."""

    def __init__(self, max_ids: int) -> None:
        self.last: dict[str, int] = {}
        self.max_ids = max_ids
        self.now = -1000
        self.oldest = -1000

    def seen(self, ids: list[str], at_seconds: float) -> list[int]:
        self.now = max(self.now, int(at_seconds // GENERATION))
        self.oldest = max(self.oldest, self.now - GENERATIONS)
        repeated = []
        before = {id_ for id_, generation in self.last.items() if generation >= self.oldest}
        for index, id_ in enumerate(ids):
            if id_ in before or id_ in ids[:index]:
                repeated.append(index)
            self.last[id_] = self.now
        self.last = {id_: generation for id_, generation in self.last.items() if generation >= self.oldest}
        while len(self.last) > self.max_ids:
            self.oldest = min(self.last.values()) + 1
            self.last = {id_: generation for id_, generation in self.last.items() if generation >= self.oldest}
            if self.oldest > self.now:  # the newest generation alone is too large: it begins again
                self.oldest = self.now
        return repeated


frames = st.lists(
    st.tuples(
        st.lists(st.integers(0, 400).map(str), max_size=40),
        st.floats(0, 25, allow_nan=False) | st.sampled_from([0.0, GENERATION, WINDOW, WINDOW + GENERATION, 5 * WINDOW]),
    ),
    max_size=40,
)


@settings(max_examples=120)
@given(frames=frames, max_ids=st.sampled_from([10, 100, 100_000]))
def test_every_verdict_equals_that_of_a_plain_dict(frames: list[tuple[list[str], float]], max_ids: int) -> None:
    window, model, at = Window(WINDOW, max_ids), Model(max_ids), 1_700_000_000.0
    for ids, step in frames:
        at += step
        assert window.seen(ids, at) == model.seen(ids, at)
        assert len(window) == len(model.last)


@settings(max_examples=50)
@given(frames=frames, max_ids=st.sampled_from([50, 100_000]), cut=st.integers(0, 40))
def test_a_window_rebuilt_from_its_history_decides_what_the_first_one_decided(
    frames: list[tuple[list[str], float]], max_ids: int, cut: int
) -> None:
    at, timed = 1_700_000_000.0, []
    for ids, step in frames:
        at += step
        timed.append((ids, at))
    first = Window(WINDOW, max_ids)
    verdicts = [first.seen(ids, at) for ids, at in timed]
    for index, (_, resumed_at) in list(enumerate(timed))[cut : cut + 1]:
        rebuilt = Window(WINDOW, max_ids)
        for ids, at in timed[:index]:
            if at >= rebuilt.history_start(resumed_at):
                rebuilt.seen(ids, at)
        assert [rebuilt.seen(ids, at) for ids, at in timed[index:]] == verdicts[index:]


def test_an_id_is_remembered_for_the_window_and_forgotten_an_eighth_later() -> None:
    for start in (0.0, GENERATION / 2, GENERATION - 0.001):
        window = Window(WINDOW)
        assert window.seen(["a"], 8000 + start) == []
        assert window.seen([], 8000 + start + WINDOW) == []
        assert window.seen(["a"], 8000 + start + WINDOW) == [0]
        assert window.seen(["a"], 8000 + start + 2 * WINDOW + GENERATION) == []


def test_marks_that_come_round_again_do_not_revive_what_is_forgotten() -> None:
    window = Window(WINDOW, 1_000_000)
    for generation in range(200):
        at = generation * GENERATION
        old = [f"{generation - GENERATIONS - 1}-{index}" for index in range(300)]
        assert window.seen([f"{generation}-{index}" for index in range(300)], at) == []
        assert window.seen(old, at) == []


def test_a_table_that_grew_still_knows_everything() -> None:
    window = Window(WINDOW, 400_000)
    ids = [f"id-{index}" for index in range(300_000)]
    for start in range(0, len(ids), 500):
        assert window.seen(ids[start : start + 500], 1000.0) == []
    for start in range(0, len(ids), 500):
        assert window.seen(ids[start : start + 500], 1001.0) == list(range(500))
    assert len(window) == len(ids)
    assert window.shortened == 0


def test_at_the_limit_the_oldest_generation_goes_and_that_is_reported() -> None:
    window = Window(WINDOW, 1000)
    for generation in range(3):
        window.seen([f"{generation}-{index}" for index in range(400)], generation * GENERATION)
    assert window.shortened == 1
    assert len(window) == 800
    assert window.seen(["1-0", "2-0"], 2 * GENERATION) == [0, 1]
    assert window.seen(["0-0"], 2 * GENERATION) == []


def test_one_generation_larger_than_the_limit_begins_anew() -> None:
    window = Window(WINDOW, 1000)
    for part in range(10):
        window.seen([f"{part}-{index}" for index in range(300)], 1000.0)
    assert len(window) <= 1000
    assert window.shortened > 0
    assert window.seen(["9-0"], 1000.0) == [0]


def test_memory_stays_within_sixteen_bytes_an_id_at_the_limit() -> None:
    tracemalloc.start()
    try:
        window = Window(WINDOW, 20_000)
        for frame in range(80):
            window.seen([f"{frame}-{index}" for index in range(500)], frame * 0.5)
        del frame
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < 16 * 20_000


def test_a_window_needs_a_length() -> None:
    with pytest.raises(ValueError, match="above zero"):
        Window(0)


def test_an_id_whose_hash_is_all_zeros_is_an_id_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.window.dedupe.hash", lambda _: 0, raising=False)
    window = Window(WINDOW)
    assert window.seen(["zero"], 1.0) == []
    assert window.seen(["zero"], 1.0) == [0]
