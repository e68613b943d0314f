"""Marks of rows that were set aside, and when the ledger needs them no longer."""

from __future__ import annotations

from loader.queue.aside import aside_lane, frame_of, spent


def test_an_own_lane_tells_the_frame_it_is_of() -> None:
    assert frame_of(aside_lane("live.3.shop", 7)) == ("live.3.shop", 7)
    assert frame_of("live.3") is None
    assert frame_of("aside.x.live") is None


def test_marks_are_spent_once_the_table_is_beyond_their_frame_and_nothing_waits() -> None:
    lanes = [aside_lane("live", seq) for seq in (5, 6, 12)]
    marks = [("Orders", "live"), *(("Orders", lane) for lane in lanes), ("pages", lanes[0])]
    loaded = {("orders", "live"): 10}
    assert spent(marks, loaded, {("orders", "live", 6)}, str.lower) == [("Orders", lanes[0])]
