"""Who may run in a home, what counts as running, and what is left of a stack that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from penstock.command.detach import failure
from penstock.command.verbs import connector
from penstock.stack.home import Home, ProcessState, StackState, is_alive, start_time
from penstock.stack.leftovers import clean_up
from penstock.terminal import exits
from penstock.terminal.options import Setting
from penstock.terminal.screen import Screen
from shared.errors import ConfigError, SetupError


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.prepare()
    return made


def state_of(home: Home, *processes: ProcessState) -> StackState:
    me = ProcessState(name="supervisor", pid=os.getpid(), started=start_time(os.getpid()))
    return StackState(
        home=str(home.folder), supervisor=me, broker_url="nats://x", ingest_url="http://x", monitor_url="http://y",
        started_at="now", processes=list(processes),
    )  # fmt: skip


def process_of(child: subprocess.Popen[bytes], name: str = "child") -> ProcessState:
    return ProcessState(name=name, pid=child.pid, started=start_time(child.pid))


def test_a_home_has_one_stack_at_a_time(home: Home) -> None:
    assert not home.is_running()
    with home.lock():
        assert home.is_running()
        with pytest.raises(SetupError, match=r"already.*penstock down"), home.lock():
            pass
    assert not home.is_running()


def test_the_lock_ends_with_the_process_that_holds_it(home: Home) -> None:
    code = f"import pathlib,time,penstock.stack.home as h\nwith h.Home(pathlib.Path({str(home.folder)!r})).lock():\n print(1, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert home.is_running()
        child.kill()
        child.wait()
    assert not home.is_running()


def test_state_is_read_back_as_written(home: Home) -> None:
    state = state_of(home, ProcessState(name="ingest", pid=1, started=2, restarts=3, admin_url="http://z"))
    home.write(state)
    assert home.read() == state
    home.forget()
    assert home.read() is None


def test_a_damaged_state_file_counts_as_none(home: Home) -> None:
    home.state_file.write_bytes(b'{"version": 1, "ho')
    assert home.read() is None


def test_a_process_counts_only_with_its_own_start_time() -> None:
    me = os.getpid()
    assert is_alive(ProcessState(name="me", pid=me, started=start_time(me)))
    assert not is_alive(ProcessState(name="reused", pid=me, started=start_time(me) + 1))
    assert not is_alive(ProcessState(name="none", pid=0, started=0))


def test_what_a_killed_stack_left_behind_is_ended_and_nothing_else(home: Home) -> None:
    stubborn = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    sleeps = "import time; print(1, flush=True); time.sleep(60)"
    children = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for code in (sleeps, stubborn, sleeps)]
    try:
        for child in children:
            assert child.stdout is not None
            child.stdout.readline()
        polite, deaf, stranger = children
        reused = ProcessState(name="reused", pid=stranger.pid, started=start_time(stranger.pid) + 5)
        home.write(state_of(home, process_of(polite, "polite"), process_of(deaf, "deaf"), reused))
        ended = clean_up(home, patience_seconds=0.5)
        assert [process.name for process in ended] == ["polite", "deaf"]
        assert polite.wait(60) == -signal.SIGTERM
        assert deaf.wait(60) == -signal.SIGKILL
        assert stranger.poll() is None
        assert home.read() is None
    finally:
        for child in children:
            child.kill()
            child.wait()
            assert child.stdout is not None
            child.stdout.close()


def test_a_process_that_waits_to_be_reaped_is_not_alive() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        ends_at = time.monotonic() + 60
        while start_time(child.pid) and time.monotonic() < ends_at:
            time.sleep(0.01)
        assert start_time(child.pid) == 0


def test_what_ended_a_detached_stack_is_an_error_of_the_same_kind(home: Home) -> None:
    (home.logs / "supervisor.log").write_text("warning: w\nerror: a: b\nerror: c\n")
    wrong = failure(home, exits.WRONG_INPUT)
    assert isinstance(wrong, ConfigError)
    assert [str(each) for each in wrong.problems] == ["a: b", "c"]
    assert isinstance(failure(home, exits.SETUP), SetupError)


def test_the_command_keeps_connectors_where_the_stack_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting(home=Home(tmp_path), screen=Screen())
    monkeypatch.delenv("PENSTOCK_CONNECTOR_CACHE_DIR", raising=False)
    assert connector._cache(setting) == tmp_path / "connectors"
    # as in a container, whose other folders are read-only
    monkeypatch.setenv("PENSTOCK_CONNECTOR_CACHE_DIR", "/var/lib/penstock/connectors")
    assert connector._cache(setting) == Path("/var/lib/penstock/connectors")
