"""Several edge processes on one port: the kernel spreads connections over them (SO_REUSEPORT).

The parent only starts, watches and stops its children; it takes no traffic. A child that dies is started again, with a growing
pause; one that says its settings are wrong ends all. A signal to the parent goes to every child, which drain by themselves. A parent
that is killed takes its children with it: left behind they would keep the port and the journals from the next one.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping

from ingest import service
from ingest.settings import PREFIX, IngestSettings
from shared.errors import ConfigError
from shared.service import EXIT_CONFIG, run_service
from shared.settings import ServiceSettings, read_settings

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 15.0
HEALTHY_SECONDS = 30.0
"""A child that lived this long starts over with the first pause."""

PARENT = f"{PREFIX}PARENT"
"""Tells a child that it is one, and of whom."""

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Runs this process as the edge, or as the parent of several."""
    try:
        settings = read_settings(IngestSettings, PREFIX)
    except ConfigError as exc:
        sys.stderr.write(f"ingest: {exc}\n")
        raise SystemExit(EXIT_CONFIG) from exc
    parent = os.environ.get(PARENT)
    if settings.processes == 1 or parent:
        if parent:
            _end_with(int(parent))
        run_service("ingest", service.run, needs_broker=False)
        return
    if settings.port == 0:
        sys.stderr.write(f"ingest: {PREFIX}PORT: several processes need a port to share, not 0\n")
        raise SystemExit(EXIT_CONFIG)
    raise SystemExit(_Parent(settings, dict(os.environ)).run())


def _end_with(parent: int) -> None:
    """Asks the kernel to kill this process when its parent ends; anything but Linux cannot."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the wish was made
            raise SystemExit(1)


class _Child:
    def __init__(self, number: int, environment: Mapping[str, str]) -> None:
        self.number = number
        self._environment = environment
        self._pause = FIRST_PAUSE_SECONDS
        self.start_at = 0.0
        self.process: subprocess.Popen[bytes] | None = None
        self._started = 0.0

    def start(self) -> None:
        self._started = time.monotonic()
        self.process = subprocess.Popen([sys.executable, "-m", "ingest"], env=self._environment)  # ourselves

    def has_died(self) -> None:
        if time.monotonic() - self._started > HEALTHY_SECONDS:
            self._pause = FIRST_PAUSE_SECONDS
        self.start_at = time.monotonic() + self._pause
        self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)
        self.process = None


class _Parent:
    def __init__(self, settings: IngestSettings, environment: Mapping[str, str]) -> None:
        admin_port = read_settings(ServiceSettings).admin_port
        self._children = [
            _Child(
                number,
                {
                    **environment,
                    PARENT: str(os.getpid()),
                    f"{PREFIX}PROCESS": str(number),
                    "PENSTOCK_ADMIN_PORT": str(admin_port + number if admin_port else 0),
                },
            )
            for number in range(settings.processes)
        ]
        self._stopping = False

    def run(self) -> int:
        """Returns the exit code: of the first child with wrong settings, else 0."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._forward)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        code = 0
        while True:
            for child in self._children:
                if child.process is not None and (ended := child.process.poll()) is not None:
                    child.has_died()
                    if ended == EXIT_CONFIG and not self._stopping:
                        code = EXIT_CONFIG
                        self._forward(signal.SIGTERM, None)
                if child.process is None and not self._stopping and time.monotonic() >= child.start_at:
                    child.start()
                    self._pass_on(child)
            if self._stopping and all(child.process is None for child in self._children):
                return code
            dead = any(child.process is None for child in self._children)
            if select.select([woken], [], [], 0.2 if dead or self._stopping else None)[0]:
                os.read(woken, 4096)

    def _pass_on(self, child: _Child) -> None:
        """Ends a child that was being started when the signal came."""
        if self._stopping and child.process is not None:
            child.process.terminate()

    def _forward(self, number: int, _: object) -> None:
        self._stopping = True
        for child in self._children:
            if child.process is not None and child.process.poll() is None:
                child.process.send_signal(number)
