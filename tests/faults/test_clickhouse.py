"""ClickHouse under whole loaders: killed at every step they take with it, frozen, two at once, and a server killed and hanging."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.judge import verify
from tests.faults.places import ClickDatabase
from tests.faults.project import QUICK, ROUNDS, batch, merging, project, stream
from tests.faults.test_frozen import succeeded, taken_by
from tests.faults.test_kills import kill_and_start
from tests.support.clickhouse import ClickHouseServer
from tests.support.sender import Sender
from tests.support.stack import Stack, stack
from tests.support.step_proxy import Side, StepProxy

KINDS: dict[str, Callable[[str], dict[str, Any]]] = {
    "batch": batch,
    "stream": stream,
    "merge": lambda name: merging(batch(name)),
}
STEPS_OF_A_LIFE = 14
"""Requests of a loader from its start to its second load: the session is opened by six, a load has three or four."""


@pytest.fixture(scope="module")
def shared_clickhouse() -> Iterator[ClickHouseServer]:
    """One server for the file, which a test may kill."""
    with ClickHouseServer() as server:
        yield server


@pytest.fixture
def clickhouse_server(shared_clickhouse: ClickHouseServer) -> Iterator[ClickHouseServer]:
    """The server; the next test finds it running."""
    yield shared_clickhouse
    if not shared_clickhouse.running:
        shared_clickhouse.start()


@pytest.mark.timeout(240 * ROUNDS)
async def test_killed_and_frozen_loaders_and_a_server_that_dies_or_hangs_lose_and_double_nothing(
    tmp_path: Path, clickhouse_server: ClickHouseServer, chance: random.Random
) -> None:
    server = clickhouse_server
    places = {name: ClickDatabase(server, f"of_{name}") for name in KINDS}
    with stack(tmp_path, QUICK) as running:
        connections = {name: {**make(name), "shards": 2} for name, make in KINDS.items()}
        await running.apply(project(connections, {name: place.destination for name, place in places.items()}))
        await asyncio.to_thread(running.start_all, "ingest", "router", "loader", "loader-2")
        async with Sender(running.port, chance.randrange(10**6)).running() as books:
            for what in chance.sample(["kill loader", "freeze loader", "kill server", "hang server"] * ROUNDS, 4 * ROUNDS):
                print(what)
                await asyncio.sleep(chance.uniform(0.3, 2.0))
                match what:
                    case "kill loader":
                        await kill_and_start(running, await taken_by(running, f"loader.{chance.choice(list(KINDS))}"), chance)
                    case "freeze loader":
                        await freeze(running, chance)
                    case "kill server":
                        server.kill()
                        await asyncio.sleep(chance.uniform(0, 1))
                        await asyncio.to_thread(server.start)
                    case _:
                        os.kill(server.pid, signal.SIGSTOP)
                        await asyncio.sleep(chance.uniform(2, 6))
                        os.kill(server.pid, signal.SIGCONT)
            await asyncio.sleep(1)
        await verify(running, books, places, ids=True)
    assert all([(await place.rows())["events"] for place in places.values()])


async def freeze(running: Stack, chance: random.Random) -> None:
    """Freezes a holder past its leases, until others have them."""
    lease = f"loader.{chance.choice(list(KINDS))}"
    frozen = await taken_by(running, lease)
    running.freeze(frozen)
    await succeeded(running, lease, frozen)
    await asyncio.sleep(chance.uniform(0.2, 2.0))
    running.thaw(frozen)


@pytest.mark.timeout(240 * ROUNDS)
@pytest.mark.parametrize("kind", ["batch", "merge"])
async def test_a_loader_killed_between_any_two_of_its_requests_loses_and_doubles_nothing(
    kind: str, tmp_path: Path, clickhouse_server: ClickHouseServer, chance: random.Random
) -> None:
    points: list[tuple[int, Side]] = [(step, "before") for step in range(1, STEPS_OF_A_LIFE + 1)]
    points += [(step, "behind") for step, _ in points] + [(step, "late") for step, _ in points]
    async with StepProxy(clickhouse_server.place.url) as proxy:
        place = ClickDatabase(clickhouse_server, f"steps_{kind}", proxy.port)
        with stack(tmp_path, {**QUICK, "PENSTOCK_LOADER_LEASE": "2s"}) as running:
            quick = {**KINDS[kind]("wh"), "batch": {"period": "1s", "max_rows": 100}}
            await running.apply(project({"c": quick}, {"wh": place.destination}))
            await asyncio.to_thread(running.start_all)
            sender = Sender(running.port, chance.randrange(10**6))
            await sender.send(100)
            await verify(running, sender.books, {"c": place})
            for step, side in chance.sample(points, min(len(points), 8 * ROUNDS)):
                print(f"kill {side} request {step}")
                running.kill("loader")
                proxy.at(step, side, lambda: running.kill("loader"))
                await sender.send(150)  # a full load, and one that waits for its period
                running.start("loader")
                async with asyncio.timeout(60):
                    while proxy.armed:
                        await asyncio.sleep(0.02)
                running.start("loader")
            await verify(running, sender.books, {"c": place}, ids=True)
