"""What `penstock sync run` shows while a run goes on: bars on a terminal, else a line when something changes."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from penstock.command.followed import Speed, followed, line_of, state_of, sum_of
from penstock.terminal.screen import Screen
from shared.syncs.records import LOADER, RunRecord, Status, StreamRecord


def record(status: Status = "running", **streams: StreamRecord) -> RunRecord:
    return RunRecord(number=5, sync="s", connector="c", destination="wh", began=time.time(), status=status, streams=streams)


def test_lines_come_when_something_changes_and_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with followed(Screen(), "s") as seen:
        seen(record(), "")
        for rows in (0, 10, 20, 30):
            users = StreamRecord(status="running" if rows else "waiting", rows=rows, loaded=rows // 2, estimate=40)
            seen(record(users=users, tags=StreamRecord()), "")
        held = record(users=StreamRecord(status="running", rows=30, loaded=15, estimate=40), tags=StreamRecord())
        held.waits = "destination wh: refused"
        seen(held, "")
        seen(held, "")
        held.waits = LOADER
        done = StreamRecord(status="succeeded", rows=40, loaded=39, dead=1, estimate=40)
        seen(record("partial", users=done, tags=StreamRecord(status="failed", error="no such table")), "")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "s: run 5: asks the connector for its streams",
        "s: run 5: running",
        "s: users: running, 10 of 40 rows read, 5 loaded",
        "s: run 5: held: destination wh: refused",
        "s: users: succeeded, 40 of 40 rows read, 39 loaded, 1 dead",
        "s: tags: failed, 0 rows read, 0 loaded: no such table",
    ]


def test_rows_of_a_long_stream_are_told_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("penstock.command.followed.time.monotonic", lambda: now[0])
    with followed(Screen(), "s") as seen:
        for rows in range(1, 12):
            now[0] += 1
            seen(record(users=StreamRecord(status="running", rows=rows)), "")
    assert [line.split(",")[1] for line in capsys.readouterr().err.splitlines() if "users" in line] == [
        " 1 rows read", " 6 rows read", " 11 rows read",
    ]  # fmt: skip


def test_a_terminal_shows_a_bar_for_each_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    written, screen, now = io.StringIO(), Screen(), [100.0]
    monkeypatch.setattr(type(screen.err), "is_terminal", property(lambda _: True))
    monkeypatch.setattr(screen.err, "console", lambda: Console(file=written, force_terminal=True, width=160))
    monkeypatch.setattr("penstock.command.followed.time.monotonic", lambda: now[0])
    with followed(screen, "s") as seen:
        for rows in (1000, 3000):
            now[0] += 1
            users = StreamRecord(status="running", rows=rows, loaded=900, estimate=10_000)
            seen(record(users=users, tags=StreamRecord(status="read", rows=7)), "")
    shown = written.getvalue()
    for part in ("s, run 5: running", "3,000 of 10,000 rows", "2,000/s", "900 loaded", "4 s left", "━", "7 rows", "read"):
        assert part in shown, part


def test_the_speed_is_that_of_the_last_seconds_and_of_one_attempt() -> None:
    speed = Speed()
    for second in range(60):
        speed.note(second, second * second)
    assert 100 < speed.rows_a_second < 120
    speed.note(60, 5)
    assert speed.rows_a_second == 0
    speed.note(62, 15)
    assert speed.rows_a_second == 5


def test_what_the_run_does_is_said_in_words() -> None:
    waits = record(users=StreamRecord())
    assert state_of(waits, "no runner works on it") == "no runner works on it"
    waits.attempts, waits.error, waits.again_at = 2, "503", time.time() + 30.2
    assert state_of(waits, "") == "try 2 begins in 30 s, after: 503"
    silent = record(users=StreamRecord())
    silent.silent_since = time.time() - 20
    assert state_of(silent, "") == "nothing came from the connector for 20 s"
    assert line_of("a", StreamRecord()) == "a: waiting, 0 rows read, 0 loaded"
    ended = record("timed_out", users=StreamRecord(rows=1))
    ended.ended, ended.error = ended.began + 2, "it took longer"
    assert sum_of(ended) == "run 5 timed out in 2.0 s, 1 row read: it took longer"
