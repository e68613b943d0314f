"""A loader, a MySQL server and a broker that die under load: every event is in its table once, and `status --check` agrees."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.judge import verify
from tests.faults.places import MyDatabase
from tests.faults.project import QUICK, ROUNDS, batch, merging, project, stream
from tests.support.mysql import MySQLServer, run_sql
from tests.support.sender import Sender
from tests.support.stack import stack


@pytest.mark.timeout(240 * ROUNDS)
async def test_a_loader_and_a_mysql_server_killed_again_and_again_lose_and_double_nothing(
    mysql: MySQLServer, tmp_path: Path, chance: random.Random
) -> None:
    kinds: dict[str, Callable[[str], dict[str, Any]]] = {
        "batch": batch,
        "stream": lambda name: stream(name, shards=2),
        "merge": lambda name: merging(batch(name)),
    }
    places = {name: MyDatabase(mysql, f"of_{name}_{secrets.token_hex(4)}") for name in kinds}
    for place in places.values():
        await run_sql(mysql.dsn(), f"CREATE DATABASE {place.name}")
    with stack(tmp_path, QUICK) as running:
        connections = {name: make(name) for name, make in kinds.items()}
        await running.apply(project(connections, {name: place.destination for name, place in places.items()}))
        await asyncio.to_thread(running.start_all)
        async with Sender(running.port, chance.randrange(10**6)).running() as books:
            for _ in range(4 * ROUNDS):
                await asyncio.sleep(chance.choice([0.3, 1.0, 2.0]) * chance.uniform(0.5, 1.5))
                victim = chance.choice(["loader", "mysql"])
                print(f"kill {victim}")
                if victim == "mysql":
                    mysql.kill()
                    await asyncio.sleep(chance.uniform(0, 0.5))
                    await asyncio.to_thread(mysql.start)
                else:
                    running.kill(victim)
                    await asyncio.sleep(chance.uniform(0, 0.5))
                    running.start(victim)
            await asyncio.sleep(1)
        await verify(running, books, places, ids=True)
