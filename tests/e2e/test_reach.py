"""Commands find a broker as it is: they create no stream and change none, whatever the shell's variables say."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.home import Home
from penstock.reach import Reach, open_broker
from shared import topology
from shared.errors import SetupError
from shared.jetstream.broker import connect
from tests.support.nats import NatsServer


async def test_a_command_changes_no_stream_and_says_which_are_missing(nats: NatsServer, tmp_path: Path) -> None:
    reach = Reach(Home(tmp_path), nats.url, None)
    with pytest.raises(SetupError, match=r"the broker lacks EVENTS, DELIVER.*a service creates them"):
        async with open_broker(reach):
            pass
    async with connect(nats.url, "test", patience_seconds=10) as broker:
        await topology.ensure(broker, topology.TopologySettings(events_max_bytes=topology.SMALLEST_BYTES))
        before = [each.config for each in await broker.js.streams_info()]
        async with open_broker(reach):
            pass
        assert [each.config for each in await broker.js.streams_info()] == before
        await broker.js.delete_stream(topology.DEAD)
        with pytest.raises(SetupError, match="the broker lacks DEAD;"):
            async with open_broker(reach):
                pass
