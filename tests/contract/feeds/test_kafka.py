"""The Kafka feed's own: groups that share partitions, logins, where reading starts, codecs, transactions, tombstones, and schemas."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError as NotConnectedError
from confluent_kafka import Producer

from shared.events.outcome import DeadReason
from shared.jetstream import topology
from shared.jetstream.broker import connect
from shared.jetstream.kv import Bucket
from shared.telemetry.metrics import Telemetry
from tests.contract.feeds.conftest import until
from tests.contract.feeds.of_kafka import open_source, server
from tests.support.feeds import Journal, Lives, record
from tests.support.kafka_broker import KafkaFront, Tansu
from tests.support.kafka_login import Login
from tests.support.kafka_mock import MockCluster
from tests.support.kafka_topics import create
from tests.support.nats import NatsServer


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with server(tmp_path_factory.mktemp("kafka")) as started:
        yield started


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
async def test_a_real_broker_asks_for_a_login_and_is_read(
    mechanism: str, broker: NatsServer, telemetry: Telemetry, tmp_path: Path
) -> None:
    with Tansu(tmp_path) as tansu:
        async with KafkaFront(tansu) as front:
            await create(front.servers, "orders")
        async with KafkaFront(tansu, Login({"reader": "secret"})) as front:
            sasl = {"sasl_mechanism": "PLAIN", "sasl_plain_username": "reader", "sasl_plain_password": "secret"}
            producer = AIOKafkaProducer(bootstrap_servers=front.servers, security_protocol="SASL_PLAINTEXT", **sasl)
            await producer.start()
            for n in range(500):
                await producer.send("orders", record(n))
            await producer.stop()
            document = {
                "type": "kafka",
                "bootstrap_servers": front.servers,
                "topics": ["orders"],
                "sasl": mechanism,
                "user": "reader",
            }
            wrong = Lives(broker.url, {**document, "password": "wrong"}, telemetry)
            async with wrong.life():
                await until(lambda: "the broker refuses the login of 'reader'" in wrong.problem)
            lives = Lives(broker.url, {**document, "password": "secret"}, telemetry)
            journal = Journal(lives)
            async with lives.life() as ending:
                await journal.until(500)
                ending.set()
            assert sorted(journal.values()) == list(range(500))
            assert journal.in_order()


async def test_two_runners_share_a_group_and_hand_partitions_over_without_loss(
    cluster: MockCluster, broker: NatsServer, telemetry: Telemetry
) -> None:
    async with open_source(cluster) as source:
        lives = Lives(broker.url, source.document, telemetry)
        journal = Journal(lives)
        written = 0

        async def put(count: int) -> None:
            nonlocal written
            await source.put([record(n) for n in range(written, written + count)])
            written += count

        async with lives.life() as first:
            await put(300)
            await journal.until(300)
            async with lives.life() as second:
                # records come while partitions move to and fro
                for _ in range(10):
                    await put(100)
                await journal.until(written)
                second.set()
            await put(200)
            await journal.until(written)
            first.set()
        assert sorted(journal.values()) == list(range(written))


async def test_reading_starts_where_the_options_say(cluster: MockCluster, broker: NatsServer, telemetry: Telemetry) -> None:
    async with open_source(cluster) as source:
        await source.put([record(n) for n in range(50)])
        lives = Lives(broker.url, {**source.document, "start": "latest"}, telemetry)
        journal = Journal(lives)
        async with lives.life():  # dies before it got any record, but not before it has a position
            await until(lambda: sum(lives.name in line and line.endswith("} 0.0") for line in _lines(telemetry)) >= 2)
        await source.put([record(n) for n in range(50, 80)])
        async with lives.life() as ending:
            await journal.until(30)
            ending.set()
        assert sorted(journal.values()) == list(range(50, 80))


async def test_a_partition_that_was_added_later_is_read_from_the_time_at_which_the_feed_began(
    broker: NatsServer, telemetry: Telemetry, tmp_path: Path
) -> None:
    with Tansu(tmp_path) as tansu:
        async with KafkaFront(tansu) as front:
            await create(front.servers, "orders", 1)
            document = {"type": "kafka", "bootstrap_servers": front.servers, "topics": ["orders"], "start": "latest"}
            lives = Lives(broker.url, document, telemetry)
            async with connect(broker.url, "test", patience_seconds=60) as ours:
                # the feed began, and its group has no position in this partition
                began = {f"penstock-{lives.name}:orders": int(time.time() * 1000) - 60_000}
                await Bucket(ours, topology.STATE_BUCKET).put(f"feed.{lives.name}.since", msgspec.json.encode(began))
            producer = AIOKafkaProducer(bootstrap_servers=front.servers)
            await producer.start()
            for n in range(30):
                await producer.send("orders", record(n), timestamp_ms=began.popitem()[1] - 1000 if n == 0 else None)
            await producer.stop()
            journal = Journal(lives)
            async with lives.life() as ending:
                await journal.until(29)
                ending.set()
            assert set(range(1, 30)) <= set(journal.values())


async def test_a_start_that_cannot_be_found_out_is_a_failure_and_not_another_start(
    cluster: MockCluster, broker: NatsServer, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> None:
        raise NotConnectedError("the offsets cannot be read")

    async with open_source(cluster) as source:
        await source.put([record(n) for n in range(10)])
        lives = Lives(broker.url, {**source.document, "start": "latest"}, telemetry)
        with monkeypatch.context() as patch:
            patch.setattr(AIOKafkaConsumer, "end_offsets", fails)
            async with lives.life():
                await until(lambda: telemetry.value("feeds_errors_total", feed=lives.name) >= 1)
        journal = Journal(lives)
        await journal.look()
        assert journal.events == []


async def test_headers_may_be_binary_null_and_many_and_records_large(
    cluster: MockCluster, broker: NatsServer, telemetry: Telemetry
) -> None:
    async with open_source(cluster) as source:
        producer: Any = Producer({"bootstrap.servers": cluster.servers, "message.max.bytes": 20_000_000})
        given: Any = [("text", "é".encode()), ("binary", b"\xff\x00"), ("none", None), ("empty", b"")]
        producer.produce(source.name, record(1), key=b"\xff", headers=given)
        producer.produce(source.name, record(2, text="x" * 3_000_000))
        producer.produce(source.name, record(3))
        assert await asyncio.to_thread(producer.flush, 20) == 0
        lives = Lives(broker.url, source.document, telemetry)
        journal = Journal(lives)
        async with lives.life() as ending:
            await journal.until(2, dead=1)
            ending.set()
        assert sorted(journal.values()) == [1, 3]
        (told,) = (event["context"]["feed"] for event in journal.events if event["properties"]["n"] == 1)
        assert told["headers"] == {"text": "é", "none": "", "empty": ""}
        assert told["headers_base64"] == {"binary": "/wA="}
        assert told["key_base64"] == "/w=="
        (letter,) = journal.dead
        assert (letter.reason, len(letter.body)) == (DeadReason.TOO_LARGE, 1024 * 1024)


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_compressed_batches_and_tombstones_are_read(
    codec: str, cluster: MockCluster, broker: NatsServer, telemetry: Telemetry
) -> None:
    async with open_source(cluster) as source:
        lives = Lives(broker.url, source.document, telemetry)
        await source.put([*(record(n) for n in range(40)), None], compression_type=codec)
        journal = Journal(lives)
        async with lives.life() as ending:
            await journal.until(41)
            ending.set()
        (tombstone,) = (event for event in journal.events if event["context"]["feed"].get("tombstone"))
        assert tombstone["properties"] == {}
        assert tombstone["context"]["feed"]["key"] == "k5"


def _lines(telemetry: Telemetry) -> list[str]:
    return telemetry.exposition().decode().splitlines()
