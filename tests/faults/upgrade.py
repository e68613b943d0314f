"""A rolling upgrade under load, from the code of another checkout to this one: `python -m tests.faults.upgrade CHECKOUT`.

The services of a cluster run the older code, two of each; then each is stopped in order and started with this code, while a sender
goes on. At the end every acknowledged event must be in the table once. `.ci/upgrade` makes the checkout.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
from pathlib import Path

from penstock.stack.home import SERVICES
from shared.jetstream import topology
from shared.jetstream.broker import connect
from tests.faults.judge import verify
from tests.faults.places import DuckSchema, Place
from tests.faults.project import batch, project, stream
from tests.support.forked import CHECKOUT
from tests.support.nats_cluster import Cluster
from tests.support.sender import Sender
from tests.support.stack import stack

FIRST = ("loader", "functions_runtime", "router", "connector_runner", "ingest")
"""Readers before writers: a newer version may write what an older one cannot read."""


async def upgrade(checkout: Path, folder: Path, copies: int = 2, seconds: float = 2) -> None:
    """Runs it.

    Args:
        copies: of each service; 1: over one broker, 2: over a cluster.
        seconds: of load before the first and behind the last service.

    Raises:
        AssertionError: events are lost or doubled; says which.
    """
    places: dict[str, Place] = {
        "batch": DuckSchema(folder / "warehouse.duckdb", "first"),
        "stream": DuckSchema(folder / "warehouse.duckdb", "second"),
    }
    document = project(
        {"batch": batch("batch"), "stream": stream("stream")}, {name: each.destination for name, each in places.items()}
    )
    numbers = ("", "-2")[:copies]
    with stack(folder, fork=False, cluster=Cluster(folder) if copies > 1 else None) as running:
        await running.apply(document)
        names = [f"{service}{number}" for service in SERVICES for number in numbers]
        for name in names:
            running.start(name, **{CHECKOUT: str(checkout)})
        for name in names:
            await asyncio.to_thread(running.wait_ready, name)
        async with Sender(list(running.ports.values()), random.randrange(10**6)).running() as books:
            await asyncio.sleep(seconds)
            for service in FIRST:
                for name in (f"{service}{number}" for number in numbers):
                    code = await asyncio.to_thread(running.stop, name)
                    running.start(name)
                    await asyncio.to_thread(running.wait_ready, name)
                    print(f"{name}: stopped with code {code}, runs the new code", flush=True)
            await asyncio.sleep(seconds)
        await verify(running, books, places)
        async with connect(running.url, "upgrade", patience_seconds=60) as broker:
            frames = (await broker.js.stream_info(topology.EVENTS)).state.messages
        print(
            f"{len(books.acknowledged)} events in {frames} frames acknowledged: none lost, none doubled; answers {dict(books.statuses)}"
        )


def main() -> None:
    """Parses the argument and runs."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(upgrade(Path(sys.argv[1]).resolve(), Path(folder)))


if __name__ == "__main__":
    main()
