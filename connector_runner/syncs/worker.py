"""The worker of one sync: waits until a run is due or a person asks for one, and runs it.

Only the holder of the sync's lease works, so runs do not overlap. A run that was cut off, by a restart or a kill, goes on at once from
where the destination is, as it was asked for. A run that was due while no runner was there comes once. An ask stays where it is until it
is done, or written down with its run, so that no kill loses it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from pathlib import Path

from opentelemetry.trace import SpanKind

from connector_runner.syncs.attempt import Definition
from connector_runner.syncs.logbook import Logbook
from connector_runner.syncs.queue import SyncQueue
from connector_runner.syncs.run import Run
from connector_runner.syncs.told import Told
from shared.errors import PenstockError
from shared.jetstream import topology
from shared.jetstream.kv import Bucket
from shared.jetstream.lease import Lease
from shared.project.snapshot import ConfigSnapshot
from shared.service import ServiceContext
from shared.syncs.records import Ask, RunRecord, ask_key, cancel_key, decode, pending_ask
from shared.tasks import task_group, timeout

LONGEST_LOOK_SECONDS = 3600.0
"""A wait is never longer, so that a clock that was set is noticed."""
LAST_WRITE_SECONDS = 2.0
"""How long a run that is cut off gets to write that down."""


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
        self._woken = asyncio.Event()
        self._run: Run | None = None
        self._told = Told(context, name)

    def change(self, definition: Definition) -> bool:  # noqa: ARG002  # of `Worker`
        """A new definition means another worker; the run that goes on is cut off, and goes on with the new one."""
        return False

    async def work(self, lease: Lease, ending: asyncio.Event) -> None:
        """Waits and runs; see `Worker`."""
        async with task_group() as group:
            asked, cancelled = ask_key(self._name), cancel_key(self._name)
            listening = group.create_task(self._listen(asked), name=f"ask-{self._name}")
            cancelling = group.create_task(self._listen(cancelled), name=f"cancel-{self._name}")
            ends = group.create_task(self._wake_at(ending), name=f"end-{self._name}")
            drains = group.create_task(self._wake_at(self._context.draining), name=f"drain-{self._name}")
            try:
                runs = await self._logbook.runs()
                self._told.begin(runs)
                newest = runs[0] if runs else None
                while not self._is_over(ending):
                    newest = await self._step(newest, lease, ending)
            finally:
                for task in (listening, cancelling, ends, drains):
                    task.cancel()
                self._told.forget()

    def _is_over(self, ending: asyncio.Event) -> bool:
        return ending.is_set() or self._context.draining.is_set()

    async def _step(self, newest: RunRecord | None, lease: Lease, ending: asyncio.Event) -> RunRecord | None:
        """Runs if a run is due, else waits until something happens; returns the newest run."""
        self._woken.clear()
        asked, revision = await pending_ask(self._bucket, ask_key(self._name))
        if asked is not None and newest is not None and asked.id == newest.asked:  # its runner ended before it took it away
            await self._bucket.erase(revision)
            asked = None
        if newest is not None and newest.is_open:
            return await self._go_on(newest, lease, ending)
        if asked is not None and asked.what == "run":
            record = self._new(newest, asked=asked.id, only=asked.streams, afresh=asked.afresh)
            return await self._run_as(record, lease, ending, revision)
        if asked is not None:
            await self._forget(asked, ending)
            if not self._is_over(ending):
                await self._bucket.erase(revision)
            return newest
        if (wait := self._due_in(newest)) <= 0:
            return await self._run_as(self._new(newest), lease, ending)
        with contextlib.suppress(TimeoutError):
            async with timeout(min(wait, LONGEST_LOOK_SECONDS)):
                await self._woken.wait()
        return newest

    async def _go_on(self, newest: RunRecord, lease: Lease, ending: asyncio.Event) -> RunRecord:
        """Goes on with a run that was cut off, unless a person cancelled it meanwhile."""
        cancel, _ = await pending_ask(self._bucket, cancel_key(self._name))
        if cancel is not None and cancel.number == newest.number:
            newest.close("cancelled")
            await self._logbook.begin(newest)
            return newest
        record = self._new(newest, asked=newest.asked, only=newest.only, afresh=newest.afresh)
        # its runner may have ended before it took away what was asked; a person may ask again as soon as this run ends
        asked, revision = await pending_ask(self._bucket, ask_key(self._name))
        return await self._run_as(record, lease, ending, revision if asked is not None and asked.id == newest.asked else 0)

    def _new(self, newest: RunRecord | None, *, asked: str = "", only: tuple[str, ...] = (), afresh: bool = False) -> RunRecord:
        sync = self._definition.sync
        return RunRecord(
            number=(newest.number if newest else 0) + 1,
            sync=self._name,
            connector=sync.connector,
            destination=sync.destination,
            began=time.time(),
            asked=asked,
            only=only,
            afresh=afresh,
        )

    async def _run_as(self, record: RunRecord, lease: Lease, ending: asyncio.Event, ask: int = 0) -> RunRecord:
        """Runs; `ask`: the revision of what a person asked for, which the record now tells."""
        lease.check()
        await self._logbook.begin(record)
        if ask:
            await self._bucket.erase(ask)
        await self._do(record, ending)
        return record

    def _due_in(self, newest: RunRecord | None) -> float:
        """Returns the seconds until the next run; zero or less: now."""
        clock, now = self._definition.sync.clock(self._name), time.time()
        at = math.inf if clock.manual else now if newest is None else clock.behind(newest.began, now)
        self._told.due(at)
        return at - now

    async def _do(self, record: RunRecord, ending: asyncio.Event) -> None:
        run = self._run = Run(
            broker=self._context.broker,
            name=self._name,
            definition=self._definition,
            record=record,
            logbook=self._logbook,
            cache=self._cache,
            tell=self._told.goes_on,
        )
        going = asyncio.ensure_future(self._traced(run, record))
        try:
            await self._unless_over(going, ending)
        except asyncio.CancelledError:  # the definition changed, or the lease is lost; then the logbook is another's
            with contextlib.suppress(TimeoutError, PenstockError):
                async with timeout(LAST_WRITE_SECONDS):
                    await self._logbook.finish(record)
            raise
        finally:
            self._run = None
        await self._logbook.finish(record)
        self._told.ended(record)

    async def _traced(self, run: Run, record: RunRecord) -> None:
        """Runs within a span, which the frames of rows carry on."""
        with self._context.telemetry.span(f"run sync {self._name}", SpanKind.INTERNAL, always=True) as span:
            span.set("penstock.sync", self._name)
            span.set("penstock.run", record.number)
            span.set("penstock.connector", record.connector)
            span.set("penstock.destination", record.destination)
            await run.go()
            span.set("penstock.status", record.status)
            span.set("penstock.rows", record.rows)
            if record.status in ("failed", "partial", "timed_out"):
                span.fail(record.status, record.error)

    async def _unless_over(self, going: asyncio.Future[None], ending: asyncio.Event) -> None:
        """Waits for a task; cancels it when the service drains, or the caller is cancelled."""
        over = asyncio.ensure_future(self._wait_over(ending))
        try:
            await asyncio.wait({going, over}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            over.cancel()
            going.cancel()
            await asyncio.gather(over, going, return_exceptions=True)
        if not going.cancelled():
            going.result()

    async def _forget(self, asked: Ask, ending: asyncio.Event) -> None:
        """Forgets states, and reads nothing.

        Raises:
            Fenced, PenstockError: they may not be forgotten.
        """

        async def forget() -> None:
            sync = self._definition.sync
            async with SyncQueue(self._context.broker, self._name, sync.destination, lambda _: None) as queue:
                await queue.open(asked.streams or None)

        await self._unless_over(asyncio.ensure_future(forget()), ending)

    async def _listen(self, key: str) -> None:
        """Wakes the worker when a person asks for something, and ends the run that a person cancels."""
        async for entry in self._bucket.watch(key):
            wanted = decode(entry.value, Ask) if entry.value else None
            if wanted is not None and wanted.what == "cancel" and self._run is not None:
                self._run.cancel(wanted.number)
            self._woken.set()

    async def _wake_at(self, event: asyncio.Event) -> None:
        await event.wait()
        self._woken.set()

    async def _wait_over(self, ending: asyncio.Event) -> None:
        while not self._is_over(ending):
            self._woken.clear()
            await self._woken.wait()
