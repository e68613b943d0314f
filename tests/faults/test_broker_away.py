"""The broker stays away for a while, and clients go on: with a journal they are acknowledged, without they are told when to try again."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.judge import verify
from tests.faults.places import Schema
from tests.faults.project import QUICK, batch, project
from tests.support.sender import Sender
from tests.support.stack import Stack, stack

NewSchema = Callable[[], Schema]

AWAY_SECONDS = float(os.environ.get("PENSTOCK_FAULT_AWAY", "15"))
"""Longer than every deadline, lease and patience on the path. `make faults` takes a minute, as a broker that is moved to another machine."""
SHORT_SECONDS = min(AWAY_SECONDS, 5.0)
"""Without a journal nothing piles up, so longer is only more of the same."""
LIMIT_SECONDS = int(240 + 2 * AWAY_SECONDS)


def journals(folder: Path) -> list[Path]:
    return list(folder.rglob("*.journal"))


async def emptied(folder: Path, seconds: float = 60.0) -> None:
    """Waits until nothing is in the journal."""
    async with asyncio.timeout(seconds):
        while journals(folder):
            await asyncio.sleep(0.1)


async def start(running: Stack, schema: Schema) -> None:
    await running.apply(project({"c": batch("pg")}, {"pg": schema.destination}))
    await asyncio.to_thread(running.start_all)


@pytest.mark.timeout(LIMIT_SECONDS)
async def test_with_a_journal_clients_are_acknowledged_while_the_broker_is_away(
    tmp_path: Path, new_schema: NewSchema, chance: random.Random
) -> None:
    schema, spool = new_schema(), tmp_path / "spool"
    with stack(tmp_path, {**QUICK, "PENSTOCK_INGEST_SPOOL_DIR": str(spool)}) as running:
        await start(running, schema)
        async with Sender(running.port, chance.randrange(10**6)).running() as books:
            await asyncio.sleep(1)
            running.nats.kill()
            await asyncio.sleep(2.5)
            before = len(books.acknowledged)
            await asyncio.sleep(AWAY_SECONDS)
            assert len(books.acknowledged) > before, "nothing was acknowledged from the journal"
            assert journals(spool)
            await asyncio.to_thread(running.nats.start)
            await asyncio.sleep(3)
        assert set(books.statuses) <= {"200", "-"}, books.statuses  # "-": no answer in time, sent again
        await emptied(spool)
        await verify(running, books, {"c": schema})


@pytest.mark.timeout(LIMIT_SECONDS)
async def test_without_a_journal_clients_get_503_with_retry_after_and_nothing_they_retry_is_doubled(
    tmp_path: Path, new_schema: NewSchema, chance: random.Random
) -> None:
    schema = new_schema()
    with stack(tmp_path, {**QUICK, "PENSTOCK_INGEST_DEADLINE": "2s"}) as running:
        await start(running, schema)
        async with Sender(running.port, chance.randrange(10**6)).running() as books:
            await asyncio.sleep(1)
            running.nats.kill()
            await asyncio.sleep(SHORT_SECONDS)
            await asyncio.to_thread(running.nats.start)
            await asyncio.sleep(3)
        assert books.statuses["503"], books.statuses
        assert set(books.statuses) == {"200", "503"}, books.statuses
        await verify(running, books, {"c": schema})


@pytest.mark.timeout(LIMIT_SECONDS)
async def test_an_edge_killed_with_a_full_journal_and_a_torn_record_sends_all_that_was_acknowledged(
    tmp_path: Path, new_schema: NewSchema, chance: random.Random
) -> None:
    schema, spool = new_schema(), tmp_path / "spool"
    with stack(
        tmp_path, {**QUICK, "PENSTOCK_INGEST_SPOOL_DIR": str(spool), "PENSTOCK_CACHE_DIR": str(tmp_path / "cache")}
    ) as running:
        await start(running, schema)
        async with Sender(running.port, chance.randrange(10**6)).running() as books:
            await asyncio.sleep(1)
            running.nats.kill()
            for _ in range(2):
                async with asyncio.timeout(60):
                    while not journals(spool):
                        await asyncio.sleep(0.1)
                await asyncio.sleep(chance.uniform(2.0, 3.0))
                running.kill("ingest")
                # what a crash in the middle of a write leaves: the beginning of a record at the end of the file
                newest = max(journals(spool))
                with newest.open("ab") as file:
                    file.write(newest.read_bytes()[: chance.randrange(1, 400)])
                running.start("ingest")
            await asyncio.sleep(2.5)
            await asyncio.to_thread(running.nats.start)
            await asyncio.sleep(3)
        await emptied(spool)
        await verify(running, books, {"c": schema})


@pytest.mark.timeout(LIMIT_SECONDS)
async def test_a_journal_whose_disk_is_full_refuses_and_keeps_what_it_acknowledged(
    tmp_path: Path, small_disk: Path, new_schema: NewSchema, chance: random.Random
) -> None:
    schema = new_schema()
    with stack(tmp_path, {**QUICK, "PENSTOCK_INGEST_SPOOL_DIR": str(small_disk)}) as running:
        await start(running, schema)
        sender = Sender(running.port, chance.randrange(10**6), batches=(1, 40, 200), pause_seconds=0.005)
        async with sender.running() as books:
            running.nats.kill()
            async with asyncio.timeout(60):
                while not books.statuses["503"]:
                    await asyncio.sleep(0.1)
            acknowledged = len(books.acknowledged)
            assert acknowledged
            await asyncio.sleep(1)
            await asyncio.to_thread(running.nats.start)
            async with asyncio.timeout(60):
                while len(books.acknowledged) < acknowledged + 1000:
                    await asyncio.sleep(0.1)
        await emptied(small_disk)
        await verify(running, books, {"c": schema})
