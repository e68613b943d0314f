"""Tables altered behind the loader's back while it loads, and one table that fails while others do not."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.judge import verify
from tests.faults.places import DuckSchema, Gathered, Schema
from tests.faults.project import QUICK, ROUNDS, batch, merging, project, stream
from tests.support.postgres import PASSWORD, PostgresServer
from tests.support.sender import Event, Fate, Sender, track
from tests.support.stack import stack

NewSchema = Callable[[], Schema]

RENAME = "ALTER TABLE {}.events RENAME TO events_%d"
ALTERATIONS = (
    "ALTER TABLE {}.events DROP COLUMN IF EXISTS sku",
    "ALTER TABLE {}.events DROP COLUMN IF EXISTS note",
    "ALTER TABLE {}.events ADD COLUMN IF NOT EXISTS extra_%d date",
    "ALTER TABLE {}.events ALTER COLUMN total TYPE text",
    "ALTER TABLE {}.events ALTER COLUMN total TYPE double precision USING 0",
)


def growing(id_: str, chance: random.Random) -> tuple[Event, Fate]:
    """A track event that now and then has a property nobody had before, which somebody may have made a date meanwhile."""
    event, fate = track(id_, chance)
    event["properties"][f"extra{chance.randrange(6)}"] = chance.choice([1, "text", "2026-01-01", {"a": 1}])
    return event, fate


@pytest.mark.timeout(240 * ROUNDS)
@pytest.mark.parametrize("write", [batch, stream, lambda name: merging(stream(name))], ids=["batch", "stream", "merge"])
async def test_a_postgres_table_altered_renamed_and_dropped_while_it_is_loaded_gets_every_event_once(
    write: Callable[[str], dict[str, object]], tmp_path: Path, new_schema: NewSchema, chance: random.Random
) -> None:
    schema = new_schema()
    place = Gathered(schema)
    with stack(tmp_path, QUICK) as running:
        await running.apply(project({"c": write("pg")}, {"pg": schema.destination}))
        await asyncio.to_thread(running.start_all)
        async with Sender(running.port, chance.randrange(10**6), make=growing).running() as books:
            await schema.wait_until("SELECT 1 FROM pg_tables WHERE schemaname = '{}' AND tablename = 'events'")
            plan = [*ALTERATIONS, RENAME, "DROP"] * ROUNDS
            chance.shuffle(plan)
            for number, alteration in enumerate(plan):
                await asyncio.sleep(chance.uniform(0.2, 1.0))
                print(alteration)
                if alteration == "DROP":
                    place.taken.update(await schema.drop("events", "message_id"))
                else:
                    await schema.run(alteration.replace("%d", str(number)))
                if alteration in ("DROP", RENAME):
                    await schema.wait_until("SELECT 1 FROM pg_tables WHERE schemaname = '{}' AND tablename = 'events'")
            await asyncio.sleep(1)
        await verify(running, books, {"c": place})


@pytest.mark.timeout(240 * ROUNDS)
async def test_a_duckdb_table_altered_renamed_and_dropped_between_loads_gets_every_event_once(
    tmp_path: Path, chance: random.Random
) -> None:
    duck = DuckSchema(tmp_path / "warehouse.duckdb")
    place = Gathered(duck)
    with stack(tmp_path, QUICK) as running:
        await running.apply(project({"c": batch("duck")}, {"duck": duck.destination}))
        await asyncio.to_thread(running.start_all)
        async with Sender(running.port, chance.randrange(10**6), make=growing).running() as books:
            await duck.has("events")
            plan = [
                "ALTER TABLE events DROP COLUMN IF EXISTS sku",
                "ALTER TABLE events ADD COLUMN extra_%d date",
                "ALTER TABLE events ALTER COLUMN total TYPE text",
                "ALTER TABLE events RENAME TO events_%d",
                "DROP",
            ] * ROUNDS
            chance.shuffle(plan)
            for number, alteration in enumerate(plan):
                await asyncio.sleep(chance.uniform(0.2, 1.0))
                print(alteration)
                if alteration == "DROP":
                    place.taken.update(await duck.drop("events", "message_id"))
                else:
                    await duck.run(alteration.replace("%d", str(number)))
                await duck.has("events")
            await asyncio.sleep(1)
        await verify(running, books, {"c": place})


@pytest.mark.timeout(240 * ROUNDS)
async def test_the_rows_of_a_table_that_may_not_be_written_wait_and_arrive_once_while_others_are_loaded_also_over_kills(
    tmp_path: Path, postgres: PostgresServer, new_schema: NewSchema, chance: random.Random
) -> None:
    role = f"r_{secrets.token_hex(4)}"
    schema = Schema(postgres, new_schema().name, role)
    await schema.run(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'", f"CREATE SCHEMA {{}} AUTHORIZATION {role}")

    def make(id_: str, dice: random.Random) -> tuple[Event, Fate]:
        event, _ = track(id_, dice)
        event["event"], table = dice.choice([("Order Completed", "order_completed"), ("Product Viewed", "product_viewed")])
        return event, Fate(("tracks", table))

    with stack(tmp_path, QUICK) as running:
        await running.apply(project({"c": {**batch("pg"), "layout": "segment"}}, {"pg": schema.destination}))
        await asyncio.to_thread(running.start_all)
        async with Sender(running.port, chance.randrange(10**6), make=make, pause_seconds=0.2).running() as books:
            await schema.wait_until("SELECT 1 FROM pg_tables WHERE schemaname = '{}' AND tablename = 'order_completed'")
            await schema.run(f"REVOKE ALL ON {{}}.order_completed FROM {role}")
            for _ in range(2):
                known = len(books.acknowledged)
                await schema.wait_until(f"SELECT 1 FROM {{}}.tracks HAVING count(*) >= {known}")
                running.kill("loader")
                running.start("loader")
            known = len(books.acknowledged)
            await schema.wait_until(f"SELECT 1 FROM {{}}.tracks HAVING count(*) >= {known}")
            assert len(await schema.fetch("SELECT id FROM {}.product_viewed")) > 0
            counted = len(await schema.fetch("SELECT id FROM {}.order_completed"))
            assert counted < sum("order_completed" in books.fates[id_].tables for id_ in books.acknowledged)
            await schema.run(f"GRANT ALL ON {{}}.order_completed TO {role}")
            await asyncio.sleep(1)
        await verify(running, books, {"c": schema}, seconds=90)
