"""Tables that fail, as the loader process meets them: their rows wait aside, nobody else waits, and each row arrives once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from shared.jetstream import topology
from shared.jetstream.broker import connect
from tests.e2e.loader_support import dead, drained, events, execute, ids, project, put, queue, start
from tests.support.postgres import PostgresServer
from tests.support.stack import Stack, stack

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Stack]:
    with stack(tmp_path) as started:
        yield started


def page(id_: str, **properties: Any) -> dict[str, Any]:
    return {"messageId": id_, "type": "page", "userId": "u", "properties": properties}


async def forbid(postgres: PostgresServer, schema: str, table: str, *columns: str) -> None:
    """Makes a table that nobody may insert into."""
    await execute(
        postgres,
        f"create schema if not exists {schema}; create table {schema}.{table} ({', '.join(columns) or 'id text'});"
        f"create function {schema}.no() returns trigger language plpgsql as $$ begin insert into nowhere values (1); end $$;"
        f"create trigger no before insert on {schema}.{table} for each statement execute function {schema}.no()",
    )


async def allow(postgres: PostgresServer, schema: str, table: str) -> None:
    await execute(postgres, f"drop trigger no on {schema}.{table}")


async def arrived(
    postgres: PostgresServer, running: Stack, schema: str, table: str, wanted: list[str], column: str = "id"
) -> None:
    ends_at = time.monotonic() + 60
    while True:
        try:
            found = await ids(postgres, schema, table, column)
        except asyncpg.UndefinedTableError:
            found = []
        if found == wanted:
            return
        assert time.monotonic() < ends_at, f"{found}\n{running.log('loader')}"
        await asyncio.sleep(0.1)


async def test_the_rows_of_a_failing_table_wait_aside_and_arrive_once_it_is_mended(
    postgres: PostgresServer, running: Stack
) -> None:
    await forbid(postgres, "aside", "bought")
    await start(running, project(postgres, "aside", layout="segment"))
    async with connect(running.nats.url, "test") as broker:
        await put(broker, 1, events("a", "b"))
        await put(broker, 2, [page("p")])
        await drained(broker)
        assert await ids(postgres, "aside", "tracks", "id") == ["a", "b"]
        assert await ids(postgres, "aside", "pages", "id") == ["p"]
        assert await ids(postgres, "aside", "bought", "id") == []
        await allow(postgres, "aside", "bought")
        await arrived(postgres, running, "aside", "bought", ["a", "b"])
        await drained(broker, topology.RETRY)
        assert await dead(broker) == []


async def test_a_table_that_fails_before_any_other_was_loaded_holds_up_none_of_them(
    postgres: PostgresServer, running: Stack
) -> None:
    await forbid(postgres, "first", "pages")
    await start(running, project(postgres, "first", layout="segment"))
    async with connect(running.nats.url, "test") as broker:
        await put(broker, 1, [page("p")])
        await drained(broker)
        await put(broker, 2, [*events("a"), page("q")])
        await arrived(postgres, running, "first", "tracks", ["a"])
        await allow(postgres, "first", "pages")
        await arrived(postgres, running, "first", "pages", ["p", "q"])
        await drained(broker, topology.RETRY)
        assert await dead(broker) == []


async def test_a_table_somebody_else_has_locked_holds_up_no_other(postgres: PostgresServer, running: Stack) -> None:
    document = project(postgres, "locked", layout="segment")
    document["destinations"]["wh"]["lock_timeout"] = "1s"
    await start(running, document)
    async with connect(running.nats.url, "test") as broker:
        await put(broker, 1, [page("p")])
        await drained(broker)
        link = await asyncpg.connect(postgres.dsn())
        try:
            async with link.transaction():
                # as a reader of a long report does: it bars nobody but those who alter the table
                await link.execute("lock table locked.pages in access share mode")
                await put(broker, 2, [page("q", never_seen=1)])
                await put(broker, 3, events("a"))
                await arrived(postgres, running, "locked", "tracks", ["a"])
                await drained(broker)
        finally:
            await link.close()
        await arrived(postgres, running, "locked", "pages", ["p", "q"])
        await drained(broker, topology.RETRY)
        assert await dead(broker) == []


async def test_rows_put_aside_survive_a_kill_and_never_put_an_old_state_over_a_new_one(
    postgres: PostgresServer, running: Stack
) -> None:
    await forbid(postgres, "old", "pages")
    await start(running, project(postgres, "old", layout="segment", deduplicate=True))
    async with connect(running.nats.url, "test") as broker:
        await put(broker, 1, [page("p", total=1), page("q", total=1)])
        await put(broker, 2, [page("p", total=2)])
        await drained(broker)
        running.kill("loader")
        await allow(postgres, "old", "pages")
        await put(broker, 3, [page("p", total=3), page("r", total=3)], received="2026-03-01T12:00:01Z")
        running.start("loader")
        await arrived(postgres, running, "old", "pages", ["p", "q", "r"])
        await drained(broker, topology.RETRY)
        await drained(broker)
        assert await ids(postgres, "old", "pages", "total") == [1, 3, 3]
        assert await dead(broker) == []


async def test_rows_put_aside_follow_a_connection_to_its_new_layout(postgres: PostgresServer, running: Stack) -> None:
    await forbid(postgres, "moved", "pages")
    await start(running, project(postgres, "moved", layout="segment"))
    async with connect(running.nats.url, "test") as broker:
        await put(broker, 1, [page("p"), page("q")])
        await drained(broker)
        await running.apply(project(postgres, "moved", layout="single_table"))
        await arrived(postgres, running, "moved", "events", ["p", "q"], "message_id")
        await drained(broker, topology.RETRY)
        assert await dead(broker) == []


async def test_what_cannot_be_read_of_the_rows_put_aside_is_a_dead_letter_and_holds_up_nothing(
    postgres: PostgresServer, running: Stack
) -> None:
    await forbid(postgres, "unread", "pages")
    await start(running, project(postgres, "unread", layout="segment"))
    async with connect(running.nats.url, "test") as broker:
        await put(broker, 1, [page("p")])
        await drained(broker)
        running.kill("loader")
        subject = topology.retry_subject("loader", await queue(broker))
        await broker.publisher.publish(subject, b"nobody's", msg_id="1")
        headers = {"Penstock-Lane": "x", "Penstock-Seq": "1", "Penstock-Table": "pages"}
        await broker.publisher.publish(subject, b"\xc1no frame", msg_id="2", headers=headers)
        await allow(postgres, "unread", "pages")
        running.start("loader")
        await arrived(postgres, running, "unread", "pages", ["p"])
        await drained(broker, topology.RETRY)
        assert sorted(letter.body for letter in await dead(broker)) == [b"nobody's", b"\xc1no frame"]
