"""What the runner says of a sync in `/ready`, in its metrics and in its log is what happens to its runs."""

from __future__ import annotations

import logging
import math
import time
from typing import Any, cast

import pytest

from connector_runner.syncs.told import Told
from shared.service import ServiceContext
from shared.settings import ServiceSettings
from shared.syncs.records import LOADER, RunRecord
from shared.telemetry.health import Health
from shared.telemetry.metrics import Telemetry
from shared.telemetry.names import GaugeName


class Bench:
    def __init__(self) -> None:
        self.health, self.telemetry = Health(), Telemetry("test", ServiceSettings())
        self.health.good("service")
        self.told = Told(cast("ServiceContext", self), "s")

    def says(self) -> str:
        assert self.health.report().ready
        return self.health.report().warnings.get("sync s", "")

    def gauges(self, *names: GaugeName) -> list[float]:
        return [self.telemetry.value(name, sync="s") for name in names]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def record(status: Any = "running", number: int = 2, **facts: Any) -> RunRecord:
    facts["ended"] = 0.0 if status == "running" else 500.0 + number
    return RunRecord(number=number, sync="s", connector="c", destination="wh", began=1.0, status=status, **facts)


def test_a_run_that_failed_is_a_warning_also_after_a_restart_and_until_one_succeeds(bench: Bench) -> None:
    bench.told.begin([record("failed", error="no password"), record("succeeded", number=1)])
    assert bench.says() == "run 2 failed: no password"
    assert bench.gauges("sync_failing", "sync_running", "sync_last_success_seconds") == [1, 0, 501.0]
    bench.told.due(1000.0)
    bench.told.due(math.inf)
    assert bench.gauges("sync_next_run_seconds") == [1000.0]
    bench.told.goes_on(record(number=3, waits=LOADER), 1)
    assert bench.says() == "run 2 failed: no password"
    assert bench.gauges("sync_running", "sync_held", "sync_waiting_batches") == [1, 0, 1]
    bench.told.ended(record("succeeded", number=3))
    assert bench.says() == ""
    assert bench.gauges("sync_failing", "sync_running", "sync_last_success_seconds") == [0, 0, 503.0]
    assert bench.telemetry.value("sync_runs_total", sync="s", status="succeeded") == 1
    bench.told.forget()
    assert bench.gauges("sync_last_success_seconds", "sync_next_run_seconds") == [0, 0]


def test_a_run_that_is_cut_off_changes_nothing_of_how_the_one_before_ended(bench: Bench) -> None:
    bench.told.begin([])
    bench.told.ended(record("failed", error="x"))
    bench.told.ended(record("interrupted", number=3))
    assert bench.says() == "run 2 failed: x"
    assert bench.gauges("sync_failing") == [1]


def test_what_holds_a_run_is_said_while_it_does_and_logged_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "connector_runner")
    bench.told.begin([])
    for _ in range(3):
        bench.told.goes_on(record(waits="destination wh: refused"), 4)
    assert bench.says() == "run 2 is held: destination wh: refused"
    assert bench.gauges("sync_held", "sync_waiting_batches") == [1, 4]
    bench.told.goes_on(record(), 0)
    assert bench.says() == ""
    bench.told.goes_on(record(silent_since=time.time() - 70), 0)
    assert bench.says().startswith("run 2: nothing came from the connector for 7")
    bench.told.goes_on(record(again_at=time.time() + 30, error="503"), 0)
    assert bench.says().endswith("s: 503")
    assert [each.message for each in caplog.records] == ["run is held", "run goes on"]
