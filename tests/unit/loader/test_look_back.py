"""What a session says of a broker whose store is older than the destination."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest

from loader.queue.look_back import LookBack, missing_part
from shared.events.headers import live_lane
from shared.jetstream.identity import Identity
from shared.streams.rewind import Rewinds
from shared.telemetry.health import Health

NOTHING = cast("Any", None)


def test_a_store_that_ends_before_the_destination_is_told_in_the_state_and_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    look_back = LookBack(NOTHING, NOTHING, Health(), "shop", "c", "c.1")
    events = Identity("now", 1, 40)
    former, other = live_lane("before", "shop"), live_lane("now", "news")
    look_back._compare({("t", live_lane("now", "shop")): 40, ("t", former): 99, ("t", other): 99}, events)
    assert look_back.trouble == ""
    look_back._compare({("t", live_lane("now", "shop")): 41}, events)
    assert "the destination holds frames up to 41, EVENTS ends at 40: an older copy of the broker's store" in look_back.trouble
    assert "see Backup in docs/operations.md" in look_back.trouble
    assert [record.getMessage() for record in caplog.records] == ["the broker's store is older than the destination"]


def test_what_cannot_come_again_by_itself_is_told_with_the_command_for_a_day() -> None:
    health = Health()
    look_back = LookBack(NOTHING, NOTHING, health, "shop", "c", "c.1")
    aside, dead = look_back._by_hand("replay-x", 7, 9), look_back._by_hand("replay-dead-1", 1, 2)
    look_back._rewinds = Rewinds(queue="c.1", missing={aside: time.time(), dead: time.time(), "old": 1.0})
    look_back._tell_missing()
    told = health.warnings[missing_part("c")]
    assert "penstock replay --site shop --from-seq 7 --to-seq 9 --connection c" in told
    assert (
        "what replay dead-1 delivered is missing; events that EVENTS keeps come with `penstock replay --site shop --from 7d"
        in told
    )
    assert "old" not in told.partition(": ")[2]
    assert "are lost" in look_back._by_hand(live_lane("before", "shop"), 1, 2)
    look_back._rewinds = Rewinds(queue="c.1", missing={"old": 1.0})
    look_back._tell_missing()
    assert not health.warnings
