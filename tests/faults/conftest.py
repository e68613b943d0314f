"""What the fault tests share: a schema of their own each, and how long and how often to hurt.

`PENSTOCK_FAULT_SEED` repeats a schedule, `PENSTOCK_FAULT_ROUNDS` makes the random ones longer, `PENSTOCK_FAULT_AWAY` says for how
many seconds the broker stays away; `make faults` says a minute.
"""

from __future__ import annotations

import os
import random
import secrets
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from shared.jetstream.broker import Broker
from shared.settings import ServiceSettings
from shared.telemetry.metrics import Telemetry
from shared.threads import ThreadGate
from tests.faults.places import Schema
from tests.support.clickhouse import Place
from tests.support.destinations.clickhouse import ClickHouseSubject
from tests.support.destinations.duckdb import DuckDBSubject
from tests.support.destinations.postgres import PostgresSubject
from tests.support.nats import NatsServer
from tests.support.postgres import PostgresServer
from tests.support.sender import seed_of
from tests.support.syncs import Loaders, Queue, Warehouse


@pytest.fixture
def new_schema(postgres: PostgresServer) -> Callable[[], Schema]:
    """Makes schemas that nobody else uses."""
    return lambda: Schema(postgres, f"f_{secrets.token_hex(5)}")


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """The test's dice; the seed is shown when it fails."""
    seed = seed_of(os.environ.get("PENSTOCK_FAULT_SEED"))
    print(f"PENSTOCK_FAULT_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"mounting needs root: {mounted.stderr.decode()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=False)


@pytest.fixture(scope="module")
def telemetry() -> Telemetry:
    """What services of the tests of syncs count with."""
    return Telemetry("test", ServiceSettings())


@pytest.fixture(scope="module")
def gate() -> Iterator[ThreadGate]:
    """Threads of the tests of syncs."""
    gate = ThreadGate(4, "test")
    yield gate
    gate.close()


@pytest.fixture
async def wh(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Warehouse]:
    """A warehouse of the test's own; Postgres, if it names no other."""
    kind = getattr(request, "param", "postgres")
    subject: Warehouse
    if kind == "duckdb":
        yield DuckDBSubject(tmp_path)
        return
    if kind == "clickhouse":
        place: Place = request.getfixturevalue("clickhouse")
        subject = ClickHouseSubject(place)
    else:
        subject = PostgresSubject(request.getfixturevalue("postgres_dsn"))
    yield subject
    await subject.drop()


@pytest.fixture
def loaders(nats: NatsServer, telemetry: Telemetry, gate: ThreadGate, wh: Warehouse) -> Loaders:
    """Loaders of a sync into it."""
    return Loaders(nats.url, telemetry, gate, wh.document)


@pytest.fixture
def queue(broker: Broker) -> Queue:
    """The queue of the sync."""
    return Queue(broker)
