"""Postgres killed in the middle of a COPY, stopped for a while, and a full queue beside a healthy one because of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.judge import verify
from tests.faults.places import DuckSchema, Place, Schema
from tests.faults.project import QUICK, ROUNDS, batch, merging, project, stream
from tests.support.postgres import PostgresServer
from tests.support.sender import Sender
from tests.support.stack import stack

NewSchema = Callable[[], Schema]

WRITING = """SELECT 1 FROM pg_stat_activity LEFT JOIN pg_stat_progress_copy USING (pid)
WHERE application_name LIKE 'penstock/%' AND state = 'active' AND (tuples_processed > 1000 OR query LIKE 'INSERT INTO "f_%')"""
"""The load is on its way into the table itself: a COPY that is well under way, or the INSERT of a merge."""


@pytest.mark.timeout(240 * ROUNDS)
@pytest.mark.parametrize("write", [batch, lambda name: merging(batch(name))], ids=["append", "merge"])
async def test_postgres_killed_in_the_middle_of_a_copy_holds_no_half_of_it_and_gets_the_whole(
    write: Callable[[str], dict[str, object]],
    tmp_path: Path,
    postgres: PostgresServer,
    new_schema: NewSchema,
    chance: random.Random,
) -> None:
    schema = new_schema()
    with stack(tmp_path, QUICK) as running:
        await running.apply(project({"c": write("pg")}, {"pg": schema.destination}))
        await asyncio.to_thread(running.start_all)
        sender = Sender(running.port, chance.randrange(10**6))
        await sender.send(100)
        await verify(running, sender.books, {"c": schema})
        await schema.slow_down("events")
        for _ in range(ROUNDS):
            assert running.stop("loader") == 0
            await sender.send(8000, requests_of=1000)
            running.start("loader")
            await schema.wait_until(WRITING)
            await asyncio.sleep(chance.uniform(0, 0.3))
            postgres.kill()
            await asyncio.sleep(chance.uniform(0, 1))
            await asyncio.to_thread(postgres.start)
        await schema.speed_up("events")
        await verify(running, sender.books, {"c": schema})


@pytest.mark.timeout(240 * ROUNDS)
async def test_postgres_stopped_and_started_again_and_again_gets_everything_once(
    tmp_path: Path, postgres: PostgresServer, new_schema: NewSchema, chance: random.Random
) -> None:
    places: dict[str, Place] = {"a": new_schema(), "b": new_schema()}
    with stack(tmp_path, QUICK) as running:
        await running.apply(
            project({"a": batch("a"), "b": stream("b")}, {name: each.destination for name, each in places.items()})
        )
        await asyncio.to_thread(running.start_all)
        async with Sender(running.port, chance.randrange(10**6)).running() as books:
            for end in [postgres.stop, postgres.kill] * ROUNDS:
                await asyncio.sleep(chance.uniform(0.5, 2.0))
                await asyncio.to_thread(end)
                await asyncio.sleep(chance.uniform(0.5, 4.0))
                await asyncio.to_thread(postgres.start)
            await asyncio.sleep(1)
        assert set(books.statuses) <= {"200", "-"}, (
            books.statuses
        )  # "-": no answer in time, sent again  # nobody at the edge noticed
        await verify(running, books, places)


@pytest.mark.timeout(240 * ROUNDS)
async def test_a_connection_with_a_full_queue_does_not_stop_its_neighbour_and_catches_up(
    tmp_path: Path, postgres: PostgresServer, new_schema: NewSchema, chance: random.Random
) -> None:
    places: dict[str, Place] = {"stopped": new_schema(), "healthy": DuckSchema(tmp_path / "warehouse.duckdb")}
    document = project(
        {"stopped": stream("pg"), "healthy": stream("duck")},
        {"pg": places["stopped"].destination, "duck": places["healthy"].destination},
    )
    environment = {**QUICK, "PENSTOCK_DELIVER_MAX_FRAMES": "60", "PENSTOCK_ROUTER_PENDING_FRAMES": "16"}
    with stack(tmp_path, environment) as running:
        await running.apply(document)
        await asyncio.to_thread(running.start_all)
        postgres.stop()
        async with Sender(running.port, chance.randrange(10**6)).running() as books:
            async with asyncio.timeout(60):
                while not running.metric("router", "router_connection_stopped", connection="stopped"):
                    await asyncio.sleep(0.1)
            await asyncio.sleep(1)
            so_far = set(books.acknowledged)
            async with asyncio.timeout(60):
                while so_far - set((await places["healthy"].rows()).get("events", ())):
                    await asyncio.sleep(0.2)
            assert running.metric("router", "router_connection_stopped", connection="stopped") == 1
            await asyncio.to_thread(postgres.start)
            # it catches up although more keeps coming
            async with asyncio.timeout(60):
                while running.metric("router", "router_connection_stopped", connection="stopped"):
                    await asyncio.sleep(0.1)
        await verify(running, books, places)
