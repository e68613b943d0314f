"""Topics as a consumer sees them: makes them, reads them whole, and judges what is there."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic


async def create(servers: str, topic: str, partitions: int = 3) -> None:
    """Makes a topic."""
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, partitions, 1)])
    finally:
        await admin.close()


async def read(servers: str, topic: str, count: int, partitions: int = 3) -> list[Any]:
    """Returns the records of a topic, by partition each in its order: at least `count`, and all that are there."""
    consumer = AIOKafkaConsumer(bootstrap_servers=servers, auto_offset_reset="earliest", group_id=None)
    await consumer.start()
    try:
        places = [TopicPartition(topic, number) for number in range(partitions)]
        ends = await consumer.end_offsets(places)
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        found: dict[TopicPartition, list[Any]] = {place: [] for place in places}
        async with asyncio.timeout(60):
            while sum(map(len, found.values())) < max(count, sum(ends.values())):
                for place, records in (await consumer.getmany(timeout_ms=200)).items():
                    found[place] += records
        return [record for records in found.values() for record in records]
    finally:
        await consumer.stop()


def ids(records: list[Any]) -> Counter[str]:
    """Returns how often each message id is there."""
    return Counter(dict(record.headers)["message_id"].decode() for record in records)


def in_order(records: list[Any]) -> bool:
    """Whether the events of each key have their order, by their `n`; repeats aside."""
    by_key: defaultdict[bytes, list[int]] = defaultdict(list)
    for record in records:
        by_key[record.key].append(json.loads(record.value)["n"])
    return all(list(dict.fromkeys(held)) == sorted(set(held)) for held in by_key.values())
