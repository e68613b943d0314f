"""A connection's account: tied to its place, whatever was done beyond it."""

from __future__ import annotations

import msgspec

from router.forwarding.account import Account, RunningAccount, expire
from shared.events.outcome import DropReason


def test_what_was_done_beyond_the_place_is_not_counted_yet() -> None:
    account = RunningAccount()
    account.join(0, 0)
    account.drop(1, {DropReason.FILTERED: 2})
    account.forward(1, 3)
    account.forward(2, 5)
    assert account.settle(2, 5) == Account(left=None, forwarded=3, dropped={"filtered": 2})
    assert account.settle(3, 10).forwarded == 8
    assert account.sent == 8


def test_a_lane_that_falls_behind_takes_back_what_it_will_do_again() -> None:
    account = RunningAccount()
    account.join(0, 0)
    account.drop(1, {DropReason.DUPLICATE: 1})
    account.drop(2, {DropReason.DUPLICATE: 1})
    account.forget(2)
    account.drop(2, {DropReason.DUPLICATE: 1})
    assert account.settle(3, 4).dropped == {"duplicate": 2}


def test_events_of_the_time_in_which_a_connection_was_absent_are_none_of_its() -> None:
    account = RunningAccount()
    account.join(100, 7)
    account.forward(8, 10)
    assert account.settle(9, 110).received(110) == 10
    account.leave(110, 9)
    stored = account.settle(20, 500)
    assert stored.received(500) == 10
    again = RunningAccount(msgspec.json.decode(msgspec.json.encode(stored), type=Account))
    again.join(500, 20)
    again.forward(21, 1)
    assert again.settle(22, 501).received(501) == 11 == again.settle(22, 501).ended


def test_a_connection_that_began_beyond_the_stored_position_begins_there_after_a_crash() -> None:
    account = RunningAccount()
    account.join(100, 7)
    stored = account.settle(5, 80)
    assert stored.received(80) == 0
    again = RunningAccount(stored)
    again.join(80, 5)
    again.forward(6, 20)
    assert again.settle(7, 100).received(100) == 20


def test_frames_of_the_past_that_come_after_the_stored_position_count_once_after_a_crash() -> None:
    account = RunningAccount()
    account.join(100, 7)
    account.backfill(1, 10)
    account.forward(1, 10)
    stored = account.settle(2, 80)
    again = RunningAccount(stored)
    again.join(80, 5)
    assert again.began == 5
    for seq, events in ((2, 70), (6, 20)):
        if seq <= again.began:
            again.backfill(seq, events)
        again.forward(seq, events)
    assert again.settle(7, 100).received(100) == 100 == again.settle(7, 100).ended
    again.leave(100, 7)
    later = RunningAccount(again.settle(7, 100))
    later.join(150, 9)
    assert later.began == 5


def test_a_frame_that_no_queue_takes_is_dead_and_what_expired_is_dropped() -> None:
    account = RunningAccount()
    account.join(0, 0)
    account.bury(1, 4)
    account.backfill(1, 4)
    assert account.settle(2, 0).received(0) == 4 == account.settle(2, 0).ended
    assert expire(account.settle(2, 0), 3).dropped == {"expired": 3}
