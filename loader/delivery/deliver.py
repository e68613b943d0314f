"""The steps of one delivery: describe, patch, fit, load, and what to do when rows or tables are refused.

    describe ──> fit ──> patch ──> finish ──> bury what rules refuse ──> load ──> done
                  ^                                                        │
                  ├── rows refused by the destination: find, bury, leave out┤
                  ├── a table fails: set its rows aside ───────────────────┤
                  └── a table was altered behind our back: describe again ──┘

Dead letters and rows set aside are durable before the load without them is committed, under ids derived from the origin of the
events. So if a process dies at any instruction, its successor does the same again, and nothing is doubled or lost.

An error of the whole destination is raised: the connection holds its events and tries again. An error of one table has a class in
`OF_ONE_TABLE`.

A delivery goes in rounds because each refusal changes the batch: a round that meets one learns something (rows to leave out, a
table to set aside, a new shape of a table), and the next round begins with less. So every round makes progress, and `ROUNDS`
bounds them.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, cast

import numpy as np

from loader.contract.warehouse import LoadPlan, LoadReport, Session
from loader.delivery.isolate import Trying, is_of_events, is_own, offenders
from loader.delivery.live_tables import OF_ONE_TABLE, LiveTables
from loader.delivery.refused import refused_rows
from loader.fitting.fit import Ready, fit_batch
from loader.queue.account import Outcome
from loader.queue.aside import Failing, frame_of, put_aside
from loader.queue.troubles import DroppedTables
from loader.rows.batch import DeadEvent, ShapedBatch
from loader.rows.rules import Rules, Stamp
from loader.watch.limit import Limit
from shared.errors import PenstockError, RowsRejected, TableChanged, Transient
from shared.events.dead import DeadLetter, bury, now, origin_of
from shared.events.frame import Frame, select
from shared.events.headers import Place, id_of_replay
from shared.events.outcome import DeadReason
from shared.jetstream.publisher import Publisher
from shared.streams.dead_log import DeadLog
from shared.telemetry.metrics import Telemetry
from shared.telemetry.tracing.spans import current_headers

MOST_ROUNDS = 50
"""Rounds of one delivery before it starts over from the queue; each round buries, sets aside or learns something."""

NAMED_ROUNDS = 2
"""How often a table's refused rows are left out as the destination names them, perhaps one at a time; then all are searched for."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Work:
    """A chunk to deliver. `aside`: its rows, all of one table, were set aside before.

    `again`: all its rows are set aside; returns by table and sequence where the run of rows set aside began.
    """

    plan: LoadPlan
    batch: ShapedBatch
    aside: bool = False
    again: Callable[[str, int], int] | None = None


class _StillFailsError(Exception):
    """The table of rows that were set aside fails again."""


