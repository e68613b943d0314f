"""One run of a sync: attempts until the connector gave all, a person must act, or the tries are used up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from connector_runner.contract import Said
from connector_runner.syncs.attempt import Attempt, Definition, Done
from connector_runner.syncs.logbook import Logbook
from connector_runner.syncs.options import ChangedOptions
from connector_runner.syncs.queue import SyncQueue
from shared.backoff import Backoff
from shared.errors import Fenced, PenstockError, Transient
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
        cache: folder of installed connectors.
        tell: is told each second how the run goes on, and how many of its batches wait in the queue.
    """

    def __init__(
        self,
        broker: Broker,
        name: str,
        definition: Definition,
        record: RunRecord,
        logbook: Logbook,
        *,
        cache: Path,
        tell: Callable[[RunRecord, int], None],
    ) -> None:
        self._broker = broker
        self._name = name
        self._definition = definition
        self._record = record
        self._logbook = logbook
        self._cache = cache
        self._tell = tell
        self._stop = asyncio.Event()
        self._why: Literal["cancelled", "timed_out"] = "cancelled"
        self._attempt: Attempt | None = None

    def cancel(self, number: int) -> None:
        """Ends the run if it has this number; what was read so far is loaded."""
        if number == self._record.number:
            self._stop.set()

    async def go(self) -> None:
        """Runs to the end; the record then has a status other than `running`, unless it is cancelled: then it is `interrupted`.

        Raises:
            Fenced: another runner has the sync.
        """
        writing = asyncio.ensure_future(self._keep_written())
        timing = asyncio.ensure_future(self._watch_time())
        status: Status = "interrupted"
        try:
            status = await self._attempts()
        except Fenced:
            raise
        except PenstockError as exc:
            status = self._fail(exc, person=not isinstance(exc, Transient))
        except Exception as exc:  # a defect: the run fails, and the next comes when it is due, not at once and for ever
            log.exception("our own code failed in a run", extra={"sync": self._name, "run": self._record.number})
            status = self._fail(f"unexpected {type(exc).__name__}: {exc}", person=True)
        finally:
            for task in (writing, timing):
                task.cancel()
            await asyncio.gather(writing, timing, return_exceptions=True)
            self._record.close(status)
            if self._record.error:  # the log has it too, also where the connector never said a word
                self._logbook.hear(Said("error", self._record.error))

    def _fail(self, why: object, *, person: bool) -> Status:
        self._record.error, self._record.person = str(why), person
        return "failed"

    async def _attempts(self) -> Status:
        backoff, tries = Backoff(FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS), 0
        loaded: frozenset[str] = frozenset()
        while True:
            try:
                done = await self._try(loaded)
            except Transient as exc:
                done = Done(exc, frozenset(), advanced=False)
            loaded |= done.complete
            if self._stop.is_set():
                return self._why
            if done.failure is None:
                return self._status()
            self._record.error = str(done.failure)
            tries = 0 if done.advanced else tries
            self._record.person = not isinstance(done.failure, Transient)
            if self._record.person or tries >= self._definition.sync.retries:
                return "partial" if loaded else "failed"
            tries += 1
            self._record.attempts += 1
            wait = backoff.next()
            self._logbook.hear(Said("warn", f"begins again in {wait:g} s: {done.failure}"))
            self._record.again_at = time.time() + wait
            with contextlib.suppress(TimeoutError):
                async with timeout(wait):
                    await self._stop.wait()
            self._record.again_at = 0.0
            if self._stop.is_set():
                return self._why

    async def _try(self, loaded: frozenset[str]) -> Done:
        record = self._record
        changed = ChangedOptions(self._broker, self._definition.sync.connector, self._definition.connector)
        async with SyncQueue(self._broker, self._name, self._definition.sync.destination, self._wait) as queue:
            attempt = self._attempt = Attempt(
                name=self._name,
                definition=self._definition._replace(connector=await changed.read()),
                queue=queue,
                record=record,
                logbook=self._logbook,
                only=record.only,
                without=loaded,
                cache=self._cache,
                changed=changed,
            )
            try:
                return await attempt.run((record.only or None) if record.afresh else (), self._stop)
            finally:
                record.afresh = record.afresh and not attempt.begun

    def _status(self) -> Status:
        failed = [name for name, of in self._record.streams.items() if of.error]
        if not failed:
            self._record.error = ""
            return "succeeded"
        self._record.person = True
        self._record.error = "; ".join(f"stream {name}: {self._record.streams[name].error}" for name in failed)
        return "failed" if len(failed) == len(self._record.streams) else "partial"

    def _wait(self, what: str) -> None:
        self._record.waits = what

    async def _keep_written(self) -> None:
        while True:
            waiting = self._attempt.count() if self._attempt is not None else 0
            self._tell(self._record, waiting)
            await self._logbook.write(self._record)
            await asyncio.sleep(WRITE_SECONDS)

    async def _watch_time(self) -> None:
        await asyncio.sleep(self._definition.sync.timeout)
        self._why = "timed_out"
        self._record.error = f"it took longer than {self._definition.sync.timeout:g} s (`timeout`)"
        self._stop.set()
