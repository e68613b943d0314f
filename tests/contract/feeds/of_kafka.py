"""A topic of librdkafka's mock cluster, which speaks the real protocol and lets a group begin at once."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer

from tests.contract.feeds.source import Source
from tests.support.kafka_mock import MockCluster, mock_cluster

PARTITIONS = 2
UNKNOWN_TOPIC = 3
_numbers = itertools.count()


class KafkaSource(Source):
    """One topic of two partitions."""

    def __init__(self, cluster: MockCluster) -> None:
        self.cluster = cluster
        self.name = f"orders{next(_numbers)}"

    @property
    def document(self) -> dict[str, Any]:
        servers = {"bootstrap_servers": self.cluster.servers, "session_timeout": "1s"}
        return {"type": "kafka", "topics": [self.name], **servers}

    async def put(self, values: Sequence[bytes | None], **more: Any) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=self.cluster.servers, **more)
        await producer.start()
        try:
            for number, value in enumerate(values):
                await producer.send(self.name, value, key=b"k%d" % (number % 7))
            await producer.flush()
        finally:
            await producer.stop()

    async def away(self) -> None:
        self.cluster.down(1)

    async def back(self) -> None:
        self.cluster.up(1)

    async def spoil(self) -> None:
        self.cluster.topic_error(self.name, UNKNOWN_TOPIC)


@contextlib.contextmanager
def server(folder: Path) -> Iterator[MockCluster]:  # it keeps all in memory
    """Runs a cluster of one broker."""
    with mock_cluster(1) as cluster:
        cluster.join_at_once()
        yield cluster


@contextlib.asynccontextmanager
async def open_source(server: MockCluster) -> AsyncIterator[KafkaSource]:
    """Makes an empty topic."""
    source = KafkaSource(server)
    server.create(source.name, PARTITIONS)
    yield source
