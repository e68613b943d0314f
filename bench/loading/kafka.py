"""Events to Kafka: a queue filled with packed frames, sent by the loader to a local cluster: `python -m bench.loading.kafka`.

The cluster is librdkafka's own mock, in a process of its own: it speaks the protocol and stores nothing durably, so what is measured is the
loader. Its ceilings, in the same run, are bare producers of aiokafka with the same records, the same options and uvloop, in this
process: one that sends record by record, as most programs do, and one that is handed whole batches.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import uvloop
from aiokafka import AIOKafkaProducer

from bench.kit.events import bodies
from bench.kit.machine import Meter
from bench.kit.stack import stack
from bench.loading.loader import fill
from bench.whole.path import committed, report, wait_committed
from loader.delivery.sending.job import Item, Source
from loader.queues.kafka.options import Options
from loader.queues.kafka.records import Maker, Record
from shared.events.frame import Head, RequestContext, pack
from tests.support.kafka_mock import mock_cluster

TOPIC = "bench"
BESIDE = [("site", b"bench"), ("connection", b"bench-wh")]


def _serve(partitions: int, told: Connection) -> None:
    with mock_cluster(1) as cluster:
        cluster.create(TOPIC, partitions)
        told.send(cluster.servers)
        told.recv()


@contextlib.contextmanager
def cluster(partitions: int) -> Iterator[str]:
    """Yields the address of a cluster of one broker."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(partitions, theirs), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


def records(kind: str, count: int, options: Options) -> Sequence[Record]:
    """Returns records as the loader makes them."""
    made = bodies(kind, count, "RUNTOKEN")
    request = RequestContext(received_at=0, protocol="segment", key="bench", kind="server")
    heads = [Head(f"{number:018d}", "track", "Order Completed") for number in range(count)]
    source = Source("live-bench", pack("bench", [request], heads, made))
    events = [Item(source, index, 1, index, user="").event() for index in range(count)]
    return Maker(options).calls(events, time.time()).calls[0].records


def producer(options: Options, **more: Any) -> AIOKafkaProducer:
    """Returns a bare producer with the loader's options."""
    compression = None if options.compression == "none" else options.compression
    return AIOKafkaProducer(
        bootstrap_servers=options.bootstrap_servers,
        enable_idempotence=True,
        acks="all",
        compression_type=compression,
        max_batch_size=options.batch_bytes,
        **more,
    )


async def one_by_one(options: Options, made: Sequence[Record], count: int) -> float:
    """Returns records a second of a bare producer that sends each, and waits for all."""
    async with producer(options, linger_ms=5) as bare:
        await bare.partitions_for(TOPIC)
        began = time.perf_counter()
        waiting = []
        for number in range(count):
            each = made[number % len(made)]
            waiting.append(await bare.send(TOPIC, each.value, each.key, timestamp_ms=each.at, headers=each.headers(BESIDE)))
        await asyncio.gather(*waiting)
        return count / (time.perf_counter() - began)


async def in_batches(options: Options, made: Sequence[Record], count: int, partitions: int) -> float:
    """Returns records a second of a bare producer that is handed batches as large as the loader's, one for each partition at once."""

    async def send(partition: int, records: Sequence[Record]) -> None:
        batch = bare.create_batch()
        for each in records:
            batch.append(timestamp=each.at, key=each.key, value=each.value, headers=each.headers(BESIDE))
        await (await bare.send_batch(batch, TOPIC, partition=partition))

    size = options.batch_events // partitions
    async with producer(options) as bare:
        await bare.partitions_for(TOPIC)
        began = time.perf_counter()
        for start in range(0, count, size * partitions):
            parts = [[made[(start + place * size + number) % len(made)] for number in range(size)] for place in range(partitions)]
            await asyncio.gather(*(send(place, part) for place, part in enumerate(parts)))
        return count / (time.perf_counter() - began)


def main() -> None:
    """Parses the arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--per-frame", type=int, default=500)
    parser.add_argument("--batch", type=int, default=500, help="events a call")
    parser.add_argument("--at-once", type=int, default=4, help="calls at once")
    parser.add_argument("--partitions", type=int, default=6)
    parser.add_argument("--compression", choices=["none", "gzip", "snappy", "lz4", "zstd"], default="lz4")
    parser.add_argument("--kind", choices=["flat", "mixed"], default="flat")
    arguments = parser.parse_args(sys.argv[1:])
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as held:
        servers = held.enter_context(cluster(arguments.partitions))
        running = held.enter_context(stack(Path(name), {}))
        asyncio.run(running.apply(project(servers, arguments)))
        asyncio.run(fill(running.nats.url, arguments.kind, arguments.events, arguments.per_frame))
        options = Options(bootstrap_servers=servers, topic=TOPIC, batch_events=arguments.batch, compression=arguments.compression)
        made = records(arguments.kind, 1_000, options)
        count = min(arguments.events, 60_000)
        singly = uvloop.run(one_by_one(options, made, count))
        batched = uvloop.run(in_batches(options, made, count, arguments.partitions))
        running.start("loader")
        running.wait_ready("loader")
        before = committed(running)  # it began before it was ready
        began = time.monotonic()
        with Meter({"loader": running.pids["loader"], "nats": running.pids["nats"]}) as meter:
            wait_committed(running, arguments.events, 600)
        seconds, events = time.monotonic() - began, arguments.events - int(before)
        size = sum(len(each.value) for each in made) / len(made)
        report(f"kafka, {arguments.batch} events a call, {arguments.compression}", events, seconds, meter, {})
        print(f"  {size:.0f} bytes a record")
        print(f"  a bare producer, record by record: {singly:,.0f} records/s; ratio {events / seconds / singly:.2f}")
        print(f"  a bare producer, handed batches: {batched:,.0f} records/s; ratio {events / seconds / batched:.2f}")


def project(servers: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the project to measure with."""
    bus = {
        "type": "kafka",
        "bootstrap_servers": servers,
        "topic": TOPIC,
        "batch_events": arguments.batch,
        "calls_at_once": arguments.at_once,
        "compression": arguments.compression,
    }
    return {
        "sites": {"bench": {"keys": [{"id": "k", "kind": "server"}]}},
        "destinations": {"wh": bus},
        "connections": {"bench-wh": {"site": "bench", "destination": "wh", "mode": "stream"}},
    }


if __name__ == "__main__":
    main()
