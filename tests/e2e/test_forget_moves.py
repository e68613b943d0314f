"""A person is forgotten while events are replayed, while a destination is away, and while destinations are renamed and removed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loader.forgetting.work import LEFT
from shared.forget.requests import Place, read_receipt
from shared.jetstream.broker import connect
from tests.e2e.test_forget import DEVICE, JANE, events, in_lake, of_neighbours, penstock, send, texts, until
from tests.faults.places import DuckSchema
from tests.support.exactly_once import settled
from tests.support.ports import free_port
from tests.support.stack import Stack, stack

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Stack]:
    with stack(tmp_path, {}) as started:
        yield started


def replaying(running: Stack) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "penstock", "replay", "--site", "shop", "--from-seq", "1", "--connection", "merging", "--yes",
         "--id", "again", "--url", running.nats.url],
        env={**os.environ, "PENSTOCK_HOME": str(running.folder / "home")}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


async def test_a_person_is_forgotten_while_things_move(running: Stack) -> None:
    duck = DuckSchema(running.folder / "wh.duckdb")
    lake = {"type": "local", "path": str(running.folder / "lake"), "format": "ndjson"}
    away = {"type": "postgres", "dsn": f"postgresql://someone:x1234567@127.0.0.1:{free_port()}/db", "schema": "s"}
    stream: dict[str, Any] = {"site": "shop", "mode": "stream"}
    project: dict[str, Any] = {
        "sites": {"shop": {"keys": [{"id": "k"}]}},
        "destinations": {"duck": duck.destination, "lake": lake, "away": away},
        "connections": {
            "merging": {**stream, "destination": "duck", "layout": "single_table"},
            "files": {**stream, "destination": "lake", "deduplicate": False},
            "leaving": {**stream, "destination": "away"},
        },
    }
    everyone = of_neighbours(*range(200))
    async with connect(running.nats.url, "test") as broker:
        await running.apply(project)
        running.start_all("ingest", "router", "loader")
        send(running, events(0, 200))

        async def loaded() -> bool:
            return everyone <= set((await duck.rows()).get("events", ())) and everyone <= set(in_lake(running))

        await until(loaded, "the first events are not loaded")
        assert {"m0", "m1"} <= set(in_lake(running))
        replay = replaying(running)
        _, asked = await penstock(running, "--user", JANE, "--anonymous", DEVICE, "--no-wait")
        # the destination that does not answer holds the request open, and is named; its queue keeps events of the person
        place = Place(where="")

        async def waits() -> bool:
            receipt = await read_receipt(broker, asked["request"])
            nonlocal place
            place = next((each for each in receipt.places if each.where == "destination away"), place) if receipt else place
            return place.note.startswith("not done yet: ")

        await until(waits, "the receipt does not name the destination that is away")
        running.kill("loader")
        running.start("loader")
        _, said = await asyncio.to_thread(replay.communicate)
        assert replay.returncode == 0, said.decode()
        receipt = await read_receipt(broker, asked["request"])
        assert receipt is not None
        assert receipt.state != "done"
        # one destination gets another name, and the one that is away leaves with its connection
        del project["destinations"]["away"], project["connections"]["leaving"]
        project["destinations"]["renamed"] = project["destinations"].pop("lake")
        project["connections"]["files"]["destination"] = "renamed"
        await running.apply(project)
        send(running, events(200, 20))
        everyone |= of_neighbours(*range(200, 220))
        code, receipt_shown = await penstock(running, "--receipt", asked["request"])
        assert code == 0
        assert JANE not in texts(receipt_shown)
        stored = await read_receipt(broker, asked["request"])
        assert stored is not None
        assert stored.state == "done"
        places = {each.where: each for each in stored.places}
        assert places["destination away"].note == LEFT
        assert not places["destination away"].covered
        removed = [each.removed for where, each in places.items() if ", file tracks/" in where]
        assert sum(removed) >= 40
        assert places["destination duck, table events"].removed >= 40
        assert [where for where, each in places.items() if each.left and each.covered] == ["EVENTS"]
        await until(loaded, "neighbours are not loaded")
        await settled(running)
        assert in_lake(running) == Counter(everyone)
        assert Counter((await duck.rows())["events"]) == Counter(everyone)
