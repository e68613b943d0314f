"""Fixtures every suite may use: a real broker of its own per test, and one server of each kind for all tests of a worker.

Tests of one worker run one after the other, so a test may kill such a server, if the next one finds it running.
"""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from shared.jetstream import topology
from shared.jetstream.broker import Broker, connect
from tests.support import logs
from tests.support.azure import azure_server
from tests.support.clickhouse import clickhouse
from tests.support.mysql import mysql, mysql_dsn, mysql_server
from tests.support.nats import NatsServer, nats_server
from tests.support.postgres import postgres, postgres_dsn, postgres_server
from tests.support.s3 import s3_server

__all__ = [
    "azure_server",
    "clickhouse",
    "mysql",
    "mysql_dsn",
    "mysql_server",
    "postgres",
    "postgres_dsn",
    "postgres_server",
    "s3_server",
]

# no assertion about time: a busy machine is no failure of the rule under test
settings.register_profile("penstock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("penstock")

# CPython 3.11 cannot parse within a parse: a task that failed unseen is written down by the garbage collector, which may run while pytest parses a source
if hasattr(traceback, "_extract_caret_anchors_from_line_segment"):
    traceback._extract_caret_anchors_from_line_segment = lambda segment: None


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    """A nats-server of this test's own, so that a test may kill it."""
    with nats_server(tmp_path / "nats") as server:
        yield server


@pytest.fixture
async def broker(nats: NatsServer) -> AsyncIterator[Broker]:
    """A connection to the test's own server, streams and buckets created."""
    async with connect(nats.url, "test", patience_seconds=60) as opened:
        await topology.ensure(opened, topology.TopologySettings())
        yield opened


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Names bytes by their argument: packed ones hold the second they were made in, and all workers must collect the same tests."""
    return argname if isinstance(val, bytes) else None


# a shell that runs us in the background lets its children ignore Ctrl-C, and ours would too
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_STARTED = pytest.StashKey[float]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Notes when a test began."""
    item.stash[_STARTED] = time.time()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Lets a test that fails tell how the logs of its processes end, and no half character of a log end the whole run."""
    report = yield
    if report.failed:
        report.sections[:0] = logs.told(item.stash.get(_STARTED, call.start))
        if _whole(text := str(report.longrepr)) != text:
            report.longrepr = _whole(text)
    report.sections = [(title, _whole(text)) for title, text in report.sections]
    return report


def _whole(text: str) -> str:
    """Returns a text that a worker can send: its half characters, which no UTF-8 holds, are question marks."""
    return text.encode("utf-8", "replace").decode()


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says the trouble in the logs of failed tests once more at the end, where it is read when the output is cut."""
    for report in [*terminalreporter.getreports("failed"), *terminalreporter.getreports("error")]:
        for title, text in report.sections:
            if title == logs.GIST:
                terminalreporter.section(f"{title}: {report.nodeid.rpartition('::')[2]}", "-")
                terminalreporter.line(text)


SLOWEST_FIRST = ("faults", "meta/test_quickstart.py", "e2e", "contract", "hostile", "meta", "unit")
"""Folders and files; what has no line of its own is with its folder."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts slow tests first, so that the last tests to run are short."""
    tests = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(tests).as_posix()
        found = [number for number, each in enumerate(SLOWEST_FIRST) if name.startswith(each)]
        return min(found, default=0)

    items.sort(key=place)
