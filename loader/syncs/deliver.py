"""The steps of one batch: describe, fit, patch, load all tables together, and what to do when rows or tables are refused.

A batch goes in rounds, as a delivery of events does (`loader/delivery/deliver.py`): each refusal leaves out rows or a table, and the
next round begins with less. Two things differ. Each stream has rules of its own. And a table that fails does not set rows aside: the
source can give them again, so the stream fails in this run, and its state stays where it was.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pyarrow as pa

from loader.contract.warehouse import Capabilities, LoadPlan, LoadReport, Session, TableLoad
from loader.delivery.isolate import is_of_events, is_own
from loader.delivery.live_tables import OF_ONE_TABLE, LiveTables
from loader.delivery.refused import refused_rows
from loader.delivery.rows import WITH_KEY, as_part, cannot_delete, cannot_write
from loader.fitting.fit import FittedBatch, fit_batch
from loader.fitting.fit import Ready as ReadyRows
from loader.rows.rules import Stamp
from loader.syncs.dead import Graves, too_many
from loader.syncs.definition import lane_of
from loader.syncs.gather import Batch
from loader.syncs.shape import Ready
from loader.syncs.stream import BUSY_TRIES, Busy, Stream, empties, emptying, mark_patch
from loader.types.names import Namer
from shared.errors import Defect, PenstockError, RowsRejected, TableBusy, TableChanged, Transient
from shared.events.outcome import DeadReason
from shared.syncs.naming import known_as
from shared.syncs.progress import Kept, StreamProgress
from shared.threads import ThreadGate

if TYPE_CHECKING:
    from shared.telemetry.metrics import Telemetry

MOST_ROUNDS = 50
NAMED_ROUNDS = 2
"""How often refused rows are left out as the destination names them, perhaps one at a time; then all are searched for."""
log = logging.getLogger(__name__)


class Deliverer:
    """Loads the batches of one sync within one session of its destination."""

    def __init__(
        self,
        sync: str,
        session: Session,
        capabilities: Capabilities,
        graves: Graves,
        telemetry: Telemetry,
        gate: ThreadGate,
        marks: Mapping[tuple[str, str], int],
    ) -> None:
        self._sync = sync
        self._session = session
        self._capabilities = capabilities
        self._graves = graves
        self._telemetry = telemetry
        self._gate = gate
        self._marks = marks
        self._first = True
        """Whether the next batch may come again, after a loader that died with it."""
        self._namer = Namer(capabilities)
        self._live = LiveTables(session, known_as(sync), evolve=capabilities.evolve)

    async def deliver(
        self, ready: Ready, known: Mapping[str, StreamProgress], kept: Mapping[str, Kept]
    ) -> Mapping[str, StreamProgress]:
        """Loads a batch; returns how far its streams are then.

        Args:
            known: how far the streams of the run are before it.
            kept: what the states of streams rest on.

        Raises:
            Fenced: a newer holder exists.
            NotConnected, Transient, SetupError: the destination as a whole does not work; nothing may be acknowledged.
        """
        batch = ready.batch
        streams = [
            Stream(shaped, known.get(shaped.name, StreamProgress()), shaped.batch, kept.get(shaped.name))
            for shaped in ready.streams
        ]
        taken = {self._namer.key(other.table): name for name, other in known.items() if other.table and not other.failed}
        for stream in streams:
            self._judge(batch, stream, taken)
        if self._first:
            letters = await self._graves.buried(batch)
            for stream in streams:
                stream.buried = letters.get(stream.shaped.name, set())
            self._first = False
        stamp = Stamp(datetime.now(UTC), f"{lane_of(batch.run)}-{batch.number}")
        self._live.fresh.clear()
        busy = Busy()
        for _ in range(MOST_ROUNDS):
            if await self._round(batch, streams, stamp, busy):
                await self._give_up(streams)
                return {stream.shaped.name: self._progress(batch, stream) for stream in streams}
        raise Transient(f"sync {self._sync}: the tables of a batch kept changing for {MOST_ROUNDS} rounds")

    def _judge(self, batch: Batch, stream: Stream, taken: dict[str, str]) -> None:
        """Finds streams whose rows are not loaded, whatever they hold. `taken`: streams by the key of their table; gets this one."""
        shaped = stream.shaped
        if stream.known.failed:
            stream.failed = stream.known.failed
            return
        other, write = taken.setdefault(self._namer.key(shaped.table), shaped.name), shaped.stream.write
        if other != shaped.name:
            self._fail(stream, f'stream {other} is loaded into table "{shaped.table}" too; give one of them another `table`')
        elif stream.lost:
            self._fail(stream, stream.lost)
        elif cannot := cannot_write(write, self._capabilities):
            self._fail(stream, f"the destination {cannot}; choose another `write` for the stream")
        elif shaped.fault:
            self._fail(stream, shaped.fault)
        elif write in WITH_KEY and not shaped.stream.key:
            self._fail(stream, f"`write: {write}` goes by the key of a row, and the stream has none; give it a `primary_key`")
        elif cannot := cannot_delete(write, self._capabilities) if shaped.stream.deleted else "":
            self._fail(stream, f"{cannot}; choose `deletes: soft` for the stream, and `unmatched: keep` where it has `where`")
        elif empties(shaped) and not self._capabilities.empties:
            self._fail(stream, "rows are gone at the source, and this destination cannot remove them; write the stream by append")
        elif stream.replaces and shaped.over and not shaped.complete:
            self._fail(stream, "the run gave up on the stream before all its rows came; the table stays as it is")
        elif self._marks.get((shaped.table, lane_of(batch.run)), 0) >= batch.number:
            stream.repeated = True
        else:
            stream.refuse(shaped.unread)

    async def _round(self, batch: Batch, streams: Sequence[Stream], stamp: Stamp, busy: Busy) -> bool:
        """Tries once; returns whether all is done."""
        work = [
            stream for stream in streams if stream.goes_on and (stream.left is not None or stream.ends or empties(stream.shaped))
        ]
        unknown = [stream.table for stream in work if stream.table not in self._live.known]
        failed = await self._live.describe(unknown)
        if failed:
            await self._meet(streams, failed, busy)
            return False
        if gone := [each.table for each in work if each.must_exist and each.table in unknown and self._is_gone(each.table)]:
            raise Transient(f"sync {self._sync}: table {gone[0]} is gone")  # the next session finds out what that means
        fitted: dict[str, FittedBatch] = {}
        for stream in work:
            if stream.left is not None and (found := await self._fit(stream, stamp)) is not None:
                fitted[stream.table] = found
        stale = {name for each in fitted.values() for name in each.short} - self._live.fresh
        if stale:  # a person may have altered the table to make room for these values
            altered, failed = await self._live.is_other([*stale])
            if failed:
                await self._meet(streams, failed, busy)
                return False
            if altered:
                return False
        patches = [patch for each in fitted.values() for patch in each.patches]
        patches += [patch for each in work for patch in mark_patch(each.shaped, self._live.known.get(each.table))]
        patched, failed = await self._live.patch(patches)
        if failed:
            await self._meet(streams, failed, busy)
            return False
        loads: dict[str, ReadyRows] = {}
        unmapped: dict[str, int] = {}
        for stream in work:
            rows: ReadyRows | None = None
            if stream.table in fitted:
                try:
                    done = fitted[stream.table].finish({stream.table: patched[stream.table]} if stream.table in patched else {})
                except TableChanged:  # another loader patched it meanwhile: `_live` has the result
                    return False
                stream.refuse({each.index: (each.reason, each.detail) for each in done.dead})
                stream.left = done.batch if done.batch.tables else None
                unmapped[stream.table] = sum(done.unmapped.values())
                rows = done.ready[0] if done.ready else None
                if rows is None and stream.left is not None:
                    stream.empty, stream.left = stream.left.rows, None
            if (load := self._in_mode(batch, stream, rows, stamp)) is not None:
                loads[stream.table] = load
        if not await self._bury(batch, streams):
            return False
        ready = list(loads.values())
        if not ready:
            return True
        plan = LoadPlan(known_as(self._sync), lane_of(batch.run), batch.number, batch.number)
        try:
            report = await self._session.load(plan, [each.load for each in ready])
        except RowsRejected as exc:
            await self._leave_out(work, ready, exc)
        except TableChanged:
            self._live.known.clear()
        except (*OF_ONE_TABLE, Defect) as exc:
            await self._meet(streams, await self._find_failing(ready, exc), busy)
        else:
            for stream in work:
                stream.unmapped = unmapped.get(stream.table, 0)
                stream.marked = stream.table in loads
            self._count(report)
            return True
        return False

    def _is_gone(self, table: str) -> bool:
        return self._capabilities.evolve and self._live.known.get(table) is None

    async def _fit(self, stream: Stream, stamp: Stamp) -> FittedBatch | None:
        """Fits the rows of a stream; None: our own code fails on them, and the stream with it."""
        assert stream.left is not None  # noqa: S101 - the caller asked
        try:
            return await self._gate.run(fit_batch, stream.left, self._live.known, stream.shaped.rules, stamp)
        except Exception as exc:
            if not is_own(exc) or not is_of_events(exc):
                raise
            log.exception("our own code failed in a load", extra={"sync": self._sync, "stream": stream.shaped.name})
            self._fail(stream, f"unexpected {type(exc).__name__}: {exc}")
            return None

    def _in_mode(self, batch: Batch, stream: Stream, rows: ReadyRows | None, stamp: Stamp) -> ReadyRows | None:
        """Returns rows as the stream writes them; None: there is nothing to load."""
        if not stream.replaces:
            return emptying(stream.shaped, self._live.known.get(stream.table), rows, stamp)
        if rows is None:
            if not stream.ends or self._live.known.get(stream.table) is None:
                return None
            rows = ReadyRows(TableLoad(stream.table, pa.table({})), _NO_EVENTS)
        return replace(rows, load=as_part(rows.load, batch.run, ends=stream.ends))

    async def _bury(self, batch: Batch, streams: Sequence[Stream]) -> bool:
        """Makes dead letters of refused rows; returns False if a stream has too many, and fails."""
        excess = False
        for stream in streams:
            if not stream.goes_on:
                continue
            new = {row: why for row, why in stream.dead.items() if row not in stream.buried}
            why = too_many(len(stream.dead), stream.shaped.rows, stream.known.dead, new) if new else ""
            if why:
                self._fail(stream, why)
                excess = True
        if excess:
            return False
        for stream in streams:
            if stream.goes_on:
                await self._graves.bury(batch, stream.shaped, stream.dead, stream.buried)
                stream.buried.update(stream.dead)
        return True

    async def _leave_out(self, work: Sequence[Stream], ready: Sequence[ReadyRows], exc: RowsRejected) -> None:
        """Finds the rows that the destination refuses, and leaves them out."""
        rows = next(each for each in ready if each.load.table == exc.table)
        stream = next(each for each in work if each.table == exc.table)
        words = {row: why for row, why in exc.rows.items() if 0 <= row < rows.load.rows.num_rows}
        stream.refusals += 1
        if exc.table not in self._live.fresh:
            altered, _ = await self._live.is_other([exc.table])
            if altered:
                return
        if not words or stream.refusals > NAMED_ROUNDS:
            others = [each.load for each in ready if each is not rows] if exc.needs_others else []
            try:
                words = await refused_rows(self._session, rows, words, others)
            except RowsRejected as other:  # rows of a table that this one refers to
                await self._leave_out(work, ready, other)
                return
        if not words:
            # the destination refused the whole and takes every part: no row is at fault
            raise Transient(f"{exc} (no single row is refused)") from exc
        stream.refuse(
            {
                int(rows.events[row]): (DeadReason.REJECTED_BY_DESTINATION, f'table "{exc.table}": {why}')
                for row, why in words.items()
            }
        )

    async def _find_failing(self, ready: Sequence[ReadyRows], first: PenstockError) -> Mapping[str, PenstockError]:
        """Finds which tables fail when tried alone."""
        if len(ready) == 1:
            return {ready[0].load.table: first}
        failed: dict[str, PenstockError] = {}
        for each in ready:
            try:
                await self._session.probe([each.load])
            except RowsRejected:
                continue
            except (*OF_ONE_TABLE, Defect) as exc:
                failed[each.load.table] = exc
        if not failed:
            raise Transient(f"load failed as a whole and by no single table: {first}") from first
        return failed

    async def _meet(self, streams: Sequence[Stream], failed: Mapping[str, PenstockError], busy: Busy) -> None:
        """Waits for tables that others hold, for a while; the streams of the others fail."""
        waits = False
        for table, exc in failed.items():
            self._live.known.pop(table, None)
            busy.tries[table] += 1
            if isinstance(exc, TableBusy) and busy.tries[table] < BUSY_TRIES:
                waits = True
                continue
            for stream in streams:
                if stream.table == table and stream.goes_on:
                    self._fail(stream, str(exc))
        if waits:
            await asyncio.sleep(busy.wait.next())

    def _fail(self, stream: Stream, why: str) -> None:
        stream.failed, stream.left = why, None
        log.error(
            "a stream fails in this run, its rows come again with the next",
            extra={"sync": self._sync, "stream": stream.shaped.name, "table": stream.table, "error": why},
        )

    async def _give_up(self, streams: Sequence[Stream]) -> None:
        """Removes the waiting rows of refreshes that do not go on."""
        for stream in streams:
            if stream.replaces and stream.failed and not stream.known.failed:
                try:
                    await self._session.abandon(stream.table)
                except OF_ONE_TABLE as exc:  # the first part of a later run removes them
                    log.warning(
                        "the rows of a refresh that was given up are not removed yet",
                        extra={"sync": self._sync, "table": stream.table, "error": str(exc)},
                    )

    def _progress(self, batch: Batch, stream: Stream) -> StreamProgress:
        """Returns how far a stream is behind the batch, and counts its rows."""
        shaped, known, telemetry = stream.shaped, stream.known, self._telemetry
        labels = {"sync": self._sync, "stream": shaped.name}
        if stream.failed:
            telemetry.count("loader_sync_rows_left_out_total", shaped.rows, **labels, reason="failed")
            return msgspec.structs.replace(known, failed=stream.failed, table=shaped.table, over=False)
        # of a repeat the letters tell which rows are dead
        dead = len(stream.buried) if stream.repeated else len(stream.dead)
        loaded = shaped.rows - dead - stream.empty
        if stream.empty:
            telemetry.count("loader_sync_rows_left_out_total", stream.empty, **labels, reason="empty")
        telemetry.count("loader_sync_rows_total", loaded, **labels)
        telemetry.count("loader_sync_bytes_total", shaped.size, **labels)
        return msgspec.structs.replace(
            known,
            loaded=known.loaded + loaded,
            dead=known.dead + dead,
            unmapped=known.unmapped + stream.unmapped,
            table=shaped.table,
            batch=batch.number if stream.marked or stream.repeated else known.batch,
            over=known.over or (shaped.over and shaped.complete),
        )

    def _count(self, report: LoadReport) -> None:
        for phase, seconds in report.phases.items():
            self._telemetry.record("loader_sync_load_seconds", seconds, sync=self._sync, phase=phase)


_NO_EVENTS = np.empty(0, dtype=np.int32)
