"""Writes down a run as it goes on: its record, its log, and the list of the runs before."""

from __future__ import annotations

import contextlib
import time
from collections import deque

import msgspec

from connector_runner.contract import Said
from shared.errors import Transient
from shared.jetstream.kv import Bucket
from shared.syncs.records import (
    KEPT_RUNS,
    LOG_CHARACTERS,
    LOG_LINES,
    Log,
    LogLine,
    RunRecord,
    earlier_runs,
    encode,
    log_key,
    newest_run,
    run_key,
    runs_key,
)


class Logbook:
    """The logbook of one sync; only the holder of its lease has it."""

    def __init__(self, bucket: Bucket, sync: str) -> None:
        self._bucket = bucket
        self._sync = sync
        self._written = b""
        self._lines: deque[LogLine] = deque(maxlen=LOG_LINES)
        self._heard = self._stored = 0

    async def newest(self) -> RunRecord | None:
        """Returns the newest run. Raises `NotConnected` if the broker does not answer."""
        return await newest_run(self._bucket, self._sync)

    async def begin(self, record: RunRecord) -> None:
        """Begins a run: the one before moves to the list.

        Raises:
            NotConnected, Transient: it may not be written.
        """
        before = await newest_run(self._bucket, self._sync)
        if before is not None and before.number != record.number:
            earlier = [each for each in await earlier_runs(self._bucket, self._sync) if each.number != before.number]
            await self._bucket.put(runs_key(self._sync), encode([before, *earlier][:KEPT_RUNS]))
        self._lines.clear()
        self._heard = self._stored = 0
        self._written = b""
        await self._write(record)

    def hear(self, said: Said) -> None:
        """Takes a line of the log."""
        self._heard += 1
        self._lines.append(LogLine(time.time(), said.level, said.text[:LOG_CHARACTERS]))

    async def write(self, record: RunRecord) -> None:
        """Writes the run as it is now. A broker that is away is no error: the next call writes more."""
        with contextlib.suppress(Transient):
            await self._write(record)

    async def finish(self, record: RunRecord) -> None:
        """Writes the run for the last time.

        Raises:
            NotConnected, Transient: it may not be written.
        """
        await self._write(record)

    async def _write(self, record: RunRecord) -> None:
        value = encode(record)
        if value != self._written:
            await self._bucket.put(run_key(self._sync), value)
            self._written = value
        if self._heard != self._stored:
            heard = self._heard
            log = Log(record.number, list(self._lines), heard - len(self._lines))
            await self._bucket.put(log_key(self._sync, record.number), msgspec.json.encode(log))
            self._stored = heard
