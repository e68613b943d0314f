"""What a loader remembers of its destination, and what it finds missing there."""

from __future__ import annotations

from typing import Any, cast

from loader.queue.aside import aside_lane
from loader.queue.memory import MOST_RANGES, Gap, Memory, Remembered, add_ranges, find_gaps, was_loaded
from shared.streams.rewind import again_id

LANE = "live-1-shop@5"
HERE = Remembered(address="a", lanes={LANE: 100, "replay-x": 7})


def test_a_ledger_that_is_not_behind_lacks_nothing() -> None:
    marks = {("events", LANE): 40, ("tracks", LANE): 100, ("events", "replay-x"): 9}
    assert find_gaps(HERE, "a", marks) == {}


def test_a_ledger_that_is_behind_lacks_what_was_loaded_since() -> None:
    marks = {("events", LANE): 40, ("tracks", LANE): 60, ("events", "replay-x"): 7}
    assert find_gaps(HERE, "a", marks) == {LANE: Gap(60, 100, {})}
    assert find_gaps(HERE, "b", marks) == {LANE: Gap(60, 100, {})}, "a replica that lags has another address"


def test_an_empty_destination_lacks_everything_unless_it_is_another_one() -> None:
    assert find_gaps(HERE, "a", {}) == {LANE: Gap(0, 100, {}), "replay-x": Gap(0, 7, {})}
    assert find_gaps(HERE, "b", {}) == {}
    assert find_gaps(HERE, "b", {("events", "live-1-blog@1"): 3}) == {}


def test_rows_that_were_aside_and_are_gone_are_holes() -> None:
    here = Remembered(address="a", lanes={LANE: 100}, asides={LANE: {"events": [(10, 20), (40, 50), (90, 95)]}})
    marks = {("tracks", LANE): 100, ("events", aside_lane(LANE, 44)): 44}
    gap = find_gaps(here, "a", marks)[LANE]
    assert gap == Gap(100, 100, {"events": [(45, 50), (90, 95)]})
    assert gap.first == 45
    assert find_gaps(here, "a", {**marks, ("events", aside_lane(LANE, 95)): 95}) == {}


def test_a_load_that_a_former_destination_had_was_done() -> None:
    former = [HERE, Remembered(asides={LANE: {"events": [(10, 20)]}})]
    assert was_loaded(former, LANE, 100, ["tracks"])
    assert not was_loaded(former, LANE, 101, ["tracks"])
    assert not was_loaded(former, "live-1-shop@9", 1, ["tracks"])
    assert was_loaded(former, aside_lane(LANE, 12), 12, ["events"])
    assert not was_loaded(former, aside_lane(LANE, 21), 21, ["events"])
    assert not was_loaded(former, aside_lane(LANE, 12), 12, ["tracks"])
    assert not was_loaded([], LANE, 1, ["events"])


def test_what_other_destinations_have_is_ranges_between_what_this_one_has() -> None:
    came = add_ranges({}, {LANE: 0, "replay-x": 7}, {LANE: 100, "replay-x": 7})
    assert came == {LANE: [(1, 100)]}
    again = add_ranges(came, {LANE: 150}, {LANE: 200})
    assert again == {LANE: [(1, 100), (151, 200)]} == add_ranges(again, {LANE: 150}, {LANE: 200})
    for number in range(200, 400):
        again = add_ranges(again, {LANE: number}, {LANE: number + 1})
    assert len(again[LANE]) == MOST_RANGES


def test_what_comes_again_in_another_lane_is_not_missing_here() -> None:
    memory = Memory(cast("Any", None), "c", "wh", {})
    assert memory.not_elsewhere(LANE, 5, 9) == [(5, 9)]
    memory._all["wh"] = Remembered(elsewhere={LANE: [(20, 30), (1, 3), (7, 10)]})
    assert memory.not_elsewhere(LANE, 1, 40) == [(4, 6), (11, 19), (31, 40)]
    assert memory.not_elsewhere(LANE, 8, 22) == [(11, 19)]
    assert memory.not_elsewhere(LANE, 7, 9) == []


def test_each_part_of_a_replay_that_comes_again_has_an_id_of_its_own() -> None:
    first = again_id("r", "c", ())
    assert first != again_id("r", "other", ())
    assert again_id(first, "c", [first]) == again_id("r", "c", [first]) == "r.c.again-2"
    assert again_id("r", "c", ["r.c.again-9", "r.c.again-x"]) == "r.c.again-10"
