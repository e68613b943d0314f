"""What operators do on purpose, under load: end a service in order, and apply another project. Nobody notices but who is meant to."""

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
from tests.support.exactly_once import dead_letters, problems, settled
from tests.support.sender import Books, Sender
from tests.support.stack import SERVICES, stack

NewSchema = Callable[[], Schema]

DRAIN_SECONDS = 20
"""The default of PENSTOCK_DRAIN_PERIOD."""


@pytest.mark.timeout(240 * ROUNDS)
async def test_services_ended_in_order_under_load_exit_well_and_lose_and_double_nothing(
    tmp_path: Path, new_schema: NewSchema, chance: random.Random
) -> None:
    places: dict[str, Place] = {"pg": new_schema(), "duck": DuckSchema(tmp_path / "warehouse.duckdb")}
    document = project({"pg": batch("pg"), "duck": stream("duck")}, {name: each.destination for name, each in places.items()})
    with stack(tmp_path, QUICK) as running:
        await running.apply(document)
        await asyncio.to_thread(running.start_all, *SERVICES, "router-2", "loader-2")
        async with Sender(running.port, chance.randrange(10**6)).running() as books:
            victims = [*SERVICES, "router-2", "loader-2"] * ROUNDS
            chance.shuffle(victims)
            for victim in victims:
                await asyncio.sleep(chance.uniform(0.2, 1.0))
                await asyncio.to_thread(running.wait_ready, victim)
                assert await asyncio.to_thread(running.stop, victim, DRAIN_SECONDS * 0.7) == 0, (
                    f"{victim}:\n{running.log(victim)}"
                )
                running.start(victim)
            await asyncio.to_thread(running.nats.stop)
            await asyncio.to_thread(running.nats.start)
            await asyncio.sleep(1)
        await verify(running, books, places)


@pytest.mark.timeout(240 * ROUNDS)
async def test_a_project_changed_under_load_leaves_unchanged_connections_alone_and_doubles_nothing_in_the_others(
    tmp_path: Path, new_schema: NewSchema, chance: random.Random
) -> None:
    places: dict[str, Place] = {
        "calm": new_schema(),
        "still": DuckSchema(tmp_path / "warehouse.duckdb", "still"),
        "where": new_schema(),
        "comes": DuckSchema(tmp_path / "warehouse.duckdb", "comes"),
    }
    destinations = {name: place.destination for name, place in places.items()}

    def revision(number: int) -> dict[str, Any]:
        connections = {"calm": batch("calm"), "still": stream("still"), "where": stream("where"), "comes": batch("comes")}
        if number % 2:
            del connections["comes"]
            connections["where"]["where"] = {"field": "properties.total", "gt": 500}
        elif number:
            connections["where"]["system_columns"] = ["_seq"] if number % 4 else []
        return project(connections, destinations)

    with stack(tmp_path, QUICK) as running:
        await running.apply(revision(0))
        await asyncio.to_thread(running.start_all)
        async with Sender(running.port, chance.randrange(10**6)).running() as books:
            for number in range(1, 6 * ROUNDS + 1):
                await asyncio.sleep(chance.uniform(0.1, 1.5))
                await running.apply(revision(number))
            await asyncio.sleep(1)
        # what comes when all is in force again belongs everywhere
        late = await Sender(running.port, chance.randrange(10**6), prefix="late").send(200)
        await settled(running)
        await verify(running, merged(books, late), {name: places[name] for name in ("calm", "still")})
        dead = await dead_letters(running.nats.url)
        optional = Books(fates={**books.fates, **late.fates}, acknowledged=late.acknowledged)
        for name in ("where", "comes"):
            assert not problems(optional, await places[name].rows(), dead, connection=name), name


def merged(*each: Books) -> Books:
    """Returns several books as one."""
    whole = Books()
    for books in each:
        whole.fates |= books.fates
        whole.acknowledged |= books.acknowledged
        whole.refused += books.refused
    return whole
