"""The functions' runtime against a real broker: what functions keep, and what they log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from functions_runtime.host.lines import AT_ONCE, Line, Lines
from functions_runtime.host.store import DEFAULT_SECONDS, MOST_VALUE_BYTES, Store
from functions_runtime.sandbox.chain import CallError
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.jetstream.reader import StreamReader


@pytest.fixture
async def _streams(broker: Broker) -> None:
    await topology.ensure(broker, topology.TopologySettings())


def store_of(broker: Broker, owner: str, clock: Callable[[], float] = time.time) -> Store:
    return Store(Bucket(broker, topology.STORE_BUCKET), owner, clock)


async def ask(store: Store, op: str, *args: Any) -> Any:
    """What the function gets: the value as the JSON that was kept."""
    return msgspec.json.decode(msgspec.json.encode(await store.call(op, args)))


@pytest.mark.usefixtures("_streams")
async def test_what_a_function_keeps_is_there_for_all_replicas_and_for_no_other_connection(broker: Broker) -> None:
    one, same, other = store_of(broker, "a.1"), store_of(broker, "a.1"), store_of(broker, "b.1")
    value: Any = {"a": [1, None, "ü"], "b": 12345678901234567890}
    await ask(one, "set", "key with . and *", value)
    assert await ask(same, "get", "key with . and *") == value
    assert await ask(other, "get", "key with . and *") is None
    assert await ask(one, "ttl", "key with . and *") in (DEFAULT_SECONDS, DEFAULT_SECONDS - 1)
    await ask(same, "del", "key with . and *")
    assert await ask(one, "get", "key with . and *") is None
    assert await ask(one, "ttl", "key with . and *") == -2
    await ask(one, "del", "key with . and *")


@pytest.mark.usefixtures("_streams")
@pytest.mark.parametrize(
    ("given", "left"), [(60, 60), ("1d", 86_400), ({"ttl": "2h"}, 7200), ("inf", -1), (None, DEFAULT_SECONDS)]
)
async def test_how_long_a_value_is_kept(broker: Broker, given: object, left: float) -> None:
    store = store_of(broker, "ttl.1")
    await ask(store, "set", "k", 1, given)
    assert (await ask(store, "getWithTTL", "k"))["ttl"] in (left, left - 1)


@pytest.mark.usefixtures("_streams")
async def test_a_value_is_gone_when_its_time_is_over(broker: Broker) -> None:
    now = 1000.0
    store = store_of(broker, "gone.1", lambda: now)
    await ask(store, "set", "k", 1, 60)
    now += 61
    assert await ask(store, "get", "k") is None
    assert await ask(store, "add", "k", 2, 60) == 2


@pytest.mark.usefixtures("_streams")
async def test_of_all_who_add_at_once_one_wins_and_all_get_its_value(broker: Broker) -> None:
    stores = [store_of(broker, "race.1") for _ in range(8)]
    for _ in range(5):
        got = await asyncio.gather(*(ask(store, "add", "k", number) for number, store in enumerate(stores)))
        assert len(set(got)) == 1
        assert await ask(stores[0], "get", "k") == got[0]
        await ask(stores[0], "del", "k")


@pytest.mark.usefixtures("_streams")
async def test_who_reads_and_swaps_loses_no_write_of_another(broker: Broker) -> None:
    async def add(store: Store) -> None:
        while True:
            found = await ask(store, "read", "n")
            if await ask(store, "swap", "n", (found["value"] or 0) + 1, "1d", found["revision"]):
                return

    await asyncio.gather(*(add(store_of(broker, "swap.1")) for _ in range(20)))
    assert await ask(store_of(broker, "swap.1"), "get", "n") == 20
    now = time.time() + 2 * 86_400
    late = store_of(broker, "swap.1", lambda: now)
    found = await ask(late, "read", "n")
    assert found["value"] is None
    assert await ask(late, "swap", "n", 1, None, found["revision"])


@pytest.mark.usefixtures("_streams")
async def test_del_says_when_the_value_may_still_be_there(broker: Broker) -> None:
    store = store_of(broker, "del.1")
    await ask(store, "set", "k", 1)
    bucket = Bucket(broker, topology.STORE_BUCKET)
    await bucket.erase(4711)  # what is not there does not matter
    one, two = await asyncio.gather(*(ask(store, "del", "k") for _ in range(2)))
    assert (one, two) == (None, None)
    await ask(store, "set", "k", 1)
    stream = "KV_store"
    told = msgspec.json.decode((await broker.nc.request(f"$JS.API.STREAM.INFO.{stream}")).data)
    await broker.nc.request(f"$JS.API.STREAM.UPDATE.{stream}", msgspec.json.encode({**told["config"], "deny_delete": True}))
    with pytest.raises(CallError, match=r"the broker does not remove a message of KV_store: .*not permitted"):
        await ask(store, "del", "k")


@pytest.mark.usefixtures("_streams")
@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "a key is a text"),
        ([5, 1], "a key is a text"),
        (["", 1], "a key is a text"),
        (["k" * 2000, 1], "a key is a text"),
        (["k", "x" * MOST_VALUE_BYTES], "larger than 64 KiB"),
        (["k", 1, "soon"], "expected a duration"),
        (["k", 1, 0.1], "for a second at least"),
        (["k", 1, -5], "zero or more"),
    ],
)
async def test_what_cannot_be_kept_says_why(broker: Broker, args: list[Any], said: str) -> None:
    with pytest.raises(CallError, match=said):
        await ask(store_of(broker, "wrong.1"), "set", *args)


@pytest.mark.usefixtures("_streams")
async def test_lines_are_bounded_in_rate_and_say_how_many_are_missing(broker: Broker) -> None:
    now = 1000.0
    lines = Lines(broker, "c", lambda: now)
    sending = asyncio.create_task(lines.keep_sent())
    for number in range(2 * AT_ONCE):
        lines.say("info", str(number))
    now += 10
    lines.say("info", "later")
    found: list[Line] = []
    async with asyncio.timeout(60), StreamReader(broker, topology.LIVE, "live.functions.c") as reader:
        while not found or not found[-1].message.endswith("later"):
            message = await reader.next(60)
            if message is not None:
                found.append(msgspec.json.decode(message.payload, type=Line))
    sending.cancel()
    assert found[-1].message == f"({AT_ONCE} lines before this one were left out) later"
