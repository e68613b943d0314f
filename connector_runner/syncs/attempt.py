"""One attempt of a run: reads a connector from the newest states, and sends its rows into the queue.

    open the queue ──> states ──> open the connector ──> discover, choose ──> read: rows into frames, frames into batches
                                                                        end: which streams are over ──> wait for the loader

The states are noted by the loader behind its commit, so the attempt may end at any point: the next one begins where the destination is.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, NamedTuple

from connector_runner.contract import (
    Checkpoint,
    Confirmed,
    Ended,
    Estimate,
    Message,
    NewOptions,
    Row,
    Rows,
    Said,
    Source,
    StreamName,
)
from connector_runner.opened import opened
from connector_runner.syncs.logbook import Logbook
from connector_runner.syncs.options import ChangedOptions
from connector_runner.syncs.packing import Packer
from connector_runner.syncs.queue import SyncQueue
from connector_runner.syncs.selection import Chosen, choose
from shared.errors import PenstockError, Transient
from shared.project.syncs import Sync
from shared.syncs.frames import Over, State
from shared.syncs.records import RunRecord, StreamRecord
from shared.tasks import timeout

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
    """Whether rows or states were loaded."""


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
        self._complete: set[str] = set()
        self._cut_at = 0.0
        self._told: tuple[State, ...] = ()
        self._changed = changed

    async def run(self, forgets: tuple[str, ...] | None, stop: asyncio.Event) -> Done:
        """Reads until the connector ends or `stop` is set.

        Raises:
            Fenced: a later run exists.
            PenstockError: the queue does not work.
        """
        await self._queue.open(forgets)
        reading = asyncio.ensure_future(self._read())
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

    async def _read(self) -> None:
        async with opened(self._sync.connector, self._document, self._cache, self._logbook.hear) as source:
            chosen = choose(self._name, self._sync, await source.discover(), self._only)
            self._chosen = [each for each in chosen if each.stored.name not in self._without]
            self._describe()
            names = ", ".join(each.stored.name for each in self._chosen)
            self._logbook.hear(Said("info", f"reads {names}" if names else "all streams are read already"))
            self._packer = packer = Packer(
                sync=self._name,
                destination=self._sync.destination,
                run=self._queue.run,
                streams=[each.stored for each in self._chosen],
                max_rows=self._sync.max_rows,
                max_bytes=int(self._sync.max_bytes),
            )
            self._cut_at = time.monotonic() + self._sync.period
            async with aclosing(self._messages(source)) as messages:
                async for message in messages:
                    match message:
                        case Row() | Rows():
                            packer.add(message)
                            if packer.batch_is_full:
                                await self._cut()
                            elif packer.frame_is_full:
                                await self._queue.put(packer.take())
                        case Checkpoint():
                            packer.note(message)
                            await self._tell_stored(source)
                            if packer.batch_is_full or time.monotonic() >= self._cut_at:
                                await self._cut()
                        case NewOptions():
                            await self._changed.write(message.config)
                        case _:
                            self._take(message)

    def _messages(self, source: Source) -> AsyncGenerator[Message, None]:
        incremental = [each.selected.stream.known_as for each in self._chosen if each.selected.mode == "incremental"]
        states = _states_for(self._queue.progress.states, incremental)
        return source.read([each.selected for each in self._chosen], states)

    async def _tell_stored(self, source: Source) -> None:
        """Tells a connector that wants to know which states are stored."""
        states = self._queue.progress.states
        if states is not self._told and isinstance(source, Confirmed):
            self._told = states
            await source.stored(_states_for(states, [each.selected.stream.known_as for each in self._chosen]))

    def _take(self, message: Ended | Estimate | Said) -> None:
        match message:
            case Ended():
                (self._complete.add if message.complete else self._complete.discard)(str(message.stream))
            case Estimate() if message.stream is not None and (of := self._record.streams.get(str(message.stream))) is not None:
                of.estimate = message.rows
            case Said():
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
        await self._queue.put(packer.end(over, last=True))
        with contextlib.suppress(TimeoutError):
            async with timeout(LAST_SECONDS if stopped else None):
                await self._queue.loaded(last)
        self.count()
        missing = [each.stored.name for each in self._chosen if each.stored.name not in self._complete]
        if whole and missing:
            failure = Transient(f"the connector ended without saying that these streams are complete: {', '.join(missing)}")
        self._compare()
        streams = self._record.streams
        loaded = frozenset(name for name in self._complete if name in streams and not streams[name].error)
        for name in loaded:
            streams[name].status = "succeeded"
        return Done(failure, loaded, advanced=any(counted.packed for counted in packer.counted.values()))

    def _compare(self) -> None:
        """Compares what the loader counted with what was sent."""
        assert self._packer is not None  # noqa: S101  # made before rows are read
        for name, counted in self._packer.counted.items():
            of = self._record.streams[name]
            if self._queue.progress.run == self._queue.run and not of.error and of.loaded + of.dead != counted.packed:
                of.error = f"{counted.packed} rows were sent, and the loader counts {of.loaded} loaded and {of.dead} dead ones"

    def _describe(self) -> None:
        streams = self._record.streams
        for selected, stored in self._chosen:
            of = streams.setdefault(stored.name, StreamRecord())
            of.mode, of.write, of.table, of.status = selected.mode, stored.write, stored.table, "running"

    def count(self) -> None:
        """Brings the record's numbers up to date."""
        progress = self._queue.progress
        for name, counted in self._packer.counted.items() if self._packer is not None else ():
            of = self._record.streams[name]
            of.rows, of.bytes = counted.rows, counted.bytes
            if progress.run == self._queue.run and (noted := progress.streams.get(name)) is not None:
                of.loaded, of.dead, of.unmapped, of.table = noted.loaded, noted.dead, noted.unmapped, noted.table or of.table
                of.error = noted.failed


def _states_for(states: Sequence[State], streams: Sequence[StreamName]) -> Mapping[StreamName | None, bytes]:
    """Returns the states of streams that are read incrementally; one of all streams together if any is."""
    found: dict[StreamName | None, bytes] = {}
    for state in states:
        name = None if state.name is None else StreamName(state.name, state.namespace)
        if (name is None and streams) or name in streams:
            found[name] = state.state
    return found
