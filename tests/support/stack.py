"""A whole stack for tests and benchmarks: broker, ingest, router, functions_runtime and loader as processes of their own, which can be killed and frozen.

Everything runs as in production: synced writes, real sockets, one process a service, which only starts faster. A service runs under its own name, further
replicas of it under `loader-2`, `loader-3`. Each replica of ingest has a port of its own.
"""

from __future__ import annotations

import asyncio
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

from shared.errors import Transient
from shared.jetstream import topology
from shared.jetstream.broker import connect
from shared.project.snapshot import StoredProject, apply_project, resolve
from tests.support import logs
from tests.support.forked import Process, start_forked, start_service
from tests.support.nats import NatsServer, nats_server
from tests.support.nats_cluster import Cluster, nats_cluster
from tests.support.ports import free_port

SERVICES = ("ingest", "router", "loader")
LOG_BYTES = 12_000
SHORT_LEASES = {"PENSTOCK_ROUTER_LEASE": "2s", "PENSTOCK_LOADER_LEASE": "2s", "PENSTOCK_CONNECTOR_LEASE": "2s"}
"""As short as they may be: the successor of a killed process waits for its lease."""


class Stack:
    """A running stack. Services keep their ports over `kill` and `start`."""

    def __init__(self, folder: Path, nats: NatsServer | Cluster, environment: Mapping[str, str], *, fork: bool = True) -> None:
        self.folder = folder
        self.brokers = nats
        self.port = free_port()
        self.ports = {"ingest": self.port}
        """Of the edge, by name."""
        self.admin: dict[str, int] = {}
        self._environment = environment
        self._processes: dict[str, Process] = {}
        self._start_service = start_forked if fork else start_service

    @property
    def nats(self) -> NatsServer:
        """The one broker, of a stack that has no cluster."""
        assert isinstance(self.brokers, NatsServer)
        return self.brokers

    @property
    def url(self) -> str:
        """Address of the brokers for commands."""
        return self.brokers.url

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by name, the broker among them."""
        return {**self.brokers.pids, **{name: process.pid for name, process in self._processes.items()}}

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
        service = name.partition("-")[0]
        port = self.ports.setdefault(name, free_port()) if service == "ingest" else self.port
        variables = {
            **os.environ,
            "PENSTOCK_NATS_URL": self.brokers.address(service),
            "PENSTOCK_REPLICAS": str(self.brokers.replicas),
            "PENSTOCK_ADMIN_PORT": str(self.admin[name]),
            "PENSTOCK_LOG_FORMAT": "text",
            "PENSTOCK_INGEST_PORT": str(port),
            "PENSTOCK_INGEST_HOST": "127.0.0.1",
            **SHORT_LEASES,
            **self._environment,
            **environment,
        }
        logs.note(name, self._log_path(name))
        with self._log_path(name).open("ab") as output:
            self._processes[name] = self._start_service(service, variables, output)

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

    def stop(self, name: str, seconds: float = 60) -> int:
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
        wanted = topology.TopologySettings(deliver_max_frames=1, replicas=self.brokers.replicas)
        ends_at = time.monotonic() + 60
        while True:
            try:
                async with connect(self.brokers.address("router"), "stack", patience_seconds=60) as broker:
                    await topology.ensure(broker, wanted)
                break
            except Transient:  # a node of a busy cluster is taken for offline for a moment; services try again too
                if time.monotonic() > ends_at:
                    raise
            await asyncio.sleep(0.5)
        async with connect(self.brokers.url, "stack", patience_seconds=60) as broker:
            revision = await apply_project(broker, StoredProject(project, resolve(project, os.environ)))
        (self.folder / "penstock.yaml").write_text(yaml.safe_dump(project))
        return revision

    def metric(self, name: str, metric: str, **labels: str) -> float:
        """Returns the sum of a service's metric over the labels that are not given."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin[name]}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in lines
            if line.startswith((metric + "{", metric + " ")) and all(each in line for each in wanted)
        )

    def _log_path(self, name: str) -> Path:
        return self.brokers.logs.get(name, self.folder / f"{name}.log")


@contextlib.contextmanager
def stack(
    folder: Path,
    environment: Mapping[str, str] | None = None,
    *,
    sync: str = "always",
    fork: bool = True,
    cluster: Cluster | None = None,
) -> Iterator[Stack]:
    """Starts a broker; services are started by the caller and ended here. In a benchmark an exception brings the ends of all logs to stdout.

    Args:
        fork: start services quickly (`tests/support/forked.py`); False: as users do.
        cluster: run these brokers instead of one.
    """
    with contextlib.ExitStack() as held:
        nats: NatsServer | Cluster
        if cluster is None:
            nats = held.enter_context(nats_server(folder / "nats", sync=sync))
        else:
            nats = held.enter_context(nats_cluster(cluster))
        running = Stack(folder, nats, environment or {}, fork=fork)
        try:
            yield running
        except BaseException:
            if "PYTEST_CURRENT_TEST" not in os.environ:  # else the report of the test has them
                for name, path in {**{each: running._log_path(each) for each in running.admin}, **nats.logs}.items():
                    print(f"\n--- end of the log of {name}, {path} ---\n{logs.end_of(path)}")
            raise
        finally:
            running.stop_all()
