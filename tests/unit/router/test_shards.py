"""The steps of a change of shards, and a site's state as the sum of its shards'."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import cast

import pytest

from router.forwarding.account import Account
from router.forwarding.shard import ShardView
from router.forwarding.state import Mark, SiteState, StateKeeper
from router.layouts import Layouts
from router.room.readers import needs_of_shards
from router.shards.gauges import Parts, ShardTelemetry
from router.shards.keeper import has_stopped, is_drained, split_at
from router.shards.summed import add_up, summed_of
from shared.events.shards import WHOLE, Layout, Shard, Split
from shared.events.shares import gives
from shared.jetstream.broker import Broker
from shared.settings import ServiceSettings
from shared.telemetry.metrics import Telemetry

ONE, TWO = Shard(0, 2), Shard(1, 2)
LAYOUT = Layout(incarnation="i", splits=[Split(1, 1), Split(50, 2, 5.0)], change=1)


def test_a_split_begins_at_the_end_of_events_and_not_before_the_frames_of_any_shard() -> None:
    wish = Layout(incarnation="i", splits=[Split(1, 1)], wish=2, change=3)
    state = SiteState(incarnation="i", position=40, at_seconds=4.0, paused=3)
    assert has_stopped(state, wish)
    assert not has_stopped(SiteState(incarnation="i", paused=2), wish)
    assert not has_stopped(SiteState(incarnation="before", paused=3), wish)
    assert not has_stopped(None, wish)
    after = split_at(wish, 50, [state])
    assert (after.splits, after.wish, after.change) == ([Split(1, 1), Split(50, 2, 4.0)], 0, 3)


def test_numbers_that_routed_no_frame_leave_no_split_and_keep_their_states() -> None:
    wish = Layout(incarnation="i", splits=[Split(1, 1), Split(50, 4)], wish=2, change=2)
    after = split_at(wish, 50, [])
    assert ([split.of for split in after.splits], after.ever) == ([1, 2], [4])
    assert after.shards == [WHOLE, ONE, TWO, *(Shard(number, 4) for number in range(4))]
    back = split_at(Layout(incarnation="i", splits=[Split(1, 1), Split(50, 4)], wish=1, change=2), 50, [])
    assert back.splits == [Split(1, 1)]
    nothing_yet = split_at(Layout(incarnation="i", wish=4, change=1), 1, [])
    assert (nothing_yet.splits, nothing_yet.ever) == ([Split(1, 4)], [1])


def test_a_shard_is_drained_when_every_connection_has_its_frames() -> None:
    assert is_drained(SiteState(incarnation="i", position=49), LAYOUT, 50)
    assert not is_drained(SiteState(incarnation="i", position=48), LAYOUT, 50)
    behind = {"c": Mark(seq=40, at_seconds=1.0, owed=7)}
    assert not is_drained(SiteState(incarnation="i", position=49, behind=behind), LAYOUT, 50)
    later = {"c": Mark(seq=60, at_seconds=1.0, owed=7)}
    assert is_drained(SiteState(incarnation="i", position=70, behind=later), LAYOUT, 50)
    assert not is_drained(None, LAYOUT, 50)


def test_the_sum_of_shards_has_every_event_once_and_the_place_of_the_last() -> None:
    states = {
        "shop": SiteState(accepted=100, position=49, until=50, accounts={"c": Account(queue="c.1", left=None, forwarded=100)}),
        "shop.2.0": SiteState(
            accepted=30,
            position=80,
            accounts={"c": Account(queue="c.1", left=None, began=49, forwarded=25, dropped={"filtered": 5})},
        ),
        "shop.2.1": SiteState(
            accepted=20,
            position=70,
            accounts={"c": Account(queue="c.1", left=None, began=49, forwarded=8)},
            behind={"c": Mark(seq=60, at_seconds=6.0, owed=12, why="it waits")},
        ),
        "news": SiteState(accepted=7, position=99),
    }
    found = summed_of(states, "shop")
    assert found is not None
    assert (found.accepted, found.position, found.behind["c"].owed) == (150, 70, 12)
    account = found.accounts["c"]
    assert account.received(found.accepted) == account.ended + 12 == 150
    assert account.began == 0
    assert summed_of(states, "news") == states["news"]
    assert summed_of(states, "other") is None


def test_a_connection_that_left_one_shard_and_never_was_in_another_has_its_own_events_only() -> None:
    states = {
        WHOLE: SiteState(accepted=100, position=49, until=50),
        ONE: SiteState(accepted=30, position=80, accounts={"c": Account(left=10, absent=4, forwarded=6)}),
        TWO: SiteState(accepted=20, position=80, accounts={"c": Account(left=None, absent=5, forwarded=15)}),
    }
    found = add_up(states)
    assert found.accounts["c"].received(found.accepted) == 21


def test_what_ended_shards_passed_is_needed_no_more_and_what_new_ones_begin_with_is() -> None:
    ended = SiteState(incarnation="i", position=49, until=50)
    states = {"shop": ended, "shop.2.0": SiteState(incarnation="i", position=59, at_seconds=6.0)}
    needs = needs_of_shards("shop", LAYOUT, states, "i")
    assert [(need.seq, need.at_seconds) for need in needs] == [(60, 6.0), (50, math.inf)]
    late = SiteState(incarnation="i", position=49, until=50, behind={"c": Mark(seq=20, at_seconds=2.0)})
    assert min(needs_of_shards("shop", LAYOUT, {**states, "shop": late}, "i")).seq == 20
    assert min(needs_of_shards("shop", LAYOUT, states, "another")).seq == 1


def test_gauges_of_several_shards_in_one_process_add_up() -> None:
    whole, parts = Telemetry("router-test", ServiceSettings()), Parts()
    one, two = ShardTelemetry(whole, parts, "shop.2.0"), ShardTelemetry(whole, parts, "shop.2.1")
    for telemetry, events, lag in ((one, 5, 1), (two, 7, 3)):
        telemetry.gauge("account_forwarded_events", events, connection="c")
        telemetry.gauge("router_lag_frames", lag, site="shop")
        telemetry.count("router_frames_total", site="shop")
    assert whole.value("account_forwarded_events", connection="c") == 12
    assert whole.value("router_lag_frames", site="shop") == 3
    assert whole.value("router_frames_total", site="shop") == 2
    two.forget(connection="c")
    assert whole.value("account_forwarded_events", connection="c") == 5
    one.forget()
    two.forget()
    assert b'account_forwarded_events{connection="c"}' not in whole.exposition()
    whole.shutdown()


def test_a_router_gives_a_shard_up_while_it_has_most_of_all_and_two_more_than_another() -> None:
    assert gives("b", 4, {"a": 0})
    assert not gives("b", 1, {"a": 0})
    assert not gives("b", 2, {"a": 1})
    assert not gives("b", 4, {})
    assert [gives("a", 2, {"b": 2, "c": 0}), gives("b", 2, {"a": 2, "c": 0})] == [False, True]
    assert not gives("b", 2, {"a": 3, "c": 0})


async def test_a_connection_that_passed_a_split_waits_at_another_one_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    layouts = {"shop": Layout(incarnation="i", splits=[Split(1, 1), Split(50, 4)])}
    states = {"i": SiteState(incarnation="i", position=49)}

    async def load(_: StateKeeper) -> SiteState | None:
        return states.get(layouts["shop"].incarnation)

    monkeypatch.setattr(StateKeeper, "load", load)
    view = ShardView(cast("Broker", None), cast("Layouts", SimpleNamespace(of=layouts.get)), "shop", Shard(0, 4))
    assert await view.holds_back("c", 60) == ""
    assert not view.may_hold_back(60)
    layouts["shop"] = Layout(incarnation="i", splits=[Split(1, 1), Split(80, 4)])
    assert view.may_hold_back(90)
    assert "routes frames before 80 still" in await view.holds_back("c", 90)
    layouts["shop"] = Layout(incarnation="made again", splits=[Split(1, 1), Split(50, 4)])
    assert view.may_hold_back(60)
    assert "no router has begun yet" in await view.holds_back("c", 60)
