"""The keepers of streams: no error ends one, for it would end the router with it."""

from __future__ import annotations

import pytest

from router.forwarding import keeper
from router.forwarding.keeper import look_while_held
from shared.errors import NotConnected
from shared.jetstream.lease import Lease


async def test_no_error_of_a_look_ends_a_keeper_and_an_unexpected_one_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "ERROR_SECONDS", 0.0)
    lease = Lease("keeper.events", 1)
    errors = [NotConnected("away"), ValueError("a state of a later version"), None]

    async def look() -> None:
        error = errors.pop(0)
        if error is None:
            lease.lost.set()
        else:
            raise error

    await look_while_held(lease, "EVENTS", 0.0, look)
    assert not errors
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == ["unexpected error of a keeper"]
