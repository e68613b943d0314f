"""The broker comes back with an empty store while warehouses remember everything, services running or not."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.jetstream import topology
from shared.jetstream.broker import connect
from tests.faults.judge import verify
from tests.faults.places import DuckSchema, Place, Schema
from tests.faults.project import QUICK, batch, project, stream
from tests.support.sender import Sender
from tests.support.stack import SERVICES, Stack, stack

NewSchema = Callable[[], Schema]

RENEWALS = 2000
"""By so much a lease's epoch has grown in some minutes: the broker counts every renewal of every lease."""


async def lose_the_store(running: Stack) -> None:
    await asyncio.to_thread(running.nats.kill)
    shutil.rmtree(running.nats.directory / "store")
    await asyncio.to_thread(running.nats.start)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("alive", [False, True], ids=["stopped", "running"])
async def test_what_comes_after_the_loss_of_the_store_is_loaded_once_and_at_once(
    alive: bool, tmp_path: Path, new_schema: NewSchema, chance: random.Random
) -> None:
    schema, duck = new_schema(), DuckSchema(tmp_path / "warehouse.duckdb")
    places: dict[str, Place] = {"pg": schema, "duck": duck}
    document = project(
        {"pg": batch("pg", shards=2), "duck": stream("duck")}, {name: each.destination for name, each in places.items()}
    )
    with stack(tmp_path, QUICK) as running:
        await running.apply(document)
        await asyncio.to_thread(running.start_all)
        sender = Sender(running.port, chance.randrange(10**6))
        await sender.send(1000, requests_of=20)
        await verify(running, sender.books, places)
        if not alive:
            for name in SERVICES:
                assert await asyncio.to_thread(running.stop, name) == 0
            older = f"UPDATE {{}}._penstock_loads SET epoch = epoch + {RENEWALS} WHERE table_name = ''"
            await schema.run(older)
            await duck.run(older.replace("{}", "main"))
            await asyncio.sleep(RENEWALS / 1000)
        await lose_the_store(running)
        if not alive:
            await running.apply(document)
            await asyncio.to_thread(running.start_all)
        await sender.send(500, requests_of=20)
        await verify(running, sender.books, places, seconds=90)


@pytest.mark.timeout(240)
async def test_a_queue_that_a_person_deletes_is_made_again_while_the_services_run(tmp_path: Path, chance: random.Random) -> None:
    places: dict[str, Place] = {"duck": DuckSchema(tmp_path / "warehouse.duckdb")}
    with stack(tmp_path, QUICK) as running:
        await running.apply(project({"duck": stream("duck")}, {"duck": places["duck"].destination}))
        await asyncio.to_thread(running.start_all)
        sender = Sender(running.port, chance.randrange(10**6))
        await sender.send(100, requests_of=20)
        await verify(running, sender.books, places)
        async with connect(running.url, "person", patience_seconds=60) as broker, asyncio.timeout(120):
            await broker.js.delete_stream(topology.DELIVER)
            while topology.DELIVER in await topology.missing(broker):
                await asyncio.sleep(0.05)
        await sender.send(100, requests_of=20)
        await verify(running, sender.books, places)
