"""The loader as a process: frames in its queue become rows, exactly once, whatever the frames are like."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loader.contract.warehouse import LoadPlan
from loader.queue.plans import Plans
from shared.errors import Fenced, QueueFull
from shared.events.headers import Place, write_place
from shared.jetstream import topology
from shared.jetstream.broker import connect
from shared.jetstream.kv import Bucket
from shared.streams.ended import Counts, Pending, decode_ended, ended_key
from tests.e2e.loader_support import (
    LIVE,
    dead,
    drained,
    events,
    execute,
    ids,
    in_duckdb,
    not_ready,
    project,
    put,
    queue,
    start,
    warning,
)
from tests.support.postgres import PostgresServer
from tests.support.stack import Stack, stack

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Stack]:
    with stack(tmp_path) as started:
        yield started


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


@pytest.mark.parametrize("kind", ["postgres", "duckdb"])
async def test_a_table_dropped_by_hand_gets_new_rows_only_and_is_told_until_a_replay_brings_the_others(
    postgres: PostgresServer, running: Stack, tmp_path: Path, kind: str
) -> None:
    document, file = project(postgres, "dropped"), tmp_path / "wh.duckdb"
    if kind == "duckdb":
        document["destinations"]["wh"] = {"type": "duckdb", "path": str(file)}
    await start(running, document)
    async with connect(running.nats.url, "test") as broker:
        await put(broker, 1, events("a"))
        await drained(broker)
        if kind == "duckdb":
            await in_duckdb(file, "DROP TABLE events")
        else:
            await execute(postgres, "DROP TABLE dropped.events")
        await put(broker, 2, events("b"))
        await drained(broker)
        assert running.metric("loader", "loader_tables_dropped_total", connection="c") == 1
        assert "it is created again and gets new rows only" in running.log("loader")
        running.kill("loader")
        running.start("loader")
        running.wait_ready("loader")
        while "--connection c" not in (why := await warning(running, "connection c: dropped tables")):
            await asyncio.sleep(0.1)
        assert '"events"; older rows, as far as EVENTS keeps them, come with `penstock replay --site shop' in why
        await put(broker, 1, events("a"), lane="replay-1")
        await drained(broker)
        async with asyncio.timeout(60):
            while await warning(running, "connection c: dropped tables"):
                await asyncio.sleep(0.1)
        if kind == "postgres":
            assert await ids(postgres, "dropped") == ["a", "b"]
        else:
            assert await in_duckdb(file, "SELECT message_id FROM events ORDER BY 1") == [("a",), ("b",)]


async def test_what_waits_for_a_connection_reaches_no_later_connection_of_its_name(
    postgres: PostgresServer, running: Stack
) -> None:
    former, later = project(postgres, "former"), project(postgres, "later")
    later["sites"]["blog"] = {"keys": [{"id": "b"}]}
    later["connections"]["c"]["site"] = "blog"
    await running.apply(former)
    async with connect(running.nats.url, "test") as broker:
        await put(broker, 1, events("a", "b"))
        await broker.publisher.publish(topology.retry_subject("loader", await queue(broker)), b"x", msg_id="x")
        await start(running, later)
        await put(broker, 1, events("c"), msg_id="another")
        await drained(broker)
        await drained(broker, topology.RETRY)
        assert await ids(postgres, "later") == ["c"]
        assert running.metric("loader", "loader_events_dropped_total", connection="c", reason="removed") == 2
        # removed for good, and a router that has not heard of it sends a frame more
        subject = topology.deliver_subject(await queue(broker))
        await running.apply({**later, "connections": {}})
        await broker.publisher.publish(subject, b"x", headers=write_place(Place(LIVE, 3, 7)), msg_id="late")
        await running.apply({**later, "connections": {}, "destinations": {}})
        await drained(broker)
        assert running.metric("loader", "loader_events_dropped_total", connection="c", reason="removed") == 9


async def test_a_load_that_was_committed_when_its_loader_was_killed_is_not_loaded_where_its_connection_moved(
    postgres: PostgresServer, running: Stack
) -> None:
    before, after = project(postgres, "before"), project(postgres, "after")
    await start(running, before)
    async with connect(running.nats.url, "test") as broker:
        await put(broker, 1, events("a", "b"))
        await drained(broker)
        await asyncio.to_thread(running.stop, "loader")
        # as it was between COMMIT and what is written next
        stats, key = Bucket(broker, topology.STATS_BUCKET), ended_key(await queue(broker))
        entry = await stats.get(key)
        ended = decode_ended(entry.value if entry else None)
        pending = Pending(lane=LIVE, last=1, tables=["events"], source=LIVE, through=1, counts=ended.counts)
        await stats.put(key, msgspec.json.encode(msgspec.structs.replace(ended, counts=Counts(), through={}, pending=pending)))
        state = Bucket(broker, topology.STATE_BUCKET)
        noted = await state.get("loaded.c")
        assert noted is not None
        await state.remove(noted.revision)
        await put(broker, 1, events("a", "b"), msg_id="not acknowledged")
        await put(broker, 2, events("c"))
        await start(running, after)
        await drained(broker)
        assert await ids(postgres, "after") == ["c"]
        assert running.metric("loader", "account_delivered_events", connection="c") == 3
        running.kill("loader")
        await put(broker, 1, events("a", "b"), msg_id="not acknowledged again")
        await put(broker, 3, events("d"))
        await start(running, after)
        await drained(broker)
    assert await ids(postgres, "after") == ["c", "d"]
    assert await ids(postgres, "before") == ["a", "b"]


async def test_frames_that_cannot_be_read_are_dead_letters_and_their_neighbours_are_loaded(
    postgres: PostgresServer, running: Stack
) -> None:
    await start(running, project(postgres, "unreadable"))
    async with connect(running.nats.url, "test") as broker:
        subject = topology.deliver_subject(await queue(broker))
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
    await execute(
        postgres,
        f"create table {schema}.events (message_id text, total numeric check (total < 1000), code text check (length(code) < 4))",
    )
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
        assert "events_total_check" in by_id["too-large"].detail
        assert "events_code_check" in by_id["too-long"].detail
        assert msgspec.json.decode(by_id["too-long"].body) == bad[1]


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
        assert running.metric("loader", "loader_load_seconds_count", connection="c") >= 3
        assert running.metric("loader", "loader_last_load_seconds", connection="c") > 1.7e9
        assert running.metric("loader", "config_revision") >= 1
        assert (running.metric("loader", "service_ready"), running.metric("loader", "service_warnings")) == (1, 0)


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
