"""`penstock status --check`: which ids are missing and which are twice, in a destination that lost or doubled rows behind our back."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock.control.status.audit import Audit, audit
from router.forwarding.state import StateKeeper
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.project.read import decode_project
from shared.project.snapshot import ConfigSnapshot, current_snapshot
from shared.settings import ServiceSettings
from shared.streams.ended import Counts, Ended, ended_key
from shared.telemetry.metrics import Telemetry
from tests.support.duckdb_file import opened
from tests.support.router import apply, put, routing

pytestmark = pytest.mark.timeout(240)


def snapshot(file: Path, **connection: Any) -> ConfigSnapshot:
    return ConfigSnapshot(
        1,
        decode_project(
            {
                "sites": {"shop": {"keys": [{"id": "k"}]}},
                "destinations": {"wh": {"type": "duckdb", "path": str(file)}},
                "connections": {"c": {"site": "shop", "destination": "wh", **connection}},
            }
        ),
    )


def change(file: Path, *statements: str) -> None:
    with opened(file) as link:
        for statement in statements:
            link.execute(statement)


async def loaded(broker: Broker, file: Path, config: ConfigSnapshot, last: int, *ids: str) -> None:
    """Routes what is in EVENTS and loads it, as far as the account and the tables show."""
    telemetry = Telemetry("router-test", ServiceSettings())
    try:
        async with routing(broker, telemetry, config), asyncio.timeout(60):
            while await position(broker) < last:  # stored by another task
                await asyncio.sleep(0.02)
    finally:
        telemetry.shutdown()
    await broker.js.purge_stream(topology.DELIVER)
    counts = Counts(live=len(ids), delivered=len(ids))
    await Bucket(broker, topology.STATS_BUCKET).put(ended_key(config.queue_of("c")), msgspec.json.encode(Ended(counts=counts)))
    rows = ", ".join(f"('{id_}')" for id_ in ids)
    change(
        file,
        "CREATE TABLE _penstock_loads (connection VARCHAR, table_name VARCHAR, lane VARCHAR, epoch BIGINT, last_sequence BIGINT,"
        " rows BIGINT, loaded_at TIMESTAMP WITH TIME ZONE, PRIMARY KEY (connection, table_name, lane))",
        "INSERT INTO _penstock_loads VALUES ('c', 'tracks', 'live', 1, 1, 1, now()), ('other', 'theirs', 'live', 1, 1, 1, now())",
        "CREATE TABLE tracks (id VARCHAR, event VARCHAR)",
        "CREATE TABLE theirs (id VARCHAR)",
        f"INSERT INTO tracks (id) VALUES {rows}",
        f"INSERT INTO theirs VALUES {rows}, {rows}",
    )


async def position(broker: Broker) -> int:
    state = await StateKeeper(broker, "shop").load()
    return state.position if state is not None else 0


def found(result: Audit) -> dict[str, list[str]]:
    return {finding.what: finding.ids for finding in result.findings}


async def test_ids_that_are_missing_and_ids_that_are_twice_are_named(broker: Broker, tmp_path: Path) -> None:
    file = tmp_path / "wh.duckdb"
    config = snapshot(file, where=[{"field": "event", "in": ["x"]}])
    await put(broker, ["a", "b", "c"], event="x")
    await put(broker, ["left-out"], event="y")
    last = await put(broker, ["c", "d"], event="x")
    await loaded(broker, file, config, last, "a", "b", "c", "d")
    right = await audit(broker, config)
    assert (found(right), right.notes, right.ids) == ({}, [], 6)
    assert (right.connections[0].received, right.connections[0].delivered) == (6, 4)
    change(file, "ALTER TABLE tracks ADD COLUMN message_id VARCHAR")  # a property of a client
    assert not found(await audit(broker, config))
    change(file, "DELETE FROM tracks WHERE id = 'b'", "INSERT INTO tracks (id) VALUES ('d')")
    wrong = await audit(broker, config)
    # a dead letter that DEAD had no room for
    counts = Counts(live=4, delivered=3, dead={"type_conflict": 1})
    await Bucket(broker, topology.STATS_BUCKET).put(ended_key(config.queue_of("c")), msgspec.json.encode(Ended(counts=counts)))
    evicted = await audit(broker, config)
    assert list(found(evicted)) == ["twice or more in table tracks"]
    assert "1 event of 1 dead letter that DEAD holds no more" in evicted.notes[0]
    assert found(wrong) == {
        "forwarded, and neither in the destination nor in the dead letters": ["b"],
        "twice or more in table tracks": ["d"],
    }


async def test_counts_that_do_not_add_up_are_named_and_what_cannot_be_checked_is_said(broker: Broker, tmp_path: Path) -> None:
    file = tmp_path / "wh.duckdb"
    config = snapshot(file)
    last = await put(broker, ["a", "b"], event="x")
    await loaded(broker, file, config, last, "a")
    wrong = await audit(broker, config)
    assert "the router forwarded 2 events, the loader took, or has waiting, 1" in found(wrong)
    bucket = Bucket(broker, topology.STATS_BUCKET)
    await bucket.put(ended_key("c"), msgspec.json.encode(Ended(counts=Counts(live=2, delivered=2), moved=True)))
    moved = await audit(broker, config)
    assert not moved.findings
    assert "moved to another destination" in moved.notes[0]
    stricter = snapshot(file, where=[{"field": "event", "in": ["z"]}])
    assert "only repeats" in (await audit(broker, stricter)).notes[0]


async def test_backfilled_ids_may_be_there_once_and_a_destination_that_does_not_answer_is_not_checked(
    broker: Broker, tmp_path: Path
) -> None:
    file = tmp_path / "wh.duckdb"
    config = snapshot(file)
    began = await put(broker, ["a", "b"], event="x")
    last = await put(broker, ["c"], event="x")
    await loaded(broker, file, config, last, "b", "c")
    keeper = StateKeeper(broker, "shop")
    state = await keeper.load()
    assert state is not None
    account = msgspec.structs.replace(state.accounts["c"], began=began, absent=2, backfilled=1, forwarded=2)
    await keeper.save(msgspec.structs.replace(state, accounts={"c": account}))
    right = await audit(broker, config)
    assert (found(right), right.notes, right.ids, right.asked, right.passed) == ({}, [], 3, 3, True)
    change(file, "INSERT INTO tracks (id) VALUES ('b')", "DELETE FROM tracks WHERE id = 'c'")
    assert found(await audit(broker, config)) == {
        "forwarded, and neither in the destination nor in the dead letters": ["c"],
        "twice or more in table tracks": ["b"],
    }
    since = await audit(broker, config, since=time.time() + 60)
    assert (since.ids, since.asked) == (0, 0)
    file.unlink()
    file.mkdir()
    away = await audit(broker, config)
    assert not away.passed
    assert "destination wh does not answer" in away.unchecked["c"]


async def test_what_waits_for_the_router_is_not_held_against_the_counts(broker: Broker, tmp_path: Path) -> None:
    file = tmp_path / "wh.duckdb"
    config = snapshot(file)
    last = await put(broker, ["a"], event="x")
    await loaded(broker, file, config, last, "a")
    await put(broker, ["b"], event="x")
    counts = Counts(live=2, delivered=2)  # forwarded before the router stored that it was
    await Bucket(broker, topology.STATS_BUCKET).put(ended_key("c"), msgspec.json.encode(Ended(counts=counts)))
    hung = await audit(broker, config)
    assert not hung.findings
    assert hung.unchecked == {"site shop": "1 event waits for the router, so it and the counts of now are not checked"}


async def test_what_was_loaded_into_a_former_place_is_not_missing(broker: Broker, tmp_path: Path) -> None:
    file = tmp_path / "wh.duckdb"
    last = await put(broker, ["a"], event="x")
    document: dict[str, Any] = {
        "sites": {"shop": {"keys": [{"id": "k"}]}},
        "destinations": {"wh": {"type": "duckdb", "path": str(tmp_path / "former.duckdb")}},
        "connections": {"c": {"site": "shop", "destination": "wh"}},
    }
    await apply(broker, document)
    document["destinations"]["wh"]["path"] = str(file)
    await apply(broker, document)
    config = await current_snapshot(broker)
    await loaded(broker, file, config, last, "a")
    change(file, "DELETE FROM tracks")
    empty = await audit(broker, config)
    assert empty.passed
    assert "its destination changed" in empty.notes[0]
