"""Kafka with several brokers whose answers a test chooses: leaders that move, refusals of records, topics and users."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from loader.delivery.sending import pace
from loader.queues.kafka import link, session
from shared.jetstream import topology
from shared.jetstream.broker import Broker, connect
from tests.support.kafka_mock import PRODUCE, PRODUCER_ID, MockCluster, mock_cluster
from tests.support.nats import NatsServer, nats_server
from tests.support.sending import Sending

NAMES = itertools.count(1)
UNKNOWN_TOPIC, NOT_LEADER, TOO_LARGE, FEW_REPLICAS, TOPIC_DENIED, CLUSTER_DENIED = 3, 6, 10, 19, 29, 31
BAD_TIME, OUT_OF_ORDER, UNKNOWN_PRODUCER, BAD_RECORD = 32, 45, 59, 87


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(Path(tmp_path_factory.mktemp("cluster")) / "nats", sync="2m") as running:
        yield running


@pytest.fixture
async def broker(server: NatsServer) -> AsyncIterator[Broker]:
    async with connect(server.url, "test", patience_seconds=60) as connected:
        await topology.ensure(connected, topology.TopologySettings())
        yield connected


@pytest.fixture
def cluster() -> Iterator[MockCluster]:
    with mock_cluster() as running:
        yield running


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets brokers that do not take events be tried again soon."""
    monkeypatch.setattr(pace, "PAUSE_SECONDS", (0.05, 0.2))
    monkeypatch.setattr(link, "SAME_SECONDS", 0.05)
    monkeypatch.setattr(session, "TOPIC_SECONDS", 0.4)


def events(first: int, count: int, users: int = 7) -> list[dict[str, Any]]:
    return [{"messageId": f"m{n}", "type": "track", "userId": f"u{n % users}", "n": n} for n in range(first, first + count)]


def connection(broker: Broker, cluster: MockCluster, topic: str, **options: Any) -> Sending:
    document = {"type": "kafka", "bootstrap_servers": cluster.servers, "topic": topic, "retry_delay": 0.05, **options}
    return Sending(broker, f"q{next(NAMES)}", document)


def stored(cluster: MockCluster, topic: str, partitions: int, count: int) -> list[dict[str, Any]]:
    """Returns the events of a topic, by partition each in its order, as librdkafka reads them: at least `count`."""
    consumer = Consumer({"bootstrap.servers": cluster.servers, "group.id": "test", "enable.partition.eof": True})
    found: dict[int, list[dict[str, Any]]] = {number: [] for number in range(partitions)}
    try:
        consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
        ended: set[int] = set()
        while len(ended) < partitions or sum(map(len, found.values())) < count:
            message = consumer.poll(60)
            assert message is not None, f"{sum(map(len, found.values()))} of {count} records"
            number = message.partition() or 0
            if message.error():
                ended.add(number)
            else:
                found[number].append(json.loads(message.value() or b""))
    finally:
        consumer.close()
    return [event for held in found.values() for event in held]


def whole(found: list[dict[str, Any]], count: int, *without: int) -> None:
    """Asserts that each event is there once, each user's in their order."""
    assert Counter(event["n"] for event in found) == Counter(n for n in range(count) if n not in without)
    last: dict[str, int] = {}
    for event in found:
        assert last.get(event["userId"], -1) < event["n"]
        last[event["userId"]] = event["n"]


async def test_leaders_that_move_and_brokers_that_go_down_double_nothing(broker: Broker, cluster: MockCluster) -> None:
    cluster.create("t", 3)
    sending = connection(broker, cluster, "t", batch_events=5)
    for seq in range(1, 11):
        await sending.put(seq, events(30 * (seq - 1), 30))
    living = asyncio.create_task(sending.live())
    for turn in range(6):
        while sending.telemetry.counted["loader_events_total"] < 40 * (turn + 1):
            await asyncio.sleep(0.002)
        for partition in range(3):
            cluster.lead("t", partition, 1 + (partition + turn) % 3)
        cluster.down(1 + turn % 3)
        cluster.answer(PRODUCE, NOT_LEADER, FEW_REPLICAS)
        cluster.up(1 + turn % 3)
    await living
    whole(stored(cluster, "t", 3, 300), 300)
    assert await sending.letters() == []


async def test_a_batch_that_is_too_large_is_halved_and_what_is_too_large_alone_is_a_letter(
    broker: Broker, cluster: MockCluster
) -> None:
    cluster.create("t", 1)
    sending = connection(broker, cluster, "t", calls_at_once=1)
    cluster.answer(PRODUCE, TOO_LARGE, TOO_LARGE, TOO_LARGE)
    await sending.put(1, events(0, 4, users=2))
    await sending.live()
    # four, two, one
    assert [(each.message_id, each.reason) for each in await sending.letters()] == [("m0", "too_large")]
    whole(stored(cluster, "t", 1, 3), 4, 0)
    (letter,) = await sending.letters()
    assert "max.message.bytes" in letter.detail


