"""What `penstock status` says of a sync: each fact that a person must know is a state with a reason and a next step."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.command.synced import show_syncs
from penstock.control.status.status import Status
from penstock.terminal.screen import Screen
from shared.project.syncs import Sync
from shared.streams.sync_state import GOOD, Facts, SyncStatus, status_of
from shared.syncs.progress import SyncProgress
from shared.syncs.records import LOADER, RunRecord, StreamRecord

NOW = 1_000_000.0
DUE = 1_000_800.0
"""The first hour that is full after `NOW`."""


def record(status: Any = "succeeded", **facts: Any) -> RunRecord:
    ended = {} if status in ("running", "interrupted") else {"ended": NOW - 100}
    streams = {"users": StreamRecord(rows=12, loaded=10, dead=2)}
    return RunRecord(
        **{
            "number": 3, "sync": "s", "connector": "crm", "destination": "wh", "began": NOW - 200, "status": status,
            "streams": streams, **ended, **facts,
        }
    )  # fmt: skip


def state(*runs: RunRecord, schedule: str = "every 1h", enabled: bool = True, **facts: Any) -> SyncStatus:
    sync = Sync(connector="crm", destination="wh", schedule=schedule, enabled=enabled)
    known: dict[str, Any] = {
        "progress": SyncProgress(), "frames": 0, "runner": "runner-1", "loader": "loader-1", "asked": False, "said": (), **facts,
    }  # fmt: skip
    return status_of(Facts(name="s", sync=sync, runs=runs, **known), NOW)


RUNNING = record("running")
AWAY = SyncProgress(waits="destination wh: connection refused")
STATES: dict[str, tuple[SyncStatus, str, tuple[str, ...]]] = {
    "runs": (state(record("running", waits=LOADER)), "running", ()),
    "waits for its next run": (state(record()), "waiting", ()),
    "has no schedule": (state(record(), schedule=""), "ok", ()),
    "is off": (state(record("failed"), enabled=False, runner=None), "disabled", ("enabled: false",)),
    "never ran": (state(), "never ran", ()),
    "waits for a person": (state(schedule=""), "never ran", ("penstock sync run s",)),
    "was cancelled": (state(record("cancelled")), "cancelled", ()),
    "was cut off": (state(record("interrupted")), "running", ()),
    "no runner": (state(record(), runner=None), "no runner", ("is the service connector_runner up?",)),
    "no runner in a run": (state(RUNNING, runner=None), "no runner", ("run 3 was cut off", "goes on as soon as")),
    "no runner for what is asked": (state(record(), runner=None, asked=True), "no runner", ("a run is asked for",)),
    "its runner fails": (state(RUNNING, runner=None, said=["begins again: KeyError"]), "no runner", ("KeyError",)),
    "no loader": (state(RUNNING, loader=None, frames=2), "no loader", ("is the service loader up?", "1 batch waits")),
    "destination away": (
        state(record("running", queued=(5, 7)), progress=SyncProgress(waits="refused", run=7, batch=3), frames=4),
        "held",
        ("refused", "2 batches wait in its queue", "none is lost", "penstock check wh"),
    ),
    "destination away between runs": (state(record(), progress=AWAY), "held", ("the next run is held", "penstock check wh")),
    "broker full": (state(record("running", waits="the queue: it is full")), "held", ("the queue: it is full",)),
    "tries again": (
        state(record("running", again_at=NOW + 60, attempts=2, error="the connector: 503")),
        "retrying",
        ("the connector: 503", "try 2 begins at 1970-01-12 13:47:40", "penstock sync logs s"),
    ),
    "second try": (state(record("running", attempts=2, error="503")), "running", ("try 2, after: 503",)),
    "silent": (state(record("running", silent_since=NOW - 40)), "running", ("for 40 s", "penstock sync cancel s")),
    "failed": (
        state(record("failed", error="the connector: 503")),
        "failed",
        ("run 3 failed: the connector: 503", "the next run is due at 1970-01-12 14:00:00", "penstock sync logs s"),
    ),
    "failed without a schedule": (state(record("failed"), schedule=""), "failed", ("try again: penstock sync run s",)),
    "failed until mended": (
        state(record("failed", error="no password", person=True)),
        "failed",
        ("no password; mend this, then: penstock sync run s",),
    ),
    "timed out": (state(record("timed_out", error="it took longer")), "failed", ("run 3 timed out: it took longer",)),
    "partial": (state(record("partial", error="stream a: x", person=True)), "partial", ("failed in part: stream a: x",)),
    "late": (
        state(record(began=NOW - 7200)),
        "late",
        ("due at 1970-01-12 12:00:00", "did not begin", "connector_runner (runner-1)"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", STATES)
def test_a_state_has_its_reason_and_a_next_step(what: str) -> None:
    found, wanted, words = STATES[what]
    assert found.state == wanted, found.why
    assert [word for word in words if word not in found.why] == [], found.why
    assert bool(found.why) or not words
    assert Status(revision=1, connections=[], syncs=[found]).healthy is (wanted in GOOD)


def test_the_facts_of_a_sync_are_those_of_its_newest_run_and_of_what_is_loaded() -> None:
    before = [record("failed", number=2), record(number=1, ended=NOW - 900)]
    found = state(record("failed"), *before, progress=SyncProgress(rows_at=NOW - 300))
    assert (found.run, found.result, found.rows_read, found.rows_loaded, found.rows_dead) == (3, "failed", 12, 10, 2)
    assert (found.last_load_at, found.last_success_at, found.next_run_at) == (NOW - 300, NOW - 900, DUE)
    assert (found.began_at, found.ended_at) == (NOW - 200, NOW - 100)
    assert state().next_run_at == NOW, "it begins at once"
    assert state(schedule="").next_run_at is None


@pytest.mark.parametrize(
    ("queued", "noted", "frames", "waiting"),
    [((5, 7), (7, 5), 0, 0), ((5, 7), (7, 3), 4, 2), ((2, 8), (7, 9), 2, 2), ((5, 7), (7, 5), 1, 1), ((0, 0), (0, 0), 3, 1)],
)
def test_batches_wait_as_long_as_their_frames_do(
    queued: tuple[int, int], noted: tuple[int, int], frames: int, waiting: int
) -> None:
    found = state(record("running", queued=queued), progress=SyncProgress(run=noted[0], batch=noted[1]), frames=frames)
    assert found.waiting_batches == waiting


def test_the_table_has_a_line_for_each_sync_and_the_reasons_below(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    show_syncs(Screen(), [STATES["destination away"][0], STATES["waits for its next run"][0]])
    lines = capsys.readouterr().out.splitlines()
    shown = [line for line in lines if "crm → wh" in line]
    assert ["2 batches" in line for line in shown] == [True, False]
    assert lines[-1].startswith("s: refused; 2 batches wait")
