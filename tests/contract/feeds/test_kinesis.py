"""The Kinesis feed's own: shards that split and merge are read to their ends before their children; streams are made again, and calls refused."""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
import pytest
from botocore.exceptions import ClientError

from connector_runner.feeds.kinds.kinesis import KinesisFeed
from shared.jetstream import topology
from shared.jetstream.broker import connect
from shared.jetstream.kv import Bucket
from shared.telemetry.metrics import Telemetry
from tests.contract.feeds.of_kinesis import open_source, server
from tests.support.feeds import Journal, Lives, Step, record
from tests.support.nats import NatsServer


async def test_shards_are_followed_through_splits_and_merges(broker: NatsServer, telemetry: Telemetry, tmp_path: Path) -> None:
    with server(tmp_path) as moto:
        async with open_source(moto) as source:
            lives = Lives(broker.url, source.document, telemetry)
            journal = Journal(lives)

            async def put(start: int) -> None:
                await source.put([record(n, key=n % 7) for n in range(start, start + 70)])

            await put(0)
            first, second = [each["ShardId"] for each in (await source.ask("list_shards"))["Shards"]]
            await source.ask("split_shard", ShardToSplit=first, NewStartingHashKey=str(2**126))
            await put(70)
            async with lives.life() as ending:
                await journal.until(140)
                open_ = [each["ShardId"] for each in (await source.ask("list_shards"))["Shards"] if each["ShardId"] != first]
                left, right = [name for name in open_ if name != second][:2]
                await source.ask("merge_shards", ShardToMerge=left, AdjacentShardToMerge=right)
                await put(140)
                await journal.until(210)
                ending.set()
            assert sorted(journal.values()) == list(range(210))
            by_key: defaultdict[Any, list[int]] = defaultdict(list)
            for event in journal.events:
                by_key[event["properties"]["key"]].append(event["properties"]["n"])
            assert all(each == sorted(each) for each in by_key.values())
            # the next runner begins no shard again
            await put(210)
            async with lives.life() as ending:
                await journal.until(280)
                ending.set()
            assert set(journal.ids.values()) == {1}


async def test_a_stream_that_was_made_again_and_another_stream_are_read_from_their_beginnings(
    broker: NatsServer, telemetry: Telemetry, tmp_path: Path
) -> None:
    with server(tmp_path) as moto:
        async with (
            open_source(moto) as source,
            open_source(moto) as other,
            connect(broker.url, "test", patience_seconds=60) as ours,
        ):
            lives = Lives(broker.url, source.document, telemetry)
            journal = Journal(lives)
            await source.put([record(n) for n in range(100)])
            async with lives.life() as ending:
                await journal.until(100)
                ending.set()
            # the same shards with other first numbers, as Amazon gives them to each stream; moto gives all of them the same
            bucket, key = Bucket(ours, topology.STATE_BUCKET), f"feed.{lives.name}.shards"
            entry = await bucket.get(key)
            assert entry is not None
            assert entry.value is not None
            state = msgspec.json.decode(entry.value)
            for shard in state["shards"].values():
                assert shard["first"]
                shard |= {"first": "2", "done": True, "at": str(10**60)}
            await bucket.put(key, msgspec.json.encode(state))
            await source.put([record(n) for n in range(100, 150)])
            async with lives.life() as ending:
                await journal.until(150)
                ending.set()
            assert sorted(set(journal.values())) == list(range(150))
            lives.document["stream"] = other.name
            await other.put([record(n) for n in range(150, 200)])
            async with lives.life() as ending:
                await journal.until(200)
                ending.set()


def field(number: int, value: bytes) -> bytes:
    """Returns a field of Protobuf with bytes of any length below 16,384."""
    return bytes([number << 3 | 2, len(value) & 0x7F | 0x80, len(value) >> 7]) + value


def pack(*values: bytes) -> bytes:
    """Returns what Amazon's producer library makes of records."""
    records = [field(3, bytes([8, n % 2]) + field(3, value)) for n, value in enumerate(values)]
    message = field(1, b"left") + field(1, b"right") + b"".join(records)
    return b"\xf3\x89\x9a\xc2" + message + hashlib.md5(message).digest()


async def test_records_that_were_packed_into_one_are_taken_apart(
    broker: NatsServer, telemetry: Telemetry, tmp_path: Path
) -> None:
    with server(tmp_path) as moto:
        async with open_source(moto) as source:
            lives = Lives(broker.url, source.document, telemetry)
            journal = Journal(lives)
            values = [record(n) for n in range(1200)]
            damaged = pack(record(9999))[:-1] + b"?"
            await source.put([pack(*values[start : start + 400]) for start in (0, 400, 800)] + [damaged, record(1200)])
            death = Step("commit", 1, "before")
            async with lives.life(death), asyncio.timeout(60):
                await death.reached.wait()
            async with lives.life() as ending:
                await journal.until(1201, dead=1)
                ending.set()
            assert sorted(journal.values()) == list(range(1201))
            told = {event["properties"]["n"]: event["context"]["feed"] for event in journal.events}
            assert told[401]["offset"].endswith(".1")
            assert told[401]["key"] == "right"
            assert [letter.body for letter in journal.dead] == [damaged]


async def test_calls_that_are_refused_for_a_while_lose_and_double_nothing(
    broker: NatsServer, telemetry: Telemetry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = KinesisFeed.begin

    async def begin_badly(feed: KinesisFeed) -> None:
        get_records, calls = feed._client.get_records, iter(range(10**9))

        async def refuse(**given: Any) -> Any:
            codes = ["", "ExpiredIteratorException", "ProvisionedThroughputExceededException"]
            code = codes[next(calls) % 3]
            if code:
                raise ClientError({"Error": {"Code": code, "Message": "later"}}, "GetRecords")
            return await get_records(**given)

        feed._client.get_records = refuse
        await begin(feed)

    monkeypatch.setattr(KinesisFeed, "begin", begin_badly)
    monkeypatch.setattr("connector_runner.feeds.kinds.kinesis.SLOW_SECONDS", 0.01)
    with server(tmp_path) as moto:
        async with open_source(moto) as source:
            lives = Lives(broker.url, source.document, telemetry)
            journal = Journal(lives)
            async with lives.life() as ending:
                for start in range(0, 300, 100):
                    await source.put([record(n) for n in range(start, start + 100)])
                    await journal.until(start + 100)
                ending.set()
            assert sorted(journal.values()) == list(range(300))
            assert set(journal.ids.values()) == {1}
            assert telemetry.value("feeds_errors_total", feed=lives.name) == 0
