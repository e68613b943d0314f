"""A stack in a separate session: this process starts it and waits until it is ready."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time

from penstock.command.foreground import Wishes, show_addresses
from penstock.command.stopping import stop_running
from penstock.stack.home import SERVICES, Home, StackState, stack_environment, start_time
from penstock.stack.stack import START_SECONDS
from penstock.terminal import exits
from penstock.terminal.options import Setting
from shared.errors import ConfigError, PenstockError, Problem, SetupError

POLL_SECONDS = 0.1
LOG = "supervisor.log"


def start_detached(setting: Setting, wishes: Wishes) -> None:
    """Starts a stack that outlives this command; returns when it is ready.

    Raises:
        SetupError, ConfigError: it cannot start; says why.
    """
    home, screen = setting.home, setting.screen
    home.prepare()
    with home.lock():  # fails here, with words, when a stack runs already
        pass
    with (home.logs / LOG).open("wb") as output:
        supervisor = subprocess.Popen(  # noqa: S603  # ourselves
            _command(home, wishes),
            env={**os.environ, **stack_environment(home)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        state = _wait_until_ready(
            setting, supervisor, processes=wishes.nodes + 2 * len(SERVICES) if wishes.nodes else 1 + len(SERVICES)
        )
    except KeyboardInterrupt:
        screen.note("stopping what was started")
        supervisor.terminate()
        supervisor.wait()
        raise
    for line in _lines(home, "warning: "):
        screen.note(line, "yellow")
    screen.result(state)
    asyncio.run(show_addresses(setting, state))
    if wishes.demo:
        from penstock.demo.demo import show_demo  # pulls in duckdb, which a plain `up` does not need

        try:
            asyncio.run(show_demo(setting, state))
        except (PenstockError, KeyboardInterrupt):
            # as in the foreground: processes that this command started end with it
            stop_running(setting)
            raise
        if wishes.exit_after_demo:
            stop_running(setting)
            return
    screen.say(f"\nruns on; stop it with: penstock down --home {os.path.relpath(home.folder)}", "bold")


def _command(home: Home, wishes: Wishes) -> list[str]:
    command = [sys.executable, "-P", "-m", "penstock", "up", "--home", str(home.folder)]
    command += ["--host", wishes.host]
    if wishes.port_base is not None:
        command += ["--port-base", str(wishes.port_base)]
    if wishes.port is not None:
        command += ["--port", str(wishes.port)]
    if wishes.nodes:
        command += ["--cluster", str(wishes.nodes)]
    if wishes.tls:
        command += ["--tls"]
    if wishes.project is not None:
        command += ["--project", str(wishes.project.absolute())]
    return command


def _wait_until_ready(setting: Setting, supervisor: subprocess.Popen[bytes], *, processes: int) -> StackState:
    home = setting.home
    ends_at = time.monotonic() + 2 * START_SECONDS
    with setting.screen.progress("starting", total=processes) as advance:
        while time.monotonic() < ends_at:
            if supervisor.poll() is not None:
                raise failure(home, supervisor.returncode)
            state = home.read()
            if state is not None and state.supervisor.pid == supervisor.pid:
                advance(sum(process.state == "ready" for process in state.processes), note=state.problem)
                if state.phase == "ready":
                    advance(len(state.processes))
                    return state
            time.sleep(POLL_SECONDS)
    if start_time(supervisor.pid):
        supervisor.terminate()
    raise SetupError(f"the stack was not ready within {2 * START_SECONDS:g} s; see {home.logs}")


def failure(home: Home, code: int) -> PenstockError:
    """Returns the supervisor's last words as an error that ends this command with the same exit code."""
    errors = [line.removeprefix("error: ") for line in _lines(home, "error: ")]
    if errors and code == exits.WRONG_INPUT:
        return ConfigError([Problem("", each) for each in errors])
    return SetupError("; ".join(errors) or f"the supervisor ended with exit code {code}; see {home.logs / LOG}")


def _lines(home: Home, beginning: str) -> list[str]:
    """Returns the supervisor's lines so far that begin so."""
    text = (home.logs / LOG).read_text(encoding="utf-8", errors="replace")
    return [line for line in text.splitlines() if line.startswith(beginning)]
