"""Kinesis against moto's server: what Amazon's own library reads there is what was sent, each user's events in their order."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from shared.jetstream import topology
from shared.jetstream.broker import connect
from tests.support.nats import NatsServer, nats_server
from tests.support.sending import Sending


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(Path(tmp_path_factory.mktemp("kinesis")) / "nats", sync="2m") as running:
        yield running


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    """The address of a server that speaks Kinesis."""
    moto = ThreadedMotoServer(port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    yield f"http://{host.replace('0.0.0.0', '127.0.0.1')}:{port}"
    moto.stop()


def client(aws: str) -> Any:
    keys = {"aws_access_key_id": "AK", "aws_secret_access_key": "sk"}
    return boto3.client("kinesis", endpoint_url=aws, region_name="eu-central-1", **keys)


def records(aws: str, stream: str) -> list[tuple[str, dict[str, Any]]]:
    """Returns what the shards hold, each in its order: partition key and event."""
    kinesis = client(aws)
    found = []
    for shard in kinesis.list_shards(StreamName=stream)["Shards"]:
        start = kinesis.get_shard_iterator(StreamName=stream, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON")
        held = kinesis.get_records(ShardIterator=start["ShardIterator"], Limit=1000)["Records"]
        found += [(each["PartitionKey"], json.loads(each["Data"])) for each in held]
    return found


def events(count: int, users: int) -> list[dict[str, Any]]:
    return [{"messageId": f"m{n}", "type": "track", "event": "é", "userId": f"u{n % users}", "n": n} for n in range(count)]


@pytest.mark.parametrize("ordered", [True, False])
async def test_records_are_the_events_and_users_keep_their_order(server: NatsServer, aws: str, ordered: bool) -> None:
    stream = f"events-{ordered}"
    client(aws).create_stream(StreamName=stream, ShardCount=2)
    document = {"type": "kinesis", "stream": stream, "region": "eu-central-1", "endpoint": aws, "ordered": ordered}
    document |= {"access_key_id": "AK", "secret_access_key": "sk"}
    async with connect(server.url, "test", patience_seconds=60) as broker:
        await topology.ensure(broker, topology.TopologySettings())
        sending = Sending(broker, f"k{ordered}", document)
        everything = events(60, 7)
        for seq in (1, 2, 3):
            await sending.put(seq, everything[20 * (seq - 1) : 20 * seq])
        await sending.live()
        assert (await sending.account()).counts.delivered == 60
        assert await sending.letters() == []
    found = records(aws, stream)
    assert Counter(event["messageId"] for _, event in found) == Counter(f"m{n}" for n in range(60))
    assert all(key == event["userId"] and event["event"] == "é" for key, event in found)
    if ordered:
        for _, held in itertools.groupby(sorted(found, key=lambda each: each[0]), key=lambda each: each[0]):
            numbers = [event["n"] for _, event in held]
            assert numbers == sorted(numbers)


async def test_a_stream_that_is_not_there_holds_all_events(server: NatsServer, aws: str) -> None:
    document = {"type": "kinesis", "stream": "later", "region": "eu-central-1", "endpoint": aws, "retry_delay": 0.05}
    document |= {"access_key_id": "AK", "secret_access_key": "sk"}
    async with connect(server.url, "test", patience_seconds=60) as broker:
        await topology.ensure(broker, topology.TopologySettings())
        sending = Sending(broker, "klater", document)
        await sending.put(1, events(4, 2))
        steps = await sending.live(kill_at=9)
        assert "behind a call" in steps
        assert await sending.letters() == []
        client(aws).create_stream(StreamName="later", ShardCount=1)
        await sending.live()
    assert {event["messageId"] for _, event in records(aws, "later")} == {"m0", "m1", "m2", "m3"}
