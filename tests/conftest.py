"""Fixtures every suite may use: a real broker of its own per test, and one server of each kind for all tests of a worker.

Tests of one worker run one after the other, so a test may kill such a server, if the next one finds it running.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from shared.jetstream import topology
from shared.jetstream.broker import Broker, connect
from tests.support.clickhouse import clickhouse
from tests.support.mysql import mysql, mysql_dsn, mysql_server
from tests.support.nats import NatsServer, nats_server
from tests.support.postgres import postgres, postgres_dsn, postgres_server
from tests.support.s3 import s3_server

__all__ = ["clickhouse", "mysql", "mysql_dsn", "mysql_server", "postgres", "postgres_dsn", "postgres_server", "s3_server"]

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


SLOWEST_FIRST = ("faults", "meta/test_quickstart.py", "e2e", "contract", "hostile", "meta", "unit")
"""Folders and files; what has no line of its own is with its folder."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts slow tests first, so that the last tests to run are short."""
    tests = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(tests).as_posix()
        found = [number for number, each in enumerate(SLOWEST_FIRST) if name.startswith(each)]
        return min(found, default=0)

    items.sort(key=place)
