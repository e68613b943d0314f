"""A whole stack for tests and benchmarks: broker, ingest, router, functions_runtime and loader as processes of their own, which can be killed and frozen.

Everything runs as in production: synced writes, real sockets, one process a service, which only starts faster. A service runs under its own name, further
replicas of it under `loader-2`, `loader-3`. All ingest replicas would share the one edge port, so there is one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from shared.jetstream import topology
from shared.jetstream.broker import connect
from shared.project.snapshot import StoredProject, apply_project, resolve
from tests.support.forked import Process, start_forked, start_service
from tests.support.nats import NatsServer, nats_server
from tests.support.ports import free_port

SERVICES = ("ingest", "router", "loader")
LOG_BYTES = 12_000
SHORT_LEASES = {"PENSTOCK_ROUTER_LEASE": "2s", "PENSTOCK_LOADER_LEASE": "2s", "PENSTOCK_CONNECTOR_LEASE": "2s"}
"""As short as they may be: the successor of a killed process waits for its lease."""


class Stack:
    """A running stack. Services keep their ports over `kill` and `start`."""

    def __init__(self, folder: Path, nats: NatsServer, environment: Mapping[str, str], *, fork: bool = True) -> None:
        self.folder = folder
        self.nats = nats
        self.port = free_port()
        self.admin: dict[str, int] = {}
        self._environment = environment
        self._processes: dict[str, Process] = {}
        self._start_service = start_forked if fork else start_service

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by name, the broker among them."""
        return {"nats": self.nats.pid, **{name: process.pid for name, process in self._processes.items()}}

    @property
    def names(self) -> list[str]:
        """What was started and not stopped, dead or alive."""
        return list(self._processes)

    def start(self, name: str, **environment: str) -> None:
        """Starts a service and returns at once.

        Args:
            name: `ingest`, `router`, `functions_runtime`, `loader` or `connector_runner`, with `-2` and so on for further replicas.
            environment: on top of the stack's.
        """
        self.admin.setdefault(name, free_port())
        variables = {
            **os.environ,
            "PENSTOCK_NATS_URL": self.nats.url,
            "PENSTOCK_ADMIN_PORT": str(self.admin[name]),
            "PENSTOCK_LOG_FORMAT": "text",
            "PENSTOCK_INGEST_PORT": str(self.port),
            "PENSTOCK_INGEST_HOST": "127.0.0.1",
            **SHORT_LEASES,
            **self._environment,
            **environment,
        }
        with self._log_path(name).open("ab") as output:
            self._processes[name] = self._start_service(name.partition("-")[0], variables, output)

    def wait_ready(self, name: str, seconds: float = 60) -> None:
        """Waits until a service says it is ready; blocks.

        Raises:
            RuntimeError: it ended or did not become ready; with the end of its log.
        """
        ends_at = time.monotonic() + seconds
        problem = "no answer"
        while time.monotonic() < ends_at:
            if not self.running(name):
                raise RuntimeError(f"{name} ended:\n{self.log(name)}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.admin[name]}/ready", timeout=2):
                    return
            except urllib.error.HTTPError as exc:
                problem = exc.read().decode()
            except OSError as exc:
                problem = str(exc)
            time.sleep(0.05)
        raise RuntimeError(f"{name} is not ready: {problem}\n{self.log(name)}")

    def start_all(self, *names: str) -> None:
        """Starts services, those without functions unless named, and waits until they are ready; blocks."""
        for name in names or SERVICES:
            self.start(name)
        for name in names or SERVICES:
            self.wait_ready(name)

    def running(self, name: str) -> bool:
        """Says whether a service lives; a frozen one does."""
        process = self._processes.get(name)
        return process is not None and process.poll() is None

    def signal(self, name: str, number: signal.Signals) -> None:
        """Sends a signal to a service that lives."""
        self._processes[name].send_signal(number)

    def kill(self, name: str) -> None:
        """Ends a service at once (SIGKILL)."""
        self.signal(name, signal.SIGKILL)
        self._processes[name].wait()

    def freeze(self, name: str) -> None:
        """Stops a service from running (SIGSTOP); its sockets stay open."""
        self.signal(name, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """Lets a frozen service run on."""
        self.signal(name, signal.SIGCONT)

    def stop(self, name: str, seconds: float = 30) -> int:
        """Ends a service in order (SIGTERM); returns its exit code, -9 if it did not end in time."""
        process = self._processes.pop(name)
        process.terminate()
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def stop_all(self) -> None:
        """Ends every service."""
        for name in self.names:
            with contextlib.suppress(ProcessLookupError):
                self.thaw(name)
        for process in self._processes.values():
            process.terminate()
        for name in self.names:
            self.stop(name)

    def log(self, name: str) -> str:
        """Returns the end of a service's log, or of the broker's."""
        path = self._log_path(name)
        return path.read_text(errors="replace")[-LOG_BYTES:] if path.exists() else ""

    async def apply(self, project: dict[str, Any]) -> int:
        """Applies a project as `penstock apply` does; returns its revision."""
        async with connect(self.nats.url, "stack", patience_seconds=10) as broker:
            await topology.ensure(broker, topology.TopologySettings(deliver_max_frames=1))
            revision = await apply_project(broker, StoredProject(project, resolve(project, os.environ)))
        (self.folder / "penstock.yaml").write_text(yaml.safe_dump(project))
        return revision

    def metric(self, name: str, metric: str, **labels: str) -> float:
        """Returns the sum of a service's metric over the labels that are not given."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin[name]}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in lines
            if line.startswith((metric + "{", metric + " ")) and all(each in line for each in wanted)
        )

    def _log_path(self, name: str) -> Path:
        return self.folder / "nats" / "nats.log" if name == "nats" else self.folder / f"{name}.log"


@contextlib.contextmanager
def stack(
    folder: Path, environment: Mapping[str, str] | None = None, *, sync: str = "always", fork: bool = True
) -> Iterator[Stack]:
    """Starts a broker; services are started by the caller and ended here. An exception brings the ends of all logs to stdout.

    Args:
        fork: start services quickly (`tests/support/forked.py`); False: as users do.
    """
    with nats_server(folder / "nats", sync=sync) as nats:
        running = Stack(folder, nats, environment or {}, fork=fork)
        try:
            yield running
        except BaseException:
            for name in [*running.admin, "nats"]:
                print(f"\n--- log of {name} ---\n{running.log(name)}")
            raise
        finally:
            running.stop_all()
