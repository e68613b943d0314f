"""How long a former destination that fails is borne, before its last load counts as not committed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from loader.delivery.moving import former as module
from loader.delivery.moving.former import PATIENCE_SECONDS, Former
from shared.errors import NotConnected, SetupError
from shared.streams.ended import Counts, Ended, Pending

PENDING = Pending(lane="live-1-shop", last=7, tables=["events"], source="live-1-shop", through=7, counts=Counts())
ENDED = Ended(destination="lake", address="a", pending=PENDING)


def test_a_former_destination_that_fails_is_borne_for_a_minute_in_which_the_broker_is_there(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 1000.0
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    link = SimpleNamespace(is_connected=False)
    former = Former(cast("Any", SimpleNamespace(broker=SimpleNamespace(nc=link))), "c", cast("Any", None))
    error = SetupError("no such bucket")
    for _ in range(3):  # the broker is away
        with pytest.raises(NotConnected, match=r'"lake".*no such bucket'):
            former.bear(ENDED, PENDING, error)
        now += 2 * PATIENCE_SECONDS
    link.is_connected = True
    with pytest.raises(NotConnected):
        former.bear(ENDED, PENDING, NotConnected("silent"))
    assert not former.has_answered(PENDING)
    now += PATIENCE_SECONDS
    former.bear(ENDED, PENDING, error)
    assert former.has_answered(PENDING)
    assert "taken as not committed" in caplog.text
