"""What holds EVENTS back, and how much goes when room is short."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

from nats.js.api import StreamState

from router.forwarding.state import Mark, SiteState
from router.room.readers import Need, needs_of
from router.room.shed import cut_for, history_starts, keep_room


def test_a_site_needs_what_is_behind_its_position_and_what_its_connections_are_owed() -> None:
    state = SiteState(incarnation="i", position=100, at_seconds=50.0, behind={"late": Mark(seq=40, at_seconds=20.0)})
    assert min(needs_of("shop", state, "i"))[:2] == (40, 20.0)
    assert min(needs_of("shop", SiteState(incarnation="i", position=100), "i")).seq == 101


def test_a_site_that_was_never_routed_in_this_stream_needs_all_of_it() -> None:
    assert needs_of("shop", None, "i")[0].seq == 1
    assert needs_of("shop", SiteState(incarnation="another", position=100), "i")[0].seq == 1


def test_as_much_goes_as_leads_to_the_target() -> None:
    state = StreamState(messages=1000, bytes=900, first_seq=51, last_seq=1050, consumer_count=0)
    assert cut_for(state, 1000) == 51 + math.ceil(1000 * 200 / 900)
    assert cut_for(state, 10_000) == 51


def test_the_longest_window_is_kept_for_the_reader_that_is_furthest_back() -> None:
    needs = [Need(5, 1000.0, "late"), Need(9, math.inf, "a replay")]
    start = history_starts(needs, 5000.0, [60.0, 600.0])
    assert 1000.0 - 600.0 * 1.3 < start <= 1000.0 - 600.0
    assert history_starts([], 5000.0, [600.0]) > 4000.0
    assert history_starts(needs, 5000.0, [0.0]) == math.inf


async def test_a_policy_that_refuses_sheds_nothing() -> None:
    await keep_room(cast("Any", SimpleNamespace(settings=SimpleNamespace(events_when_short="refuse"))))
