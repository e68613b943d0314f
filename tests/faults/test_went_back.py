"""An older copy of a warehouse is put back, under a loader that runs and under one that is stopped: what is missing arrives again."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from router.replay.run import replay
from shared.jetstream.broker import connect
from shared.project.snapshot import current_snapshot
from tests.e2e.loader_support import not_ready
from tests.faults.judge import verify
from tests.faults.places import DuckSchema, Place, Schema
from tests.faults.project import QUICK, SITE, batch, project, stream
from tests.support.exactly_once import settled
from tests.support.sender import Sender
from tests.support.stack import stack

NewSchema = Callable[[], Schema]

COPY = """
DO $$ DECLARE name text; BEGIN
  CREATE SCHEMA {}_copy;
  FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = '{}' LOOP
    EXECUTE format('CREATE TABLE {}_copy.%I (LIKE {}.%I INCLUDING ALL)', name, name);
    EXECUTE format('INSERT INTO {}_copy.%I SELECT * FROM {}.%I', name, name);
  END LOOP;
END $$"""
PUT_BACK = ("DROP SCHEMA {} CASCADE", "ALTER SCHEMA {}_copy RENAME TO {}")


async def copy_file(duck: DuckSchema, source: Path, target: Path) -> None:
    """Copies a database file while nobody writes to it."""
    async with duck.held():
        shutil.copyfile(source, target)


@pytest.mark.timeout(240)
async def test_what_a_restored_warehouse_lacks_is_loaded_again_once(
    tmp_path: Path, new_schema: NewSchema, chance: random.Random
) -> None:
    schema, duck = new_schema(), DuckSchema(tmp_path / "warehouse.duckdb")
    places: dict[str, Place] = {"pg": schema, "duck": duck}
    document = project({"pg": stream("pg"), "duck": batch("duck")}, {name: each.destination for name, each in places.items()})
    copy = tmp_path / "copy.duckdb"
    with stack(tmp_path, QUICK) as running:
        await running.apply(document)
        await asyncio.to_thread(running.start_all)
        sender = Sender(running.port, chance.randrange(10**6))

        async def load(count: int) -> None:
            await sender.send(count, requests_of=20)
            await verify(running, sender.books, places)

        await load(400)
        await copy_file(duck, duck.path, copy)
        await schema.run(COPY)
        await load(400)
        await schema.run(*PUT_BACK)
        await copy_file(duck, copy, duck.path)
        await load(100)
        for name in places:
            assert running.metric("loader", "loader_destination_went_back_total", connection=name) == 1

        await copy_file(duck, duck.path, copy)
        await schema.run(COPY)
        await load(200)
        assert await asyncio.to_thread(running.stop, "loader") == 0
        await schema.run(*PUT_BACK)
        shutil.copyfile(copy, duck.path)
        running.freeze("router")
        running.start("loader")
        async with asyncio.timeout(60):
            while (await not_ready(running)).count("the destination went back to an older state") < len(places):
                await asyncio.sleep(0.05)
        running.thaw("router")
        await load(100)
        async with asyncio.timeout(60):
            while await not_ready(running):
                await asyncio.sleep(0.05)

        # what a replay doubled since the copy is there twice again, in a lane of its own
        await schema.run(COPY)
        async with connect(running.nats.url, "test") as broker:
            await replay(broker, await current_snapshot(broker), SITE, replay_id="r", connection="pg")
            await settled(running)
            twice = (await schema.rows())["events"]
            assert set(twice.values()) == {2}
            await schema.run(*PUT_BACK)
            await sender.send(20, requests_of=20)
            async with asyncio.timeout(60):
                while (rows := (await schema.rows())["events"]) != Counter(
                    dict.fromkeys(sender.books.acknowledged, 1)
                ) + twice - Counter(dict.fromkeys(twice, 1)):
                    await asyncio.sleep(0.2)
            await settled(running)
        assert (await schema.rows())["events"] == rows
        async with asyncio.timeout(60):
            while await not_ready(running):
                await asyncio.sleep(0.05)
