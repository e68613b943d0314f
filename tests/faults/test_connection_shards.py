"""Connections with shards, from the edge to Postgres: the number changes under load while routers and loaders die, and one of them freezes."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from shared.jetstream.broker import connect
from tests.faults.judge import verify
from tests.faults.places import Place, Schema
from tests.faults.project import QUICK, ROUNDS, batch, merging, project, stream
from tests.support.exactly_once import settled
from tests.support.sender import Sender
from tests.support.shards import users
from tests.support.stack import stack


@pytest.mark.timeout(240 * ROUNDS)
async def test_the_number_changes_while_processes_die_and_nothing_is_lost_or_doubled(
    tmp_path: Path, new_schema: Callable[[], Schema], chance: random.Random
) -> None:
    places: dict[str, Place] = {"pg-stream": new_schema(), "pg-merge": new_schema()}
    destinations = {name: place.destination for name, place in places.items()}

    def document(shards: int) -> dict[str, Any]:
        connections = {"pg-stream": stream("pg-stream"), "pg-merge": merging(batch("pg-merge"))}
        return project({name: {**each, "shards": shards} for name, each in connections.items()}, destinations)

    with stack(tmp_path, QUICK) as running:
        await running.apply(document(1))
        await asyncio.to_thread(running.start_all, "ingest", "router", "loader", "loader-2")
        async with Sender(running.port, chance.randrange(10**6)).running() as books:
            for shards in (3, 2) * ROUNDS:
                await running.apply(document(shards))
                for victim in ("loader", "router", chance.choice(["loader-2", "router"])):
                    await asyncio.sleep(chance.uniform(0.2, 0.8))
                    if chance.random() < 0.3:
                        running.freeze(victim)
                        await asyncio.sleep(3)
                        running.thaw(victim)
                    else:
                        running.kill(victim)
                        await asyncio.sleep(chance.uniform(0, 0.3))
                        running.start(victim)
        await verify(running, books, places, ids=True)


@pytest.mark.timeout(240)
async def test_the_events_of_each_user_are_committed_in_order_through_changes_and_kills(
    tmp_path: Path, new_schema: Callable[[], Schema], chance: random.Random
) -> None:
    place = new_schema()
    documents = {
        shards: project({"pg": {**stream("pg"), "shards": shards}}, {"pg": place.destination}, shards=1) for shards in (1, 3, 2)
    }
    with stack(tmp_path, QUICK) as running:
        await running.apply(documents[1])
        await asyncio.to_thread(running.start_all, "router", "loader", "loader-2")
        async with connect(running.url, "test") as broker, users(broker, pause_seconds=0.02) as sending:
            for shards in (3, 2, 1):
                await until_loaded(place, 60 + sum((await place.rows()).get("events", {}).values()))
                await sending.change(documents[shards])
                victim = chance.choice(["loader", "loader-2", "router"])
                running.kill(victim)
                running.start(victim)
            await until_loaded(place, 60 + sum((await place.rows()).get("events", {}).values()))
        await settled(running, 90)
    link = await asyncpg.connect(place.server.dsn())
    rows = await link.fetch(f'SELECT message_id, xmin::text::bigint AS at FROM "{place.name}".events')
    await link.close()
    assert sorted(row["message_id"] for row in rows) == sorted(sending.ids)
    # a transaction has its number from its first write on, so a later one of another loader has a higher number
    committed: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for row in rows:
        user, _, number = row["message_id"].partition("-")
        committed[user].append((int(number), row["at"]))
    for user, events in committed.items():
        transactions = [at for _, at in sorted(events)]
        assert transactions == sorted(transactions), user


async def until_loaded(place: Schema, events: int) -> None:
    """Waits until so many events are in the destination."""
    async with asyncio.timeout(90):
        while sum((await place.rows()).get("events", {}).values()) < events:
            await asyncio.sleep(0.1)
