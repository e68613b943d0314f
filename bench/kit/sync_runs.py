"""One sync through the real services: the runner of connectors, the queue, the loader; used by the benchmarks of syncs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.kit.machine import Meter
from bench.kit.stack import Stack, stack
from shared.jetstream import topology
from shared.jetstream.broker import Broker, connect
from shared.jetstream.kv import Bucket
from shared.syncs.records import Ask, RunRecord, ask, newest_run
from tests.support.postgres import PostgresServer

SYNC = "bench"
RUNNER = "connector_runner"
POSTGRES = {"shared_buffers": "512MB", "max_wal_size": "4GB", "wal_level": "logical", "track_commit_timestamp": "on"}


@contextlib.contextmanager
def services(folder: Path, cache: Path) -> Iterator[Stack]:
    """Yields a stack with a runner and a loader that are ready; written to disk as in production."""
    with stack(folder, {"PENSTOCK_CONNECTOR_CACHE_DIR": str(cache)}) as running:
        running.start_all("loader", RUNNER)
        yield running


def postgres() -> PostgresServer:
    """Returns a server, synced to disk as in production."""
    return PostgresServer(settings=POSTGRES)


def project(connector: Mapping[str, Any], destination: Mapping[str, Any], **sync: Any) -> dict[str, Any]:
    """Returns the project of one sync."""
    return {
        "destinations": {"wh": dict(destination)},
        "connectors": {"source": dict(connector)},
        "syncs": {SYNC: {"connector": "source", "destination": "wh", **sync}},
    }


@contextlib.asynccontextmanager
async def broker_of(running: Stack) -> AsyncIterator[Broker]:
    """Yields a connection to the broker."""
    async with connect(running.nats.url, "bench", patience_seconds=10) as broker:
        yield broker


async def wanted(broker: Broker) -> None:
    """Asks for a run."""
    await ask(Bucket(broker, topology.STATE_BUCKET), SYNC, Ask(id=str(time.time_ns()), what="run", at=time.time()))


async def ended(broker: Broker, number: int) -> RunRecord:
    """Returns a run when it is over.

    Raises:
        RuntimeError: it did not succeed.
    """
    bucket = Bucket(broker, topology.STATE_BUCKET)
    while True:
        record = await newest_run(bucket, SYNC)
        if record is not None and record.number >= number and record.status not in ("running", "interrupted"):
            if record.status != "succeeded":
                raise RuntimeError(f"run {number} {record.status}: {record.error}")
            return record
        await asyncio.sleep(0.02)


async def one_run(running: Stack, number: int) -> tuple[RunRecord, float]:
    """Asks for a run; returns it, and the seconds from the question to its end."""
    async with broker_of(running) as broker:
        began = time.monotonic()
        await wanted(broker)
        record = await ended(broker, number)
        return record, time.monotonic() - began


def meter(running: Stack, server: PostgresServer | None = None, every_seconds: float = 0.2) -> Meter:
    """Returns a meter of runner, loader, broker and warehouse."""
    pids = dict(running.pids)
    if server is not None:
        pids["postgres"] = server.pid
    return Meter(pids, every_seconds)


def costs(found: Meter, rows: int) -> str:
    """Returns CPU in µs a row and the most memory by process; of the runner without and with its connector."""
    parts: list[str] = []
    for name, cost in found.costs.items():
        text = f"{name} {1e6 * cost.own_cpu_seconds / rows:.2f} µs, {cost.own_peak_mb:.0f} MB"
        if name != "nats" and cost.cpu_seconds > cost.own_cpu_seconds * 1.05:
            text += f" (with its processes {1e6 * cost.cpu_seconds / rows:.2f} µs)"
        parts.append(text)
    return f"{'; '.join(parts)}; others used {100 * found.others_share:.0f} %"
