"""A whole stack under a load in which everything happens, watched by a real Prometheus: for the dashboards, and for their pictures.

Events go through functions and identity into DuckDB and to a webhook that fails now and then; some are rejected, left out, or become dead
letters at each stage. A sync pulls rows, and a feed follows a stream of another broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from shared.jetstream import topology
from shared.jetstream.broker import connect
from shared.jetstream.kv import Bucket
from shared.syncs.records import Ask, ask
from tests.contract.feeds import of_nats
from tests.support.duckdb_file import opened
from tests.support.feeds import record
from tests.support.prometheus import Prometheus
from tests.support.receiver import OK, Behaviour, Receiver
from tests.support.stack import Stack, stack

SERVICES = ("ingest", "router", "functions_runtime", "loader", "connector_runner")
PAUSE_SECONDS = 0.2
SYNC_EVERY = 15
"""Rounds of the load between two runs of the sync."""
BOT = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"
CLEAN = """
export default async function clean(event, ctx) {
    if (event.event === "Ignored") return null;
    if (event.event === "Broken") throw new NoRetryError("broken");
    if (event.event === "Later" && ctx.retries < 1) throw new RetryError("not yet");
    await ctx.store.set("last", event.messageId);
    return event;
}
"""
BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"


@dataclass(frozen=True, slots=True)
class Watched:
    """What runs."""

    stack: Stack
    prometheus: Prometheus


def project(folder: Path, webhook: str, feed: dict[str, Any], shop: Path) -> dict[str, Any]:
    """Returns a project in which every kind of thing is used."""
    fast = {"mode": "stream", "batch": {"period": "1s"}}
    return {
        "sites": {"shop": {"keys": [{"id": "k"}], "bots": "drop"}, "orders": {"keys": [{"id": "other"}]}},
        "functions": {"clean": {"code": CLEAN}},
        "destinations": {
            "wh": {"type": "duckdb", "path": str(folder / "wh.duckdb"), "schema": "shop"},
            "strict": {"type": "duckdb", "path": str(folder / "wh.duckdb"), "schema": "strict"},
            "rows": {"type": "duckdb", "path": str(folder / "rows.duckdb")},
            "crm": {"type": "webhook", "url": webhook, "retry_delay": 0.2},
        },
        "connections": {
            "shop-wh": {
                "site": "shop",
                "destination": "wh",
                "functions": ["clean"],
                "identity": {"look_back": "1d"},
                "privacy": [{"field": "context.secret", "do": "drop"}],
                "dead_limit": "off",
                **fast,
            },
            "shop-strict": {
                "site": "shop",
                "destination": "strict",
                "layout": "single_table",
                "where": [{"field": "event", "in": ["Bought"]}],
                "on_conflict": "dead_letter",
                "dead_limit": "off",
                **fast,
            },
            "shop-crm": {"site": "shop", "destination": "crm", "where": [{"field": "event", "in": ["Bought"]}], "mode": "stream"},
            "orders-wh": {"site": "orders", "destination": "wh", "layout": "passthrough", "table": "orders", **fast},
        },
        "feeds": {"orders": {"site": "orders", "event": "order", **feed}},
        "connectors": {"db": {"type": "duckdb", "path": str(shop)}},
        "syncs": {
            "db-rows": {
                "connector": "db",
                "destination": "rows",
                "schedule": "every 1h",
                "streams": {"users": {"mode": "full_refresh", "where": [{"field": "n", "gte": 1}]}},
            }
        },
    }


@contextlib.asynccontextmanager
async def watched(
    folder: Path, *, failing: bool = False, calm: Callable[[Prometheus], None] | None = None
) -> AsyncIterator[Watched]:
    """Starts everything, and the load; ends it with the context.

    Args:
        failing: there is a connection whose loads fail, too.
        calm: called, in a thread, when everything runs and there is no project yet.
    """
    async with contextlib.AsyncExitStack() as held:
        failures = itertools.count()
        receiver = await held.enter_async_context(
            Receiver(lambda _: Behaviour(500, {}, b"oops") if next(failures) % 7 == 0 else OK)
        )
        source = await held.enter_async_context(of_nats.open_source(held.enter_context(of_nats.server(folder / "source"))))
        shop = folder / "shop.duckdb"
        with opened(shop) as link:
            link.execute("CREATE TABLE users (id BIGINT PRIMARY KEY, n BIGINT)")
            link.execute("INSERT INTO users SELECT i, i FROM range(0, 200) t(i)")
        running = held.enter_context(stack(folder / "stack", {"PENSTOCK_INGEST_SPOOL_DIR": str(folder / "spool")}))
        running.start("router", PENSTOCK_ROUTER_NATS_MONITOR=f"http://127.0.0.1:{running.nats.monitor_port}")
        for name in SERVICES:
            if name != "router":
                running.start(name)
        for name in SERVICES:
            await asyncio.to_thread(running.wait_ready, name)
        targets = {name: [f"127.0.0.1:{running.admin[name]}"] for name in SERVICES}
        prometheus = Prometheus(folder / "prometheus", targets)
        await asyncio.to_thread(prometheus.__enter__)
        held.callback(prometheus.__exit__, None, None, None)
        if calm is not None:
            await asyncio.to_thread(calm, prometheus)
        document = project(folder, receiver.url, source.document, shop)
        if failing:
            document["destinations"]["away"] = {"type": "duckdb", "path": "/proc/none/away.duckdb"}
            document["connections"]["shop-away"] = {"site": "shop", "destination": "away", "mode": "stream"}
        await running.apply(document)
        load = asyncio.create_task(_load(running, source))
        held.callback(load.cancel)
        yield Watched(running, prometheus)
        if load.done():
            load.result()


async def _load(running: Stack, source: of_nats.NatsSource) -> None:
    async with aiohttp.ClientSession() as session, connect(running.nats.url, "load", patience_seconds=60) as broker:
        typed = False
        for number in itertools.count():
            # events whose `n` is a text come once every table has the column as a number
            typed = typed or await asyncio.to_thread(_loaded, running)
            if number % SYNC_EVERY == 0:
                await ask(Bucket(broker, topology.STATE_BUCKET), "db-rows", Ask(id=uuid.uuid4().hex, what="run", at=0.0))
            await asyncio.gather(
                _send(session, running.port, _batch(number, odd=typed)),
                _send(session, running.port, [_event(number, "Bought")], agent=BOT),
                _post(session, running.port, b"{no json", "k"),
                _post(session, running.port, json.dumps({"batch": [_event(number, "x")]}).encode(), "unknown"),
                _post(session, running.port, _odd(number), "k"),
                source.put([record(n) for n in range(number * 10, number * 10 + 10)] + [b"\xff no record"]),
            )
            await asyncio.sleep(PAUSE_SECONDS)


def _loaded(running: Stack) -> bool:
    return all(running.metric("loader", "loader_events_total", connection=each) for each in ("shop-wh", "shop-strict"))


def _batch(number: int, *, odd: bool) -> list[dict[str, Any]]:
    # a day's waves, in half a minute
    count = 10 + abs(number % 120 - 60) // 2
    events = [_event(number, "Bought", place) for place in range(count)]
    events += [_event(number, name, 200 + place) for place, name in enumerate(("Ignored", "Broken", "Later", "Viewed"))]
    events += [{**_event(number, "Viewed", 300), "userId": None, "anonymousId": f"a{number}"}]
    # the visitor of the round before logs in
    events += [{"messageId": f"i{number}", "type": "identify", "anonymousId": f"a{number - 1}", "userId": f"u{number}"}]
    if odd:
        events += [{**_event(number, "Bought", 400), "properties": {"n": "many", "name": "a cup"}}]
    events += [{"messageId": f"r{number}", "type": "no such type"}]
    return [*events, events[0]]


def _odd(number: int) -> bytes:
    """A request that is read with patience: no JSON, a time that is none, a key beside the key, a member that means nothing."""
    event = json.dumps(_event(number, "Bought", 500)).replace("9.5", "NaN")
    return f'{{"batch": [{event}], "sentAt": "soon", "writeKey": "other", "colour": "blue"}}'.encode()


def _event(number: int, name: str, place: int = 0) -> dict[str, Any]:
    return {
        "messageId": f"m{number}-{place}",
        "type": "track",
        "event": name,
        "userId": f"u{place}",
        "properties": {"n": number, "price": 9.5, "name": "a mug"},
    }


async def _send(session: aiohttp.ClientSession, port: int, events: list[dict[str, Any]], agent: str = BROWSER) -> None:
    await _post(session, port, json.dumps({"batch": events}).encode(), "k", agent)


async def _post(session: aiohttp.ClientSession, port: int, body: bytes, key: str, agent: str = BROWSER) -> None:
    headers = {"X-Write-Key": key, "User-Agent": agent}
    async with session.post(f"http://127.0.0.1:{port}/v1/batch", data=body, headers=headers) as answer:
        await answer.read()
