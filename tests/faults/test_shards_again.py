"""Connections with shards whose destination goes back or is wiped: each shard loads the missing events again, once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock.control.runs import rebuild
from shared.jetstream.broker import connect
from tests.faults.judge import verify
from tests.faults.places import Place, Schema
from tests.faults.project import project, stream
from tests.faults.test_rebuild import environment, forget_events, over
from tests.faults.test_went_back import COPY, PUT_BACK
from tests.support.sender import Sender
from tests.support.stack import stack


@pytest.mark.timeout(300)
async def test_what_a_destination_lost_from_before_a_change_of_the_number_comes_again_once(
    tmp_path: Path, new_schema: Callable[[], Schema], chance: random.Random
) -> None:
    schema = new_schema()
    places: dict[str, Place] = {"pg": schema}

    def document(shards: int) -> dict[str, Any]:
        return project({"pg": {**stream("pg"), "shards": shards}}, {"pg": schema.destination})

    with stack(tmp_path, environment(tmp_path)) as running:
        await running.apply(document(1))
        await asyncio.to_thread(running.start_all, "ingest", "router", "loader", "loader-2")
        sender = Sender(running.port, chance.randrange(10**6))
        async with connect(running.nats.url, "test") as broker:

            async def load(count: int) -> None:
                await sender.send(count, requests_of=20)
                await verify(running, sender.books, places, ids=True)

            await load(200)
            await schema.run(COPY)
            await load(200)
            await running.apply(document(3))
            await load(300)
            await schema.run(*PUT_BACK)
            await running.apply(document(2))
            async with sender.running():
                for victim in ("router", "loader"):
                    await asyncio.sleep(chance.uniform(0.2, 1.0))
                    running.kill(victim)
                    running.start(victim)
            await verify(running, sender.books, places, ids=True)

            # wiped, and EVENTS has nothing of it: each shard is rebuilt from the archive
            await forget_events(broker)
            for loader in ("loader", "loader-2"):
                running.kill(loader)
            await schema.run("DROP SCHEMA {} CASCADE")
            run = await rebuild(broker, "pg")
            for loader in ("loader", "loader-2"):
                running.start(loader)
            ended = await over(broker, run)
            assert ended.state == "done", ended
            assert set(ended.parts) == {"pg", "pg=2", "pg=3"}
            await verify(running, sender.books, places)
