"""What is loaded already: by marks, rows set aside, former lives and rewinds."""

from __future__ import annotations

from loader.queue.aside import aside_lane
from loader.queue.progress import Progress
from shared.events.headers import Place
from shared.streams.rewind import Rewind

LANE = "live-1-shop@50"


def progress(marks: dict[tuple[str, str], int], *asides: tuple[str, int], rewind: Rewind | None = None) -> Progress:
    waiting = [(table, LANE, seq) for table, seq in asides]
    return Progress(str.lower, marks, waiting, {LANE: rewind} if rewind else None)


def loaded(found: Progress, seq: int, table: str = "events", lane: str = LANE, rewind: int = 0) -> bool:
    return found.through(Place(lane, seq, 1, 0, rewind), table) >= seq


def test_a_mark_holds_for_its_table_in_all_spellings_and_its_lane() -> None:
    found = progress({("Events", LANE): 60, ("events", LANE): 55})
    assert loaded(found, 60)
    assert not loaded(found, 61)
    assert not loaded(found, 60, lane="replay-x")


def test_a_frame_that_is_loaded_makes_no_rows_in_tables_of_another_layout() -> None:
    found = progress({("events", LANE): 60})
    assert loaded(found, 60, table="tracks")
    assert not loaded(found, 61, table="tracks")
    found.note("tracks", LANE, 62)
    assert loaded(found, 62)


def test_rows_set_aside_are_not_loaded_on_the_way_they_came_first() -> None:
    found = progress({("events", aside_lane(LANE, 70)): 70}, ("events", 71))
    assert loaded(found, 70)
    assert loaded(found, 71)
    assert not loaded(found, 72)


def test_a_connection_added_again_lacks_what_lies_before_its_first_life_and_between_its_lives() -> None:
    marks = {("events", "live-1-shop@50"): 60, ("events", "live-1-blog@1"): 99, ("events", "live-2-shop@1"): 99}
    found = progress(marks)
    again = "live-1-shop@10"
    assert [loaded(found, seq, lane=again) for seq in (10, 49, 50, 60, 61)] == [False, False, True, True, False]
    found.note("events", again, 20)
    assert [loaded(found, seq, lane=again) for seq in (20, 49, 55, 61)] == [True, False, True, False]


def test_a_lane_of_an_older_version_stands_for_everything_up_to_its_mark() -> None:
    found = progress({("events", "live-1-shop"): 60})
    assert loaded(found, 1, lane=LANE)
    assert not loaded(found, 61, lane=LANE)


def test_frames_of_before_a_rewind_are_left_to_those_that_come_again() -> None:
    found = progress({("events", LANE): 80}, rewind=Rewind(number=2, first=81, last=100, level=80))
    assert [found.is_before_rewind(Place(LANE, seq, 1, 0, number)) for seq, number in ((90, 1), (90, 2), (120, 0))] == [
        True,
        False,
        True,
    ]
    assert not found.is_before_rewind(Place("replay-x", 90, 1))


def test_of_frames_that_are_loaded_only_rows_that_were_aside_come_again() -> None:
    holes = {"Events": [(60, 65), (70, 70)]}
    found = progress({("events", LANE): 80}, ("events", 64), rewind=Rewind(number=1, first=60, last=100, level=80, holes=holes))
    assert [loaded(found, seq, rewind=1) for seq in (60, 64, 66, 70, 71, 81)] == [False, True, True, False, True, False]
    assert loaded(found, 60, table="other", rewind=1)
    assert found.run(LANE, "events", 65) == 60
    assert [found.goes_aside(Place(LANE, seq, 1, 0, 1)) for seq in (80, 81)] == [True, False]
