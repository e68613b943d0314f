"""A session of the producer: one producer id of the brokers, with which they store each batch once and in order.

The driver sends a batch again under its number until the brokers acknowledge or refuse it, so brokers that are away, leaders that
move and answers that get lost double nothing and change no order. A batch that they refuse leaves a gap in the numbers of its
partition. After that, and after an acknowledgement that never came, the session is spent, and the link opens another one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from loader.queues.kafka.records import Headers, Record
from shared.driving.kafka import reason_of, words_of
from shared.tasks import timeout

OPEN_SECONDS = 20.0
TOPIC_SECONDS = 2.0
"""The wait for a topic that brokers may be about to create."""
END_SECONDS = 5.0
MOST_TOPICS = 1_000
"""A client may choose topics, and the driver asks for all that it was ever told of; beyond these the session is spent."""
LONGEST_KEPT = 128
"""Bytes of a key whose partition is remembered. A client chooses keys, and longer ones would fill the memory."""


class AwayError(Exception):
    """No session can be opened; the text says why, with the remedy."""


class Session:
    """An open producer."""

    def __init__(self, producer: Any) -> None:
        self._producer = producer
        self._topics: set[str] = set()
        self._turn = 0
        self.users = 0
        """How many batches are under way."""
        self.spent = False

    @classmethod
    async def open(cls, given: Mapping[str, Any]) -> Session:
        """Opens a session.

        Args:
            given: arguments of the driver's producer.

        Raises:
            AwayError: the brokers cannot be reached, or refuse the login.
        """
        from aiokafka import AIOKafkaProducer

        session = cls(AIOKafkaProducer(**given, enable_idempotence=True, acks="all"))
        try:
            async with timeout(OPEN_SECONDS):
                await session._producer.start()
        except Exception as error:
            await session.end()
            # the driver says only that it reached no broker
            raise AwayError(await reason_of(given) or words_of(error, given)) from error
        except BaseException:
            await session.end()
            raise
        return session

    async def partitions(self, topic: str) -> Sequence[int]:
        """Returns the partitions of a topic.

        Raises:
            KafkaError, TimeoutError: there is no such topic, or the brokers do not say.
        """
        from aiokafka.errors import UnknownTopicOrPartitionError

        cluster = self._producer.client.cluster
        found = cluster.partitions_for_topic(topic)
        if found is None:
            self._topics.add(topic)
            self.spent = self.spent or len(self._topics) > MOST_TOPICS
            try:
                async with timeout(TOPIC_SECONDS):
                    found = await self._producer.partitions_for(topic)
            except TimeoutError:
                async with timeout(TOPIC_SECONDS):
                    told = await self._producer.client.force_metadata_update()
                if told and cluster.partitions_for_topic(topic) is None:
                    raise UnknownTopicOrPartitionError from None
                raise
        return sorted(found)

    def partition(self, key: bytes | None, partitions: Sequence[int]) -> int:
        """Returns the partition of a key, the one that Kafka's own clients choose; without a key, one after the other."""
        if key is None:
            self._turn += 1
            return partitions[self._turn % len(partitions)]
        return partitions[(_hash(key) if len(key) <= LONGEST_KEPT else _hash.__wrapped__(key)) % len(partitions)]

    def has_leader(self, topic: str, partition: int) -> bool:
        """Returns whether a broker takes records for a partition now; asks again if none does."""
        from aiokafka import TopicPartition

        client = self._producer.client
        if client.cluster.leader_for_partition(TopicPartition(topic, partition)) in (None, -1):
            client.force_metadata_update()
            return False
        return True

    async def put(self, topic: str, partition: int, records: Sequence[Record], beside: Headers) -> int:
        """Stores the first records that fit into a batch, durably; returns how many.

        Raises:
            KafkaError: the brokers refuse the batch, or the session is spent.
        """
        batch = self._producer.create_batch()
        count = 0
        for record in records:
            if not batch.append(timestamp=record.at, key=record.key, value=record.value, headers=record.headers(beside)):
                break
            count += 1
        batch.close()
        self.users += 1
        try:
            await (await self._producer.send_batch(batch, topic, partition=partition))
        finally:
            self.users -= 1
        return count

    async def end(self) -> None:
        """Closes the producer at once, and gives up what the brokers have not acknowledged; each waiting caller gets an error.

        The driver's own `stop` waits for all of it, for ever while brokers are away, so its parts are ended one by one.
        """
        from aiokafka.errors import ProducerClosed

        self.spent = True
        producer = self._producer
        accumulator, sending = producer._message_accumulator, producer._sender.sender_task
        batches = [*(each for held in accumulator._batches.values() for each in held), *accumulator._pending_batches]
        accumulator.fail_all(ProducerClosed())
        for future in (future for each in batches for future in (each.future, each._drain_waiter)):
            if future.done() and not future.cancelled():
                future.exception()  # a caller that still waits gets it
        if sending is not None:
            sending.cancel()
        with contextlib.suppress(Exception):
            await producer.client.close()
        if sending is not None:
            await asyncio.wait([sending], timeout=END_SECONDS)
            if sending.done() and not sending.cancelled():
                sending.exception()
        with contextlib.suppress(Exception):
            async with timeout(END_SECONDS):
                await producer.stop()


@lru_cache(maxsize=65_536)
def _hash(key: bytes) -> int:
    from aiokafka.partitioner import murmur2

    return int(murmur2(key)) & 0x7FFFFFFF