@pytest.mark.parametrize(("code", "words"), [(BAD_TIME, "timestamp: received"), (BAD_RECORD, "wants a key")])
async def test_a_record_that_the_brokers_refuse_is_found_and_its_neighbours_arrive(
    broker: Broker, cluster: MockCluster, code: int, words: str
) -> None:
    cluster.create("t", 1)
    sending = connection(broker, cluster, "t", calls_at_once=1)
    cluster.answer(PRODUCE, code, 0, code, 0, code)
    await sending.put(1, events(0, 4, users=2))
    await sending.live()
    (letter,) = await sending.letters()
    # all four, the first two, the last two, the third, the fourth
    assert (letter.message_id, letter.reason) == ("m3", "rejected_by_destination")
    assert words in letter.detail
    whole(stored(cluster, "t", 1, 3), 4, 3)


@pytest.mark.parametrize("code", [OUT_OF_ORDER, UNKNOWN_PRODUCER])
async def test_brokers_that_forgot_the_session_get_another_one(broker: Broker, cluster: MockCluster, code: int) -> None:
    cluster.create("t", 2)
    sending = connection(broker, cluster, "t", batch_events=5)
    cluster.answer(PRODUCE, 0, code, 0, 0, code)
    for seq in (1, 2, 3):
        await sending.put(seq, events(20 * (seq - 1), 20))
    await sending.live()
    whole(stored(cluster, "t", 2, 60), 60)
    assert await sending.letters() == []


@pytest.mark.parametrize(
    ("code", "words"), [(UNKNOWN_TOPIC, "does not exist"), (TOPIC_DENIED, "may not use the topic")], ids=["missing", "denied"]
)
async def test_a_topic_that_is_missing_or_denied_holds_all_events_and_status_says_why(
    broker: Broker, cluster: MockCluster, code: int, words: str
) -> None:
    cluster.topic_error("t", code)
    sending = connection(broker, cluster, "t")
    await sending.put(1, events(0, 30))
    living = asyncio.create_task(sending.live())
    while words not in sending.status:
        await asyncio.sleep(0.02)
    assert 'topic "t"' in sending.status
    cluster.topic_error("t", 0)
    await living
    whole(stored(cluster, "t", 4, 30), 30)
    assert await sending.letters() == []


async def test_a_topic_that_an_event_chose_and_that_is_missing_is_a_letter_of_that_event_alone(
    broker: Broker, cluster: MockCluster
) -> None:
    cluster.create("t-a", 2)
    cluster.topic_error("t-b", UNKNOWN_TOPIC)
    sending = connection(broker, cluster, "t-{{ event.to }}", ordered=False)
    everything = [{**event, "to": "b" if event["n"] == 4 else "a"} for event in events(0, 40)]
    await sending.put(1, everything[:20])
    living = asyncio.create_task(sending.live())
    while sending.telemetry.counted["loader_calls_again_total"] == 0:
        await asyncio.sleep(0.02)
    await sending.put(2, everything[20:])
    await living
    whole(stored(cluster, "t-a", 2, 39), 40, 4)
    (letter,) = await sending.letters()
    assert (letter.message_id, letter.reason) == ("m4", "rejected_by_destination")
    assert 'topic "t-b": the topic does not exist' in letter.detail


async def test_a_user_who_may_not_write_idempotently_is_told_so(broker: Broker, cluster: MockCluster) -> None:
    cluster.create("t", 1)
    cluster.answer(PRODUCER_ID, *[CLUSTER_DENIED] * 1_000)
    sending = connection(broker, cluster, "t")
    await sending.put(1, events(0, 10))
    living = asyncio.create_task(sending.live())
    while "IdempotentWrite" not in sending.status:
        await asyncio.sleep(0.02)
    cluster.calm(PRODUCER_ID)
    await living
    whole(stored(cluster, "t", 1, 10), 10)


async def test_a_partition_without_a_leader_holds_its_own_events_alone(broker: Broker, cluster: MockCluster) -> None:
    cluster.create("t", 2)
    cluster.lead("t", 1, -1)
    sending = connection(broker, cluster, "t")
    await sending.put(1, events(0, 60, users=20))
    living = asyncio.create_task(sending.live())
    counted = sending.telemetry.counted
    while not (counted["loader_calls_again_total"] and counted["loader_events_total"]):
        await asyncio.sleep(0.02)
    assert counted["loader_events_total"] < 60
    cluster.lead("t", 1, 2)
    await living
    whole(stored(cluster, "t", 2, 60), 60)
    assert await sending.letters() == []
