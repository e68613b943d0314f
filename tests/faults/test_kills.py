"""`kill -9` of every process of the path at random moments under load, again and again: alone, and all of them mixed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.judge import verify
from tests.faults.places import DuckSchema, Files, Place, Schema
from tests.faults.project import QUICK, ROUNDS, batch, merging, project, stream
from tests.support.sender import Sender
from tests.support.stack import SERVICES, Stack, stack

NewSchema = Callable[[], Schema]


def every_kind(new_schema: NewSchema, folder: Path) -> tuple[dict[str, Place], dict[str, object]]:
    """Every way of loading at once: append and merge, batch and stream, two warehouses and files; one DuckDB file for two connections."""
    file = folder / "warehouse.duckdb"
    places: dict[str, Place] = {
        "pg-batch": new_schema(),
        "pg-stream": new_schema(),
        "pg-merge": new_schema(),
        "duck-batch": DuckSchema(file, "one"),
        "duck-stream": DuckSchema(file, "two"),
        "files": Files(folder / "files"),
    }
    connections = {
        "pg-batch": batch("pg-batch"),
        "pg-stream": stream("pg-stream"),
        "pg-merge": merging(batch("pg-merge")),
        "duck-batch": batch("duck-batch"),
        "duck-stream": stream("duck-stream"),
        "files": batch("files"),
    }
    return places, project(connections, {name: place.destination for name, place in places.items()})


async def kill_and_start(running: Stack, victim: str, chance: random.Random) -> None:
    """Kills a process and starts it again after a moment, ready or not."""
    print(f"kill {victim}")
    if victim == "nats":
        running.nats.kill()
        await asyncio.sleep(chance.uniform(0, 0.5))
        await asyncio.to_thread(running.nats.start)
        return
    running.kill(victim)
    await asyncio.sleep(chance.uniform(0, 0.5))
    running.start(victim)


@pytest.mark.timeout(240 * ROUNDS)
@pytest.mark.parametrize("victim", [*SERVICES, "nats"])
async def test_a_process_killed_again_and_again_loses_and_doubles_nothing(
    victim: str, tmp_path: Path, new_schema: NewSchema, chance: random.Random
) -> None:
    places, document = every_kind(new_schema, tmp_path)
    with stack(tmp_path, QUICK) as running:
        await running.apply(document)
        await asyncio.to_thread(running.start_all)
        async with Sender(running.port, chance.randrange(10**6)).running() as books:
            for _ in range(3 * ROUNDS):
                # from "still starting" to "long at work"
                await asyncio.sleep(chance.choice([0.3, 1.5, 3.0]) * chance.uniform(0.5, 1.5))
                await kill_and_start(running, victim, chance)
            await asyncio.sleep(1)
        await verify(running, books, places, ids=True)


@pytest.mark.timeout(240 * ROUNDS)
async def test_all_processes_killed_in_any_order_lose_and_double_nothing(
    tmp_path: Path, new_schema: NewSchema, chance: random.Random
) -> None:
    places, document = every_kind(new_schema, tmp_path)
    with stack(tmp_path, {**QUICK, "PENSTOCK_INGEST_SPOOL_DIR": str(tmp_path / "spool")}) as running:
        await running.apply(document)
        await asyncio.to_thread(running.start_all)
        async with Sender(running.port, chance.randrange(10**6)).running() as books:
            for _ in range(6 * ROUNDS):
                await asyncio.sleep(chance.uniform(0.1, 2.5))
                victims = chance.sample([*SERVICES, "nats"], chance.choice([1, 1, 2, 4]))
                await asyncio.gather(*(kill_and_start(running, victim, chance) for victim in victims))
            await asyncio.sleep(1)
        await verify(running, books, places, ids=True)
