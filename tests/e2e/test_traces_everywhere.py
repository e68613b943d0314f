"""Traces of what goes another way than straight on: retries, calls, syncs, feeds, the edge's journal, and replays of dead letters."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from penstock.control.letters.letters import Filter
from penstock.control.letters.redeliver import Redelivery
from shared.jetstream import topology
from shared.jetstream.broker import connect
from shared.project.snapshot import current_snapshot
from tests.contract.feeds import of_nats
from tests.e2e.test_traces import id_of, links_of
from tests.support.duckdb_file import opened
from tests.support.feeds import record
from tests.support.otlp import Collector, Got, collector
from tests.support.receiver import OK, Behaviour, Receiver
from tests.support.stack import Stack, stack

SERVICES = ("ingest", "router", "functions_runtime", "loader")
CODE = """export const config = {retryPolicy: {retries: 2, delays: [0.001]}};
export default (event, ctx) => {
    if (event.event === "Later" && ctx.retries < 1) throw new RetryError("not yet", {drop: true});
    if (event.event === "Broken") throw new NoRetryError("broken");
    return event;
}"""


def project(folder: Path, webhook: str, feed: dict[str, Any]) -> dict[str, Any]:
    return {
        "sites": {"shop": {"keys": [{"id": "k"}]}, "orders": {"keys": [{"id": "other"}]}},
        "destinations": {
            "wh": {"type": "duckdb", "path": str(folder / "wh.duckdb")},
            "crm": {"type": "webhook", "url": webhook, "retry_delay": 0.2},
        },
        "functions": {"check": {"code": CODE}},
        "connections": {
            "c": {"site": "shop", "destination": "wh", "mode": "stream", "functions": ["check"]},
            "hook": {"site": "shop", "destination": "crm", "mode": "stream", "where": [{"field": "event", "in": ["Bought"]}]},
            "o": {"site": "orders", "destination": "wh", "mode": "stream", "layout": "passthrough", "table": "orders"},
        },
        "feeds": {"orders": {"site": "orders", "event": "order", **feed}},
        "connectors": {"db": {"type": "duckdb", "path": str(folder / "shop.duckdb")}},
        "syncs": {"s": {"connector": "db", "destination": "wh", "schedule": "every 1h", "streams": {"users": {"mode": "full_refresh"}}}},
    }  # fmt: skip


class Sender:
    """Sends events, each with a trace of its own that its sender wants sampled."""

    def __init__(self, running: Stack, session: aiohttp.ClientSession) -> None:
        self._url = f"http://127.0.0.1:{running.port}/v1/track"
        self._session = session

    async def send(self, event: str) -> str:
        """Returns the trace's id."""
        trace = uuid.uuid4().hex
        body = {"event": event, "anonymousId": "a", "messageId": event, "writeKey": "k"}
        async with self._session.post(self._url, json=body, headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}) as answer:
            assert answer.status == 200, await answer.text()
        return trace


async def found(at: Collector, name: str, that: Callable[[Got], object], count: int = 1) -> list[Got]:
    """Waits for so many spans of a name."""
    await asyncio.to_thread(at.until, lambda: len([got for got in at.named(name) if that(got)]) >= count, 90)
    return [got for got in at.named(name) if that(got)]


def of(trace: str) -> Callable[[Got], bool]:
    return lambda got: got.what.trace_id.hex() == trace


def linked(got: Got) -> Callable[[Got], bool]:
    return lambda other: id_of(got) in links_of(other)


@pytest.mark.timeout(300)
async def test_a_trace_leads_through_every_way_around(tmp_path: Path) -> None:
    calls = itertools.count()
    with opened(tmp_path / "shop.duckdb") as link:
        link.execute("CREATE TABLE users AS SELECT i AS id FROM range(0, 20) t(i)")
    with collector() as at, of_nats.server(tmp_path / "source") as server:
        environment = {
            "PENSTOCK_OTLP_ENDPOINT": at.url,
            "PENSTOCK_OTLP_PERIOD": "100ms",
            "PENSTOCK_INGEST_SPOOL_DIR": str(tmp_path / "spool"),
            "PENSTOCK_INGEST_SPOOL_AFTER": "100ms",
        }
        async with (
            Receiver(lambda _: Behaviour(500, {}, b"oops") if next(calls) == 0 else OK) as receiver,
            of_nats.open_source(server) as source,
            aiohttp.ClientSession() as session,
        ):
            with stack(tmp_path / "stack", environment) as running:
                document = project(tmp_path, receiver.url, source.document)
                await running.apply(document)
                running.start("connector_runner", PENSTOCK_TRACE_RATIO="1")  # records of a feed have no sender who asks
                await asyncio.to_thread(running.start_all, *SERVICES)
                sender = Sender(running, session)
                await check_calls_and_retries(at, sender)
                await check_rows_and_feeds(at, source)
                await check_replay(at, sender, running)
                await check_journal(at, sender, running)


async def check_calls_and_retries(at: Collector, sender: Sender) -> None:
    trace = await sender.send("Bought")
    (queued,) = await found(at, "send deliver.hook", of(trace))
    failed, taken = await found(at, "load deliver.hook", linked(queued), 2)
    assert (failed.what.status.code, failed.attributes["error.type"], taken.what.status.code) == (2, "retry", 0)
    assert taken.attributes["penstock.connection"] == "hook"
    trace = await sender.send("Later")
    (first,) = await found(at, "transform functions.c", of(trace))
    (again,) = await found(at, "transform functions.c", linked(first))
    assert again.attributes["penstock.failures"] == 1
    await found(at, "load deliver.c", linked(again))


async def check_rows_and_feeds(at: Collector, source: of_nats.NatsSource) -> None:
    (run,) = await found(at, "run sync s", lambda _: True)  # a new sync runs at once
    assert (run.attributes["penstock.rows"], run.attributes["penstock.status"], run.what.status.code) == (20, "succeeded", 0)
    await found(at, f"load {topology.deliver_subject(topology.sync_queue('s'))}", linked(run))
    await source.put([record(n) for n in range(3)])
    sent = await found(at, "send events.orders", lambda got: got.attributes["penstock.feed"] == "orders")
    (routed,) = await found(at, "route events.orders", of(sent[0].what.trace_id.hex()))
    assert routed.what.parent_span_id == sent[0].what.span_id


async def check_replay(at: Collector, sender: Sender, running: Stack) -> None:
    trace = await sender.send("Broken")
    (died,) = await found(at, "transform functions.c", of(trace))
    assert (died.what.status.code, died.attributes["error.type"]) == (2, "dead_letters")
    async with connect(running.nats.url, "test", patience_seconds=10) as broker:
        snapshot = await current_snapshot(broker)
        outcome = await Redelivery(broker, snapshot, "stage", time.time).run(Filter())
        assert outcome.replayed == 1
    await found(at, "transform functions.c", of(trace), 2)


async def check_journal(at: Collector, sender: Sender, running: Stack) -> None:
    running.nats.kill()
    trace = await sender.send("Kept")
    running.nats.start()
    (sent,) = await found(at, "send events.shop", of(trace))
    (routed,) = await found(at, "route events.shop", of(trace))
    assert routed.what.parent_span_id == sent.what.span_id
    (changed,) = await found(at, "transform functions.c", of(trace))
    await found(at, "load deliver.c", linked(changed))
