"""Writes down a run as it goes on: its record, its log, and the list of the runs before.

Each write follows the one before, by revision. So a runner that was frozen, and wakes when another has the sync, writes over none of
the other's records.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque

import msgspec

from connector_runner.contract import Said
from shared.errors import Conflict, Fenced, Transient
from shared.jetstream.kv import Bucket
from shared.syncs.records import (
    KEPT_RUNS,
    LOG_CHARACTERS,
    LOG_LINES,
    Log,
    LogLine,
    RunRecord,
    decode,
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
        self._revision = 0
        self._lines: deque[LogLine] = deque(maxlen=LOG_LINES)
        self._heard = self._stored = 0

    @property
    def heard(self) -> int:
        """Lines of the run's log so far."""
        return self._heard

    async def runs(self) -> list[RunRecord]:
        """Returns the runs that are kept, the newest first. Raises as `newest`."""
        newest = await self.newest()
        return [newest, *await earlier_runs(self._bucket, self._sync)] if newest is not None else []

    async def newest(self) -> RunRecord | None:
        """Returns the newest run. Raises `NotConnected` if the broker does not answer."""
        return await newest_run(self._bucket, self._sync)

    async def begin(self, record: RunRecord) -> None:
        """Begins a run: the one before moves to the list; if it was cut off, the list says so.

        Raises:
            Fenced: another runner began one.
            NotConnected, Transient: it may not be written.
        """
        entry = await self._bucket.get(run_key(self._sync))
        self._revision = entry.revision if entry is not None else 0
        before = decode(entry.value, RunRecord) if entry is not None and entry.value is not None else None
        if before is not None and before.number != record.number:
            if before.is_open:
                before.close("interrupted", f"its runner ended; run {record.number} went on")
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
        """Writes the run as it is now. A broker that is away is no error: the next call writes more.

        Raises:
            Fenced: another runner has the sync.
        """
        with contextlib.suppress(Transient):
            await self._write(record)

    async def finish(self, record: RunRecord) -> None:
        """Writes the run for the last time.

        Raises:
            Fenced: another runner has the sync.
            NotConnected, Transient: it may not be written.
        """
        await self._write(record)

    async def _write_over_own(self, record: RunRecord, value: bytes, conflict: Conflict) -> None:
        """Writes a run over what was written last, if that is of the same run: a write that was cut off may have arrived."""
        entry = await self._bucket.get(run_key(self._sync))
        stored = decode(entry.value, RunRecord) if entry is not None and entry.value is not None else None
        fenced = Fenced(f"another runner wrote down a run of sync {self._sync}")
        if entry is None or stored is None or (stored.number, stored.began) != (record.number, record.began):
            raise fenced from conflict
        try:
            self._revision = await self._bucket.put(run_key(self._sync), value, revision=entry.revision)
        except Conflict as exc:
            raise fenced from exc

    async def _write(self, record: RunRecord) -> None:
        # the log first: who reads that a run has ended finds all of its log
        if self._heard != self._stored:
            heard = self._heard
            log = Log(record.number, list(self._lines), heard - len(self._lines))
            await self._bucket.put(log_key(self._sync, record.number), msgspec.json.encode(log))
            self._stored = heard
        value = encode(record)
        if value != self._written:
            try:
                self._revision = await self._bucket.put(run_key(self._sync), value, revision=self._revision)
            except Conflict as exc:
                await self._write_over_own(record, value, exc)
            self._written = value
