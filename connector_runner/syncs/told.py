"""What the runner says of one sync in `/ready` and in its metrics: whether it runs, is held, failed, and when it runs next.

A run that failed is a warning, not a problem: the process does its work. It stays until a run succeeds, also over a restart. Only the
holder of a sync's lease says anything of it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence

from shared.service import ServiceContext
from shared.syncs.records import FAILED, LOADER, RunRecord
from shared.telemetry.names import GaugeName

SILENT_SECONDS = 60.0
"""From when on the silence of a connector is a warning."""
OF_A_RUN: tuple[GaugeName, ...] = ("sync_running", "sync_held", "sync_waiting_batches")
GAUGES: tuple[GaugeName, ...] = (
    *OF_A_RUN,
    "sync_source_behind_bytes",
    "sync_source_behind_seconds",
    "sync_source_kept_bytes",
    "sync_failing",
    "sync_last_success_seconds",
    "sync_next_run_seconds",
)
MOST_CHARACTERS = 1000

log = logging.getLogger(__name__)


class Told:
    """What is said of one sync."""

    def __init__(self, context: ServiceContext, sync: str) -> None:
        self._health = context.health
        self._telemetry = context.telemetry
        self._sync = sync
        self._part = f"sync {sync}"
        self._failed = ""
        self._held = ""

    def begin(self, runs: Sequence[RunRecord]) -> None:
        """Says how the runs before ended; `runs`: the newest first."""
        ended = [run for run in runs if run.ended]
        self._judge(ended[0] if ended else None)
        succeeded = next((run.ended for run in ended if run.status == "succeeded"), None)
        if succeeded is not None:
            self._telemetry.gauge("sync_last_success_seconds", succeeded, sync=self._sync)
        self._idle()

    def due(self, at: float) -> None:
        """Says when the next run is due (epoch seconds; infinity: never)."""
        if at < math.inf:
            self._telemetry.gauge("sync_next_run_seconds", at, sync=self._sync)

    def goes_on(self, record: RunRecord, waiting: int) -> None:
        """Says how a run goes on; `waiting`: its batches in the queue."""
        telemetry, held = self._telemetry, record.waits if record.waits != LOADER else ""
        telemetry.gauge("sync_running", 1, sync=self._sync)
        telemetry.gauge("sync_held", 1 if held else 0, sync=self._sync)
        telemetry.gauge("sync_waiting_batches", waiting, sync=self._sync)
        self._say_behind(record)
        if held and not self._held:
            log.warning("run is held", extra={"sync": self._sync, "run": record.number, "why": held})
        elif self._held and not held:
            log.info("run goes on", extra={"sync": self._sync, "run": record.number})
        self._held = held
        silent = time.time() - record.silent_since if record.silent_since else 0.0
        if held:
            self._warn(f"run {record.number} is held: {held}")
        elif record.again_at:
            self._warn(f"run {record.number} begins again in {max(0.0, record.again_at - time.time()):.0f} s: {record.error}")
        elif silent >= SILENT_SECONDS:
            self._warn(f"run {record.number}: nothing came from the connector for {silent:.0f} s")
        else:
            self._say_failed()

    def ended(self, record: RunRecord) -> None:
        """Counts a run that ended, and says how."""
        telemetry = self._telemetry
        self._say_behind(record)
        telemetry.count("sync_runs_total", sync=self._sync, status=record.status)
        telemetry.record("sync_run_seconds", record.seconds, sync=self._sync)
        for name, of in record.streams.items():
            telemetry.count("sync_rows_read_total", of.rows, sync=self._sync, stream=name)
            for reason, rows in (("filtered", of.filtered - of.removals), ("unreadable", of.unreadable)):
                if rows:
                    telemetry.count("sync_rows_dropped_total", rows, sync=self._sync, stream=name, reason=reason)
        if record.status == "succeeded":
            telemetry.gauge("sync_last_success_seconds", record.ended, sync=self._sync)
        self._judge(record)
        self._idle()
        log.log(
            logging.WARNING if record.status in FAILED else logging.INFO,
            "run ended",
            extra={"sync": self._sync, "run": record.number, "status": record.status, "rows": record.rows, "error": record.error},
        )

    def forget(self) -> None:
        """Says nothing of the sync any more: another process may have it."""
        self._telemetry.forget(*GAUGES, sync=self._sync)

    def _judge(self, newest: RunRecord | None) -> None:
        if newest is None or newest.status == "interrupted":
            return
        failed = newest.status in FAILED
        self._failed = f"run {newest.number} {newest.status.replace('_', ' ')}: {newest.error}" if failed else ""
        self._telemetry.gauge("sync_failing", 1 if failed else 0, sync=self._sync)

    def _say_behind(self, record: RunRecord) -> None:
        if record.behind is not None:
            self._telemetry.gauge("sync_source_behind_bytes", record.behind.bytes, sync=self._sync)
            self._telemetry.gauge("sync_source_behind_seconds", record.behind.seconds, sync=self._sync)
            self._telemetry.gauge("sync_source_kept_bytes", record.behind.kept, sync=self._sync)

    def _idle(self) -> None:
        self._held = ""
        for gauge in OF_A_RUN:
            self._telemetry.gauge(gauge, 0, sync=self._sync)
        self._say_failed()

    def _say_failed(self) -> None:
        if self._failed:
            self._warn(self._failed)
        else:
            self._health.good(self._part)

    def _warn(self, why: str) -> None:
        self._health.warn(self._part, why[:MOST_CHARACTERS])
