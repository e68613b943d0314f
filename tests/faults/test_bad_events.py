"""A bad event in every batch: refused by the edge, by a rule, or by the destination. It hurts only itself, once, also over kills."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.judge import verify
from tests.faults.places import DuckSchema, Schema
from tests.faults.project import QUICK, ROUNDS, batch, merging, project, stream
from tests.support.duckdb_file import opened
from tests.support.sender import EVENTS, Event, Fate, Sender, track
from tests.support.stack import stack

NewSchema = Callable[[], Schema]

TABLE = """CREATE TABLE {}.events (
    message_id text PRIMARY KEY, total numeric CHECK (total < 1000), sku text CHECK (length(sku) <= 8),
    grade integer CHECK (grade >= 0), count bigint, note text NOT NULL
)"""
"""A table of somebody who means it."""

REFUSED = Fate(reasons=("rejected_by_destination",))
CONFLICT = Fate(reasons=("type_conflict",))


def picky(share: float) -> Callable[[str, random.Random], tuple[Event, Fate]]:
    """Returns a maker of events of which so large a share is bad, each in one of several ways."""

    def make(id_: str, chance: random.Random) -> tuple[Event, Fate]:
        event, _ = track(id_, chance)
        properties = {"total": 12.25, "sku": "short", "grade": 1, "count": 3, "note": "n"}
        event["properties"] = properties
        if chance.random() >= share:
            return event, EVENTS
        match chance.randrange(7):
            case 0:
                properties["grade"] = -1
                return event, REFUSED
            case 1:
                del properties["note"]
                return event, REFUSED
            case 2:
                properties["sku"] = "longer than eight"
                return event, REFUSED
            case 3:
                properties["total"] = 123456.5
                return event, REFUSED
            case 4:
                properties["count"] = "not a number"
                return event, CONFLICT
            case 5:
                del event["event"]
                return event, Fate(reasons=("missing_id",))
            case _:
                event["properties"] = "no object"
                return event, Fate(reasons=("wrong_type",))

    return make


def refusing(connection: dict[str, object]) -> dict[str, object]:
    return {**connection, "on_conflict": "dead_letter"}


@pytest.mark.timeout(240 * ROUNDS)
@pytest.mark.parametrize("write", [batch, stream, lambda name: merging(batch(name))], ids=["append", "stream", "merge"])
async def test_bad_events_in_every_batch_are_dead_once_and_their_neighbours_loaded_also_over_kills_of_the_loader(
    write: Callable[[str], dict[str, object]], tmp_path: Path, new_schema: NewSchema, chance: random.Random
) -> None:
    schema = new_schema()
    key = "PRIMARY KEY" if write is not batch and write is not stream else ""
    await schema.run("CREATE SCHEMA {}", TABLE.replace("PRIMARY KEY", key))
    with stack(tmp_path, QUICK) as running:
        await running.apply(project({"c": refusing(write("pg"))}, {"pg": schema.destination}))
        await asyncio.to_thread(running.start_all)
        async with Sender(running.port, chance.randrange(10**6), make=picky(0.03), pause_seconds=0.1).running() as books:
            for _ in range(2 * ROUNDS):
                await asyncio.sleep(chance.uniform(0.5, 3.0))
                running.kill("loader")
                running.start("loader")
            await asyncio.sleep(2)
        await verify(running, books, {"c": schema})


@pytest.mark.timeout(240 * ROUNDS)
async def test_bad_events_in_every_batch_hurt_nobody_in_duckdb(tmp_path: Path, chance: random.Random) -> None:
    place = DuckSchema(tmp_path / "warehouse.duckdb")
    with opened(place.path) as link:
        link.execute(TABLE.replace("{}", "main").replace("PRIMARY KEY", ""))
    with stack(tmp_path, QUICK) as running:
        await running.apply(project({"c": refusing(batch("duck"))}, {"duck": place.destination}))
        await asyncio.to_thread(running.start_all)
        async with Sender(running.port, chance.randrange(10**6), make=picky(0.03), pause_seconds=0.1).running() as books:
            for _ in range(2 * ROUNDS):
                await asyncio.sleep(chance.uniform(0.5, 3.0))
                running.kill("loader")
                running.start("loader")
            await asyncio.sleep(2)
        await verify(running, books, {"c": place})


@pytest.mark.timeout(240 * ROUNDS)
async def test_hundreds_of_refused_rows_in_one_load_are_all_found_and_nobody_else(
    tmp_path: Path, new_schema: NewSchema, chance: random.Random
) -> None:
    schema = new_schema()
    await schema.run("CREATE SCHEMA {}", TABLE.replace("PRIMARY KEY", ""))
    with stack(tmp_path, QUICK) as running:
        await running.apply(project({"c": refusing(batch("pg"))}, {"pg": schema.destination}))
        await asyncio.to_thread(running.start_all, "ingest", "router")
        sender = Sender(running.port, chance.randrange(10**6), make=picky(0.2))
        await sender.send(2000, requests_of=500)
        await asyncio.to_thread(running.start_all, "loader")
        await verify(running, sender.books, {"c": schema})


@pytest.mark.timeout(240 * ROUNDS)
async def test_a_bad_event_whose_request_had_no_answer_and_was_sent_again_is_dead_once(
    tmp_path: Path, new_schema: NewSchema, chance: random.Random
) -> None:
    schema = new_schema()
    with stack(tmp_path, QUICK) as running:
        await running.apply(project({"c": stream("pg")}, {"pg": schema.destination}))
        await asyncio.to_thread(running.start_all)

        def make(id_: str, dice: random.Random) -> tuple[Event, Fate]:
            event, fate = track(id_, dice)
            if dice.random() < 0.3:
                del event["event"]
                fate = Fate(reasons=("missing_id",))
            return event, fate

        async with Sender(running.port, chance.randrange(10**6), make=make, workers=8, pause_seconds=0.01).running() as books:
            for _ in range(3 * ROUNDS):
                await asyncio.sleep(chance.uniform(0.5, 1.5))
                running.kill("ingest")
                await asyncio.to_thread(running.start_all, "ingest")
                await asyncio.sleep(chance.uniform(0.5, 1.0))
                running.nats.kill()
                await asyncio.to_thread(running.nats.start)
            await asyncio.sleep(1)
        assert books.statuses["-"], "no request went without an answer, so nothing was tested"
        await verify(running, books, {"c": schema})
