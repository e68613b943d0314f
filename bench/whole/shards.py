"""A site with 1, 2 and 4 shards: CPU seconds per million events of each router and of the broker: `python -m bench.whole.shards [--events N]`.

One router process for each shard, one connection, full frames packed for the shards as ingest does. Two cores cannot show four routers
at full speed side by side; what one process spends says how far the site can grow. The runs of a set of rules come in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
import psutil
import uvloop

from bench import history
from bench.kit.events import bodies
from router.shards.summed import read_site_state
from shared.events.frame import Head, RequestContext, encode_frame, pack
from shared.events.shards import Layout, Shard, Split, layout_key, part_of, shard_subject
from shared.jetstream import topology
from shared.jetstream.broker import Broker, connect
from shared.jetstream.identity import identify
from shared.jetstream.kv import Bucket
from shared.jetstream.lease import holder
from tests.support.nats import nats_server
from tests.support.router import apply, project, router_process

PER_FRAME = 500
RULES: dict[str, dict[str, Any]] = {
    "no rules": {},
    "where on properties, half": {"where": {"field": "properties.total", "gt": 250}},
}


def frames_of(events: int, shards: int) -> list[tuple[str, bytes]]:
    """Returns subjects and full frames."""
    request = RequestContext(received_at=1_700_000_000_000_000, protocol="segment", key="bench", kind="server")
    made = bodies("flat", 5_000, "RUNTOKEN")
    filling: dict[int, list[tuple[Head, bytes]]] = defaultdict(list)
    frames: list[tuple[str, bytes]] = []
    for number in range(events):
        head = Head(f"{number:08d}-{'x' * 27}", "track", "Order Completed", f"user-{number % 50_021}", f"{number:016x}")
        shard = part_of(head.user_key, shards)
        filling[shard].append((head, made[number % len(made)]))
        if len(filling[shard]) == PER_FRAME:
            heads, some = zip(*filling.pop(shard), strict=True)
            frames.append((shard_subject("shop", Shard(shard, shards)), encode_frame(pack("shop", [request] * 5, heads, some))))
    return frames


async def run(shards: int, events: int, rules: dict[str, Any]) -> tuple[list[float], float, float]:
    """Routes the events; returns the CPU µs an event of the site for each router, and for the broker, and events a second."""
    frames = frames_of(events, shards)
    total = len(frames) * PER_FRAME
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(nats_server(folder))
        async with connect(server.url, "bench", patience_seconds=10) as broker:
            await topology.ensure(broker, topology.TopologySettings(deliver_max_frames=1_000_000))
            await apply(broker, project({"c": rules}, shards=shards))
            if shards > 1:
                layout = Layout(incarnation=(await identify(broker, topology.EVENTS)).incarnation, splits=[Split(1, shards)])
                await Bucket(broker, topology.STATE_BUCKET).put(layout_key("shop"), msgspec.json.encode(layout))
            routers = []
            for number in range(shards):
                environment = {"PENSTOCK_DELIVER_MAX_FRAMES": "1000000"}
                router = stack.enter_context(router_process(server.url, folder / f"{number}.log", **environment))
                routers.append(psutil.Process(router.pid))
            await _held(broker, shards)
            broker_process = psutil.Process(server.pids["nats"])
            before, began = [_cpu(each) for each in (*routers, broker_process)], time.monotonic()
            for number, (subject, payload) in enumerate(frames):
                await broker.publisher.publish(subject, payload, msg_id=str(number))
            await _until(broker, total)
            took = time.monotonic() - began
            after = [_cpu(each) for each in (*routers, broker_process)]
    costs = [1e6 * (end - start) / total for start, end in zip(before, after, strict=True)]
    return costs[:-1], costs[-1], total / took


async def _until(broker: Broker, events: int) -> None:
    while True:
        if (await read_site_state(broker, "shop")).accepted >= events:
            return
        await asyncio.sleep(0.05)


async def _held(broker: Broker, shards: int) -> None:
    """Waits until the routers have shared the shards out."""
    async with asyncio.timeout(120):
        while True:
            holders = {await holder(broker, f"router.{Shard(number, shards).key('shop')}") for number in range(shards)}
            if None not in holders and len(holders) == shards:
                break
            await asyncio.sleep(0.1)
    await asyncio.sleep(2)


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def main() -> None:
    """Parses the arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 2, 4])
    arguments = parser.parse_args(sys.argv[1:])
    for title, rules in RULES.items():
        print(f"\n{title}: CPU µs an event of the site")
        alone = 0.0
        for shards in arguments.shards:
            routers, broker, rate = await run(shards, arguments.events, rules)
            alone = alone or max(routers) or 1.0
            if shards > 1:
                history.keep("shards", f"{shards} shards, {title}", {"events of one router": alone / max(routers)})
            each = ", ".join(f"{cost:.2f}" for cost in sorted(routers, reverse=True))
            print(
                f"  {shards} shards: routers {each} (sum {sum(routers):.2f}), broker {broker:.2f}; {rate:,.0f} events/s;"
                f" the busiest router can take {alone / max(routers):.2f} of one router's events"
            )


if __name__ == "__main__":
    uvloop.run(main())
