"""One attempt of a run: reads a connector from the newest states, and sends its rows into the queue.

    open the connector ──> discover, choose ──> open the queue ──> states ──> read: rows into frames, frames into batches
                                                                        end: which streams are over ──> wait for the loader

The states are noted by the loader behind its commit, so the attempt may end at any point: the next one begins where the destination is.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from connector_runner.contract import (
    Behind,
    Checkpoint,
    Confirmed,
    Emptied,
    Ended,
    Estimate,
    JsonRows,
    Message,
    NewOptions,
    Row,
    Rows,
    Said,
    Source,
    StreamName,
)
from connector_runner.opened import opened
from connector_runner.rules.sifting import Sieve
from connector_runner.syncs.logbook import Logbook
from connector_runner.syncs.options import ChangedOptions
from connector_runner.syncs.packing import Packer
from connector_runner.syncs.queue import SyncQueue
from connector_runner.syncs.selection import Chosen, choose
from shared.errors import Fenced, PenstockError, Transient
from shared.project.syncs import Sync
from shared.rules.privacy import NONCE_BYTES
from shared.syncs.frames import Over, State
from shared.syncs.progress import Kept, StreamProgress, without_states
from shared.syncs.records import RunRecord, SourceBehind, StreamRecord
from shared.tasks import timeout

SILENT_SECONDS = 10.0
"""A connector that says nothing for longer is called silent."""
INCOMPLETE = "the connector ended without saying that the stream is complete"
LAST_SECONDS = 60.0
"""How long a run that was told to end waits for the loader."""


class Definition(NamedTuple):
    """All that decides what a sync does. `connector`: the entry of the project file, with `type`."""

    sync: Sync
    connector: dict[str, Any]


class Done(NamedTuple):
    """What came of an attempt. `failure`: None if the connector gave all; `complete`: streams whose rows are all loaded."""

    failure: PenstockError | None
    complete: frozenset[str]
    advanced: bool
    """Whether the next attempt has less to read: states were noted, or a stream is complete."""


class Attempt:
    """One attempt.

    Args:
        record: of the run; the attempt keeps it up to date.
        only: streams to read; empty: all of the sync.
        without: streams that an earlier attempt of the run has loaded whole.
        cache: folder of installed connectors.
        changed: takes options that the connector changes itself.
    """

    def __init__(
        self,
        name: str,
        definition: Definition,
        queue: SyncQueue,
        record: RunRecord,
        logbook: Logbook,
        *,
        only: Sequence[str],
        without: frozenset[str],
        cache: Path,
        changed: ChangedOptions,
    ) -> None:
        self._name = name
        self._sync = definition.sync
        self._document = definition.connector
        self._queue = queue
        self._record = record
        self._logbook = logbook
        self._only = only
        self._without = without
        self._cache = cache
        self._packer: Packer | None = None
        self._chosen: list[Chosen] = []
        self._incremental: list[StreamName] = []
        """Streams of the sync that go on from states, read this time or not."""
        self._complete: set[str] = set()
        self._cut_at = 0.0
        self._told: tuple[State, ...] = ()
        self._begun_at: tuple[State, ...] = ()
        self._changed = changed
        self._error = ""
        """The newest error of the connector that no stream has yet."""
        self._why: dict[str, str] = {}
        """What the connector said of streams before it gave up on them."""
        self._came = (0, 0)
        self._came_at = time.time()
        self.begun = False
        """Whether the loader knows of the attempt, and has forgotten the states that were to be forgotten."""

    async def run(self, forgets: tuple[str, ...] | None, stop: asyncio.Event) -> Done:
        """Reads until the connector ends or `stop` is set.

        Raises:
            Fenced: a later run exists.
        """
        reading = asyncio.ensure_future(self._read(forgets))
        stopping = asyncio.ensure_future(stop.wait())
        cutting = asyncio.ensure_future(self._cut_in_time())
        try:
            await asyncio.wait({reading, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (reading, stopping, cutting):
                task.cancel()
            await asyncio.gather(reading, stopping, cutting, return_exceptions=True)
        failure: PenstockError | None = None
        if not reading.cancelled() and (error := reading.exception()) is not None:
            if not isinstance(error, PenstockError):
                raise error
            failure = error
        return await self._end(failure, stopped=reading.cancelled())

    async def _read(self, forgets: tuple[str, ...] | None) -> None:
        async with opened(self._sync.connector, self._document, self._cache, self._logbook.hear) as source:
            streams = await source.discover()
            chosen = choose(self._name, self._sync, streams, self._only)
            self._incremental = [
                each.selected.stream.known_as
                for each in choose(self._name, self._sync, streams)
                if each.selected.mode == "incremental"
            ]
            self._chosen = [each for each in chosen if each.stored.name not in self._without]
            self._describe()
            await self._queue.open(forgets)
            self.begun, self._begun_at = True, self._queue.progress.states
            self._tell_again()
            names = ", ".join(each.stored.name for each in self._chosen)
            self._logbook.hear(Said("info", f"reads {names}" if names else "all streams are read already"))
            self._packer = packer = Packer(
                sync=self._name,
                destination=self._sync.destination,
                run=self._queue.run,
                streams=[each.stored for each in self._chosen],
                max_rows=self._sync.max_rows,
                max_bytes=int(self._sync.max_bytes),
                sieves=self._sieves(),
            )
            self._cut_at = time.monotonic() + self._sync.period
            async with aclosing(self._messages(source)) as messages:
                async for message in messages:
                    match message:
                        case Row() | JsonRows() | Rows():
                            packer.add(message)
                            if packer.batch_is_full:
                                await self._cut()
                            elif packer.frame_is_full:
                                await self._queue.put(packer.take())
                        case Emptied():
                            packer.empty(message)
                        case Checkpoint():
                            packer.note(message)
                            await self._tell_stored(source)
                            if packer.batch_is_full or time.monotonic() >= self._cut_at:
                                await self._cut()
                        case NewOptions():
                            await self._changed.write(message.config)
                        case _:
                            self._take(message)

    def _sieves(self) -> dict[str, Sieve]:
        now = datetime.now(UTC)
        return {
            each.stored.name: Sieve(each.rules, now, partial(os.urandom, NONCE_BYTES)) for each in self._chosen if each.rules.any
        }

    def _messages(self, source: Source) -> AsyncGenerator[Message, None]:
        return source.read([each.selected for each in self._chosen], self._states())

    def _states(self) -> Mapping[StreamName | None, bytes]:
        """Returns the newest states, but those of streams that are stored otherwise than when the states were noted."""
        progress, others = self._queue.progress, tuple(self._others())
        return _states_for(without_states(progress.states, others) if others else progress.states, self._incremental)

    def _others(self) -> Iterator[str]:
        kept = self._queue.progress.kept
        for _, stored, _ in self._chosen:
            if stored.name in kept and not kept[stored.name].serves(Kept.of(stored)):
                yield stored.name

    def _tell_again(self) -> None:
        """Says of which streams all rows are read again, and why."""
        why = dict(self._queue.progress.again)
        for name in self._others():
            why[name] = "its rows are stored in another table, or by another key, than before; all rows are read again"
        for name, words in why.items():
            self._logbook.hear(Said("warn", f"stream {name}: {words}"))

    async def _tell_stored(self, source: Source) -> None:
        """Tells a connector that wants to know which states are stored."""
        states = self._queue.progress.states
        if states is not self._told and isinstance(source, Confirmed):
            self._told = states
            await source.stored(self._states())

    def _take(self, message: Ended | Estimate | Behind | Said) -> None:
        match message:
            case Behind():
                self._record.behind = SourceBehind(**message._asdict())
            case Ended():
                (self._complete.add if message.complete else self._complete.discard)(str(message.stream))
                if (of := self._record.streams.get(str(message.stream))) is not None:
                    of.status = "read" if message.complete else "running"
                self._why[str(message.stream)], self._error = self._error, ""
            case Estimate() if message.stream is not None and (of := self._record.streams.get(str(message.stream))) is not None:
                of.estimate = message.rows
            case Said():
                self._error = message.text if message.level == "error" else self._error
                self._logbook.hear(message)

    async def _cut(self) -> None:
        assert self._packer is not None  # noqa: S101  # made before rows are read
        frame = self._packer.end()
        self._cut_at = time.monotonic() + self._sync.period
        await self._queue.put(frame)

    async def _cut_in_time(self) -> None:
        """Cuts batches where the connector is silent."""
        while True:
            await asyncio.sleep(max(0.05, self._cut_at - time.monotonic()) if self._packer is not None else 0.2)
            if self._packer is not None and time.monotonic() >= self._cut_at:
                if self._packer.holds:
                    await self._cut()
                else:
                    self._cut_at = time.monotonic() + self._sync.period

    async def _end(self, failure: PenstockError | None, *, stopped: bool) -> Done:
        packer = self._packer
        if packer is None:
            return Done(failure, frozenset(), advanced=False)
        whole = failure is None and not stopped
        if not whole:
            packer.drop_uncovered()
        over = [Over(each.stored, complete=each.stored.name in self._complete) for each in self._chosen]
        last = packer.batch
        try:
            async with timeout(LAST_SECONDS if stopped else None):
                await self._queue.put(packer.end(over, last=True))
                await self._queue.loaded(last)
        except TimeoutError:
            self._logbook.hear(Said("warn", f"the loader did not load the last rows within {LAST_SECONDS:g} s"))
        except Fenced:
            raise
        except PenstockError as exc:
            failure, whole = failure or exc, False
        else:
            self._compare()
        self.count()
        self._tell_of_rules(packer)
        missing = [each.stored.name for each in self._chosen if each.stored.name not in self._complete]
        if whole and missing:
            failure = Transient("; ".join(f"stream {name}: {self._why.get(name) or INCOMPLETE}" for name in missing))
        streams, noted = self._record.streams, self._queue.noted
        loaded = frozenset(name for name, of in streams.items() if name in noted and noted[name].over and not of.error)
        for name in loaded:
            streams[name].status = "succeeded"
        return Done(failure, loaded, advanced=bool(loaded) or self._queue.progress.states != self._begun_at)

    def _tell_of_rules(self, packer: Packer) -> None:
        """Says in the log what the rules of streams did, and which found nothing."""
        for name, counted in packer.counted.items():
            if (sieve := counted.sieve) is None or not counted.rows:
                continue
            if sieve.filtered:
                self._logbook.hear(Said("info", f"stream {name}: {sieve.filtered} of {counted.rows} rows do not meet `where`"))
            if sieve.unreadable:
                why = f"{sieve.unreadable} rows are left out, because they cannot be read: {sieve.unreadable_why}"
                self._logbook.hear(Said("warn", f"stream {name}: {why}"))
            for field in sieve.idle:
                self._logbook.hear(Said("warn", f"stream {name}: the privacy rule for {field} found nothing in any row"))

    def _compare(self) -> None:
        """Compares what the loader counted with what was sent."""
        assert self._packer is not None  # noqa: S101  # made before rows are read
        self.count()
        for name, counted in self._packer.counted.items():
            of, noted = self._record.streams[name], self._queue.noted.get(name, StreamProgress())
            if not of.error and noted.loaded + noted.dead != counted.packed:
                of.error = (
                    f"{counted.packed} rows were sent, and the loader counts {noted.loaded} loaded and {noted.dead} dead ones"
                )

    def _describe(self) -> None:
        streams = self._record.streams
        for selected, stored, _ in self._chosen:
            of = streams.setdefault(stored.name, StreamRecord())
            of.mode, of.write, of.table, of.status = selected.mode, stored.write, stored.table, "waiting"

    def count(self) -> int:
        """Brings the record's numbers up to date; returns how many batches wait in the queue."""
        for name, counted in self._packer.counted.items() if self._packer is not None else ():
            of = self._record.streams[name]
            of.rows, of.bytes = counted.rows, counted.bytes
            if counted.rows and of.status == "waiting":
                of.status = "running"
            if (sieve := counted.sieve) is not None:
                of.filtered, of.removals, of.unreadable = sieve.filtered, sieve.removals, sieve.unreadable
            if (noted := self._queue.noted.get(name)) is not None:
                # a removal is loaded, but no row of the table comes of it
                of.loaded, of.dead, of.unmapped = max(0, noted.loaded - of.removals), noted.dead, noted.unmapped
                of.table = noted.table or of.table
                of.error = noted.failed
                if noted.failed or noted.over:
                    of.status = "failed" if noted.failed else "succeeded"
        self._record.queued = (self._queue.batch, self._queue.run)
        self._listen()
        return self._queue.waiting

    def _listen(self) -> None:
        """Notes since when the connector is silent; while the run waits for the queue, nobody asks it."""
        came, now = (self._record.rows, self._logbook.heard), time.time()
        if came != self._came or self._record.waits:
            self._came, self._came_at = came, now
        self._record.silent_since = self._came_at if now - self._came_at >= SILENT_SECONDS else 0.0


def _states_for(states: Sequence[State], streams: Sequence[StreamName]) -> Mapping[StreamName | None, bytes]:
    """Returns the states of streams that are read incrementally; one of all streams together if any is."""
    found: dict[StreamName | None, bytes] = {}
    for state in states:
        name = None if state.name is None else StreamName(state.name, state.namespace)
        if (name is None and streams) or name in streams:
            found[name] = state.state
    return found
