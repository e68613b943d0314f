"""Dead letters as rows of MySQL and ClickHouse, as lines of files and as events of a webhook; a webhook that refuses them feeds nothing."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from penstock.control.letters.letters import Filter, find
from penstock.control.letters.redeliver import Redelivery
from shared.events.dead import bury
from shared.jetstream.broker import Broker, connect
from shared.project.snapshot import current_snapshot
from tests.e2e.test_problems import letter
from tests.support.clickhouse import Place
from tests.support.destinations.clickhouse import ClickHouseSubject
from tests.support.destinations.mysql import MySQLSubject
from tests.support.mysql import run_sql
from tests.support.receiver import OK, Behaviour, Receiver, Request
from tests.support.stack import stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

Rows = set[tuple[str, str]]


async def test_dead_letters_become_rows_lines_and_events_of_every_kind_of_destination(
    tmp_path: Path, mysql_dsn: str, clickhouse: Place
) -> None:
    mysql, house, folder = MySQLSubject(mysql_dsn), ClickHouseSubject(clickhouse), tmp_path / "files"
    refuses = False
    await run_sql(mysql_dsn, f"CREATE DATABASE {mysql.schema}")

    def behave(_: Request) -> Behaviour:
        return Behaviour(status=400, body=b"no") if refuses else OK

    async def in_mysql() -> Rows:
        return {(row["message_id"], row["state"]) for row in await mysql.rows("dead_letters", {})}

    async def in_clickhouse() -> Rows:
        return {(row["message_id"], row["state"]) for row in await house.rows("dead_letters", {})}

    async def in_files() -> Rows:
        lines = [line for file in folder.rglob("*.gz") for line in gzip.decompress(file.read_bytes()).splitlines()]
        return {(row["message_id"], row["state"]) for row in map(json.loads, lines)}

    async with Receiver(behave) as receiver:

        async def at_webhook() -> Rows:
            told = [event["properties"] for request in receiver.taken for event in request.events]
            return {(each["message_id"], each["state"]) for each in told}

        with stack(tmp_path) as running:
            await running.apply(
                {
                    "sites": {"shop": {"keys": [{"id": "k"}]}},
                    "destinations": {
                        "my": mysql.document,
                        "house": house.document,
                        "lake": {"type": "local", "path": str(folder), "format": "ndjson"},
                        "hook": {"type": "webhook", "url": receiver.url},
                    },
                    "connections": {
                        "shop-wh": {"site": "shop", "destination": "my", "mode": "stream"},
                        **{
                            f"dead-{name}": {"from": "dead", "destination": name, "mode": "stream"}
                            for name in ("my", "house", "lake", "hook")
                        },
                    },
                }
            )
            async with connect(running.nats.url, "test", patience_seconds=10) as broker:
                await bury(broker.publisher, "loader", "shop-wh", [letter(1), letter(2, reason="too_large")], "one")
                await asyncio.to_thread(running.start_all, "router", "loader")
                for look in (in_mysql, in_clickhouse, in_files, at_webhook):
                    await until(look, {("m1", "open"), ("m2", "open")})
                redelivery = Redelivery(broker, await current_snapshot(broker), "stage", time.time)
                assert (await redelivery.run(Filter(reason="type_conflict"))).replayed == 1
                for look in (in_mysql, in_clickhouse):  # these merge
                    await until(look, {("m1", "replayed"), ("m2", "open")})
                for look in (in_files, at_webhook):
                    await until(look, {("m1", "open"), ("m1", "replayed"), ("m2", "open")})

                refuses = True
                await bury(broker.publisher, "loader", "shop-wh", [letter(3)], "two")
                await until(lambda: dead_of(broker, "dead-hook"), {("Dead Letter", "_dead")})
                await bury(broker.publisher, "loader", "shop-wh", [letter(4)], "three")
                await until(in_mysql, {("m1", "replayed"), ("m2", "open"), ("m3", "open"), ("m4", "open")})


async def dead_of(broker: Broker, connection: str) -> Rows:
    letters = [stored.letters[index] async for stored in find(broker, Filter(connection=connection)) for index in stored.matching]
    return {(each.event or "", each.site) for each in letters}


async def until(look: Callable[[], Awaitable[Rows]], wanted: Rows) -> None:
    """Waits until a destination has these."""
    found: object = None
    try:
        async with asyncio.timeout(100):
            while found != wanted:
                await asyncio.sleep(0.1)
                try:
                    found = await look()
                except (KeyError, OSError, EOFError):  # a later row makes the column, or the file is being written
                    found = None
    except TimeoutError:
        assert found == wanted
