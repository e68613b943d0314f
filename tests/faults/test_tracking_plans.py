"""A site follows a tracking plan while its router is killed and the plan changes: every event and every violation is somewhere, once."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from penstock.control.catalogue.read import read_catalogue
from penstock.control.letters.letters import Filter
from penstock.control.letters.redeliver import Redelivery
from penstock.control.status.balance import settle_balance
from shared.events.frame import Head, RequestContext, encode_frame, pack
from shared.jetstream import topology
from shared.jetstream.broker import Broker, connect
from shared.project.snapshot import current_snapshot
from tests.e2e.loader_support import dead, drained, in_duckdb
from tests.e2e.loader_support import ids as ids_in_postgres
from tests.faults.places import Schema
from tests.support.stack import Stack, stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

SCHEMA = {"required": ["total"], "properties": {"total": {"type": "number"}}}
PLAN: dict[str, Any] = {
    "unplanned_events": "report",
    "events": {
        "Good": {"schema": SCHEMA},
        "Buried": {"schema": SCHEMA, "on_violation": "dead_letter"},
        "Dropped": {"schema": SCHEMA, "on_violation": "drop"},
        "Stripped": {"schema": SCHEMA, "unplanned_properties": "strip"},
    },
}
NAMES = ("Good", "Buried", "Dropped", "Stripped", "Unplanned")
FRAMES, EACH = 24, 10


def document(schema: Schema, file: Path, plan: dict[str, Any]) -> dict[str, Any]:
    stream = {"mode": "stream", "deduplicate": False}  # no key hides a repeat
    return {
        "tracking_plans": {"p": plan},
        "sites": {"shop": {"keys": [{"id": "k"}], "tracking_plan": "p"}},
        "destinations": {"pg": schema.destination, "duck": {"type": "duckdb", "path": str(file)}},
        "connections": {
            "shop-pg": {"site": "shop", "destination": "pg", "layout": "single_table", **stream},
            "broken": {"from": "violations", "destination": "duck", "batch": {"period": "1s"}, "deduplicate": False},
        },
    }


def event(number: int) -> dict[str, Any]:
    name = NAMES[number % len(NAMES)]
    properties: dict[str, Any] = {"total": number} if name in ("Good", "Stripped") else {"total": "much"}
    if name == "Stripped":
        properties["extra"] = 1
    return {"type": "track", "event": name, "messageId": f"{name}-{number}", "userId": "u", "properties": properties}


async def put(broker: Broker, frame: int) -> None:
    events = [event(frame * EACH + number) for number in range(EACH)]
    request = RequestContext(received_at=1_772_366_400_000_000, protocol="segment", key="k", kind="server")
    heads = [Head(each["messageId"], "track", each["event"], "u") for each in events]
    payload = encode_frame(pack("shop", [request], heads, [json.dumps(each).encode() for each in events]))
    await broker.publisher.publish(topology.events_subject("shop"), payload, msg_id=f"frame-{frame}")


def sent(*names: str) -> set[str]:
    return {f"{NAMES[n % len(NAMES)]}-{n}" for n in range(FRAMES * EACH) if NAMES[n % len(NAMES)] in names}


async def first_routed(running: Stack) -> None:
    """Waits until the first revision of the plan has judged a frame."""
    async with asyncio.timeout(90):
        while not await asyncio.to_thread(running.metric, "router", "router_frames_total", site="shop"):
            await asyncio.sleep(0.05)


async def settled(broker: Broker) -> Any:
    queue = (await current_snapshot(broker)).queue_of("shop-pg")
    async with asyncio.timeout(120):
        while True:
            balance = await settle_balance(broker, "shop", "shop-pg", queue)
            if balance.received == FRAMES * EACH and balance.all_waiting == 0:
                return balance
            await asyncio.sleep(0.1)


async def test_events_and_violations_are_each_somewhere_once_over_kills_of_the_router_and_changes_of_the_plan(
    tmp_path: Path, new_schema: Callable[[], Schema]
) -> None:
    schema, file = new_schema(), tmp_path / "broken.duckdb"
    with stack(tmp_path) as running:
        await running.apply(document(schema, file, PLAN))
        await asyncio.to_thread(running.start_all, "router", "loader")
        async with connect(running.nats.url, "test", patience_seconds=60) as broker:
            for frame in range(FRAMES):
                await put(broker, frame)
                if frame == 2:
                    await first_routed(running)
                if frame in (6, 12, 18):
                    running.kill("router")
                    await put(broker, frame)  # the broker knows it
                    running.start("router")
                if frame == 15:  # live, and without effect on the verdicts
                    await running.apply(document(schema, file, {**PLAN, "identify": {"schema": SCHEMA}}))
            balance = await settled(broker)
            assert balance.dropped == {"tracking_plan": len(sent("Dropped"))}
            assert balance.dead == {"tracking_plan": len(sent("Buried"))}
            await drained(broker)
            loaded = Counter(await ids_in_postgres(schema.server, schema.name))
            assert loaded == Counter(sent("Good", "Stripped", "Unplanned"))
            letters = await dead(broker)
            assert Counter(letter.message_id for letter in letters) == Counter(sent("Buried"))
            assert {letter.detail for letter in letters} == {'properties.total: type, expected "number", got string'}

            await catalogued(broker, dict.fromkeys(NAMES, FRAMES * EACH // len(NAMES)))
            rows = await violations(file, sum(map(len, (sent("Buried"), sent("Dropped"), sent("Stripped"), sent("Unplanned")))))
            told = {
                (name, rule, field, action): [each for row in rows if row[:4] == (name, rule, field, action) for each in row[5]]
                for name, rule, field, action in {row[:4] for row in rows}
            }
            assert {key: Counter(ids) for key, ids in told.items()} == {
                ("Buried", "type", "properties.total", "dead_letter"): Counter(sent("Buried")),
                ("Dropped", "type", "properties.total", "drop"): Counter(sent("Dropped")),
                ("Stripped", "unplanned_property", "properties.extra", "strip"): Counter(sent("Stripped")),
                ("Unplanned", "unplanned_event", None, "report"): Counter(sent("Unplanned")),
            }
            assert len({row[6] for row in rows}) == 2, "each tells by which revision of the plan it was judged"

            # a letter stays while the plan refuses its event, and is loaded when the plan is mended
            redelivery = Redelivery(broker, await current_snapshot(broker), "stage", time.time)
            assert (await redelivery.run(Filter(reason="tracking_plan"))).still_bad == len(letters)
            mended = {**PLAN, "events": {**PLAN["events"], "Buried": {}}}
            await running.apply(document(schema, file, mended))
            redelivery = Redelivery(broker, await current_snapshot(broker), "stage", time.time)
            assert (await redelivery.run(Filter(reason="tracking_plan"))).replayed == len(letters)
            await drained(broker)
            assert Counter(await ids_in_postgres(schema.server, schema.name)) == loaded + Counter(sent("Buried"))


async def catalogued(broker: Broker, wanted: dict[str, int]) -> None:
    """Waits until the catalogue counts so many events of each name: exactly, although routers were killed between counting and writing."""
    found: dict[str, int] = {}
    try:
        async with asyncio.timeout(90):
            while sum(found.values()) < sum(wanted.values()):
                await asyncio.sleep(0.2)
                found = {each.event: each.total for each in (await read_catalogue(broker, "shop")).events}
    finally:
        assert found == wanted


async def violations(file: Path, wanted: int) -> list[tuple[Any, ...]]:
    """Waits for rows that count so many violations; returns them, ids as a list."""
    columns = 'event_name, rule, field, action, "count", message_ids, plan_revision'
    rows: list[tuple[Any, ...]] = []
    try:
        async with asyncio.timeout(90):
            while sum(row[4] for row in rows) < wanted:
                await asyncio.sleep(0.2)
                try:
                    rows = [tuple(row) for row in await in_duckdb(file, f"SELECT {columns} FROM plan_violations")]
                except duckdb.Error:  # there is no such table yet
                    continue
    except TimeoutError:
        assert sum(row[4] for row in rows) == wanted
    assert sum(row[4] for row in rows) == wanted
    return [(*row[:5], json.loads(row[5]) if isinstance(row[5], str) else row[5], row[6]) for row in rows]
