"""The Kinesis feed's own: shards that split and merge are read to their ends before their children."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from shared.telemetry.metrics import Telemetry
from tests.contract.feeds.of_kinesis import open_source, server
from tests.support.feeds import Journal, Lives, record
from tests.support.nats import NatsServer

pytestmark = pytest.mark.timeout(90)


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
