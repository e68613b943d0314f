"""The moments that random kills seldom meet: after COMMIT and before the acknowledgement, and in the middle of COMMIT."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.judge import verify
from tests.faults.places import DuckSchema, Schema
from tests.faults.project import QUICK, batch, merging, project, stream
from tests.support.postgres import PASSWORD, PostgresServer
from tests.support.sender import Event, Fate, Sender, track
from tests.support.stack import stack

NewSchema = Callable[[], Schema]

GATE = 7_305_129
"""The advisory lock that COMMIT waits for."""


async def hang_gate(schema: Schema, table: str) -> None:
    """From now on a COMMIT of rows in the table waits while the gate is shut; one that takes them back does not."""
    await schema.run(
        f"CREATE FUNCTION {{}}.gate() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN PERFORM pg_advisory_xact_lock_shared({GATE}); RETURN NULL; END $$",
        f"CREATE CONSTRAINT TRIGGER gate AFTER INSERT ON {{}}.{table} DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION {}.gate()",
    )


@pytest.mark.timeout(240)
@pytest.mark.parametrize("write", [batch, stream, lambda name: merging(batch(name))], ids=["batch", "stream", "merge"])
async def test_rows_in_postgres_whose_acknowledgement_was_lost_are_known_again(
    write: Callable[[str], dict[str, object]], tmp_path: Path, new_schema: NewSchema, chance: random.Random
) -> None:
    schema = new_schema()
    with stack(tmp_path, QUICK) as running:
        await running.apply(project({"c": write("pg")}, {"pg": schema.destination}))
        await asyncio.to_thread(running.start_all)
        sender = Sender(running.port, chance.randrange(10**6))
        await sender.send(100)
        await verify(running, sender.books, {"c": schema})
        async with schema.locked("events"):
            await sender.send(1000, requests_of=100)
            await schema.wait_for_lock()
            running.nats.kill()
        # the load goes on without a broker, and has nobody to tell
        await schema.wait_until("SELECT 1 FROM {}.events HAVING count(*) > 100")
        running.kill("loader")
        await asyncio.to_thread(running.nats.start)
        running.start("loader")
        await verify(running, sender.books, {"c": schema})
        assert running.metric("loader", "loader_events_total") < 1000, "everything was loaded again, so nothing was tested"


@pytest.mark.timeout(240)
async def test_rows_in_duckdb_whose_acknowledgement_was_lost_are_known_again(tmp_path: Path, chance: random.Random) -> None:
    duck = DuckSchema(tmp_path / "warehouse.duckdb")
    with stack(tmp_path, QUICK) as running:
        await running.apply(project({"c": batch("duck")}, {"duck": duck.destination}))
        await asyncio.to_thread(running.start_all)
        sender = Sender(running.port, chance.randrange(10**6))
        await sender.send(100)
        await verify(running, sender.books, {"c": duck})
        async with duck.held():
            await sender.send(1000, requests_of=100)
            await asyncio.sleep(2)  # the period is over, and the load waits for the file
            running.nats.kill()
        async with asyncio.timeout(60):
            while len((await duck.rows())["events"]) == 100:
                await asyncio.sleep(0.1)
        running.kill("loader")
        await asyncio.to_thread(running.nats.start)
        running.start("loader")
        await verify(running, sender.books, {"c": duck})
        assert running.metric("loader", "loader_events_total") < 1000, "everything was loaded again, so nothing was tested"


@pytest.mark.timeout(240)
async def test_a_loader_frozen_in_the_middle_of_commit_is_overtaken_and_its_commit_does_not_count(
    tmp_path: Path, new_schema: NewSchema, chance: random.Random
) -> None:
    schema = new_schema()
    with stack(tmp_path, QUICK) as running:
        await running.apply(project({"c": batch("pg")}, {"pg": schema.destination}))
        await asyncio.to_thread(running.start_all)
        sender = Sender(running.port, chance.randrange(10**6))
        await sender.send(100)
        await verify(running, sender.books, {"c": schema})
        await hang_gate(schema, "events")
        async with schema.gate_shut(GATE):
            await sender.send(1000, requests_of=100)
            await schema.wait_for_lock()
            running.freeze("loader")
            running.start("loader-2")
            # it ends the backend of the frozen one, and comes to the same gate
            await schema.wait_until(
                "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'penstock/c/%' AND wait_event_type = 'Lock'"
                " HAVING count(*) = 1 AND max(backend_start) >"
                " (SELECT max(xact_start) FROM pg_stat_activity WHERE application_name = 'gate')",
            )
        running.thaw("loader")
        await sender.send(500, requests_of=100)
        await verify(running, sender.books, {"c": schema})


@pytest.mark.timeout(240)
async def test_rows_put_aside_before_a_load_that_was_never_committed_are_not_loaded_on_both_ways(
    tmp_path: Path, postgres: PostgresServer, new_schema: NewSchema, chance: random.Random
) -> None:
    role = f"r_{secrets.token_hex(4)}"
    schema = Schema(postgres, new_schema().name, role)
    await schema.run(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'", f"CREATE SCHEMA {{}} AUTHORIZATION {role}")

    def make(id_: str, dice: random.Random) -> tuple[Event, Fate]:
        return track(id_, dice)[0], Fate(("tracks", "order_completed"))

    with stack(tmp_path, QUICK) as running:
        await running.apply(project({"c": {**batch("pg"), "layout": "segment"}}, {"pg": schema.destination}))
        await asyncio.to_thread(running.start_all)
        sender = Sender(running.port, chance.randrange(10**6), make=make)
        await sender.send(100)
        await verify(running, sender.books, {"c": schema})
        await hang_gate(schema, "tracks")
        await schema.run(f"REVOKE ALL ON {{}}.order_completed FROM {role}")
        async with schema.gate_shut(GATE):
            await sender.send(500, requests_of=100)
            await schema.wait_for_lock()
            running.kill("loader")
            await schema.run(f"GRANT ALL ON {{}}.order_completed TO {role}")
            running.start("loader")
            # the successor ends the backend that waits before the gate opens
            await schema.wait_until("SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted)")
        await verify(running, sender.books, {"c": schema})
