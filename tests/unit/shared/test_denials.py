"""What the broker denies a service: a service tells it while the connection stands; the next connection tells it again."""

from __future__ import annotations

from typing import Any, cast
from unittest.mock import MagicMock

from shared.jetstream.broker import Broker


def test_a_denial_goes_with_its_connection_and_comes_again_if_it_still_holds() -> None:
    broker = Broker(cast("Any", MagicMock(is_connected=True)))
    denial = Exception('nats: permissions violation for publish to "events.shop"')
    broker._note_error(denial)
    assert "events.shop" in broker.denied
    broker._note_disconnect()
    assert broker.denied == ""
    broker._note_error(denial)
    assert "events.shop" in broker.denied
