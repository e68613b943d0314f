"""A loader process between a broker and a Postgres: what its tests put in its queue and find in its tables."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import msgspec

from shared.events.dead import DeadLetter, decode_dead
from shared.events.event import micros, parse_time
from shared.events.frame import Head, RequestContext, encode_frame, pack
from shared.events.headers import Place, write_place
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.reader import StreamReader
from shared.project.snapshot import current_snapshot
from tests.support.duckdb_file import opened_here
from tests.support.postgres import PostgresServer
from tests.support.stack import Stack

RECEIVED = parse_time("2026-03-01T12:00:00Z")
LIVE = "live-test"


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


async def queue(broker: Broker, connection: str = "c") -> str:
    """Returns the name of the queue of a connection."""
    return (await current_snapshot(broker)).queue_of(connection)


async def put(
    broker: Broker,
    seq: int,
    events: list[dict[str, Any]],
    *,
    lane: str = LIVE,
    msg_id: str | None = None,
    received: str | None = None,
    connection: str = "c",
) -> None:
    received_at = parse_time(received) if received else RECEIVED
    assert received_at is not None
    request = RequestContext(received_at=micros(received_at), protocol="segment", key="k", kind="server")
    heads = [
        Head(event["messageId"], event.get("type", "track"), event.get("event", "Bought"), event.get("userId"))
        for event in events
    ]
    payload = encode_frame(pack("shop", [request], heads, [msgspec.json.encode(event) for event in events]))
    headers = write_place(Place(lane, seq, len(events)))
    await broker.publisher.publish(
        topology.deliver_subject(await queue(broker, connection)),
        payload,
        msg_id=msg_id or f"{connection}.{lane}.{seq}",
        headers=headers,
    )


def events(*ids: str, **properties: Any) -> list[dict[str, Any]]:
    return [{"messageId": each, "type": "track", "event": "Bought", "userId": "u", "properties": properties} for each in ids]


async def drained(broker: Broker, stream: str = topology.DELIVER) -> None:
    """Waits until the queue is empty: every frame is acknowledged."""
    async with asyncio.timeout(120):
        while (await broker.js.stream_info(stream)).state.messages:
            await asyncio.sleep(0.05)


async def ids(postgres: PostgresServer, schema: str, table: str = "events", column: str = "message_id") -> list[Any]:
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
    """Returns all letters that are in DEAD now."""
    letters: list[DeadLetter] = []
    count = (await broker.js.stream_info(topology.DEAD)).state.messages
    async with StreamReader(broker, topology.DEAD) as reader:
        for _ in range(count):
            message = await reader.next(60)
            assert message is not None
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


async def warning(running: Stack, part: str) -> str:
    """Returns what the loader warns of a part; empty if of nothing, or it does not answer yet."""
    with contextlib.suppress(aiohttp.ClientError):
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{running.admin['loader']}/ready") as answer:
            return str((await answer.json()).get("warnings", {}).get(part, ""))
    return ""


async def in_duckdb(file: Path, statement: str) -> list[Any]:
    """Runs a statement as soon as the loader has closed the file."""
    with await opened_here(file) as link:
        return link.execute(statement).fetchall()
