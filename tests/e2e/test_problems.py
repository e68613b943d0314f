"""Problems as rows: dead letters through a real stack into DuckDB and Postgres, marked when they are replayed, and no loops."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import duckdb
import msgspec
import pytest

from loader.forgetting.streams import find_letters
from penstock.control.letters.letters import Filter, find, remove_all
from penstock.control.letters.redeliver import Redelivery
from penstock.control.status.warned import Wanted, read_all
from router.problems import copy as copying
from shared.errors import NotConnected
from shared.events.dead import DeadLetter, bury
from shared.events.frame import RequestContext, decode_frame, encode_frame
from shared.forget.person import Person
from shared.jetstream import topology
from shared.jetstream.broker import Broker, connect
from shared.jetstream.kv import Bucket
from shared.project.snapshot import current_snapshot
from shared.warnings.events import frame_of
from shared.warnings.tally import Warning_
from tests.e2e.loader_support import in_duckdb
from tests.support.postgres import PostgresServer
from tests.support.stack import stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

REQUEST = RequestContext(received_at=1_700_000_000_000_000, protocol="segment", key="web", ip="192.0.2.1")


def letter(number: int, *, site: str = "shop", reason: str = "type_conflict", **more: Any) -> DeadLetter:
    return DeadLetter(**{
        "stage": "loader", "site": site, "connection": "shop-wh", "table": "orders", "reason": reason, "detail": f"why {number}",
        "body": b'{"type":"track","event":"E","userId":"u","messageId":"m%d"}' % number, "at": time.time(), "origin": f"live-1:5:{number}",
        "message_id": f"m{number}", "type": "track", "event": "E", "user_id": "u", "request": REQUEST, **more,
    })  # fmt: skip


def project(postgres: PostgresServer, schema: str, file: Path) -> dict[str, Any]:
    return {
        "sites": {"shop": {"keys": [{"id": "k"}]}},
        "destinations": {
            "pg": {"type": "postgres", "dsn": postgres.dsn(), "schema": schema},
            "duck": {"type": "duckdb", "path": str(file)},
            "gone": {"type": "postgres", "dsn": postgres.dsn(), "schema": f"{schema}_shop"},
        },
        "connections": {
            "shop-wh": {"site": "shop", "destination": "gone", "mode": "stream"},
            "dead-pg": {"from": "dead", "destination": "pg", "mode": "stream"},
            "dead-duck": {"from": "dead", "destination": "duck", "batch": {"period": "1s"}},
        },
    }


async def rows(postgres: PostgresServer, statement: str) -> list[Any]:
    link = await asyncpg.connect(postgres.dsn())
    try:
        return list(await link.fetch(statement))
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError):  # a later row makes it
        return []
    finally:
        await link.close()


async def until(postgres: PostgresServer, statement: str, wanted: object) -> None:
    found: object = None
    try:
        async with asyncio.timeout(90):
            while (found := {tuple(row) for row in await rows(postgres, statement)}) != wanted:
                await asyncio.sleep(0.1)
    except TimeoutError:
        assert found == wanted


async def until_in_duckdb(file: Path, statement: str, wanted: set[tuple[Any, ...]]) -> None:
    """Waits until the rows begin with the wanted ones."""
    columns = len(next(iter(wanted)))
    found: object = None
    try:
        async with asyncio.timeout(90):
            while found != wanted:
                await asyncio.sleep(0.1)
                with contextlib.suppress(duckdb.Error):  # there is no such table or column yet
                    found = {row[:columns] for row in await in_duckdb(file, statement)}
    except TimeoutError:
        assert found == wanted


async def test_dead_letters_become_rows_that_say_what_to_do_and_are_marked_when_they_are_replayed_or_purged(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    schema, file = f"p_{secrets.token_hex(5)}", tmp_path / "wh.duckdb"
    states = f'SELECT message_id, state, reason FROM "{schema}".dead_letters'
    with stack(tmp_path) as running:
        await running.apply(project(postgres, schema, file))
        async with connect(running.nats.url, "test", patience_seconds=60) as broker:
            letters = [letter(1), letter(2, reason="too_large", body=b"\xff" + b"x" * 100_000), letter(3, site="_dead")]
            await bury(broker.publisher, "loader", "shop-wh", letters, "one")
            await asyncio.to_thread(running.start_all, "router", "loader")
            await until(postgres, states, {("m1", "open", "type_conflict"), ("m2", "open", "too_large")})
            (row,) = await rows(postgres, f"SELECT * FROM \"{schema}\".dead_letters WHERE letter = '1.0'")
            assert dict(row).items() >= {
                "site": "shop", "connection": "shop-wh", "stage": "loader", "message": "why 1", "key": "web", "user_id": "u",
                "original": letter(1).body.decode(), "original_cut": False, "replay": "penstock dead replay 1.0", "table_name": "orders",
            }.items()  # fmt: skip
            month = (await broker.js.stream_info(topology.DEAD)).config.max_age
            assert month
            assert (row["expires_at"] - row["at"]).total_seconds() == pytest.approx(month, abs=600)
            (large,) = await rows(postgres, f"SELECT * FROM \"{schema}\".dead_letters WHERE letter = '1.1'")
            assert (large["original_bytes"], large["original_cut"], len(large["original_base64"])) == (100_001, True, 87384)

            redelivery = Redelivery(broker, await current_snapshot(broker), "stage", time.time)
            assert (await redelivery.run(Filter(reason="type_conflict"))).replayed == 1
            await remove_all(broker, Filter(reason="too_large"), 1000, lambda _: None, marks=True)
            await until(postgres, states, {("m1", "replayed", "type_conflict"), ("m2", "purged", "too_large")})
            everything = "SELECT letter, state FROM dead_letters ORDER BY 1"
            await until_in_duckdb(file, everything, {("1.0", "replayed"), ("1.1", "purged")})
            left = [stored.letters[index].message_id async for stored in find(broker, Filter()) for index in stored.matching]
            assert left == ["m3"], "what befalls problems stays in DEAD and is no row"


SENT = [
    {"type": "track", "event": "E", "userId": "u", "messageId": "m1", "properties": {"total": 1}},
    {"type": "track", "event": "E", "userId": "u", "messageId": "m1", "properties": {"total": 1}},
    {"type": "track", "event": "E", "userId": "u", "messageId": "m2", "properties": {"total": "much"}},
    {"type": "track", "event": "E", "userId": "u"},
]
WANTED = {
    ("shop", None, "message_id_missing", 1, "events"),
    ("shop", None, "json_repaired", 1, "events"),
    ("shop", "shop-wh", "duplicate", 1, "events"),
    ("shop", "shop-wh", "value_unmapped", 1, "values"),
}


async def test_warnings_are_counted_shown_and_become_rows(tmp_path: Path, postgres: PostgresServer) -> None:
    schema, file = f"w_{secrets.token_hex(5)}", tmp_path / "wh.duckdb"
    document = project(postgres, schema, file)
    document["sites"]["shop"]["keys"] = [{"id": "k", "kind": "server"}]
    document["connections"] = {
        "shop-wh": {"site": "shop", "destination": "gone", "mode": "stream", "layout": "single_table", "column_types": {"total": "bigint"}},
        "warn-pg": {"from": "warnings", "destination": "pg", "mode": "stream"},
        "warn-duck": {"from": "warnings", "destination": "duck", "batch": {"period": "1s"}},
    }  # fmt: skip
    with stack(tmp_path, {"PENSTOCK_WARNINGS_PERIOD": "100ms"}) as running:
        await running.apply(document)
        await asyncio.to_thread(running.start_all)
        async with aiohttp.ClientSession(
            f"http://127.0.0.1:{running.port}", headers={"Authorization": aiohttp.encode_basic_auth("k", "")}
        ) as session:
            for event in SENT:
                async with session.post("/v1/track", data=msgspec.json.encode(event)) as answer:
                    assert answer.status == 200
            broken = b'{"type":"track","event":"E","userId":"u","messageId":"m3","properties":{"a":"tab\tinside"}}'
            async with session.post("/v1/track", data=broken) as answer:
                assert answer.status == 200
        grouped = f"""SELECT site, connection, reason, sum("count")::int, min(unit) FROM "{schema}".ingestion_warnings GROUP BY 1, 2, 3"""
        await until(postgres, grouped, WANTED)
        await until_in_duckdb(file, DUCK, WANTED)
        samples = {row[2]: row[5] for row in await in_duckdb(file, DUCK)}
        assert samples["duplicate"] == "messageId m1"
        assert samples["value_unmapped"] == "events.total"
        async with connect(running.nats.url, "test", patience_seconds=60) as broker:
            found = await read_all(broker, Wanted(site="shop"))
            assert {(each.site, each.connection, each.reason, each.count, each.unit) for each in found} == WANTED
            assert await read_all(broker, Wanted(site="blog")) == []
            assert await read_all(broker, Wanted(until=1.0)) == []


DUCK = (
    """SELECT site, connection, reason, sum("count")::INTEGER, min(unit), min(sample) FROM ingestion_warnings GROUP BY 1, 2, 3"""
)


async def test_what_befalls_problems_is_in_the_stream_of_warnings_and_no_event(broker: Broker) -> None:
    about = [
        Warning_(site=site, reason="duplicate", unit="events", count=1, first_at=1.0, last_at=1.0) for site in ("_dead", "shop")
    ]
    for number, some in enumerate((about, about[:1])):
        frame = frame_of(some, service="router", instance="router-1", number=str(number), now=1.0)
        await broker.publisher.publish(topology.warnings_subject("router"), encode_frame(frame), msg_id=str(number))
    assert await copying.copy(broker, copying.SOURCES[1]) == 2
    assert await events_of(broker, "_warnings") == ["router-1.0.1"]
    assert {(each.site, each.count) for each in await read_all(broker, Wanted())} == {("shop", 1), ("_dead", 2)}


async def test_a_copier_that_dies_before_it_notes_its_place_copies_the_same_again(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        await bury(broker.publisher, "loader", "shop-wh", [letter(number), letter(10 + number)], str(number))

    async def killed(*_: object, **__: object) -> None:
        raise NotConnected("killed here")

    source = copying.SOURCES[0]
    monkeypatch.setattr(Bucket, "put", killed)
    with pytest.raises(NotConnected):
        await copying.copy(broker, source)
    monkeypatch.undo()
    assert len(await events_of(broker, "_dead")) == 6
    assert await copying.copy(broker, source) == 3
    events = await events_of(broker, "_dead")
    assert len(events) == len(set(events)) == 6
    assert await copying.copy(broker, source) == 0
    await remove_all(broker, Filter(), 100, lambda _: None)
    assert await copying.copy(broker, source) == 0, "removed letters are not waited for"


async def test_the_note_of_a_letter_that_ended_is_forgotten_with_its_person_and_keeps_the_others(broker: Broker) -> None:
    people = [letter(1, user_id="jane", body=b'{"userId":"jane"}'), letter(2, user_id="joe", body=b'{"userId":"joe"}')]
    await bury(broker.publisher, "loader", "shop-wh", people, "one")
    await remove_all(broker, Filter(), 100, lambda _: None, marks=True)
    for person, left in ((Person(["jane"]), 0), (Person(["joe"]), 1)):
        assert await find_letters(broker, person, remove=False) == 1
        assert await find_letters(broker, person, remove=True) == 1
        assert await find_letters(broker, person, remove=False) == 0
        assert await find_letters(broker, Person(["joe"]), remove=False) == 1 - left
    assert (await broker.js.stream_info(topology.DEAD)).state.messages == 0


async def events_of(broker: Broker, site: str) -> list[str]:
    found: list[str] = []
    state = (await broker.js.stream_info(topology.EVENTS)).state
    for seq in range(state.first_seq, state.last_seq + 1):
        message = await broker.js.get_msg(topology.EVENTS, seq)
        if message.subject == topology.events_subject(site):
            found += [head.message_id for head in decode_frame(message.data or b"").heads]
    return found
