"""One edge for the whole suite, and what must be as it was when all attacks are over."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from shared.jetstream import topology
from shared.jetstream.broker import connect
from shared.project.snapshot import StoredProject, apply_project, resolve
from tests.hostile.edge import PROJECT, SECONDS, Target, wait_for_calm
from tests.support import logs
from tests.support.nats import nats_server
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
READ_SECONDS = 2


async def _prepare(url: str) -> None:
    async with connect(url, "hostile", patience_seconds=60) as broker:
        await topology.ensure(broker, topology.TopologySettings())
        await apply_project(broker, StoredProject(PROJECT, resolve(PROJECT)))


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A running edge. At the end nothing of it may be left over: no connection, task, descriptor or byte, and no traceback in its log."""
    folder = tmp_path_factory.mktemp("hostile")
    log = folder / "ingest.log"
    with nats_server(folder / "nats", sync="2m") as nats:
        asyncio.run(_prepare(nats.url))
        port, admin_port = free_port(), free_port()
        environment = {
            **os.environ,
            "PENSTOCK_NATS_URL": nats.url,
            "PENSTOCK_ADMIN_PORT": str(admin_port),
            "PENSTOCK_INGEST_HOST": "127.0.0.1",
            "PENSTOCK_INGEST_PORT": str(port),
            "PENSTOCK_INGEST_READ_TIMEOUT": f"{READ_SECONDS}s",
        }
        logs.note("ingest", log)
        with log.open("ab") as output:
            process = subprocess.Popen([sys.executable, "-m", "ingest"], cwd=ROOT, stdout=output, stderr=output, env=environment)
        try:
            target = Target(port, admin_port, process.pid)
            _wait_ready(target, process)
            calm = target.gauges()
            yield target
            left = wait_for_calm(
                target, {**calm, "ingest_tasks": calm["ingest_tasks"] + 1, "descriptors": calm["descriptors"] + 2}
            )
            assert not left, f"left over: {left}"
            assert process.poll() is None, log.read_text()[-4000:]
            assert "Traceback" not in log.read_text(), log.read_text()[-4000:]
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture
def idle_bytes(target: Target) -> int:
    """The memory of the edge before an attack."""
    gc.collect()
    return int(psutil.Process(target.pid).memory_info().rss)


def _wait_ready(target: Target, process: subprocess.Popen[bytes]) -> None:
    ends_at = time.monotonic() + 60
    while time.monotonic() < ends_at and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{target.url}/health", timeout=1):
                break
        except OSError:
            time.sleep(0.05)
    else:
        raise RuntimeError(f"the edge does not serve within {SECONDS:g} s")
    while not target.gauges():
        time.sleep(0.05)
