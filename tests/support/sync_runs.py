"""Runners of one sync, `orders`, in one process over a real broker: each may die, or be frozen, between any two of its steps.

A step is what a runner does for good: a publish. The connector reads a DuckDB file; `tests/support/syncs.py` has the loaders.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

from connector_runner.syncs import worker as working_on
from connector_runner.syncs.attempt import Definition
from connector_runner.syncs.worker import SyncWorker
from shared.jetstream import topology
from shared.jetstream.broker import Broker, connect
from shared.jetstream.kv import Bucket
from shared.jetstream.lease import Lease
from shared.project.syncs import Sync
from shared.service import ServiceContext
from shared.settings import ServiceSettings
from shared.syncs.records import Ask, RunRecord, ask, earlier_runs, newest_run
from shared.telemetry.health import Health
from shared.telemetry.metrics import Telemetry
from tests.support.duckdb_file import opened, opened_here
from tests.support.lives import Step
from tests.support.syncs import SYNC, silence


class Shop:
    """The connector's database, with the tables `users` (a cursor and a key) and `tags`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "shop.duckdb"
        with opened(self.path) as link:
            link.execute("CREATE TABLE users (id BIGINT PRIMARY KEY, n BIGINT)")
            link.execute("CREATE TABLE tags (tag BIGINT PRIMARY KEY)")

    async def run(self, *statements: str) -> None:
        """Runs SQL as soon as no runner of this process reads the file."""
        with await opened_here(self.path) as link:
            for statement in statements:
                link.execute(statement)

    async def add(self, first: int, last: int) -> None:
        """Adds rows to both tables."""
        await self.run(
            f"INSERT INTO users SELECT i, i FROM range({first}, {last}) t(i)",
            f"INSERT INTO tags SELECT i FROM range({first}, {last}) t(i)",
        )


class Runners:
    """All who ever ran the sync."""

    def __init__(self, url: str, telemetry: Telemetry, folder: Path, **options: Any) -> None:
        self.shop = Shop(folder)
        self._url = url
        self._telemetry = telemetry
        self._folder = folder
        self.options = {"streams": {"users": {"cursor": "n"}, "tags": {"mode": "full_refresh"}}, "period": "1h", **options}
        self._epoch = 0

    @property
    def document(self) -> dict[str, Any]:
        """The connector's entry."""
        return {"type": "duckdb", "path": str(self.shop.path)}

    def definition(self) -> Definition:
        """Returns what the runner makes of the project."""
        import msgspec

        found = {"connector": "shop", "destination": "wh", **self.options}
        return Definition(
            msgspec.convert(found, Sync, strict=False, dec_hook=lambda kind, value: kind.parse(value)), self.document
        )

    @contextlib.asynccontextmanager
    async def life(self, step: Step | None = None) -> AsyncIterator[asyncio.Task[None]]:
        """A runner that ends with the context: what it had not sent by then it never sends. Yields its work."""
        step = step or Step()
        self._epoch += 1
        async with connect(self._url, f"runner-{self._epoch}", patience_seconds=60) as broker:
            lease = Lease(f"sync.{SYNC}", self._epoch, 3600)
            publish, request = broker.nc.publish, broker.nc.request

            async def published(subject: str, *args: Any, **kwargs: Any) -> None:
                await step.around(subject, lambda: publish(subject, *args, **kwargs))

            broker.nc.publish = published  # type: ignore[method-assign]
            context = ServiceContext(
                "connector_runner", "here", ServiceSettings(), broker, cast("Any", None), self._telemetry, Health()
            )
            worker = SyncWorker(context, SYNC, self.definition(), self._folder)
            task = asyncio.create_task(worker.work(lease, asyncio.Event()))
            patience, working_on.LAST_WRITE_SECONDS = working_on.LAST_WRITE_SECONDS, 0.0
            try:
                yield task
            finally:
                broker.nc.publish = broker.nc.request = silence  # type: ignore[method-assign]
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                broker.nc.publish, broker.nc.request = publish, request  # type: ignore[method-assign]
                working_on.LAST_WRITE_SECONDS = patience


class Desk:
    """The person who asks, and looks at the records."""

    def __init__(self, broker: Broker) -> None:
        self.bucket = Bucket(broker, topology.STATE_BUCKET)

    async def ask(self, what: Any = "run", **more: Any) -> str:
        """Asks for something; returns its id."""
        wanted = Ask(id=uuid.uuid4().hex, what=what, at=0.0, **more)
        await ask(self.bucket, SYNC, wanted)
        return wanted.id

    async def told(self, found: Callable[[RunRecord], bool]) -> RunRecord:
        """Waits until the newest run is what is looked for; returns it."""
        async with asyncio.timeout(60):
            while (record := await newest_run(self.bucket, SYNC)) is None or not found(record):
                await asyncio.sleep(0.02)
        return record

    async def ended(self, asked: str) -> RunRecord:
        """Waits until the run that was asked for has ended; returns it."""
        return await self.told(lambda record: record.asked == asked and not record.is_open)

    async def earlier(self) -> list[RunRecord]:
        """Returns the runs before the newest."""
        return await earlier_runs(self.bucket, SYNC)
