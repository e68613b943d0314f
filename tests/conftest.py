"""Fixtures every suite may use: a real broker of its own per test, and a connection to it with the topology in place."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from shared.jetstream import topology
from shared.jetstream.broker import Broker, connect
from tests.support.nats import NatsServer, nats_server

# no assertion about time: a busy machine is no failure of the rule under test
settings.register_profile("penstock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("penstock")


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    """A nats-server of this test's own, so that a test may kill it."""
    with nats_server(tmp_path / "nats") as server:
        yield server


@pytest.fixture
async def broker(nats: NatsServer) -> AsyncIterator[Broker]:
    """A connection to the test's own server, streams and buckets created."""
    async with connect(nats.url, "test", patience_seconds=10) as opened:
        await topology.ensure(opened, topology.TopologySettings())
        yield opened
