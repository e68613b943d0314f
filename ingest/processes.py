"""Several edge processes on one port, which their parent holds; the kernel spreads connections over them.

The parent starts, watches and stops its children and serves their common admin page; it takes no traffic. It restarts a child
that dies, with a growing pause; if a child says that its settings are wrong, all end. The parent passes a signal on to every
child, and each drains. A killed parent takes its children with it: left behind, they would keep the port and the journals from
the next parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence

from ingest import service
from ingest.family import ChildPage, FamilyPage
from ingest.limits.rate import TABLE_BYTES
from ingest.listen import described, hold, listen_beside, open_unix_listener, share
from ingest.settings import PREFIX, IngestSettings
from shared.backoff import Backoff
from shared.errors import ConfigError
from shared.service import EXIT_CONFIG, run_service
from shared.settings import ServiceSettings, read_settings
from shared.telemetry import logs

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 15.0
DYING_SECONDS = 300.0
"""How long after a death `/ready` warns of it."""
HEALTHY_SECONDS = 30.0
"""A child that lived this long gets the first pause again."""

PARENT = f"{PREFIX}PARENT"
"""Tells a child its number and its parent."""

_PR_SET_PDEATHSIG = 1

log = logging.getLogger(__name__)


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
    try:
        raise SystemExit(_Parent(settings, read_settings(ServiceSettings), dict(os.environ)).run())
    except ConfigError as exc:
        sys.stderr.write(f"ingest: {exc}\n")
        raise SystemExit(EXIT_CONFIG) from exc


def _end_with(parent: int) -> None:
    """Asks the kernel to kill this process when its parent ends; only Linux can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # the parent died before the request
            raise SystemExit(1)


class _Child:
    """
    Args:
        held: the addresses it listens on, as the parent holds them.
        handed_down: descriptors that each of its lives inherits.
    """

    def __init__(
        self,
        number: int,
        environment: Mapping[str, str],
        held: Sequence[socket.socket],
        handed_down: Sequence[int],
        unix: Sequence[int],
    ) -> None:
        self.number = number
        self._environment = environment
        self._held = held
        self._handed_down = handed_down
        self._unix = unix
        self._backoff = Backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        self.start_at = 0.0
        self.process: subprocess.Popen[bytes] | None = None
        self.down = "starting"
        """Why it does not run; empty: it runs."""
        self._started = 0.0
        self.deaths = 0
        self._died_at = 0.0
        self._why = ""

    def dying(self) -> str:
        """Returns how often it died, if the last death is recent."""
        ago = time.monotonic() - self._died_at
        if not self.deaths or ago > DYING_SECONDS:
            return ""
        times = "1 time" if self.deaths == 1 else f"{self.deaths} times"
        return f"it died {times}, the last time {ago:.0f} s ago ({self._why}); its last lines in the log say why"

    def start(self) -> None:
        self._started = time.monotonic()
        with contextlib.ExitStack() as ours:  # only the child may hold them, so that they end with it
            listeners = [ours.enter_context(each).fileno() for each in listen_beside(self._held)]
            numbers = [*listeners, *self._unix]
            environment = {**self._environment, f"{PREFIX}LISTEN_FDS": ",".join(map(str, numbers))}
            command = [sys.executable, "-m", "ingest"]
            self.process = subprocess.Popen(command, env=environment, pass_fds=[*numbers, *self._handed_down])  # noqa: S603  # ourselves
        self.down = ""

    def has_died(self, why: str) -> None:
        if time.monotonic() - self._started > HEALTHY_SECONDS:
            self._backoff.reset()
        pause = self._backoff.next()
        self._died_at = time.monotonic()
        self.deaths, self._why = self.deaths + 1, why
        self.start_at = self._died_at + pause
        self.down = f"{why}, starts again in {pause:g} s"
        self.process = None


class _Parent:
    def __init__(self, settings: IngestSettings, service_settings: ServiceSettings, environment: Mapping[str, str]) -> None:
        """
        Raises:
            ConfigError: an address cannot be bound.
        """
        logs.configure("ingest", service_settings.log_level, service_settings.log_format)
        self._held = hold(settings.host, settings.port, PREFIX)
        share(self._held)
        self._unix = [open_unix_listener(settings.unix_socket, PREFIX)] if settings.unix_socket else []
        # a file without a name, because a child started by exec inherits nothing but descriptors
        self._rates = tempfile.TemporaryFile()  # noqa: SIM115  # open for as long as the process lives
        self._rates.truncate(TABLE_BYTES)
        self._admin = [socket.create_server(("127.0.0.1", 0)) for _ in range(settings.processes)]
        unix = [listener.fileno() for listener in self._unix]
        self._children = [
            _Child(
                number=number,
                environment={
                    **environment,
                    PARENT: str(os.getpid()),
                    f"{PREFIX}PROCESS": str(number),
                    f"{PREFIX}RATES_FD": str(self._rates.fileno()),
                    "PENSTOCK_ADMIN_FD": str(admin.fileno()),
                },
                held=self._held,
                handed_down=[self._rates.fileno(), admin.fileno()],
                unix=unix,
            )
            for number, admin in enumerate(self._admin)
        ]
        pages = [
            ChildPage(
                number=child.number,
                url=f"http://127.0.0.1:{admin.getsockname()[1]}",
                down=lambda child=child: child.down,  # type: ignore[misc]
                dying=child.dying,
                deaths=lambda child=child: child.deaths,  # type: ignore[misc]
            )
            for child, admin in zip(self._children, self._admin, strict=True)
        ]
        FamilyPage(service_settings.admin_host, service_settings.admin_port, pages)
        log.info("listening", extra={"on": described([*self._held, *self._unix]), "processes": settings.processes})
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
                    child.has_died(f"ended with exit code {ended}")
                    if not self._stopping:
                        log.error("process ended", extra={"number": child.number, "why": child.down})
                    if ended == EXIT_CONFIG and not self._stopping:
                        code = EXIT_CONFIG
                        self._forward(signal.SIGTERM, None)
                if child.process is None and not self._stopping and time.monotonic() >= child.start_at:
                    self._start(child)
            if self._stopping and all(child.process is None for child in self._children):
                return code
            dead = any(child.process is None for child in self._children)
            if select.select([woken], [], [], 0.2 if dead or self._stopping else None)[0]:
                os.read(woken, 4096)

    def _start(self, child: _Child) -> None:
        try:
            child.start()
        except OSError as exc:  # no process, descriptor or memory is left; the other children must live on
            child.has_died(f"cannot be started: {exc}")
            log.error("process cannot be started", extra={"number": child.number, "why": child.down})
        if self._stopping and child.process is not None:  # the signal came while the child was being started
            child.process.terminate()

    def _forward(self, number: int, _: object) -> None:
        self._stopping = True
        for listener in self._unix:  # else connections would wait in a queue that no process empties
            listener.close()
        for child in self._children:
            if child.process is not None and child.process.poll() is None:
                child.process.send_signal(number)
