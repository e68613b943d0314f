"""One process under supervision: started, watched, started again when it dies, stopped in order.

A process that dies is started again after half a second, then after twice as long each time up to half a minute; a process that
stayed up for a minute starts from the beginning. One that says its settings are wrong (exit code 78) is told to the user and
tried again only every half minute: nothing changes by itself.

Each runs in a session of its own, so that Ctrl-C in the terminal reaches the supervisor alone, and is tied to it by
`tether.py`, so that none is left when the supervisor is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from penstock.stack.home import ProcessState, start_time
from penstock.stack.logfile import last_words
from shared import tether
from shared.backoff import Backoff
from shared.tasks import timeout

FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0
HEALTHY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Program:
    """What to run. `ready_url` answers 200 when the program can work; `stop_seconds` is how long it may take to end."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    ready_url: str
    admin_url: str | None = None
    stop_seconds: float = 25.0


@dataclass(slots=True)
class Ending:
    """How a process ended last."""

    code: int
    words: str

    def __str__(self) -> str:
        if self.code < 0:
            return f"was ended by {signal.Signals(-self.code).name}"
        return f"ended with exit code {self.code}" + (f": {self.words}" if self.words else "")


def next_delay(backoff: Backoff, lived_seconds: float, code: int) -> float:
    """Returns how long to wait before a process that died is started again."""
    if code == os.EX_CONFIG:
        return LONGEST_DELAY_SECONDS
    if lived_seconds >= HEALTHY_SECONDS:
        backoff.reset()
    return backoff.next()


@dataclass(slots=True)
class Supervised:
    """A program kept running by the task that calls `keep_running`."""

    program: Program
    on_change: Callable[[], None]
    restarts: int = 0
    died_at: float = 0.0
    state: str = "not started"
    ending: Ending | None = None
    stopping: bool = False
    _process: asyncio.subprocess.Process | None = None
    _started: int = 0
    _stop: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def running(self) -> bool:
        """True while it lives."""
        return self._process is not None and self._process.returncode is None

    @property
    def snapshot(self) -> ProcessState:
        """The process as `stack.json` shows it."""
        running = self.running
        return ProcessState(
            name=self.program.name,
            pid=self._process.pid if self._process is not None and running else 0,
            started=self._started if running else 0,
            restarts=self.restarts,
            died_at=self.died_at,
            state=self.state,
            admin_url=self.program.admin_url,
        )

    async def keep_running(self) -> None:
        """Starts the program and starts it again whenever it dies, until `stop`."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS)
        while not self._asked_to_stop():
            began = loop.time()
            process = await self._start()
            if self._asked_to_stop():  # while it was being made
                self.kill()
            code = await process.wait()
            if self._asked_to_stop():
                break
            delay = next_delay(backoff, loop.time() - began, code)
            self.ending = Ending(code, last_words(self.program.log))
            self.restarts += 1
            self.died_at = time.time()
            self._change(f"{'wrong settings' if code == os.EX_CONFIG else 'died'}, starts again in {delay:g} s")
            with contextlib.suppress(TimeoutError):
                async with timeout(delay):
                    await self._stop.wait()
        self._change("stopped")

    async def stop(self, *, at_once: asyncio.Event | None = None) -> None:
        """Asks the process to end, and ends it after `stop_seconds`, or when `at_once` is set."""
        self.stopping = True
        self._stop.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        self._change("stopping")
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        waits = [asyncio.ensure_future(process.wait())]
        if at_once is not None:
            waits.append(asyncio.ensure_future(at_once.wait()))
        await asyncio.wait(waits, timeout=self.program.stop_seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def kill(self) -> None:
        """Ends the process now."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _start(self) -> asyncio.subprocess.Process:
        with self.program.log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", str(Path(tether.__file__)), str(os.getpid()), *self.program.command,
                env=dict(self.program.environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )  # fmt: skip
        self._started = start_time(self._process.pid)
        self._change("running")
        return self._process

    def _asked_to_stop(self) -> bool:
        return self.stopping

    def _change(self, state: str) -> None:
        self.state = state
        self.on_change()
