"""What is counted of the events that wait for a connection that is gone: each once, whatever was counted, set aside or cut off before."""

from __future__ import annotations

import msgspec

from loader.delivery.leftovers import AGAIN, Left, count_again, count_leftovers
from loader.delivery.moving.former import has_load
from shared.events.headers import Place
from shared.jetstream import topology
from shared.streams.ended import Counts, Ended, Pending

LANE = "live-1-shop"
TAKEN = Ended(counts=Counts(live=5, delivered=2, dead={"type_conflict": 1}), through={LANE: 1}, early={f"{LANE}:1": "1"}, sent=5)


def test_frames_that_are_counted_and_repeats_in_the_queue_are_no_leftovers() -> None:
    frames = [
        Left(1, Place(LANE, 1, 5, 5), 0b11111),  # was not acknowledged
        Left(2, Place(LANE, 2, 3, 8), 0b111),
        Left(3, Place(LANE, 2, 3, 8), 0b111),
        Left(4, Place("replay-r", 1, 4), 0b1111),
    ]
    # two events of frame 1 wait for tables, one of them is dead by another table; frame 2 stands in the queue as well
    asides = [Left(1, Place(LANE, 1, 2), 0b011), Left(2, Place(LANE, 1, 2), 0b110), Left(3, Place(LANE, 2, 1), 0b1)]
    ended = count_leftovers(TAKEN, frames, asides)
    assert (ended.counts.live, ended.counts.replayed, ended.sent) == (8, 4, 8)
    assert ended.counts.dropped == {"removed": 3 + 4 + 2}
    assert ended.counts.live + ended.counts.replayed == ended.counts.total
    noted = msgspec.structs.replace(ended, swept={topology.RETRY: 3})
    assert count_leftovers(noted, frames, asides) == noted


def test_a_ledger_tells_whether_it_has_a_load() -> None:
    load = Pending(lane=LANE, last=7, tables=["Orders", "views"], source=LANE, through=7, counts=Counts())
    assert has_load({("orders", LANE): 7}, load)
    assert not has_load({("orders", LANE): 6, ("orders", "live-2-shop"): 9}, load)
    aside = msgspec.structs.replace(load, lane=f"aside.7.{LANE}", tables=["orders"])
    assert not has_load({("views", aside.lane): 7, ("orders", LANE): 7}, aside)
    assert has_load({("orders", aside.lane): 7}, aside)


def test_of_frames_before_functions_each_event_is_counted_once() -> None:
    before = Ended(counts=Counts(live=1, delivered=1), through={LANE: 1}, sent=1)
    # frame 2 has left the functions and was not acknowledged there
    frames = [Left(7, Place(LANE, 2, 3, 4), 0b111), Left(1, Place(LANE, 2, 3, 4), 0b111), Left(2, Place(LANE, 3, 2, 6), 0b11)]
    ended = count_leftovers(before, frames, [])
    assert ended.counts == Counts(live=6, delivered=1, dropped={"removed": 5})
    assert ended.sent == 6


def test_of_a_frame_of_which_functions_made_more_than_it_was_no_less_than_nothing_is_left() -> None:
    begun = Ended(counts=Counts(live=5, delivered=5), begun={f"{LANE}:1": "1f"}, sent=0)
    counts = count_leftovers(begun, [Left(1, Place(LANE, 1, 2, 2), 0b11)], []).counts
    assert (counts.live, counts.made, counts.dropped) == (2, 3, {})
    assert counts.live + counts.made == counts.total


def test_events_that_wait_for_another_attempt_of_functions_are_dropped_once() -> None:
    before = Ended(counts=Counts(live=3, made=-1, delivered=2))
    again = [Left(4, Place("again", 1, 1), 0b1), Left(6, Place("again", 2, 1), 0b1)]
    ended = count_again(before, again[:1])
    assert ended.counts == Counts(live=3, made=0, delivered=2, dropped={"removed": 1})
    swept = msgspec.structs.replace(ended, swept={AGAIN: 4})
    assert count_again(swept, again).counts.dropped == {"removed": 2}
