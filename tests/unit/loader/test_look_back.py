"""What a session says of a broker whose store is older than the destination."""

from __future__ import annotations

from typing import Any, cast

import pytest

from loader.queue.look_back import LookBack
from shared.events.headers import live_lane
from shared.jetstream.identity import Identity

NOTHING = cast("Any", None)


def test_a_store_that_ends_before_the_destination_is_told_in_the_state_and_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    look_back = LookBack(NOTHING, NOTHING, "shop", "c", "c.1")
    events = Identity("now", 1, 40)
    former, other = live_lane("before", "shop"), live_lane("now", "news")
    look_back._compare({("t", live_lane("now", "shop")): 40, ("t", former): 99, ("t", other): 99}, events)
    assert look_back.trouble == ""
    look_back._compare({("t", live_lane("now", "shop")): 41}, events)
    assert "the destination holds frames up to 41, EVENTS ends at 40: an older copy of the broker's store" in look_back.trouble
    assert "see Backup in docs/operations.md" in look_back.trouble
    assert [record.getMessage() for record in caplog.records] == ["the broker's store is older than the destination"]
