"""One run of a sync: attempts until the connector gave all, a person must act, or the tries are used up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from connector_runner.contract import Said
from connector_runner.syncs.attempt import Attempt, Definition, Done
from connector_runner.syncs.logbook import Logbook
from connector_runner.syncs.options import ChangedOptions
from connector_runner.syncs.queue import SyncQueue
from shared.backoff import Backoff
from shared.errors import PenstockError, Transient
from shared.jetstream.broker import Broker
from shared.syncs.records import RunRecord, Status
from shared.tasks import timeout

WRITE_SECONDS = 1.0
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 5.0, 300.0

log = logging.getLogger(__name__)


class Run:
    """One run.

    Args:
        record: of the run; kept up to date and written down.
        only: streams to read; empty: all of the sync.
        cache: folder of installed connectors.
    """

    def __init__(
        self,
        broker: Broker,
        name: str,
        definition: Definition,
        record: RunRecord,
        logbook: Logbook,
        *,
        only: Sequence[str],
        cache: Path,
    ) -> None:
        self._broker = broker
        self._name = name
        self._definition = definition
        self._record = record
        self._logbook = logbook
        self._only = only
        self._cache = cache
        self._stop = asyncio.Event()
        self._why: Literal["cancelled", "timed_out"] = "cancelled"
        self._attempt: Attempt | None = None

    def cancel(self) -> None:
        """Ends the run; what was read so far is loaded."""
        self._stop.set()

    async def forget(self, forgets: tuple[str, ...] | None) -> None:
        """Forgets states, and reads nothing.

        Raises:
            Fenced, PenstockError
        """
        async with SyncQueue(self._broker, self._name, self._definition.sync.destination, self._wait) as queue:
            await queue.open(forgets)

    async def go(self, forgets: tuple[str, ...] | None = ()) -> None:
        """Runs to the end; the record then has a status other than `running`.

        Raises:
            Fenced: another runner has the sync.
        """
        writing = asyncio.ensure_future(self._keep_written())
        timing = asyncio.ensure_future(self._watch_time())
        try:
            self._record.status = await self._attempts(forgets)
        except PenstockError as exc:
            self._record.error = str(exc)
            self._record.status = "failed"
            if not isinstance(exc, Transient):
                raise
        finally:
            for task in (writing, timing):
                task.cancel()
            await asyncio.gather(writing, timing, return_exceptions=True)
            self._close_record()

    async def _attempts(self, forgets: tuple[str, ...] | None) -> Status:
        backoff, tries = Backoff(FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS), 0
        loaded: frozenset[str] = frozenset()
        while True:
            done = await self._try(forgets, loaded)
            forgets, loaded = (), loaded | done.complete
            if self._stop.is_set():
                return self._why
            if done.failure is None:
                return self._status()
            self._record.error = str(done.failure)
            tries = 0 if done.advanced else tries
            if not isinstance(done.failure, Transient) or tries >= self._definition.sync.retries:
                return "partial" if loaded else "failed"
            tries += 1
            self._record.attempts += 1
            wait = backoff.next()
            self._logbook.hear(Said("warn", f"begins again in {wait:g} s: {done.failure}"))
            with contextlib.suppress(TimeoutError):
                async with timeout(wait):
                    await self._stop.wait()
            if self._stop.is_set():
                return self._why

    async def _try(self, forgets: tuple[str, ...] | None, loaded: frozenset[str]) -> Done:
        changed = ChangedOptions(self._broker, self._definition.sync.connector, self._definition.connector)
        async with SyncQueue(self._broker, self._name, self._definition.sync.destination, self._wait) as queue:
            attempt = self._attempt = Attempt(
                name=self._name,
                definition=self._definition._replace(connector=await changed.read()),
                queue=queue,
                record=self._record,
                logbook=self._logbook,
                only=self._only,
                without=loaded,
                cache=self._cache,
                changed=changed,
            )
            return await attempt.run(forgets, self._stop)

    def _status(self) -> Status:
        failed = [name for name, of in self._record.streams.items() if of.error]
        if not failed:
            self._record.error = ""
            return "succeeded"
        self._record.error = "; ".join(f"stream {name}: {self._record.streams[name].error}" for name in failed)
        return "failed" if len(failed) == len(self._record.streams) else "partial"

    def _close_record(self) -> None:
        record = self._record
        record.ended, record.waits = time.time(), ""
        for of in record.streams.values():
            if of.error:
                of.status = "failed"
            elif of.status == "running":
                of.status = "cancelled" if record.status in ("cancelled", "timed_out") else "failed"

    def _wait(self, what: str) -> None:
        self._record.waits = what

    async def _keep_written(self) -> None:
        while True:
            if self._attempt is not None:
                self._attempt.count()
            await self._logbook.write(self._record)
            await asyncio.sleep(WRITE_SECONDS)

    async def _watch_time(self) -> None:
        await asyncio.sleep(self._definition.sync.timeout)
        self._why = "timed_out"
        self._record.error = f"it took longer than {self._definition.sync.timeout:g} s (`timeout`)"
        self._stop.set()
