"""What `penstock status` makes of what the broker holds and the services say: every trouble is a state with a reason and a next step."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import msgspec
import pytest

from loader.queue.account import Accounts
from loader.queue.aside import Failing, put_aside
from loader.queue.gauges import keep_gauges, set_gauges
from loader.queue.retries import Retries
from penstock.control.metrics import Scrape
from penstock.control.status.status import Status, read_status
from penstock.stack.home import ProcessState, StackState
from router.forwarding.account import Account
from router.forwarding.state import SiteState, StateKeeper
from shared.events.frame import decode_frame
from shared.events.headers import Place, write_place
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.jetstream.lease import hold
from shared.jetstream.queue_reader import QueueReader
from shared.project.read import decode_project
from shared.settings import ServiceSettings
from shared.streams.ended import Counts, Ended, ended_key
from shared.telemetry.metrics import Telemetry
from tests.support.router import REQUEST, frame, limit_queues, put

PROJECT = decode_project(
    {
        "sites": {"shop": {"keys": [{"id": "k"}]}},
        "destinations": {"wh": {"type": "duckdb", "path": "/tmp/never.duckdb"}},
        "connections": {"c": {"site": "shop", "destination": "wh"}},
    }
)
PROCESS = ProcessState(name="loader", pid=1, started=1)


async def status(broker: Broker, *scrapes: Scrape, stack: StackState | None = None) -> Status:
    async with hold(broker, "loader.c", "test", 10.0):
        return await read_status(broker, PROJECT, 1, scrapes, time.time(), stack)


async def counted(broker: Broker, *, forwarded: int, counts: Counts, began: int = 0) -> None:
    account = Account(queue="c", left=None, forwarded=forwarded, dropped={"filtered": 1}, began=began)
    state = SiteState(accepted=forwarded + 1, accounts={"c": account})
    keeper = StateKeeper(broker, "shop")
    await keeper.load()
    await keeper.save(state)
    await Bucket(broker, topology.STATS_BUCKET).put(
        ended_key("c"), msgspec.json.encode(Ended(counts=counts, last_load_at=1000.0))
    )


def payload(*ids: str) -> bytes:
    return frame([{"messageId": id_, "type": "track", "event": "x"} for id_ in ids])


async def queue(broker: Broker, seq: int, *ids: str, total: int = 0) -> None:
    headers = write_place(Place("live-1-shop", seq, len(ids), total))
    await broker.publisher.publish(topology.deliver_subject("c"), payload(*ids), msg_id=f"q{seq}", headers=headers)


async def test_counts_and_the_last_load_are_there_before_any_service_answers(broker: Broker) -> None:
    await counted(broker, forwarded=10, counts=Counts(live=10, delivered=7, dead={"too_deep": 2}, dropped={"sampled": 1}))
    (line,) = (await status(broker)).connections
    assert (line.state, line.received, line.delivered, line.dead, line.dropped) == ("ok", 11, 7, 2, 2)
    assert line.last_load_at == 1000.0
    async with asyncio.timeout(60):  # the lease is free
        found = await read_status(broker, PROJECT, 1, (), time.time())
    assert found.connections[0].state == "unknown"
    assert not found.healthy


async def test_what_waits_is_counted_exactly_however_much_it_is_and_is_late_after_a_while(broker: Broker) -> None:
    await counted(broker, forwarded=60, counts=Counts())
    for number in range(30):
        await queue(broker, number + 1, f"{number}a", f"{number}b", total=2 * (number + 1))
    (line,) = (await status(broker)).connections
    assert (line.state, line.waiting_frames, line.waiting_events, line.waiting_events_is_estimate) == ("late", 30, 60, False)
    assert "penstock check wh" in line.why


async def test_a_replay_is_not_late_for_the_age_of_its_events_and_what_no_router_routes_is_told(broker: Broker) -> None:
    await counted(broker, forwarded=0, counts=Counts(replayed=2, delivered=2))
    headers = write_place(Place("replay-r", 1, 1, 1))
    await broker.publisher.publish(topology.deliver_subject("c"), payload("a"), msg_id="r1", headers=headers)
    (line,) = (await status(broker)).connections
    assert (line.state, line.received, line.replayed, line.waiting_events) == ("ok", 1, 3, 1)
    await put(broker, ["x", "y"])
    found = await status(broker)
    assert (found.unrouted_by_site, found.connections[0].state) == ({"shop": 2}, "not routed")
    assert "2 events wait for the router" in found.connections[0].why
    assert not found.healthy


async def test_a_backfill_is_not_late_for_the_age_of_its_events(broker: Broker) -> None:
    await counted(broker, forwarded=1, counts=Counts(), began=1)
    await queue(broker, 1, "a", total=1)
    (line,) = (await status(broker)).connections
    assert line.state == "ok"
    assert line.oldest_waiting_seconds is not None
    assert line.oldest_waiting_seconds > 1e6


async def test_a_failing_table_is_a_state_with_rows_reason_and_next_try(broker: Broker) -> None:
    await counted(broker, forwarded=3, counts=Counts(live=3, delivered=1))
    whole = decode_frame(payload("a", "b"))
    await put_aside(broker.publisher, "c", 1, 1, "orders", Place("live-1-shop", 1, 2), whole, 0b011)
    await put_aside(broker.publisher, "c", 1, 1, "views", Place("live-1-shop", 1, 1), whole, 0b010)
    found = await status(broker)
    (line,) = found.connections
    assert (line.state, line.aside, line.waiting_events) == ("table failing", {"orders": 2, "views": 1}, 2)
    assert "2 rows of orders" in line.why
    assert not found.healthy

    failing = Failing()
    subject = topology.retry_subject("loader", "c")
    async with QueueReader(broker, topology.RETRY, subject, "loader-c", epoch=1, most_held=-1) as reader:
        retries = Retries(reader, failing, 1, cast("Any", None))
        waiting = await retries.read_all()
        assert (retries.events, retries.others(waiting[0])) == (2, 0b010)
        said = {"connection c: tables": "permission denied, next try in 10 s"}
        line = (await status(broker, Scrape("http://x", problems=said))).connections[0]
        assert (line.state, line.why) == ("table failing", "permission denied, next try in 10 s")
        telemetry = Telemetry("loader-test", ServiceSettings())
        try:
            await set_gauges(broker, telemetry, "c", "c", Accounts(broker, "c", "c", telemetry), retries)
            assert telemetry.value("loader_aside_rows", connection="c") == 3
            assert telemetry.value("account_waiting_events", connection="c", place="aside") == 2
            age = time.time() - REQUEST.received_at / 1e6
            assert telemetry.value("loader_oldest_seconds", connection="c") == pytest.approx(age, abs=60)
            assert line.oldest_waiting_seconds == pytest.approx(age, abs=60)
        finally:
            telemetry.shutdown()


async def test_gauges_follow_the_queue_while_nothing_is_loaded_and_go_with_their_connection(broker: Broker) -> None:
    await queue(broker, 1, "a", "b", total=2)
    telemetry = Telemetry("loader-test", ServiceSettings())
    try:
        task = asyncio.create_task(
            keep_gauges(broker, telemetry, "gauged", "c", Accounts(broker, "gauged", "c", telemetry), lambda: None)
        )
        async with asyncio.timeout(60):
            while "loader_oldest_seconds" not in telemetry.exposition().decode():
                await asyncio.sleep(0.01)
        first = telemetry.value("loader_oldest_seconds", connection="gauged")
        async with asyncio.timeout(60):  # the recommended alert watches this one grow
            while telemetry.value("loader_oldest_seconds", connection="gauged") <= first:
                await asyncio.sleep(0.05)
        assert telemetry.value("loader_waiting_frames", connection="gauged") == 1
        assert telemetry.value("account_waiting_events", connection="gauged", place="queue") == 2
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert 'connection="gauged"' not in telemetry.exposition().decode()
    finally:
        telemetry.shutdown()


async def test_a_process_that_keeps_dying_and_a_full_stream_and_what_services_warn_of_are_problems(broker: Broker) -> None:
    await counted(broker, forwarded=5, counts=Counts())
    await limit_queues(broker, 5)
    for number in range(5):
        await queue(broker, number + 1, f"{number}", total=number + 1)
    loader = msgspec.structs.replace(PROCESS, restarts=4, state="died, starts again in 8 s")
    stack = StackState(
        home="/h", supervisor=PROCESS, broker_url="", ingest_url="", monitor_url="", started_at="", processes=[loader]
    )
    refused = {"ingest_requests_refused_total": [({"code": "wrong_key", "site": "shop", "key": "k"}, 3.0)]}
    lost = {"dead_letters_refused_total": [({"stage": "ingest", "source": "shop"}, 4.0)]}
    said = {
        "journal": "nearly full",
        "process 1: stream EVENTS": "is measured",
        "room of DEAD": "letters are lost",
        "clients": "are refused",
    }
    edge = Scrape("http://edge", {**refused, **lost}, True, warnings=said)
    found = await status(broker, edge, stack=stack)
    assert not found.healthy
    assert "died 4 times" in found.problems["process loader"]
    assert "/h/logs/loader.log" in found.problems["process loader"]
    assert "PENSTOCK_DELIVER_MAX_FRAMES" in found.problems["stream DELIVER"]
    assert found.problems["http://edge journal"] == "nearly full"
    assert "http://edge process 1: stream EVENTS" not in found.problems
    assert "http://edge clients" not in found.problems, "anybody could make the stack look unwell"
    assert found.problems["http://edge room of DEAD"] == "letters are lost"
    assert found.dead_lost == {"refused, ingest shop": 4}
    assert found.refused == {"code wrong_key, key k, site shop": 3}


@pytest.mark.parametrize("part", ["connection c"])
async def test_a_connection_that_fails_is_failing_also_where_its_service_is_ready(broker: Broker, part: str) -> None:
    scrape = Scrape("http://x", ready=True, warnings={part: "no such host; others load"})
    found = await status(broker, scrape)
    assert (found.connections[0].state, found.connections[0].why) == ("failing", "no such host; others load")
    assert not found.problems


async def test_a_full_events_is_told_with_the_words_of_the_services_and_with_who_is_behind(broker: Broker) -> None:
    await counted(broker, forwarded=0, counts=Counts())
    info = await broker.js.stream_info(topology.EVENTS)
    info.config.max_bytes = 64 * 1024
    await broker.js.update_stream(info.config)
    await broker.publisher.publish(topology.events_subject("gone"), b"x" * 60_000)
    told = (await status(broker)).problems["stream EVENTS"]
    assert "no router runs" in told
    assert told.endswith("; no connection and no router is behind")
    said = Scrape("http://edge", problems={"process 0: stream EVENTS": "it is full, the room is too small for the age"})
    warned = Scrape("http://router", warnings={"stream EVENTS": "is nearly full"})
    await put(broker, ["x"])
    told = (await status(broker, warned, said)).problems["stream EVENTS"]
    assert told == "it is full, the room is too small for the age; behind now: the router of site shop (1 event waits)"
