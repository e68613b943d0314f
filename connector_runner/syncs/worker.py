"""The worker of one sync: waits until a run is due or a person asks for one, and runs it.

Only the holder of the sync's lease works, so runs do not overlap. A run that was cut off, by a restart or a kill, goes on at once from
where the destination is. A run that was due while no runner was there comes once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from pathlib import Path

from connector_runner.syncs.attempt import Definition
from connector_runner.syncs.logbook import Logbook
from connector_runner.syncs.run import Run
from shared.errors import Fenced, PenstockError
from shared.jetstream import topology
from shared.jetstream.kv import Bucket
from shared.jetstream.lease import Lease
from shared.project.snapshot import ConfigSnapshot
from shared.service import ServiceContext
from shared.syncs.records import Ask, RunRecord, ask_key, decode
from shared.tasks import task_group, timeout

LONGEST_LOOK_SECONDS = 3600.0
"""A wait is never longer, so that a clock that was set is noticed."""

log = logging.getLogger(__name__)


def definitions(snapshot: ConfigSnapshot) -> dict[str, Definition]:
    """Returns the definitions of all enabled syncs."""
    project = snapshot.project
    return {
        name: Definition(sync, project.connectors[sync.connector])
        for name, sync in project.syncs.items()
        if sync.enabled and sync.connector in project.connectors
    }


class SyncWorker:
    """Works for one sync; `cache`: folder of installed connectors."""

    def __init__(self, context: ServiceContext, name: str, definition: Definition, cache: Path) -> None:
        self._context = context
        self._name = name
        self._definition = definition
        self._cache = cache
        self._bucket = Bucket(context.broker, topology.STATE_BUCKET)
        self._logbook = Logbook(self._bucket, name)
        self._asked: Ask | None = None
        self._woken = asyncio.Event()
        self._run: Run | None = None

    def change(self, definition: Definition) -> bool:  # noqa: ARG002  # of `Worker`
        """A new definition means another worker; the run that goes on is cut off, and goes on with the new one."""
        return False

    async def work(self, lease: Lease, ending: asyncio.Event) -> None:
        """Waits and runs; see `Worker`."""
        async with task_group() as group:
            listening = group.create_task(self._listen(), name=f"ask-{self._name}")
            ends = group.create_task(self._wake_at(ending), name=f"end-{self._name}")
            drains = group.create_task(self._wake_at(self._context.draining), name=f"drain-{self._name}")
            try:
                newest = await self._logbook.newest()
                while not self._is_over(ending):
                    newest = await self._step(newest, lease, ending)
            finally:
                for task in (listening, ends, drains):
                    task.cancel()

    def _is_over(self, ending: asyncio.Event) -> bool:
        return ending.is_set() or self._context.draining.is_set()

    async def _step(self, newest: RunRecord | None, lease: Lease, ending: asyncio.Event) -> RunRecord | None:
        """Runs if a run is due, else waits until something happens; returns the newest run."""
        asked, self._asked = self._asked, None
        if asked is not None:
            await self._bucket.delete(ask_key(self._name))
            if asked.what == "reset":
                await self._forget(asked)
            if asked.what != "run":
                return newest
        else:
            wait = self._due_in(newest)
            if wait > 0:
                self._woken.clear()
                with contextlib.suppress(TimeoutError):
                    async with timeout(min(wait, LONGEST_LOOK_SECONDS)):
                        await self._woken.wait()
                return newest
        lease.check()
        sync = self._definition.sync
        record = RunRecord(
            number=(newest.number if newest else 0) + 1,
            sync=self._name,
            connector=sync.connector,
            destination=sync.destination,
            began=time.time(),
            asked=asked.id if asked is not None else "",
        )
        await self._logbook.begin(record)
        await self._do(record, asked, ending)
        return record

    def _due_in(self, newest: RunRecord | None) -> float:
        """Returns the seconds until the next run; zero or less: now."""
        clock = self._definition.sync.clock(self._name)
        if newest is not None and newest.status in ("running", "interrupted"):
            return 0.0  # it was cut off
        if clock.manual:
            return math.inf
        return 0.0 if newest is None else clock.after(newest.began) - time.time()

    async def _do(self, record: RunRecord, asked: Ask | None, ending: asyncio.Event) -> None:
        only = asked.streams if asked is not None else ()
        run = self._run = Run(
            broker=self._context.broker,
            name=self._name,
            definition=self._definition,
            record=record,
            logbook=self._logbook,
            only=only,
            cache=self._cache,
        )
        going = asyncio.ensure_future(run.go(_forgotten(asked) if asked is not None and asked.afresh else ()))
        over = asyncio.ensure_future(self._wait_over(ending))
        try:
            await asyncio.wait({going, over}, return_when=asyncio.FIRST_COMPLETED)
            if not going.done():
                going.cancel()
                await asyncio.gather(going, return_exceptions=True)
                record.status = "interrupted"
            else:
                await going
        except Fenced:
            raise
        except PenstockError as exc:
            log.warning("run failed", extra={"sync": self._name, "error": str(exc)})
        finally:
            self._run = None
            over.cancel()
            going.cancel()
            await asyncio.gather(over, going, return_exceptions=True)
        await self._logbook.finish(record)
        self._tell(record)

    def _tell(self, record: RunRecord) -> None:
        telemetry, part = self._context.telemetry, f"sync {self._name}"
        telemetry.count("sync_runs_total", sync=self._name, status=record.status)
        telemetry.record("sync_run_seconds", record.seconds, sync=self._name)
        for name, of in record.streams.items():
            telemetry.count("sync_rows_read_total", of.rows, sync=self._name, stream=name)
        if record.status in ("failed", "partial", "timed_out"):
            self._context.health.warn(part, f"run {record.number} {record.status}: {record.error}"[:1000])
        else:
            self._context.health.good(part)
        log.info(
            "run ended",
            extra={"sync": self._name, "run": record.number, "status": record.status, "rows": record.rows, "error": record.error},
        )

    async def _forget(self, asked: Ask) -> None:
        record = RunRecord(number=0, sync=self._name, connector="", destination="", began=time.time())
        run = Run(
            broker=self._context.broker,
            name=self._name,
            definition=self._definition,
            record=record,
            logbook=self._logbook,
            only=(),
            cache=self._cache,
        )
        await run.forget(_forgotten(asked))

    async def _listen(self) -> None:
        async for entry in self._bucket.watch(ask_key(self._name)):
            asked = decode(entry.value, Ask) if entry.value else None
            if asked is None:
                continue
            if asked.what == "cancel":
                if self._run is not None:
                    self._run.cancel()
                await self._bucket.delete(ask_key(self._name))
            else:
                self._asked = asked
            self._woken.set()

    async def _wake_at(self, event: asyncio.Event) -> None:
        await event.wait()
        self._woken.set()

    async def _wait_over(self, ending: asyncio.Event) -> None:
        while not self._is_over(ending):
            self._woken.clear()
            await self._woken.wait()


def _forgotten(asked: Ask) -> tuple[str, ...] | None:
    return asked.streams or None
