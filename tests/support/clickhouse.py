"""A ClickHouse server of our own, that tests may stop, kill and start again, and the fixtures that name one.

It is the engine from the wheel `chdb` behind an HTTP front (`clickhouse_server.py`). `PENSTOCK_TEST_CLICKHOUSE` may name a real server
instead, as `http://user:password@host:port`; with `image` there and Docker running, the same suite starts the real server's image.
Without any of them everything that asks for ClickHouse fails: a suite that silently skips its warehouse is no suite.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import psutil
import pytest

from tests.support.postgres import free_port

ROOT = Path(__file__).parents[2]
USER = "penstock"
PASSWORD = "secret-of-the-tests"
START_SECONDS = 60.0
IMAGE = "clickhouse/clickhouse-server:latest"


class Place(NamedTuple):
    """Where a server is, and who may ask it."""

    url: str
    user: str
    password: str


class ClickHouseServer:
    """One server; `start` may follow `stop` or `kill` and finds the same data on the same port."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="penstock-ch-"))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def place(self) -> Place:
        """Where it is."""
        return Place(f"http://127.0.0.1:{self.port}", USER, PASSWORD)

    @property
    def pid(self) -> int:
        """Its process id."""
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.pid

    def start(self) -> None:
        """Starts it and waits until it answers.

        Raises:
            RuntimeError: it did not; with the end of its log.
        """
        log = self.directory / "log"
        arguments = ["--path", str(self.directory / "data"), "--port", str(self.port), "--user", USER, "--password", PASSWORD]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.clickhouse_server", *arguments], stdout=output, stderr=output, cwd=ROOT
            )
        ends_at = time.monotonic() + START_SECONDS
        while time.monotonic() < ends_at and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.place.url}/ping", timeout=1):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise RuntimeError(f"the ClickHouse engine did not start (is the wheel chdb installed?):\n{log.read_text()[-2000:]}")

    def stop(self) -> None:
        """Asks it to end, and waits."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """`kill -9`."""
        self._end(signal.SIGKILL)

    def processes(self) -> list[psutil.Process]:
        """Returns its processes, for CPU accounting."""
        return [psutil.Process(self.pid)]

    def __enter__(self) -> ClickHouseServer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(how)
            process.wait(timeout=START_SECONDS)


def ask(place: Place, query: str, body: bytes = b"", **settings: Any) -> bytes:
    """Runs a query without the plug-in and returns what it answers.

    Raises:
        RuntimeError: the server's words.
    """
    asked = urllib.parse.urlencode({"query": query, "wait_end_of_query": 1, **settings})
    headers = {"X-ClickHouse-User": place.user, "X-ClickHouse-Key": place.password}
    request = urllib.request.Request(f"{place.url}/?{asked}", data=body, headers=headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            answer: bytes = response.read()
            return answer
    except urllib.error.HTTPError as error:
        raise RuntimeError(error.read().decode()) from None


@contextmanager
def image() -> Iterator[Place]:
    """Yields the real server, from its image."""
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.waiting_utils import wait_for_logs

    container = DockerContainer(IMAGE).with_exposed_ports(8123)
    container = container.with_env("CLICKHOUSE_USER", USER).with_env("CLICKHOUSE_PASSWORD", PASSWORD)
    with container:
        wait_for_logs(container, "Ready for connections", timeout=START_SECONDS)
        yield Place(f"http://{container.get_container_host_ip()}:{container.get_exposed_port(8123)}", USER, PASSWORD)


@pytest.fixture(scope="session")
def clickhouse() -> Iterator[Place]:
    """A server for the whole run: what `PENSTOCK_TEST_CLICKHOUSE` names, or the engine. Use a database of your own; do not stop it."""
    given = os.environ.get("PENSTOCK_TEST_CLICKHOUSE", "")
    if given == "image":
        with image() as place:
            yield place
    elif given:
        parts = urllib.parse.urlsplit(given)
        yield Place(f"{parts.scheme}://{parts.hostname}:{parts.port}", parts.username or "default", parts.password or "")
    else:
        with ClickHouseServer() as server:
            yield server.place
