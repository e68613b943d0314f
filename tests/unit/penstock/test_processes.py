"""One process under supervision, with real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from penstock.stack import stack
from penstock.stack.home import Home, stack_environment, start_time
from penstock.stack.processes import FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS, Program, Supervised, next_delay
from shared.backoff import Backoff
from shared.errors import SetupError
from shared.jetstream.topology import MORE_ROOM

SLEEPS = "import time; time.sleep(60)"


def program(tmp_path: Path, code: str, stop_seconds: float = 5) -> Program:
    return Program(
        name="child", command=(sys.executable, "-c", code), environment=dict(os.environ), log=tmp_path / "child.log",
        ready_url="", stop_seconds=stop_seconds,
    )  # fmt: skip


@asynccontextmanager
async def kept(child: Supervised) -> AsyncIterator[None]:
    task = asyncio.create_task(child.keep_running())
    try:
        yield
    finally:
        await child.stop()
        await task


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_delays_double_up_to_half_a_minute_and_a_healthy_minute_forgets_them() -> None:
    backoff = Backoff(FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS)
    assert [next_delay(backoff, 1, 1) for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert next_delay(backoff, 60, 1) == 0.5


def test_wrong_settings_are_not_tried_again_at_once() -> None:
    assert next_delay(Backoff(0.5, 1), 1, 78) == 30


async def test_a_process_that_dies_is_started_again(tmp_path: Path) -> None:
    child = Supervised(program(tmp_path, SLEEPS), lambda: None)
    async with kept(child):
        await until(lambda: child.snapshot.pid > 0)
        first = child.snapshot.pid
        os.kill(first, signal.SIGKILL)
        await until(lambda: child.restarts == 1)
        assert "SIGKILL" in str(child.ending)
        await until(lambda: child.snapshot.pid > 0)
        assert child.snapshot.pid != first
    assert child.state == "stopped"


async def test_how_a_process_ended_is_told_with_its_last_words(tmp_path: Path) -> None:
    child = Supervised(program(tmp_path, "import sys; sys.stderr.write('no such port\\n'); sys.exit(78)"), lambda: None)
    async with kept(child):
        await until(lambda: child.ending is not None)
        assert str(child.ending) == "ended with exit code 78: no such port"
        assert child.state.startswith("wrong settings")


async def test_stopping_waits_for_a_process_and_ends_one_that_does_not_listen(tmp_path: Path) -> None:
    deaf = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    child = Supervised(program(tmp_path, deaf, stop_seconds=0.2), lambda: None)
    async with kept(child):
        await until(lambda: child.program.log.exists() and child.program.log.read_text() == "deaf\n")
        pid = child.snapshot.pid
    assert start_time(pid) == 0


async def test_a_hurry_does_not_wait(tmp_path: Path) -> None:
    deaf = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    child = Supervised(program(tmp_path, deaf, stop_seconds=3600), lambda: None)
    hurry = asyncio.Event()
    async with kept(child):
        await until(lambda: child.program.log.exists() and child.program.log.read_text() == "deaf\n")
        hurry.set()
        await child.stop(at_once=hurry)
        assert child.snapshot.pid == 0


async def test_a_process_in_back_off_is_stopped_without_waiting_for_it(tmp_path: Path) -> None:
    child = Supervised(program(tmp_path, "import sys; sys.exit(78)"), lambda: None)
    async with kept(child):
        await until(lambda: child.ending is not None)
    assert child.state == "stopped"


async def test_ctrl_c_in_the_terminal_does_not_reach_the_process(tmp_path: Path) -> None:
    child = Supervised(program(tmp_path, SLEEPS), lambda: None)
    async with kept(child):
        await until(lambda: child.snapshot.pid > 0)
        assert os.getpgid(child.snapshot.pid) != os.getpgid(0)


@pytest.mark.skipif(sys.platform != "linux", reason="the wish to end with one's parent exists on Linux only")
def test_a_process_ends_when_its_supervisor_is_killed(tmp_path: Path) -> None:
    code = f"""
import asyncio, pathlib, sys
sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from penstock.stack.processes import Program, Supervised
program = Program("child", (sys.executable, "-c", {SLEEPS!r}), {{}}, pathlib.Path({str(tmp_path / "log")!r}), "")
async def main():
    child = Supervised(program, lambda: None)
    task = asyncio.create_task(child.keep_running())
    while not child.snapshot.pid:
        await asyncio.sleep(0.01)
    print(child.snapshot.pid, flush=True)
    await task
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout is not None
        pid = int(supervisor.stdout.readline())
        assert start_time(pid) != 0
        # the tether must have been tied: it is, once the program itself runs
        ends_at = time.monotonic() + 60
        while (
            b"time.sleep" not in Path(f"/proc/{pid}/cmdline").read_bytes()
            or b"tether" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ):
            assert time.monotonic() < ends_at
            time.sleep(0.01)
        supervisor.kill()
        supervisor.wait()
    ends_at = time.monotonic() + 60
    while start_time(pid) and time.monotonic() < ends_at:
        time.sleep(0.01)
    assert start_time(pid) == 0


def test_processes_find_the_packages_whatever_folder_the_stack_is_started_in(tmp_path: Path) -> None:
    environment = {**os.environ, **stack_environment(Home(tmp_path))}
    done = subprocess.run(
        [sys.executable, "-P", "-c", "import ingest, router, loader"], cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 0


async def test_a_start_ends_at_once_where_the_broker_has_no_room_for_the_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    async def asked(*_: object) -> tuple[bool, str]:
        return False, f"streams: cannot be prepared: the stream DEAD: insufficient storage resources available; {MORE_ROOM}"

    monkeypatch.setattr(stack, "_ask_ready", asked)
    router = SimpleNamespace(name="router", ready_url="", log="router.log")
    process = SimpleNamespace(program=router, ending=None, state="running", restarts=0)
    started = SimpleNamespace(stopping=asyncio.Event(), problems={}, _on_change=lambda: None)
    with pytest.raises(SetupError, match=r"router: streams: cannot be prepared: .* or a larger disk; its log is router\.log"):
        await stack.Stack._until_ready(cast("Any", started), [cast("Any", process)])
