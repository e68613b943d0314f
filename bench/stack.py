"""A whole stack for measurements: broker, ingest, router, loader as processes of their own, and what they cost.

Everything runs as in production: synced writes, real sockets, one process a service.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from shared import topology
from shared.config_snapshot import StoredProject, apply_project, resolve
from shared.jetstream.broker import connect
from tests.support.nats import NatsServer, free_port, nats_server

KEY = "bench-key"


class Stack:
    """A running stack; `pids` by name."""

    def __init__(self, folder: Path, nats: NatsServer, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.nats = nats
        self.port = free_port()
        self.admin = {name: free_port() for name in ("ingest", "router", "loader")}
        self._environment = environment
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by service, the broker among them."""
        return {"nats": self.nats.pid, **{name: process.pid for name, process in self._processes.items()}}

    def start(self, service: str) -> None:
        """Starts a service and returns at once."""
        environment = {
            **os.environ,
            "PENSTOCK_NATS_URL": self.nats.url,
            "PENSTOCK_ADMIN_PORT": str(self.admin[service]),
            "PENSTOCK_LOG_FORMAT": "text",
            "PENSTOCK_INGEST_PORT": str(self.port),
            "PENSTOCK_INGEST_HOST": "127.0.0.1",
            **self._environment,
        }
        with (self.folder / f"{service}.log").open("ab") as output:
            self._processes[service] = subprocess.Popen(
                [sys.executable, "-m", service], stdout=output, stderr=output, env=environment, cwd=Path(__file__).parents[1]
            )

    def wait_ready(self, service: str, seconds: float = 30) -> None:
        """Waits until a service says it is ready."""
        ends_at = time.monotonic() + seconds
        problem = "no answer"
        while time.monotonic() < ends_at:
            if self._processes[service].poll() is not None:
                raise RuntimeError(f"{service} ended:\n{self.log(service)}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.admin[service]}/ready", timeout=2):
                    return
            except urllib.error.HTTPError as exc:
                problem = exc.read().decode()
            except OSError as exc:
                problem = str(exc)
            time.sleep(0.05)
        raise RuntimeError(f"{service} is not ready: {problem}\n{self.log(service)}")

    def log(self, service: str) -> str:
        """Returns the end of a service's log."""
        path = self.folder / f"{service}.log"
        return path.read_text()[-4000:] if path.exists() else ""

    def stop(self, service: str) -> None:
        """Ends a service in order."""
        process = self._processes.pop(service)
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def stop_all(self) -> None:
        """Ends every service."""
        for service in list(self._processes):
            self.stop(service)

    async def apply(self, project: dict[str, Any]) -> None:
        """Applies a project."""
        async with connect(self.nats.url, "bench", patience_seconds=10) as broker:
            await topology.ensure(broker, topology.TopologySettings())
            await apply_project(broker, StoredProject(project, resolve(project, os.environ)))
        (self.folder / "penstock.yaml").write_text(yaml.safe_dump(project))

    def metric(self, service: str, name: str) -> float:
        """Returns the sum of a metric over its labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin[service]}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((name + "{", name + " ")))

    def pump(self, **options: Any) -> subprocess.Popen[bytes]:
        """Starts the sender of `bench/pump.py`; options as its arguments."""
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if value is not None]
        return subprocess.Popen(
            [sys.executable, "-m", "bench.pump", f"--port={self.port}", f"--key={KEY}", *arguments],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[1],
        )


def finish(pump: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Waits for a sender and returns what it printed."""
    output, _ = pump.communicate()
    result: dict[str, Any] = msgspec.json.decode(output)
    return result


@contextlib.contextmanager
def stack(folder: Path, environment: Mapping[str, str] | None = None, *, sync: str = "always") -> Iterator[Stack]:
    """Starts a broker; services are started by the caller and ended here."""
    with nats_server(folder / "nats", sync=sync) as nats:
        running = Stack(folder, nats, environment or {})
        try:
            yield running
        finally:
            running.stop_all()
