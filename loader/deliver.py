"""The steps of one delivery: describe, patch, fit, load, and what to do when rows or tables are refused.

    describe ──> fit ──> patch ──> finish ──> bury what rules refuse ──> load ──> done
                  ^                                                        │
                  ├── rows refused by the destination: find, bury, leave out┤
                  ├── a table fails and others do not: put its rows aside ──┤
                  └── a table was altered behind our back: describe again ──┘

Dead letters and rows put aside are durable before the load that leaves them out is committed, under ids derived from where the events
came from. So a process that dies at any instruction does the same again and nothing is doubled or lost.

Errors that concern the destination as a whole are raised: the connection holds its events and tries again.
"""

from __future__ import annotations

import logging
import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np

from loader.aside import put_aside
from loader.batch import DeadEvent, ShapedBatch
from loader.contract import LoadPlan, LoadReport, Session, TableSchema
from loader.fit import Ready, fit_batch
from loader.refused import refused_rows
from loader.rules import Rules, Stamp
from shared.dead import DeadLetter, bury, now
from shared.errors import Permanent, RowsRejected, SetupError, TableChanged, Transient
from shared.frame import RequestContext, select
from shared.headers import Place
from shared.jetstream.publisher import Publisher
from shared.outcome import DeadReason
from shared.telemetry import Telemetry

MOST_ROUNDS = 50
"""Rounds of one delivery before it starts over from the queue; each round buries, puts aside or learns something."""