class Deliverer:
    """Delivers the chunks of one connection within one session of its destination."""

    def __init__(
        self,
        connection: str,
        site: str,
        rules: Rules,
        session: Session,
        publisher: Publisher,
        telemetry: Telemetry,
        failing: Failing,
        *,
        isolates: bool = True,
        queue: str = "",
        epoch: int = 0,
        clock: Callable[[], float] = time.monotonic,
        before_load: Callable[[Work, Outcome], Awaitable[None]] | None = None,
        before_aside: Callable[[Work, Mapping[int, int]], Awaitable[None]] | None = None,
        limit: Limit | None = None,
        dropped: DroppedTables | None = None,
    ) -> None:
        self._limit = limit
        self._dead: Counter[str] = Counter()
        """New letters of the present delivery."""
        self._isolates = isolates
        self._before_load = before_load
        self._before_aside = before_aside
        self._dropped = dropped
        self._outcome = Outcome()
        self._connection = connection
        self._site = site
        self._rules = rules
        self._session = session
        self._publisher = publisher
        self._telemetry = telemetry
        self._dead_log = DeadLog(logging.ERROR)
        self._failing = failing
        self._queue = queue or connection
        self._epoch = epoch
        self.buried: Collection[str] = ()
        """Origins of events that are dead letters already and may come again."""
        self.committed = False
        """Whether the last delivery committed a load."""
        self._live = LiveTables(session, connection, evolve=rules.capabilities.evolve, clock=clock)
        self._refusals: Counter[str] = Counter()
        """By table, how often rows were refused in the present delivery."""

    async def deliver(self, work: Work) -> Outcome | None:
        """Brings every event of the chunk to its end: into its tables, the dead letters, or aside.

        Returns their outcome once that is done; None for rows that were aside and must stay there, because their table still
        fails.

        Raises:
            Fenced: a newer holder exists.
            NotConnected, Transient, SetupError, Permanent: the destination as a whole does not work; nothing may be acknowledged.
            TooManyDeadError: the limit of dead letters is reached; nothing may be acknowledged.
        """
        batch = work.batch
        self._refusals.clear()
        self._dead.clear()
        self._live.fresh.clear()
        self._outcome = Outcome()
        self.committed = False
        if work.again is not None:
            await self._set_aside(work, batch, batch.tables)
            return self._outcome
        await self._bury(work, batch, batch.dead)
        stamp = Stamp(datetime.now(UTC), f"{work.plan.lane}-{work.plan.first}-{work.plan.last}")
        left: ShapedBatch | None = batch
        for _ in range(MOST_ROUNDS):
            if left is None or not left.tables:
                if not work.aside:
                    self._count_changes(batch)
                if self._limit is not None and not _is_of_letters(work):
                    self._limit.note(batch.events, self._dead)
                return self._outcome
            try:
                left = await self._round(work, left, stamp)
            except _StillFailsError:
                return None
            except Exception as exc:
                if left is None or not self._isolates or not is_own(exc):
                    raise
                left = await self._isolate(work, left, exc)
        raise Transient(f"connection {self._connection}: the tables of a load kept changing for {MOST_ROUNDS} rounds")

    async def _round(self, work: Work, batch: ShapedBatch, stamp: Stamp) -> ShapedBatch | None:
        """Tries once; returns the remaining chunk, None when all is done."""
        self._outcome.tables = ()
        known = {} if work.aside else {name: why for name in batch.tables if (why := self._failing.why(name)) is not None}
        if known:
            return await self._set_aside(work, batch, known)
        failed = await self._live.describe([name for name in batch.tables if name not in self._live.known])
        if failed:
            return await self._fail(work, batch, failed)
        fitted = fit_batch(batch, self._live.known, self._rules, stamp)
        stale = fitted.short - self._live.fresh
        if stale:  # a person may have altered it to make room for these values
            altered, failed = await self._live.is_other([*stale])
            if failed:
                return await self._fail(work, batch, failed)
            if altered:
                return batch
        new = [patch.table for patch in fitted.patches if self._live.known.get(patch.table) is None]
        if new and self._dropped is not None:
            await self._dropped.creates(new)
        patched, failed = await self._live.patch(fitted.patches)
        if failed:
            return await self._fail(work, batch, failed)
        try:
            done = fitted.finish(patched)
        except TableChanged:  # another loader patched it meanwhile: `_live` has the result
            return batch
        await self._bury(work, done.batch, done.dead)
        batch, ready = done.batch, list(done.ready)
        if not ready:
            return None
        try:
            self._outcome.tables = [each.load.table for each in ready]
            if self._before_load is not None:
                await self._before_load(work, self._outcome)
            report = await self._session.load(work.plan, [each.load for each in ready])
        except RowsRejected as exc:
            return await self._leave_out(work, batch, ready, exc)
        except TableChanged:
            self._live.known.clear()
            return batch
        except OF_ONE_TABLE as exc:
            return await self._fail(work, batch, await self._find_failing(ready, exc))
        self.committed = True
        if self._dropped is not None:
            await self._dropped.loads(work.plan.lane, report.rows)
        self._count(batch, report, done.unmapped)
        return None

    async def _isolate(self, work: Work, batch: ShapedBatch, error: Exception) -> ShapedBatch:
        """Finds the events on which our own code fails and makes dead letters of them; returns the batch without them."""
        log.error("our own code failed in a load", exc_info=error, extra={"connection": self._connection})
        self._telemetry.count("loader_internal_errors_total", connection=self._connection)
        words = f"{type(error).__name__}: {error}"
        if not is_of_events(error):
            raise Transient(f"unexpected {words}") from error
        ordinals = np.unique(np.concatenate([table.events for table in batch.tables.values()])).tolist()
        trying = cast("Any", Trying(self._session))
        deliverer = Deliverer(
            connection=self._connection,
            site=self._site,
            rules=self._rules,
            session=trying,
            publisher=trying,
            telemetry=trying,
            failing=Failing(),
            isolates=False,
        )
        whole = replace(batch, dead=[])

        async def trial(chosen: Sequence[int]) -> bool:
            kept = {ordinals[position] for position in chosen}
            part = whole.without(ordinal for ordinal in ordinals if ordinal not in kept)
            try:
                await deliverer.deliver(Work(work.plan, part))
            except Exception as exc:
                if not is_own(exc) or not is_of_events(exc):
                    raise
                return False
            return True

        bad = await offenders(len(ordinals), trial)
        if not bad:
            raise Transient(f"unexpected {words}") from error
        refused = {ordinals[position]: (DeadReason.INTERNAL_ERROR, words) for position in bad}
        await self._bury(work, batch, batch.dead_letters(refused))
        return batch.without(refused)

    async def _leave_out(self, work: Work, batch: ShapedBatch, ready: Sequence[Ready], exc: RowsRejected) -> ShapedBatch:
        table = next(each for each in ready if each.load.table == exc.table)
        words = {row: why for row, why in exc.rows.items() if 0 <= row < table.load.rows.num_rows}
        self._refusals[exc.table] += 1
        if exc.table not in self._live.fresh:
            altered, _ = await self._live.is_other([exc.table])
            if altered:
                return batch
        self._failing.works(exc.table)  # it judges its rows, so it takes others
        if not words or self._refusals[exc.table] > NAMED_ROUNDS:
            others = [each.load for each in ready if each is not table] if exc.needs_others else []
            try:
                words = await refused_rows(self._session, table, words, others)
            except RowsRejected as other:  # rows of a table that this one refers to
                return await self._leave_out(work, batch, ready, other)
        if not words:
            # the destination refused the whole and takes every part: no row is at fault
            raise Transient(f"{exc} (no single row is refused)") from exc
        refused = {
            int(table.events[row]): (DeadReason.REJECTED_BY_DESTINATION, f'table "{exc.table}": {why}')
            for row, why in words.items()
        }
        await self._bury(work, batch, batch.dead_letters(refused))
        return batch.without(refused)

    async def _find_failing(self, ready: Sequence[Ready], first: PenstockError) -> dict[str, PenstockError]:
        """Finds which tables fail when tried alone."""
        if len(ready) == 1:
            return {ready[0].load.table: first}
        failed: dict[str, PenstockError] = {}
        for each in ready:
            try:
                await self._session.probe([each.load])
            except RowsRejected:
                continue
            except OF_ONE_TABLE as exc:
                failed[each.load.table] = exc
        if not failed:
            raise Transient(f"load failed as a whole and by no single table: {first}") from first
        return failed

    async def _fail(self, work: Work, batch: ShapedBatch, failed: Mapping[str, PenstockError]) -> ShapedBatch:
        """Notes that tables fail, and sets their rows aside unless they are there already."""
        for name, exc in failed.items():
            again_in = self._failing.fails(name, exc)
            self._live.known.pop(name, None)
            log.error(
                "a table fails, its rows wait",
                extra={"connection": self._connection, "table": name, "error": str(exc), "again_in": again_in},
            )
        if work.aside:
            raise _StillFailsError
        return await self._set_aside(work, batch, failed)

    async def _set_aside(self, work: Work, batch: ShapedBatch, failed: Collection[str]) -> ShapedBatch:
        """Sets the rows of failing tables aside; returns the batch without them."""
        for name in failed:
            rows, by_frame = batch.tables[name], defaultdict[int, int](int)
            for ordinal in rows.events.tolist():
                by_frame[int(batch.event_frames[ordinal])] |= 1 << int(batch.event_indexes[ordinal])
            if self._before_aside is not None:
                await self._before_aside(work, {batch.frames[number][0]: bits for number, bits in by_frame.items()})
            for number, bits in by_frame.items():
                seq, frame = batch.frames[number]
                chosen = select(frame, [index for index in range(bits.bit_length()) if bits >> index & 1])
                place = Place(work.plan.lane, seq, bits.bit_count())
                run = work.again(name, seq) if work.again else self._failing.run(name, work.plan.lane, seq)
                await put_aside(
                    publisher=self._publisher,
                    queue=self._queue,
                    epoch=self._epoch,
                    run=run,
                    table=name,
                    place=place,
                    frame=chosen,
                    bits=bits,
                )
                self._outcome.aside[seq] |= bits
            self._telemetry.count("loader_retry_rows_total", len(rows), connection=self._connection)
        return replace(batch, tables={name: table for name, table in batch.tables.items() if name not in failed})

    async def _bury(self, work: Work, batch: ShapedBatch, dead: Sequence[DeadEvent]) -> None:
        if not dead:
            return
        frames = dict(batch.frames)
        by_frame: dict[int, list[DeadEvent]] = defaultdict(list)
        # not by its first origin: a replay took that letter out of DEAD, so this letter is the only one
        new = [event for event in dead if origin_of(work.plan.lane, event.seq, event.index) not in self.buried]
        if new and not _is_of_letters(work):
            self._dead.update(str(event.reason) for event in new)
            if self._limit is not None:
                self._limit.weigh(work.batch.events, self._dead, new[-1].detail)
        for event in dead:
            self._outcome.dead[event.seq, event.index] = event.reason
        for event in new:
            by_frame[event.seq].append(event)
            self._telemetry.count("loader_events_dead_total", connection=self._connection, reason=event.reason)
        for seq, events in by_frame.items():
            letters = [self._letter(work, event, frames[seq]) for event in events]
            content = ",".join(f"{event.index}:{event.reason}" for event in events)
            msg_id = f"loader.{self._connection}.{work.plan.lane}.{seq}.{zlib.crc32(content.encode()):08x}"
            await bury(
                publisher=self._publisher, stage="loader", name=self._connection, letters=letters, msg_id=msg_id,
                trace=current_headers(),
            )  # fmt: skip
            self._dead_log.note([event.reason for event in events], connection=self._connection)

    def _letter(self, work: Work, event: DeadEvent, frame: Frame) -> DeadLetter:
        head = event.head
        return DeadLetter(
            stage="loader", site=self._site, connection=self._connection, reason=event.reason, detail=event.detail, body=event.body,
            at=now(), origin=origin_of(work.plan.lane, event.seq, event.index), message_id=head.message_id, type=head.type,
            event=head.event, user_id=head.user_id, anonymous_id=head.anonymous_id, request=frame.requests[head.request],
            first_origin=frame.origins[event.index] if frame.origins else None,
        )  # fmt: skip

    def _count_changes(self, batch: ShapedBatch) -> None:
        """Counts values that shaping left out or changed, now that the batch is done and will not be shaped again."""
        for dropped, count in batch.dropped.items():
            self._telemetry.count("loader_events_dropped_total", count, connection=self._connection, reason=dropped)
        for changed, count in batch.notes.items():
            self._telemetry.count("loader_values_changed_total", count, connection=self._connection, reason=changed)

    def _count(self, batch: ShapedBatch, report: LoadReport, unmapped: Mapping[tuple[str, str], int]) -> None:
        telemetry, name = self._telemetry, self._connection
        for table in report.rows:
            self._failing.works(table)
        events = len(np.unique(np.concatenate([table.events for table in batch.tables.values()])))
        telemetry.count("loader_events_total", events, connection=name)
        telemetry.count("loader_rows_total", sum(report.rows.values()), connection=name)
        telemetry.count("loader_loads_total", connection=name, result="committed")
        if self._rules.overflow in report.rows:
            telemetry.count("loader_rows_overflow_total", report.rows[self._rules.overflow], connection=name)
        if unmapped:
            telemetry.count("loader_values_unmapped_total", sum(unmapped.values()), connection=name)
            telemetry.show("loader_values_unmapped_total", ".".join(next(iter(unmapped))), connection=name)
        for phase, seconds in report.phases.items():
            telemetry.record("loader_load_seconds", seconds, connection=name, phase=phase)


def _is_of_letters(work: Work) -> bool:
    """Whether a replay of dead letters brought the events: their new letters do not count towards the limit."""
    lane = work.plan.lane
    first, _ = frame_of(lane) or (lane, 0)
    return id_of_replay(first) is not None and any(frame.origins for _, frame in work.batch.frames)
