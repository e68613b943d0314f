"""A real nats-server for tests and benchmarks: from its wheel, on a free port, in a temporary folder, killable."""

from __future__ import annotations

import contextlib
import json
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from shared.jetstream.nats_server import config_text, find_nats_server
from tests.support.own_server import OwnServer
from tests.support.ports import free_port


class NatsServer(OwnServer):
    """One server process. It keeps its port and its store over `kill` and `start`."""

    name = "nats-server"

    def __init__(self, folder: Path, *, sync: str = "always") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder)
        self.monitor_port = free_port()
        self.max_file: int | None = None
        """Bytes that JetStream may use; None: as the server finds."""
        self.more_config = ""
        self._sync = sync

    @property
    def log_path(self) -> Path:
        """Where everything it says goes."""
        return self.directory / "nats.log"

    @property
    def url(self) -> str:
        """Address for clients."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by name."""
        return {"nats": self.pid}

    @property
    def logs(self) -> dict[str, Path]:
        """Logs by name."""
        return {"nats": self.log_path}

    replicas = 1
    """Copies of each stream."""

    def address(self, user: str) -> str:  # as of a cluster, which has users
        """Address for a user."""
        return self.url

    def command(self) -> Sequence[str | Path]:
        """Writes the configuration of the moment."""
        store, config = self.directory / "store", self.directory / "nats.conf"
        store.mkdir(exist_ok=True)
        text = config_text(store, port=self.port, monitor_port=self.monitor_port, sync=self._sync)
        if self.max_file is not None:
            text = text.replace("jetstream {\n", f"jetstream {{\n  max_file_store: {self.max_file}\n")
        config.write_text(text + self.more_config)
        return [find_nats_server(), "-c", config]

    def answers(self) -> bool:
        """Says whether JetStream is healthy."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.monitor_port}/healthz", timeout=1) as answer:
            return bool(json.load(answer).get("status") == "ok")


@contextlib.contextmanager
def nats_server(folder: Path, *, sync: str = "always") -> Iterator[NatsServer]:
    """Runs a server while the context is open."""
    with NatsServer(folder, sync=sync) as server:
        yield server
