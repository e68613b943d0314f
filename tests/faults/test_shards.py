"""Sites with shards, from the edge to destinations: the number changes under load while routers and loaders die, and one of them freezes."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shared.jetstream.broker import connect
from tests.faults.judge import verify
from tests.faults.places import DuckSchema, Files, Place, Schema
from tests.faults.project import QUICK, ROUNDS, batch, merging, project, stream
from tests.faults.test_rebuild import command
from tests.support.exactly_once import settled
from tests.support.receiver import OK, Behaviour, Receiver, Request
from tests.support.sender import Sender
from tests.support.shards import drained, users
from tests.support.stack import stack


@pytest.mark.timeout(240 * ROUNDS)
async def test_the_number_changes_beside_functions_a_plan_and_an_archive_while_processes_die_and_nothing_is_lost_or_doubled(
    tmp_path: Path, new_schema: Callable[[], Schema], chance: random.Random
) -> None:
    places: dict[str, Place] = {
        "pg-batch": new_schema(),
        "pg-merge": new_schema(),
        "duck-stream": DuckSchema(tmp_path / "warehouse.duckdb", "one"),
        "files": Files(tmp_path / "files"),
    }
    connections = {
        "pg-batch": batch("pg-batch", functions=["mark"]),
        "pg-merge": merging(batch("pg-merge", shards=2)),
        "duck-stream": stream("duck-stream"),
        "files": batch("files", functions=["mark"]),
    }
    destinations = {name: place.destination for name, place in places.items()}

    def document(shards: int) -> dict[str, Any]:
        schema = {"required": ["sku"], "properties": {"total": {"type": "number"}, "note": {"type": "string"}}}
        return {
            **project(connections, destinations, shards=shards, tracking_plan="orders"),
            "functions": {"mark": {"code": "export default e => ({...e, marked: true})"}},
            "tracking_plans": {"orders": {"events": {"Order Completed": {"schema": schema, "on_violation": "dead_letter"}}}},
        }

    archive = {"PENSTOCK_ROUTER_ARCHIVE_DIR": str(tmp_path / "archive"), "PENSTOCK_ROUTER_ARCHIVE_PERIOD": "1s"}
    with stack(tmp_path, {**QUICK, **archive, "PENSTOCK_FUNCTIONS_LEASE": "3s"}) as running:
        await running.apply(document(1))
        await asyncio.to_thread(running.start_all, "ingest", "router", "router-2", "functions_runtime", "loader")
        async with Sender(running.port, chance.randrange(10**6)).running() as books:
            for shards in (4, 3) * ROUNDS:
                await running.apply(document(shards))
                for victim in ("router", "router-2", chance.choice(["loader", "ingest", "functions_runtime"])):
                    await asyncio.sleep(chance.uniform(0.1, 0.8))
                    if chance.random() < 0.3:
                        running.freeze(victim)
                        await asyncio.sleep(3)
                        running.thaw(victim)
                    else:
                        running.kill(victim)
                        await asyncio.sleep(chance.uniform(0, 0.3))
                        running.start(victim)
        async with connect(running.url, "test") as broker:
            await drained(broker, 3)
        await verify(running, books, places)
        code, said = await command(running, "archive", "verify")
        assert code == 0, said


@pytest.mark.timeout(240)
async def test_a_webhook_gets_the_events_of_each_user_in_order_through_changes_kills_and_retries(
    tmp_path: Path, chance: random.Random
) -> None:
    tries: Counter[str] = Counter()

    def behave(request: Request) -> Behaviour:
        (id_,) = request.ids
        tries[id_] += 1
        return Behaviour(500) if hash(id_) % 50 == 0 and tries[id_] < 3 else OK

    async with Receiver(behave) as receiver:
        hook = {"type": "webhook", "url": receiver.url, "retry_delay": 0.2}
        documents = {
            shards: project({"hook": {"destination": "hook", "mode": "stream"}}, {"hook": hook}, shards=shards)
            for shards in (1, 4)
        }
        with stack(tmp_path, QUICK) as running:
            await running.apply(documents[1])
            await asyncio.to_thread(running.start_all, "router", "router-2", "loader")
            async with connect(running.url, "test") as broker:
                async with users(broker, pause_seconds=0.02) as sending:
                    for shards in (4, 1):
                        await sending.change(documents[shards])
                        await drained(broker, shards)
                        victim = chance.choice(["router", "router-2", "loader"])
                        running.kill(victim)
                        running.start(victim)
                        reached = len(receiver.taken) + 100
                        await receiver.until(lambda: len(receiver.taken) > reached)  # noqa: B023
                await settled(running, 90)
        last: dict[str, int] = {}
        seen: set[str] = set()
        for request in receiver.taken:
            for event in request.events:
                if event["messageId"] not in seen:  # one that a killed loader sent again comes late, and is no new event
                    seen.add(event["messageId"])
                    assert last.get(event["userId"], -1) + 1 == event["properties"]["n"], event
                    last[event["userId"]] = event["properties"]["n"]
        assert seen == set(sending.ids)
