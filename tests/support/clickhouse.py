"""A ClickHouse server of our own, that tests may stop, kill and start again, and the fixtures that name one.

It is the engine from the wheel `chdb` behind an HTTP front (`clickhouse_server.py`). `PENSTOCK_TEST_CLICKHOUSE` may name a real server
instead, as `http://user:password@host:port`; with `image` there and Docker running, the same suite starts the real server's image.
Without any of them everything that asks for ClickHouse fails: a suite that silently skips its warehouse is no suite.
"""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.own_server import OwnServer

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


class ClickHouseServer(OwnServer):
    """One server; `start` may follow `stop` or `kill` and finds the same data on the same port."""

    name = "clickhouse"

    @property
    def place(self) -> Place:
        """Where it is."""
        return Place(f"http://127.0.0.1:{self.port}", USER, PASSWORD)

    def command(self) -> Sequence[str | Path]:
        """Returns the command of the engine behind its front."""
        arguments = ["--path", str(self.directory / "data"), "--port", str(self.port), "--user", USER, "--password", PASSWORD]
        return [sys.executable, "-m", "tests.support.clickhouse_server", *arguments]

    def environment(self) -> dict[str, str]:
        """Returns an environment in which the front is found."""
        return {**os.environ, "PYTHONPATH": str(ROOT)}

    def answers(self) -> bool:
        """Says whether the front answers; it does when the engine does."""
        with urllib.request.urlopen(f"{self.place.url}/ping", timeout=1):
            return True


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
