"""Records of Kafka into frames: a topic filled beforehand, followed by the feed's worker into a real broker: `python -m bench.syncs.feeds`.

The cluster is librdkafka's own mock, in a process of its own. The ceiling, in turns with the feed, is a bare consumer of aiokafka with the
same records and uvloop, which does nothing with what it gets. CPU is that of this process, so of one core.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from bench.loading.kafka import TOPIC, cluster
from connector_runner.feeds.definition import Definition
from connector_runner.feeds.worker import FeedWorker
from shared.jetstream import topology
from shared.jetstream.broker import connect
from shared.jetstream.lease import Lease
from shared.project.model import SiteLimits
from shared.service import ServiceContext
from shared.settings import ServiceSettings
from shared.telemetry.health import Health
from shared.telemetry.metrics import Telemetry
from tests.support.nats import nats_server

PARTITIONS = 12
"""The mock keeps the newest 5 MiB of each, and forgets the rest."""


async def _fill(servers: str, count: int) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=servers, linger_ms=20, max_batch_size=200_000)
    await producer.start()
    for n in range(count):
        value = {
            "id": n,
            "customer": f"c{n % 1000}",
            "total": n / 7,
            "items": [{"sku": f"s{n % 50}", "count": 1}] * 3,
            "note": "x" * 80,
        }
        await producer.send(TOPIC, json.dumps(value).encode(), key=b"%d" % (n % 1000))
    await producer.flush()
    await producer.stop()


async def _bare(servers: str, count: int) -> float:
    """Returns the CPU seconds of a consumer that does nothing."""
    seen, began = 0, time.process_time()  # what is fetched while it starts counts
    consumer = AIOKafkaConsumer(TOPIC, bootstrap_servers=servers, auto_offset_reset="earliest", enable_auto_commit=False)
    await consumer.start()

    while seen < count:
        seen += sum(map(len, (await consumer.getmany(timeout_ms=500, max_records=500)).values()))
    took = time.process_time() - began
    await consumer.stop()
    return took


async def _feed(servers: str, url: str, count: int, name: str) -> tuple[float, float]:
    """Returns CPU seconds and seconds until all events are durable."""
    telemetry = Telemetry("bench", ServiceSettings())
    async with connect(url, "bench", patience_seconds=10) as broker:
        await topology.ensure(broker, ServiceSettings().topology())
        health = Health()
        context = ServiceContext("connector_runner", "bench", ServiceSettings(), broker, cast("Any", None), telemetry, health)
        document = {"site": "bench", "type": "kafka", "bootstrap_servers": servers, "topics": [TOPIC]}
        worker, ending = FeedWorker(context, name, Definition(document, SiteLimits())), asyncio.Event()
        task = asyncio.create_task(worker.work(Lease(f"feed.{name}", 1, 3600), ending))
        while not telemetry.value("feeds_records_total"):  # noqa: ASYNC110  # counters set no event
            await asyncio.sleep(0.001)
        first, cpu, began = telemetry.value("feeds_records_total"), time.process_time(), time.perf_counter()
        while telemetry.value("feeds_records_total") < count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        share = count / (count - first)
        took = ((time.process_time() - cpu) * share, (time.perf_counter() - began) * share)
        ending.set()
        await task
    return took


async def _run(servers: str, url: str, count: int, rounds: int) -> None:
    await _fill(servers, count)
    bare, fed = [], []
    for number in range(rounds):
        bare.append(count / await _bare(servers, count))
        cpu, seconds = await _feed(servers, url, count, f"bench{number}")
        fed.append((count / cpu, count / seconds))
        sys.stdout.write(
            f"round {number + 1}: {fed[-1][1]:,.0f} records/s into frames, {fed[-1][0]:,.0f} a second of one core; "
            f"a bare consumer {bare[-1]:,.0f}\n"
        )
    middle, of_bare = statistics.median(each for each, _ in fed), statistics.median(bare)
    sys.stdout.write(
        f"median: {statistics.median(each for _, each in fed):,.0f} records/s into frames, {middle:,.0f} a second of one core; "
        f"a bare consumer {of_bare:,.0f}; ratio {middle / of_bare:.2f}\n"
    )


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, cluster(PARTITIONS) as servers, nats_server(Path(folder)) as nats:
        uvloop.run(_run(servers, nats.url, arguments.records, arguments.rounds))


if __name__ == "__main__":
    main()
