"""A real nats-server for tests and benchmarks: from its wheel, on a free port, in a temporary folder, killable."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from shared.jetstream.nats_server import config_text, find_nats_server

PORTS_PER_WORKER = 4_000
PORTS_PER_STACK = 8
_offsets = itertools.count(os.getpid() * PORTS_PER_STACK, PORTS_PER_STACK)


def free_port() -> int:
    """Returns a port nobody listens on, with as many free ones behind it as a local stack takes.

    Below what the kernel gives to outgoing connections, and in a range of this test process's own, so that a server that is killed
    finds its port free when it starts again.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        port = 12_000 + worker % 4 * PORTS_PER_WORKER + next(_offsets) % PORTS_PER_WORKER
        if all(_is_free(each) for each in range(port, port + PORTS_PER_STACK)):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.bind(("0.0.0.0", port))
        return True
    return False


class NatsServer:
    """One server process. It keeps its port and its store over `kill` and `start`."""

    def __init__(self, folder: Path, *, sync: str = "always") -> None:
        self.folder = folder
        self.port = free_port()
        self.monitor_port = free_port()
        self.max_file: int | None = None
        """Bytes that JetStream may use; None: as the server finds."""
        self.more_config = ""
        self._sync = sync
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Address for clients."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Starts the server and waits until JetStream answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "nats.conf"
        text = config_text(self.folder / "store", port=self.port, monitor_port=self.monitor_port, sync=self._sync)
        if self.max_file is not None:
            text = text.replace("jetstream {\n", f"jetstream {{\n  max_file_store: {self.max_file}\n")
        config.write_text(text + self.more_config)
        (self.folder / "store").mkdir(exist_ok=True)
        with (self.folder / "nats.log").open("ab") as output:
            self._process = subprocess.Popen([find_nats_server(), "-c", str(config)], stdout=output, stderr=output)
        ends_at = time.monotonic() + 15
        while time.monotonic() < ends_at:
            with (
                contextlib.suppress(OSError, ValueError),
                urllib.request.urlopen(f"http://127.0.0.1:{self.monitor_port}/healthz", timeout=1) as answer,
            ):
                if json.load(answer).get("status") == "ok":
                    return
            if self._process.poll() is not None:
                raise RuntimeError(f"nats-server ended at start:\n{(self.folder / 'nats.log').read_text()[-2000:]}")
            time.sleep(0.02)
        raise RuntimeError(f"nats-server did not become healthy:\n{(self.folder / 'nats.log').read_text()[-2000:]}")

    def kill(self) -> None:
        """Ends the server at once (SIGKILL)."""
        self.signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def stop(self) -> None:
        """Ends the server in order (SIGTERM)."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal (SIGSTOP freezes, SIGCONT wakes)."""
        os.kill(self.pid, number)

    def __enter__(self) -> NatsServer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.signal(signal.SIGCONT)
        self.stop()


@contextlib.contextmanager
def nats_server(folder: Path, *, sync: str = "always") -> Iterator[NatsServer]:
    """Runs a server while the context is open."""
    with NatsServer(folder, sync=sync) as server:
        yield server
