"""The Kafka feed's own: groups that share partitions, logins, where reading starts, codecs, transactions, tombstones, and schemas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from shared.telemetry.metrics import Telemetry
from tests.contract.feeds.conftest import until
from tests.contract.feeds.of_kafka import open_source, server
from tests.support.feeds import Journal, Lives, record
from tests.support.kafka_broker import KafkaFront, Tansu
from tests.support.kafka_login import Login
from tests.support.kafka_mock import MockCluster
from tests.support.kafka_topics import create
from tests.support.nats import NatsServer

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with server(tmp_path_factory.mktemp("kafka")) as started:
        yield started


async def test_a_real_broker_asks_for_a_login_and_is_read(broker: NatsServer, telemetry: Telemetry, tmp_path: Path) -> None:
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
                "sasl": "PLAIN",
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
            await until(lambda: any("feeds_lag_records" in line and lives.name in line for line in _lines(telemetry)))
        await source.put([record(n) for n in range(50, 80)])
        async with lives.life() as ending:
            await journal.until(30)
            ending.set()
        assert sorted(journal.values()) == list(range(50, 80))


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
