"""A warehouse is wiped, and EVENTS has most of it no longer: under load and kills a rebuild from the archive brings each event once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock.control.runs import find_run, rebuild, want
from router.replay.runs import MENDED
from shared.archive.note import read_note
from shared.jetstream import topology
from shared.jetstream.broker import Broker, connect
from shared.jetstream.identity import identify
from shared.streams.runs import Run, begin_run
from tests.faults.judge import verify
from tests.faults.places import DuckSchema, Place, Schema
from tests.faults.project import QUICK, SITE, batch, merging, project, stream
from tests.faults.test_lost_store import lose_the_store
from tests.support.exactly_once import settled
from tests.support.sender import Sender
from tests.support.stack import Stack, stack

NewSchema = Callable[[], Schema]


def environment(folder: Path) -> dict[str, str]:
    return {**QUICK, "PENSTOCK_ROUTER_ARCHIVE_DIR": str(folder / "archive"), "PENSTOCK_ROUTER_ARCHIVE_PERIOD": "1s"}


async def forget_events(broker: Broker) -> None:
    """Removes from EVENTS what the archive has, once it has all."""
    last = (await identify(broker, topology.EVENTS)).last_seq
    async with asyncio.timeout(60):
        while (note := await read_note(broker, SITE)) is None or max(note.position, note.seen) < last:
            await asyncio.sleep(0.1)
    await broker.js.purge_stream(topology.EVENTS, seq=last + 1)


async def over(broker: Broker, run: Run) -> Run:
    async with asyncio.timeout(120):
        while not (run := await find_run(broker, run.id)).is_over:
            await asyncio.sleep(0.1)
    return run


@contextlib.asynccontextmanager
async def warehouses(
    folder: Path, schema: Schema, chance: random.Random
) -> AsyncIterator[tuple[Stack, Sender, dict[str, Place], dict[str, Any]]]:
    """Runs a stack with an archive, and connections that append to Postgres and DuckDB; gives stack, sender, places and project."""
    places: dict[str, Place] = {"pg": schema, "duck": DuckSchema(folder / "warehouse.duckdb")}
    document = project({"pg": stream("pg"), "duck": batch("duck")}, {name: each.destination for name, each in places.items()})
    with stack(folder, environment(folder)) as running:
        await running.apply(document)
        await asyncio.to_thread(running.start_all)
        yield running, Sender(running.port, chance.randrange(10**6)), places, document


async def wipe(places: dict[str, Place]) -> None:
    """Drops all tables, the ledgers among them, while no loader runs."""
    schema, duck = places["pg"], places["duck"]
    assert isinstance(schema, Schema)
    assert isinstance(duck, DuckSchema)
    await schema.run("DROP SCHEMA {} CASCADE")
    duck.path.unlink()


@pytest.mark.timeout(300)
async def test_a_wiped_warehouse_is_rebuilt_under_load_and_kills(
    tmp_path: Path, new_schema: NewSchema, chance: random.Random
) -> None:
    async with (
        warehouses(tmp_path, new_schema(), chance) as (running, sender, places, _),
        connect(running.nats.url, "test") as broker,
    ):
        await sender.send(2000, requests_of=20)
        await settled(running)
        await forget_events(broker)
        running.kill("loader")
        await wipe(places)
        runs = [await rebuild(broker, "pg"), await rebuild(broker, "duck")]
        running.start("loader")
        async with sender.running():
            for _ in range(2):
                for victim in ("router", "loader"):
                    await asyncio.sleep(chance.uniform(0.2, 1.5))
                    running.kill(victim)
                    running.start(victim)
            ended = [await over(broker, run) for run in runs]
        assert [run.state for run in ended] == ["done", "done"], ended
        await verify(running, sender.books, places)
        for run in ended:
            (part,) = run.parts.values()
            assert part.first in (0, 1), "0: the loader found the wipe, and mended it, before the run asked"
            assert part.done_ratio == 1
        # all is there: another rebuild finds nothing to do, and doubles nothing
        run = await over(broker, await rebuild(broker, "pg"))
        assert (run.state, run.parts["pg"].why) == ("done", MENDED)
        await verify(running, sender.books, places)


@pytest.mark.timeout(240)
async def test_a_rebuild_tells_of_a_damaged_archive_is_paused_resumed_and_merges_into_what_is_there(
    tmp_path: Path, new_schema: NewSchema, chance: random.Random
) -> None:
    schema = new_schema()
    places: dict[str, Place] = {"pg": schema}
    document = project({"pg": merging(stream("pg"))}, {"pg": schema.destination})
    with stack(tmp_path, environment(tmp_path)) as running:
        await running.apply(document)
        await asyncio.to_thread(running.start_all)
        sender = Sender(running.port, chance.randrange(10**6))
        async with connect(running.nats.url, "test") as broker:
            await sender.send(500, requests_of=20)
            await settled(running)
            await forget_events(broker)
            await schema.run("DELETE FROM {}.events")  # the ledger stays
            damaged = min((tmp_path / "archive").rglob("*.zst"))
            whole = damaged.read_bytes()
            damaged.write_bytes(whole[:-1])
            run = await rebuild(broker, "pg")
            async with asyncio.timeout(60):
                while damaged.name not in (await find_run(broker, run.id)).parts["pg"].why:
                    await asyncio.sleep(0.05)
            assert "connection cannot read the archive yet" in running.log("router")
            damaged.write_bytes(whole)
            await want(broker, run.id, "pause")
            async with asyncio.timeout(60):
                while (await find_run(broker, run.id)).state != "paused":
                    await asyncio.sleep(0.05)
            await sender.send(100, requests_of=20)
            await want(broker, run.id, "resume")
            run = await over(broker, run)
            assert run.state == "done"
            assert [text for _, text in run.log if "asked" in text] == ["asked for pg", "asked to pause", "asked to resume"]
            await verify(running, sender.books, places)

            running.kill("router")
            run = await rebuild(broker, "pg")
            run = await want(broker, run.id, "cancel")
            running.start("router")
            run = await over(broker, run)
            assert run.state == "cancelled"
            await settled(running)

            # two that were begun at the same moment do not ask for it in turns for ever
            run = await rebuild(broker, "pg")
            twin = msgspec.structs.replace(run, id=f"{run.id}-twin", created_at=run.created_at + 0.001)
            await begin_run(broker, twin)
            assert (await over(broker, run)).state == "done"
            assert (await over(broker, twin)).state in ("failed", "done")
            await verify(running, sender.books, places)

            # by the command, which also tells of it
            for words in (["rebuild", "pg", "--from", "archive"], ["runs", "list"], ["archive", "status"], ["archive", "verify"]):
                code, said = await command(running, *words)
                assert code == 0, said
            await verify(running, sender.books, places)


@pytest.mark.timeout(300)
async def test_what_a_lost_broker_took_with_it_comes_back_from_the_archive(
    tmp_path: Path, new_schema: NewSchema, chance: random.Random
) -> None:
    async with warehouses(tmp_path, new_schema(), chance) as (running, sender, places, document):
        await sender.send(400, requests_of=20)
        await verify(running, sender.books, places)
        running.kill("loader")
        await sender.send(200, requests_of=20)
        async with connect(running.nats.url, "test") as broker:
            await forget_events(broker)
        await lose_the_store(running)
        await running.apply(document)
        running.start("loader")
        await sender.send(100, requests_of=20)
        async with connect(running.nats.url, "test") as broker:
            await settled(running)
            for _ in range(2):
                code, said = await command(running, "replay", "--site", SITE, "--lost")
                assert code == 0, said
            await verify(running, sender.books, places)
            # nothing was wiped: what appends gets nothing twice
            run = await over(broker, await rebuild(broker, "duck"))
            assert run.state == "skipped"
            assert "the ledger of the destination has all events" in run.parts["duck"].why
            # the wiped warehouse gets the events of both streams, and what the replay brought
            running.kill("loader")
            await wipe(places)
            runs = [await rebuild(broker, "pg"), await rebuild(broker, "duck")]
            running.start("loader")
            victim = chance.choice(("router", "loader"))
            await asyncio.sleep(chance.uniform(0.2, 1.5))
            running.kill(victim)
            running.start(victim)
            ended = [await over(broker, run) for run in runs]
            assert [run.state for run in ended] == ["done", "done"], ended
            await verify(running, sender.books, places)


async def command(running: Stack, *words: str) -> tuple[int, str]:
    """Runs the command; returns its exit code and what it says."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "penstock", *words, env={**os.environ, "PENSTOCK_NATS_URL": running.nats.url},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()