NAMED_ROUNDS = 2
"""So often a table's refused rows are left out as the destination names them, one at a time perhaps; then all are looked for."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Work:
    """A chunk to deliver. `attempt` is how often its rows were put aside before; `origin` the lane they came in first."""

    plan: LoadPlan
    batch: ShapedBatch
    attempt: int = 0
    origin: Place | None = None


class Deliverer:
    """Delivers the chunks of one connection within one session of its destination."""

    def __init__(
        self, connection: str, site: str, rules: Rules, session: Session, publisher: Publisher, telemetry: Telemetry
    ) -> None:
        self._connection = connection
        self._site = site
        self._rules = rules
        self._session = session
        self._publisher = publisher
        self._telemetry = telemetry
        self._live: dict[str, TableSchema | None] = {}
        self._proven: set[str] = set()
        """Tables that took rows in this session."""
        self._refusals: Counter[str] = Counter()
        """How often rows of which table were refused in the delivery under way."""

    async def deliver(self, work: Work) -> None:
        """Brings every event of the chunk to its end: into its tables, the dead letters, or aside.

        Raises:
            Fenced: a newer holder exists.
            NotConnected, Transient, SetupError, Permanent: the destination as a whole does not work; nothing may be acknowledged.
        """
        batch = work.batch
        self._refusals.clear()
        await self._bury(work, batch, batch.dead)
        for reason, count in batch.dropped.items():
            self._telemetry.count("loader_events_dropped_total", count, connection=self._connection, reason=reason)
        stamp = Stamp(datetime.now(UTC), f"{work.plan.lane}-{work.plan.first}-{work.plan.last}")
        for _ in range(MOST_ROUNDS):
            if not batch.tables:
                return
            done = await self._round(work, batch, stamp)
            if done is None:
                return
            batch = done
        raise Transient(f"connection {self._connection}: the tables of a load kept changing for {MOST_ROUNDS} rounds")

    async def _round(self, work: Work, batch: ShapedBatch, stamp: Stamp) -> ShapedBatch | None:
        """Tries once; returns what is still to be loaded, None when all is done."""
        failed: dict[str, Exception] = {}
        for name in batch.tables:
            if name not in self._live and self._rules.capabilities.evolve:
                try:
                    self._live[name] = await self._session.describe(name)
                except (SetupError, Permanent) as exc:
                    failed[name] = exc
        if failed:
            return await self._set_aside(work, batch, failed)
        fitted = fit_batch(batch, self._live, self._rules, stamp)
        patched: dict[str, TableSchema | None] = {}
        for patch in fitted.patches:
            try:
                patched[patch.table] = self._live[patch.table] = await self._session.patch(patch)
            except (SetupError, Permanent) as exc:
                failed[patch.table] = exc
        if failed:
            return await self._set_aside(work, batch, failed)
        try:
            done = fitted.finish(patched)
        except TableChanged:  # somebody else patched it meanwhile: `_live` has what they made of it
            return batch
        await self._bury(work, done.batch, done.dead)
        batch, ready = done.batch, list(done.ready)
        if not ready:
            return None
        try:
            report = await self._session.load(work.plan, [each.load for each in ready])
        except RowsRejected as exc:
            return await self._leave_out(work, batch, ready, exc)
        except TableChanged:
            self._live.clear()
            return batch
        except (SetupError, Permanent) as exc:
            return await self._set_aside(work, batch, await self._failing(ready, exc))
        self._count(batch, report, sum(done.unmapped.values()))
        return None

    async def _leave_out(self, work: Work, batch: ShapedBatch, ready: Sequence[Ready], exc: RowsRejected) -> ShapedBatch:
        table = next(each for each in ready if each.load.table == exc.table)
        words = dict(exc.rows)
        self._refusals[exc.table] += 1
        if not words or self._refusals[exc.table] > NAMED_ROUNDS:
            words = await refused_rows(self._session, table, words)
        if not words:
            # the destination refused the whole and takes every part: nothing to name, so it is no matter of rows
            raise Transient(f"{exc} (no single row is refused)") from exc
        refused = {
            int(table.events[row]): (DeadReason.REJECTED_BY_DESTINATION, f'table "{exc.table}": {why}')
            for row, why in words.items()
        }
        await self._bury(work, batch, batch.dead_letters(refused))
        return batch.without(refused)

    async def _failing(self, ready: Sequence[Ready], first: Exception) -> dict[str, Exception]:
        """Finds which tables fail, each on its own."""
        failed: dict[str, Exception] = {}
        for each in ready:
            try:
                await self._session.probe([each.load])
            except RowsRejected:
                continue
            except (SetupError, Permanent) as exc:
                failed[each.load.table] = exc
        if not failed:
            raise Transient(f"load failed as a whole and by no single table: {first}") from first
        return failed

    async def _set_aside(self, work: Work, batch: ShapedBatch, failed: Mapping[str, Exception]) -> ShapedBatch:
        """Puts the rows of failing tables aside, if the destination works for others.

        Raises:
            The first of the errors: nothing else is known to work, so the destination as a whole may be at fault.
        """
        healthy = [name for name in batch.tables if name not in failed]
        if not healthy and not self._proven - set(failed) and work.origin is None:
            raise next(iter(failed.values()))
        for name, exc in failed.items():
            rows = batch.tables[name]
            by_frame: dict[int, list[int]] = defaultdict(list)
            for ordinal in rows.events.tolist():
                by_frame[int(batch.event_frames[ordinal])].append(int(batch.event_indexes[ordinal]))
            for number, indexes in by_frame.items():
                seq, frame = batch.frames[number]
                place = work.origin or Place(work.plan.lane, seq, len(indexes))
                await put_aside(self._publisher, self._connection, name, place, select(frame, sorted(indexes)), work.attempt)
            self._live.pop(name, None)
            self._proven.discard(name)
            self._telemetry.count("loader_retry_rows_total", len(rows), connection=self._connection)
            log.error(
                "a table fails, its rows wait",
                extra={"connection": self._connection, "table": name, "rows": len(rows), "error": str(exc)},
            )
        return replace(batch, tables={name: batch.tables[name] for name in healthy})

    async def _bury(self, work: Work, batch: ShapedBatch, dead: Sequence[DeadEvent]) -> None:
        if not dead:
            return
        requests = {seq: frame.requests for seq, frame in batch.frames}
        by_frame: dict[int, list[DeadEvent]] = defaultdict(list)
        for event in dead:
            by_frame[event.seq].append(event)
            self._telemetry.count("loader_events_dead_total", connection=self._connection, reason=event.reason)
        for seq, events in by_frame.items():
            letters = [self._letter(work, event, requests[seq][event.head.request]) for event in events]
            content = ",".join(f"{event.index}:{event.reason}" for event in events)
            msg_id = f"loader.{self._connection}.{work.plan.lane}.{seq}.{zlib.crc32(content.encode()):08x}"
            await bury(self._publisher, "loader", self._connection, letters, msg_id)

    def _letter(self, work: Work, event: DeadEvent, request: RequestContext) -> DeadLetter:
        head = event.head
        return DeadLetter(
            stage="loader",
            site=self._site,
            connection=self._connection,
            reason=event.reason,
            detail=event.detail,
            body=event.body,
            at=now(),
            origin=f"{work.plan.lane}:{event.seq}:{event.index}",
            message_id=head.message_id,
            type=head.type,
            event=head.event,
            user_id=head.user_id,
            anonymous_id=head.anonymous_id,
            request=request,
        )

    def _count(self, batch: ShapedBatch, report: LoadReport, unmapped: int) -> None:
        telemetry, name = self._telemetry, self._connection
        self._proven.update(report.rows)
        loaded = (
            {int(ordinal) for table in batch.tables.values() for ordinal in np.unique(table.events)}
            if len(batch.tables) > 1
            else ()
        )
        events = len(loaded) or len(next(iter(batch.tables.values())))
        telemetry.count("loader_events_total", events, connection=name)
        telemetry.count("loader_rows_total", sum(report.rows.values()), connection=name)
        telemetry.count("loader_loads_total", connection=name, result="committed")
        if unmapped:
            telemetry.count("loader_values_unmapped_total", unmapped, connection=name)
        for phase, seconds in report.phases.items():
            telemetry.record("loader_load_seconds", seconds, connection=name, phase=phase)
