"""The loader as a process: frames in its queue become rows, exactly once, whatever the frames are like."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import msgspec
import pytest

from loader.contract import LoadPlan
from loader.plans import Plans
from shared import topology
from shared.dead import DeadLetter, decode_dead
from shared.errors import Fenced, QueueFull
from shared.event import micros, parse_time
from shared.frame import Head, RequestContext, encode_frame, pack
from shared.headers import Place, write_place
from shared.jetstream.broker import Broker, connect
from shared.jetstream.reader import StreamReader
from tests.support.postgres import PostgresServer
from tests.support.stack import Stack, stack

RECEIVED = parse_time("2026-03-01T12:00:00Z")
LIVE = "live-test"

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer(durable=False) as server:
        yield server


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Stack]:
    with stack(tmp_path) as started:
        yield started


def project(postgres: PostgresServer, schema: str, **connection: Any) -> dict[str, Any]:
    return {
        "sites": {"shop": {"keys": [{"id": "k"}]}},
        "destinations": {"wh": {"type": "postgres", "dsn": postgres.dsn(), "schema": schema}},
        "connections": {
            "c": {
                "site": "shop",
                "destination": "wh",
                "mode": "stream",
                "layout": "single_table",
                "deduplicate": False,
                **connection,
            }
        },
    }


async def put(broker: Broker, seq: int, events: list[dict[str, Any]], *, lane: str = LIVE, msg_id: str | None = None) -> None:
    assert RECEIVED is not None
    request = RequestContext(received_at=micros(RECEIVED), protocol="segment", key="k", kind="server")
    heads = [Head(event["messageId"], event.get("type", "track"), event.get("event", "Bought")) for event in events]
    payload = encode_frame(pack("shop", [request], heads, [msgspec.json.encode(event) for event in events]))
    headers = write_place(Place(lane, seq, len(events)))
    await broker.publisher.publish(topology.deliver_subject("c"), payload, msg_id=msg_id or f"{lane}.{seq}", headers=headers)


def events(*ids: str, **properties: Any) -> list[dict[str, Any]]:
    return [{"messageId": each, "type": "track", "event": "Bought", "userId": "u", "properties": properties} for each in ids]


async def drained(broker: Broker, stream: str = topology.DELIVER) -> None:
    """Waits until the queue is empty: every frame is acknowledged."""
    async with asyncio.timeout(60):
        while True:
            if (await broker.js.stream_info(stream)).state.messages == 0:
                return
            await asyncio.sleep(0.05)


async def ids(postgres: PostgresServer, schema: str, table: str = "events", column: str = "message_id") -> list[str]:
    link = await asyncpg.connect(postgres.dsn())
    try:
        return [row[0] for row in await link.fetch(f'select "{column}" from "{schema}"."{table}" order by 1')]
    finally:
        await link.close()


async def execute(postgres: PostgresServer, statement: str) -> None:
    link = await asyncpg.connect(postgres.dsn())
    try:
        await link.execute(statement)
    finally:
        await link.close()


async def dead(broker: Broker) -> list[DeadLetter]:
    letters: list[DeadLetter] = []
    async with StreamReader(broker, topology.DEAD) as reader:
        while (message := await reader.next(0.5)) is not None:
            letters.extend(decode_dead(message.payload))
    return letters


async def start(running: Stack, document: dict[str, Any]) -> None:
    await running.apply(document)
    running.start("loader")
    running.wait_ready("loader")


async def not_ready(running: Stack) -> str:
    """Returns why the loader is not ready; empty if it is, or does not answer yet."""
    with contextlib.suppress(aiohttp.ClientError):
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{running.admin['loader']}/ready") as answer:
            return "" if answer.status == 200 else await answer.text()
    return ""


async def test_repeats_of_a_frame_are_loaded_once_also_over_a_restart(postgres: PostgresServer, running: Stack) -> None:
    await start(running, project(postgres, "repeats"))
    async with connect(running.nats.url, "test") as broker:
        await put(broker, 1, events("a", "b"))
        await put(broker, 2, events("c"))
        await put(broker, 1, events("a", "b"), msg_id="again, beyond the window")
        await drained(broker)
        running.stop("loader")
        await put(broker, 2, events("c"), msg_id="and after a restart")
        await put(broker, 3, events("d"))
        running.start("loader")
        running.wait_ready("loader")
        await drained(broker)
        assert await ids(postgres, "repeats") == ["a", "b", "c", "d"]
        assert await dead(broker) == []


async def test_a_replay_is_a_lane_of_its_own_and_loads_again(postgres: PostgresServer, running: Stack) -> None:
    await start(running, project(postgres, "replays"))
    async with connect(running.nats.url, "test") as broker:
        await put(broker, 5, events("a"))
        await put(broker, 5, events("a"), lane="replay-1")
        await drained(broker)
        assert await ids(postgres, "replays") == ["a", "a"]


async def test_frames_that_cannot_be_read_are_dead_letters_and_their_neighbours_are_loaded(
    postgres: PostgresServer, running: Stack
) -> None:
    await start(running, project(postgres, "unreadable"))
    subject = topology.deliver_subject("c")
    async with connect(running.nats.url, "test") as broker:
        await put(broker, 1, events("a"))
        await broker.publisher.publish(subject, b"no frame", headers=write_place(Place(LIVE, 2, 1)), msg_id="x")
        await broker.publisher.publish(subject, b"no place", msg_id="y")
        await put(broker, 3, events("b"))
        await drained(broker)
        assert await ids(postgres, "unreadable") == ["a", "b"]
        assert sorted((letter.reason, letter.body) for letter in await dead(broker)) == [
            ("frame_unreadable", b"no frame"),
            ("frame_unreadable", b"no place"),
        ]


async def test_a_row_the_database_refuses_is_a_dead_letter_with_its_words_and_the_rest_is_loaded(
    postgres: PostgresServer, running: Stack
) -> None:
    schema = "refused"
    await execute(postgres, f"create schema {schema}")
    await execute(postgres, f"create table {schema}.events (message_id text, total numeric(5,2), code varchar(3))")
    await start(running, project(postgres, schema))
    async with connect(running.nats.url, "test") as broker:
        good = [each for number in range(30) for each in events(f"good{number:02}", total=1.5, code="abc")]
        bad = [*events("too-large", total=123456.78, code="abc"), *events("too-long", total=1.5, code="abcdef")]
        await put(broker, 1, [*good[:10], bad[0], *good[10:20], bad[1], *good[20:]])
        await drained(broker)
        assert await ids(postgres, schema) == [each["messageId"] for each in good]
        letters = await dead(broker)
        assert {(letter.message_id, letter.reason) for letter in letters} == {
            ("too-large", "rejected_by_destination"),
            ("too-long", "rejected_by_destination"),
        }
        assert len(letters) == 2
        by_id = {letter.message_id: letter for letter in letters}
        assert "numeric field overflow" in by_id["too-large"].detail
        assert "too long" in by_id["too-long"].detail
        assert msgspec.json.decode(by_id["too-long"].body) == bad[1]


@pytest.mark.timeout(60)
async def test_the_rows_of_a_failing_table_wait_aside_and_arrive_once_it_is_mended(
    postgres: PostgresServer, running: Stack
) -> None:
    schema = "aside"
    await execute(postgres, f"create schema {schema}")
    await execute(postgres, f"create table {schema}.bought (id text)")
    await execute(
        postgres,
        f"create function {schema}.no() returns trigger language plpgsql as $$ begin raise insufficient_privilege; end $$;"
        f"create trigger no before insert on {schema}.bought for each statement execute function {schema}.no()",
    )
    await start(running, project(postgres, schema, layout="segment"))
    async with connect(running.nats.url, "test") as broker:
        await put(broker, 1, events("a", "b"))
        await put(broker, 2, [{"messageId": "p", "type": "page", "userId": "u"}])
        await drained(broker)
        assert await ids(postgres, schema, "tracks", "id") == ["a", "b"]
        assert await ids(postgres, schema, "pages", "id") == ["p"]
        assert await ids(postgres, schema, "bought", "id") == []
        await execute(postgres, f"drop trigger no on {schema}.bought")
        ends_at = time.monotonic() + 30
        while await ids(postgres, schema, "bought", "id") != ["a", "b"]:
            assert time.monotonic() < ends_at, running.log("loader")
            await asyncio.sleep(0.2)
        await drained(broker, topology.RETRY)
        assert await dead(broker) == []


async def test_a_destination_that_is_down_holds_its_events_and_says_why(postgres: PostgresServer, running: Stack) -> None:
    document = project(postgres, "down")
    document["destinations"]["wh"]["dsn"] = postgres.dsn(password="s3cret-but-wrong")
    await running.apply(document)
    running.start("loader")
    async with connect(running.nats.url, "test") as broker:
        await put(broker, 1, events("a"))
        ends_at = time.monotonic() + 60
        while "password" not in (why := await not_ready(running)):
            assert time.monotonic() < ends_at, why
            await asyncio.sleep(0.1)
        assert "s3cret-but-wrong" not in running.log("loader") + why
        document["destinations"]["wh"]["dsn"] = postgres.dsn()
        await running.apply(document)
        await drained(broker)
        assert await ids(postgres, "down") == ["a"]


async def test_files_of_a_plan_are_written_once_over_a_kill(running: Stack, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    document: dict[str, Any] = {
        "sites": {"shop": {"keys": [{"id": "k"}]}},
        "destinations": {"lake": {"type": "local", "path": str(lake), "format": "ndjson", "compression": "none"}},
        "connections": {
            "c": {
                "site": "shop",
                "destination": "lake",
                "layout": "single_table",
                "deduplicate": False,
                "batch": {"period": "1s"},
            }
        },
    }
    await start(running, document)
    running.kill("loader")
    async with connect(running.nats.url, "test") as broker:
        for seq in range(1, 41):
            await put(broker, seq, events(*(f"{seq:02}-{index}" for index in range(5))))
        for _ in range(4):
            running.start("loader")
            await asyncio.sleep(1.6)
            running.kill("loader")
        running.start("loader")
        await drained(broker)
        found = [
            msgspec.json.decode(line)["message_id"] for file in lake.rglob("*.ndjson") for line in file.read_bytes().splitlines()
        ]
        assert sorted(found) == sorted(f"{seq:02}-{index}" for seq in range(1, 41) for index in range(5))


async def test_a_former_holder_writes_no_plan_over_its_successors(running: Stack) -> None:
    async with connect(running.nats.url, "test") as broker:
        await topology.ensure(broker, topology.TopologySettings())
        former, successor = Plans(broker, "c"), Plans(broker, "c")
        await former.read()
        await former.write(LoadPlan("c", LIVE, 1, 5), done=True)
        await successor.read()
        await successor.write(LoadPlan("c", LIVE, 6, 9), done=True)
        with pytest.raises(Fenced):
            await former.write(LoadPlan("c", LIVE, 6, 30), done=False)
        await successor.write(LoadPlan("c", LIVE, 10, 12), done=False)
        third = Plans(broker, "c")
        await third.read()
        assert (third.loaded(), third.unfinished()) == ({LIVE: 9}, {LIVE: 12})


async def test_events_that_unpack_to_far_more_than_they_travel_as_are_loaded_in_bounded_parts(
    postgres: PostgresServer, running: Stack
) -> None:
    schema = "unpacked"
    await start(running, project(postgres, schema))
    running.kill("loader")
    async with connect(running.nats.url, "test") as broker:
        wanted: list[str] = []
        for seq in range(1, 41):
            fat = events(*(f"{seq:02}-{number:02}" for number in range(25)), text="a" * 200_000)
            wanted += [each["messageId"] for each in fat]
            await put(broker, seq, fat)
        running.start("loader")
        await drained(broker)
        assert await ids(postgres, schema) == wanted
        assert running.metric("loader", "loader_loads_total", result="committed") >= 3


async def test_a_queue_smaller_than_a_batch_is_loaded_before_its_period_is_over(postgres: PostgresServer, tmp_path: Path) -> None:
    document = project(postgres, "small_queue", mode="batch", batch={"period": "1h"})
    with stack(tmp_path, {"PENSTOCK_DELIVER_MAX_FRAMES": "10"}) as running:
        await start(running, document)
        async with connect(running.nats.url, "test") as broker, asyncio.timeout(60):
            for seq in range(1, 31):
                while True:
                    try:
                        await put(broker, seq, events(f"{seq:02}"))
                        break
                    except QueueFull:
                        await asyncio.sleep(0.05)
        loaded = await ids(postgres, "small_queue")
        assert len(loaded) >= 20
        assert loaded == [f"{seq:02}" for seq in range(1, len(loaded) + 1)]
