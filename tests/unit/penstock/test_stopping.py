"""Stopping a stack from another process: `stop_running` returns when nothing of it is left."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.command.detach import start_detached
from penstock.command.foreground import Wishes
from penstock.command.stopping import stop_running
from penstock.stack.home import Home, ProcessState, StackState, is_alive, start_time
from penstock.terminal.options import Setting
from penstock.terminal.screen import Screen

# gives the lock back when told to stop, and takes its time to end
LINGERING = """
import fcntl, os, signal, sys, time
lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(lock, fcntl.LOCK_EX)
def stop(*_):
    os.close(lock)
    time.sleep(0.7)
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("locked", flush=True)
signal.pause()
"""


def test_down_waits_for_a_supervisor_that_has_given_its_lock_back_and_still_ends(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.prepare()
    with subprocess.Popen([sys.executable, "-c", LINGERING, str(home.lock_file)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        supervisor = ProcessState(name="supervisor", pid=process.pid, started=start_time(process.pid))
        home.write(
            StackState(
                home=str(home.folder), supervisor=supervisor, started_at="2026-01-01T00:00:00+00:00",
                broker_url="nats://127.0.0.1:1", ingest_url="http://127.0.0.1:2", monitor_url="http://127.0.0.1:3",
            )
        )  # fmt: skip
        assert stop_running(Setting(Screen(json=True), home))
        assert not is_alive(supervisor)


def test_down_begins_at_once_because_it_imports_no_client() -> None:
    code = "import sys, penstock.command.cli, penstock.command.verbs.up; print([name for name in ('aiohttp.client', 'nats', 'duckdb') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_detached_start_that_is_interrupted_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = list[subprocess.Popen[bytes]]()

    def interrupt(_setting: Setting, supervisor: subprocess.Popen[bytes], *, processes: int) -> StackState:
        started.append(supervisor)
        raise KeyboardInterrupt

    monkeypatch.setattr(
        "penstock.command.detach._command", lambda _home, _wishes: [sys.executable, "-c", "import time; time.sleep(60)"]
    )
    monkeypatch.setattr("penstock.command.detach._wait_until_ready", interrupt)
    with pytest.raises(KeyboardInterrupt):
        start_detached(Setting(Screen(), Home(tmp_path)), Wishes())
    assert started[0].returncode == -signal.SIGTERM
