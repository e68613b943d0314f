"""Connections that move between destinations with and without a ledger while loads are under way, with loaders killed and not: each event is in one place."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.judge import verify
from tests.faults.places import ClickDatabase, DuckSchema, Files, Place
from tests.faults.project import QUICK, ROUNDS, batch, project
from tests.faults.test_kills import kill_and_start
from tests.support.clickhouse import ClickHouseServer
from tests.support.exactly_once import Rows
from tests.support.sender import Sender
from tests.support.stack import stack
from tests.support.step_proxy import StepProxy

MOVES = 8 * ROUNDS
OFTEN = {"batch": {"period": "1s", "max_rows": 100}}
"""Small loads, so that one is under way most of the time."""
STEPS_OF_A_LOAD = range(11, 17)
"""Requests of a loader from its start: those of its first load into ClickHouse, before the insert, the insert, and behind it."""


@pytest.fixture(scope="module")
def clickhouse_server() -> Iterator[ClickHouseServer]:
    """One server for the file."""
    with ClickHouseServer() as server:
        yield server


class Together:
    """The places of one connection, which moves between them."""

    def __init__(self, *places: Place) -> None:
        self.places = places

    async def rows(self) -> Rows:
        """See `Place`."""
        found: dict[str, Counter[str]] = {}
        for place in self.places:
            for table, rows in (await place.rows()).items():
                found[table] = found.get(table, Counter()) + rows
        return found

    @property
    def destination(self) -> dict[str, Any]:
        """See `Place`."""
        return self.places[0].destination


@pytest.mark.timeout(240 * ROUNDS)
@pytest.mark.parametrize("kills", [False, True], ids=["applied", "killed"])
async def test_connections_that_move_to_and_fro_under_load_have_each_event_in_one_place(
    kills: bool, tmp_path: Path, clickhouse_server: ClickHouseServer, chance: random.Random
) -> None:
    click = [ClickDatabase(clickhouse_server, f"moved_{kills}_{number}".lower()) for number in range(3)]
    pairs = {
        "files": Together(Files(tmp_path / "files"), DuckSchema(tmp_path / "one.duckdb")),
        "click": Together(click[0], DuckSchema(tmp_path / "two.duckdb")),
        "none": Together(Files(tmp_path / "others"), click[1]),
        "same": Together(Files(tmp_path / "here"), Files(tmp_path / "there")),
    }
    destinations = {f"{name}{side}": place.destination for name, pair in pairs.items() for side, place in enumerate(pair.places)}

    def moved(side: int) -> dict[str, Any]:
        return project({name: batch(f"{name}{side}", **OFTEN) for name in pairs}, destinations)

    with stack(tmp_path / "stack", {**QUICK, "PENSTOCK_LOADER_LEASE": "2s"}) as running:
        await running.apply(moved(0))
        await asyncio.to_thread(running.start_all)
        async with Sender(running.port, chance.randrange(10**6)).running() as books:
            for move in range(1, MOVES + 1):
                if move < 3:
                    await begun(pair.places[1 - move % 2] for pair in pairs.values())
                await asyncio.sleep(chance.uniform(1.0, 3.0))
                if kills and move % 2:
                    running.kill("loader")
                await running.apply(moved(move % 2))
                if kills:
                    await kill_and_start(running, "loader", chance)
            await asyncio.sleep(1)
        await verify(running, books, pairs)


async def begun(places: Iterable[Place], seconds: float = 60.0) -> None:
    """Waits until each place has rows: so each connection was loaded into both of its places."""
    async with asyncio.timeout(seconds):
        for place in places:
            while not await place.rows():
                await asyncio.sleep(0.1)


@pytest.mark.timeout(240 * ROUNDS)
async def test_a_load_that_was_cut_off_by_a_kill_at_any_request_is_ended_before_its_connection_goes_on_elsewhere(
    tmp_path: Path, clickhouse_server: ClickHouseServer, chance: random.Random
) -> None:
    async with StepProxy(clickhouse_server.place.url) as proxy:
        pair = Together(ClickDatabase(clickhouse_server, "cut_off", proxy.port), DuckSchema(tmp_path / "wh.duckdb"))
        destinations = {str(side): place.destination for side, place in enumerate(pair.places)}

        def moved(side: int) -> dict[str, Any]:
            return project({"c": batch(str(side), **OFTEN)}, destinations)

        with stack(tmp_path / "stack", {**QUICK, "PENSTOCK_LOADER_LEASE": "2s"}) as running:
            await running.apply(moved(0))
            await asyncio.to_thread(running.start_all)
            sender = Sender(running.port, chance.randrange(10**6))
            await sender.send(100)
            await verify(running, sender.books, {"c": pair})
            for step in STEPS_OF_A_LOAD:
                print(f"kill behind request {step}, then move")
                running.kill("loader")
                await running.apply(moved(0))
                proxy.at(step, "behind", lambda: running.kill("loader"))
                await sender.send(150)
                running.start("loader")
                async with asyncio.timeout(60):
                    while proxy.armed:
                        await asyncio.sleep(0.02)
                await running.apply(moved(1))
                running.start("loader")
                await verify(running, sender.books, {"c": pair})
