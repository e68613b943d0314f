"""The loader process and a webhook: what is sent, sent again, given up and counted, compared by sets of ids."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from penstock.control.status.balance import settle_balance
from shared.jetstream import topology
from shared.jetstream.broker import Broker, connect
from shared.jetstream.kv import Bucket
from shared.streams.ended import decode_ended, ended_key
from shared.streams.waiting import look_aside
from tests.e2e.loader_support import LIVE, dead, drained, put, queue, start
from tests.faults.places import DuckSchema, Files
from tests.support.receiver import OK, Behaviour, Receiver, Request
from tests.support.stack import Stack, stack

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Stack]:
    with stack(tmp_path) as started:
        yield started


def project(receiver: Receiver, **options: Any) -> dict[str, Any]:
    return {
        "sites": {"shop": {"keys": [{"id": "k"}]}},
        "destinations": {"crm": {"type": "webhook", "url": receiver.url, "retry_delay": 0.2, **options}},
        "connections": {"c": {"site": "shop", "destination": "crm", "mode": "stream"}},
    }


def events(first: int, count: int, users: int = 5) -> list[dict[str, Any]]:
    return [
        {
            "messageId": f"m{number}",
            "type": "track",
            "event": "Bought",
            "userId": f"u{number % users}",
            "properties": {"n": number},
        }
        for number in range(first, first + count)
    ]


def ids(first: int, count: int) -> set[str]:
    return {f"m{number}" for number in range(first, first + count)}


def more_than(receiver: Receiver, count: float) -> bool:
    return len(set(receiver.ids)) > count


async def at_rest(broker: Broker) -> None:
    await drained(broker)
    await drained(broker, topology.RETRY)


async def balanced(broker: Broker, delivered: int, dead_letters: int = 0) -> None:
    """Every event is counted once."""
    balance = await settle_balance(broker, "shop", "c", await queue(broker))
    assert (balance.delivered, sum(balance.dead.values()), balance.all_waiting) == (delivered, dead_letters, 0), balance


async def noted(broker: Broker, size: int) -> set[str]:
    """Returns the events of frames of one size of which the account says that they ended; no loader lives."""
    entry = await Bucket(broker, topology.STATS_BUCKET).get(ended_key(await queue(broker)))
    ended = decode_ended(entry.value if entry else None)
    found = ids(0, ended.through.get(LIVE, 0) * size)
    for frame, bits in ended.begun.items():
        first = (int(frame.rpartition(":")[2]) - 1) * size
        found |= {f"m{first + number}" for number in range(size) if int(bits, 16) >> number & 1}
    return found


def in_order(receiver: Receiver) -> None:
    """The events of each user came in their order; repeats aside."""
    last: dict[str, int] = {}
    seen: set[str] = set()
    for request in receiver.taken:
        for event in request.events:
            if event["messageId"] not in seen:
                seen.add(event["messageId"])
                assert last.get(event["userId"], -1) < event["properties"]["n"], event
                last[event["userId"]] = event["properties"]["n"]


async def test_each_event_arrives_once_in_the_order_of_its_user_and_is_counted(running: Stack) -> None:
    async with Receiver() as receiver, connect(running.nats.url, "test") as broker:
        await start(running, project(receiver))
        for frame in range(5):
            await put(broker, frame + 1, events(frame * 40, 40))
        await at_rest(broker)
        assert Counter(receiver.ids) == Counter(ids(0, 200))
        in_order(receiver)
        assert len({request.key for request in receiver.requests}) == 200
        assert all(request.headers["content-type"] == "application/json" for request in receiver.requests)
        await balanced(broker, 200)
        assert await dead(broker) == []


async def test_a_loader_that_is_killed_repeats_only_calls_whose_answer_was_not_noted(running: Stack) -> None:
    async with Receiver(lambda _: Behaviour(seconds=0.005)) as receiver, connect(running.nats.url, "test") as broker:
        await start(running, project(receiver, calls_at_once=2))
        for frame in range(4):
            await put(broker, frame + 1, events(frame * 250, 250))
        most = Counter[str]()
        for part in (0.2, 0.5, 0.8):
            await receiver.until(partial(more_than, receiver, part * 1000))
            running.kill("loader")
            await receiver.until(lambda: not receiver.connected)
            most.update(set(receiver.ids) - await noted(broker, size=250))
            running.start("loader")
        await at_rest(broker)
        assert set(receiver.ids) == ids(0, 1000)
        keys: dict[str, set[str]] = {}
        for request in receiver.requests:
            keys.setdefault(request.ids[0], set()).add(request.key)
        assert all(len(each) == 1 for each in keys.values())
        assert not Counter(receiver.ids) - Counter(ids(0, 1000)) - most, "what was noted came again"
        in_order(receiver)
        await balanced(broker, 1000)


async def test_what_fails_for_good_is_a_dead_letter_what_fails_for_now_comes_again_and_others_do_not_wait(running: Stack) -> None:
    tries: Counter[str] = Counter()

    def behave(request: Request) -> Behaviour:
        (id_,) = request.ids
        tries[id_] += 1
        if id_ == "m3":
            return Behaviour(400, body=b"no such field")
        if id_ in ("m7", "m12") and tries[id_] < 3:
            return Behaviour(500)
        if id_ == "m20" and tries[id_] == 1:
            return Behaviour(what="cut")
        return OK

    async with Receiver(behave) as receiver, connect(running.nats.url, "test") as broker:
        await start(running, project(receiver))
        await put(broker, 1, events(0, 60))
        await at_rest(broker)
        assert Counter(receiver.ids) == Counter(ids(0, 60) - {"m3"})
        in_order(receiver)
        (letter,) = await dead(broker)
        assert (letter.message_id, letter.reason) == ("m3", "rejected_by_destination")
        assert "no such field" in letter.detail
        await balanced(broker, 59, 1)


async def test_a_destination_that_is_down_loses_nothing_and_is_tried_less_and_less(running: Stack) -> None:
    async with Receiver() as receiver, connect(running.nats.url, "test") as broker:
        await start(running, project(receiver, calls_at_once=2))
        await receiver.stop()
        await put(broker, 1, events(0, 100))
        await asyncio.to_thread(_wait_not_ready, running)
        running.kill("loader")
        running.start("loader")
        await put(broker, 2, events(100, 100))
        await receiver.start()
        await at_rest(broker)
        assert Counter(receiver.ids) == Counter(ids(0, 200))
        in_order(receiver)
        await balanced(broker, 200)


async def test_batches_arrive_whole_and_one_bad_event_is_found_in_them(running: Stack) -> None:
    def behave(request: Request) -> Behaviour:
        return Behaviour(422) if "m77" in request.ids else OK

    async with Receiver(behave) as receiver, connect(running.nats.url, "test") as broker:
        await start(running, project(receiver, batch_events=50, calls_at_once=2))
        for frame in range(4):
            await put(broker, frame + 1, events(frame * 100, 100, users=40))
        await at_rest(broker)
        assert Counter(receiver.ids) == Counter(ids(0, 400) - {"m77"})
        in_order(receiver)
        assert len(receiver.taken) < 40
        assert [letter.message_id for letter in await dead(broker)] == ["m77"]
        await balanced(broker, 399, 1)


@pytest.mark.parametrize("type_", ["duckdb", "local"])
async def test_calls_that_wait_when_a_connection_moves_to_tables_are_rows_there_and_half_sent_frames_are_not_loaded_twice(
    running: Stack, tmp_path: Path, type_: str
) -> None:
    stuck, failing = {"m5"}, {f"m{number}" for number in range(60, 75)} | {"m3", "m8"}

    def behave(request: Request) -> Behaviour:
        if stuck.intersection(request.ids):
            return Behaviour(what="hang")
        return Behaviour(500) if failing.intersection(request.ids) else OK

    place = DuckSchema(tmp_path / "x.duckdb") if type_ == "duckdb" else Files(tmp_path / "files")
    async with Receiver(behave) as receiver, connect(running.nats.url, "test") as broker:
        document = project(receiver, retry_delay=60)
        document["destinations"]["tables"] = place.destination
        await start(running, document)
        await put(broker, 1, events(0, 40, users=20))
        await put(broker, 2, events(40, 40, users=20))
        # of all users but two kinds: the user of the hanging call, and users who wait behind a failed call
        await receiver.until(partial(more_than, receiver, 20))
        await until_aside(broker, 15)
        document["connections"]["c"] |= {"destination": "tables", "layout": "single_table", "deduplicate": False}
        await running.apply(document)
        await at_rest(broker)
        rows = (await place.rows())["events"]
        assert Counter(receiver.ids) + rows == Counter(ids(0, 80))
        assert set(rows) >= stuck | failing
        assert await dead(broker) == []
        await balanced(broker, 80)


async def until_aside(broker: Broker, count: int) -> None:
    """Waits until so many events wait in RETRY."""
    async with asyncio.timeout(60):
        while (await look_aside(broker, await queue(broker))).events < count:
            await asyncio.sleep(0.05)


def _wait_not_ready(running: Stack) -> None:
    import time
    import urllib.error
    import urllib.request

    ends_at = time.monotonic() + 60
    while time.monotonic() < ends_at:
        with contextlib.suppress(OSError):  # it does not answer yet
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{running.admin['loader']}/ready", timeout=5):
                    pass
            except urllib.error.HTTPError as exc:
                if "cannot connect" in exc.read().decode():
                    return
        time.sleep(0.05)
    raise AssertionError("the loader does not say that its destination is away")
