"""Functions are given to connections and taken away under load, while their services are killed: by sets of ids."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.judge import verify
from tests.faults.places import DuckSchema, Place, Schema
from tests.faults.project import QUICK, ROUNDS, batch, project, stream
from tests.support.sender import Sender
from tests.support.stack import SERVICES, stack

NewSchema = Callable[[], Schema]

WITH_FUNCTIONS = (*SERVICES, "functions_runtime")
ENVIRONMENT = {**QUICK, "PENSTOCK_FUNCTIONS_LEASE": "3s"}


def with_functions(places: dict[str, Place], functions: list[str], **options: Any) -> dict[str, Any]:
    connections = {
        "pg": stream("pg", functions=functions, **options),
        "duck": batch("duck", functions=functions, **options),
        "plain": stream("plain"),
    }
    document = project(connections, {name: place.destination for name, place in places.items()})
    return {**document, "functions": {"mark": {"code": "export default e => ({...e, marked: true})"}}}


def places_of(folder: Path, new_schema: NewSchema) -> dict[str, Place]:
    file = folder / "warehouse.duckdb"
    return {"pg": new_schema(), "duck": DuckSchema(file, "duck"), "plain": DuckSchema(file, "plain")}


@pytest.mark.timeout(150 * ROUNDS)
async def test_functions_that_come_and_go_lose_and_double_nothing(
    tmp_path: Path, new_schema: NewSchema, chance: random.Random
) -> None:
    places = places_of(tmp_path, new_schema)
    with stack(tmp_path, ENVIRONMENT) as running:
        await running.apply(with_functions(places, []))
        await asyncio.to_thread(running.start_all, *WITH_FUNCTIONS)
        async with Sender(running.port, chance.randrange(10**6)).running() as books:
            for number in range(6 * ROUNDS):
                await asyncio.sleep(chance.uniform(0.3, 1.5))
                await running.apply(with_functions(places, [] if number % 2 else ["mark"]))
                if chance.random() < 0.5:
                    victim = chance.choice(["functions_runtime", "router"])
                    running.kill(victim)
                    running.start(victim)
            await asyncio.sleep(1)
        for name in WITH_FUNCTIONS:
            await asyncio.to_thread(running.wait_ready, name)
        await verify(running, books, places, ids=False)
