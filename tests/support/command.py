"""The real `penstock` command as a process, and a real local stack in a folder of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil

from penstock.stack.home import Home, StackState
from tests.support import logs
from tests.support.ports import free_port
from tests.support.stack import SHORT_LEASES

SHOP = Path(__file__).parents[2] / "examples/shop/penstock.yaml"
COMMAND = [sys.executable, "-m", "penstock"]
PATIENCE_SECONDS = 120.0
NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Done:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its standard output as JSON."""
        return json.loads(self.out)


class LocalStack:
    """A home in a temporary folder; commands run in that folder, with nothing of the caller's environment about Penstock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = Home(folder / ".penstock")
        self.project = folder / "penstock.yaml"
        logs.note("the stack", self.home.logs)
        self.project.write_text(SHOP.read_text().replace("period: 3s", "period: 1s"))  # so that rows come sooner

    @property
    def state(self) -> StackState:
        """What `stack.json` says now."""
        state = self.home.read()
        assert state is not None, "no stack runs"
        return state

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by name, the supervisor among them."""
        state = self.state
        return {process.name: process.pid for process in (*state.processes, state.supervisor)}

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        """Variables for a command, and for the services it starts."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_") and name != "COLUMNS"}
        return {**kept, "PYTHONPATH": str(SHOP.parents[2]), **SHORT_LEASES, **more}

    def run(
        self, *arguments: str, stdin: bytes = b"", timeout: float = PATIENCE_SECONDS, environment: Mapping[str, str] = NOTHING
    ) -> Done:
        """Runs a command to its end."""
        done = subprocess.run(
            [*COMMAND, *arguments], cwd=self.folder, env=self.environment(environment), input=stdin, capture_output=True,
            timeout=timeout, check=False,
        )  # fmt: skip
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(self, *arguments: str, environment: Mapping[str, str] = NOTHING) -> subprocess.Popen[bytes]:
        """Starts a command and returns at once."""
        return subprocess.Popen(
            [*COMMAND, *arguments], cwd=self.folder, env=self.environment(environment), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def up(self, *arguments: str, environment: Mapping[str, str] = NOTHING) -> StackState:
        """Starts the stack, detached, on ports of its own, with the project file applied."""
        done = self.run(
            "up", "--detach", "--port-base", str(free_port()), "--project", str(self.project), *arguments, environment=environment
        )  # fmt: skip
        assert done.code == 0, done.out + done.err + self.logs()
        return self.state

    def down(self) -> None:
        """Stops the stack, however it is."""
        self.run("down", timeout=120)

    def logs(self) -> str:
        """The ends of all logs."""
        return "".join(
            f"\n== {log.name}\n{log.read_text(errors='replace')[-2000:]}" for log in sorted(self.home.logs.glob("*.log"))
        )

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Asks the stack's warehouse; waits while a loader has it open."""
        import duckdb

        ends_at = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                with duckdb.connect(str(self.home.folder / "warehouse.duckdb"), read_only=True) as database:
                    return database.sql(sql).fetchall()
            except (duckdb.IOException, duckdb.CatalogException):  # open elsewhere, or not made yet
                if time.monotonic() > ends_at:
                    raise
                time.sleep(0.1)

    def wait_for_rows(self, sql: str, count: int) -> None:
        """Waits until a counting query gives at least `count`."""
        wait_until(lambda: self.query(sql)[0][0] >= count, lambda: f"{self.query(sql)} instead of {count}{self.logs()}")


def wait_until(condition: Callable[[], bool], why: Callable[[], str] = lambda: "it did not come true") -> None:
    """Waits for something other processes bring about."""
    ends_at = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < ends_at, why()
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """True if the process exists and is not only waiting to be reaped."""
    try:
        return pid > 0 and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextlib.contextmanager
def local_stack(folder: Path) -> Iterator[LocalStack]:
    """A folder for a stack, not started yet; whatever runs in it at the end is stopped."""
    stack = LocalStack(folder)
    try:
        yield stack
    finally:
        stack.down()
