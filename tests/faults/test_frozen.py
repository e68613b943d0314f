"""Two processes fighting for one lease: the holder is frozen past it, another takes over, and the first wakes up and goes on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.jetstream.broker import connect
from shared.jetstream.lease import holder
from tests.faults.judge import verify
from tests.faults.places import DuckSchema, Files, Place, Schema
from tests.faults.project import QUICK, ROUNDS, batch, project, stream
from tests.support.sender import Sender
from tests.support.stack import Stack, stack

NewSchema = Callable[[], Schema]


async def taken_by(running: Stack, lease: str, seconds: float = 60.0) -> str:
    """Waits until a service of the stack that lives holds a lease; returns its name."""
    async with connect(running.url, "test-lease", patience_seconds=60) as broker, asyncio.timeout(seconds):
        while True:
            owner = await holder(broker, lease)
            for name, pid in running.pids.items():
                if owner is not None and owner.endswith(f"-{pid}"):
                    return name
            await asyncio.sleep(0.05)


async def succeeded(running: Stack, lease: str, frozen: str, seconds: float = 60.0) -> None:
    """Waits until another than `frozen` holds the lease."""
    async with asyncio.timeout(seconds):
        while await taken_by(running, lease) == frozen:
            await asyncio.sleep(0.1)


@pytest.mark.timeout(240 * ROUNDS)
@pytest.mark.parametrize(("mode", "files"), [(batch, False), (stream, False), (batch, True)], ids=["batch", "stream", "files"])
async def test_a_loader_frozen_past_its_lease_repeats_nothing_when_it_wakes(
    mode: Callable[[str], dict[str, object]], files: bool, tmp_path: Path, new_schema: NewSchema, chance: random.Random
) -> None:
    places: dict[str, Place] = {"c": Files(tmp_path / "files") if files else new_schema()}
    with stack(tmp_path, QUICK) as running:
        await running.apply(project({"c": mode("wh")}, {"wh": places["c"].destination}))
        await asyncio.to_thread(running.start_all, "ingest", "router", "loader", "loader-2")
        async with Sender(running.port, chance.randrange(10**6)).running() as books:
            for _ in range(ROUNDS):
                await asyncio.sleep(chance.uniform(0.5, 1.5))
                frozen = await taken_by(running, "loader.c")
                running.freeze(frozen)
                await succeeded(running, "loader.c", frozen)
                await asyncio.sleep(chance.uniform(0.2, 2.0))
                running.thaw(frozen)
            await asyncio.sleep(1)
        await verify(running, books, places)


@pytest.mark.timeout(240 * ROUNDS)
async def test_a_loader_frozen_in_the_middle_of_a_load_is_refused_when_it_wakes(
    tmp_path: Path, new_schema: NewSchema, chance: random.Random
) -> None:
    schema = new_schema()
    with stack(tmp_path, QUICK) as running:
        await running.apply(project({"c": batch("pg")}, {"pg": schema.destination}))
        await asyncio.to_thread(running.start_all, "ingest", "router", "loader")
        sender = Sender(running.port, chance.randrange(10**6))
        await sender.send(100)
        await verify(running, sender.books, {"c": schema})
        # a table locked from outside keeps the load in its transaction, before COMMIT, for as long as the test likes
        async with schema.locked("events"):
            await sender.send(2000, requests_of=200)
            await schema.wait_for_lock()
            running.freeze("loader")
        running.start("loader-2")
        await succeeded(running, "loader.c", "loader")
        await sender.send(500, requests_of=100)
        await asyncio.sleep(1.5)
        running.thaw("loader")
        await sender.send(500, requests_of=100)
        await verify(running, sender.books, {"c": schema})


@pytest.mark.timeout(240 * ROUNDS)
async def test_a_loader_frozen_with_a_duckdb_file_open_goes_on_or_gives_way(tmp_path: Path, chance: random.Random) -> None:
    places: dict[str, Place] = {"c": DuckSchema(tmp_path / "warehouse.duckdb")}
    with stack(tmp_path, QUICK) as running:
        await running.apply(project({"c": stream("duck")}, {"duck": places["c"].destination}))
        await asyncio.to_thread(running.start_all, "ingest", "router", "loader", "loader-2")
        async with Sender(running.port, chance.randrange(10**6)).running() as books:
            for _ in range(ROUNDS):
                await asyncio.sleep(chance.uniform(0.5, 1.5))
                frozen = await taken_by(running, "loader.c")
                running.freeze(frozen)
                await succeeded(running, "loader.c", frozen)
                await asyncio.sleep(chance.uniform(0.2, 1.0))
                running.thaw(frozen)
        await verify(running, books, places)


@pytest.mark.timeout(240 * ROUNDS)
async def test_a_router_frozen_past_its_lease_repeats_and_skips_nothing_when_it_wakes(
    tmp_path: Path, new_schema: NewSchema, chance: random.Random
) -> None:
    places: dict[str, Place] = {"a": new_schema(), "b": new_schema()}
    with stack(tmp_path, QUICK) as running:
        await running.apply(
            project({"a": stream("a"), "b": batch("b")}, {name: place.destination for name, place in places.items()})
        )
        await asyncio.to_thread(running.start_all, "ingest", "router", "router-2", "loader")
        async with Sender(running.port, chance.randrange(10**6)).running() as books:
            for _ in range(2 * ROUNDS):
                await asyncio.sleep(chance.uniform(0.5, 1.5))
                frozen = await taken_by(running, "router.shop")
                running.freeze(frozen)
                await succeeded(running, "router.shop", frozen)
                await asyncio.sleep(chance.uniform(0.2, 1.5))
                running.thaw(frozen)
            await asyncio.sleep(1)
        await verify(running, books, places)
