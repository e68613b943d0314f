"""Every scenario of `test_feeds.py` runs against every kind of feed, each with a real server of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from shared.jetstream import topology
from shared.jetstream.broker import connect
from shared.settings import ServiceSettings
from shared.telemetry.metrics import Telemetry
from tests.contract.feeds import of_kafka, of_kinesis, of_mqtt, of_nats
from tests.support.feeds import SECONDS
from tests.support.nats import NatsServer, nats_server

KINDS: dict[str, ModuleType] = {"kafka": of_kafka, "kinesis": of_kinesis, "mqtt": of_mqtt, "nats": of_nats}
"""The source of each kind; `tests/meta/test_plugins.py` misses a new one otherwise."""


@pytest.fixture(scope="module")
def telemetry() -> Iterator[Telemetry]:
    made = Telemetry("connector_runner", ServiceSettings())
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """Our broker, with its streams."""
    with nats_server(tmp_path_factory.mktemp("nats"), sync="1m") as server:
        asyncio.run(ensure(server.url))
        yield server


@pytest.fixture(scope="module", params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> ModuleType:
    """The module of a kind's source."""
    return KINDS[str(request.param)]


@pytest.fixture(scope="module")
def server(kind: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The source's server, shared by the tests of its kind."""
    folder: Path = tmp_path_factory.mktemp("source")
    with kind.server(folder) as started:
        yield started


async def until(condition: Callable[[], bool]) -> None:
    """Waits for a condition."""
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


async def ensure(url: str) -> None:
    """Makes our streams."""
    async with connect(url, "test", patience_seconds=60) as broker:
        await topology.ensure(broker, ServiceSettings().topology())
