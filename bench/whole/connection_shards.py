"""A connection with 1 and 2 shards into Postgres: CPU of each loader, of the router and of Postgres: `python -m bench.whole.connection_shards`.

One loader process for each shard; full frames that no edge packed by shard, so the router cuts each. Everything is on this machine, so
the CPU of one process says how far the connection can grow. The runs come in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from bench import history
from bench.kit.machine import Meter
from bench.kit.stack import Stack, stack
from bench.whole.path import destination
from bench.whole.shards import PER_FRAME, frames_of
from shared.jetstream.broker import Broker, connect
from shared.jetstream.lease import holder
from shared.project.shards import shard_name


async def run(shards: int, events: int) -> tuple[dict[str, float], float]:
    """Loads the events; returns the CPU µs an event of the connection by process, and events a second."""
    frames = frames_of(events, 1)
    loaders = ["loader", *(f"loader-{number + 1}" for number in range(1, shards))]
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as held:
        document, server = held.enter_context(destination("postgres", Path(name)))
        running = held.enter_context(stack(Path(name), {}))
        connection = {
            "site": "shop", "destination": "wh", "mode": "batch", "layout": "single_table", "deduplicate": False,
            "batch": {"period": "1s"}, "shards": shards,
        }  # fmt: skip
        sites = {"shop": {"keys": [{"id": "bench", "kind": "server"}]}}
        await running.apply({"sites": sites, "destinations": {"wh": document}, "connections": {"wh": connection}})
        await asyncio.to_thread(running.start_all, "router", *loaders)
        async with connect(running.url, "bench", patience_seconds=10) as broker:
            await _shared_out(broker, shards)
            pids = {each: running.pids[each] for each in ("router", *loaders)}
            began = time.monotonic()
            with Meter({**pids, **({"postgres": server.pid} if server else {})}) as meter:
                for number, (subject, payload) in enumerate(frames):
                    await broker.publisher.publish(subject, payload, msg_id=str(number))
                await _loaded(running, loaders, len(frames) * PER_FRAME)
            took = time.monotonic() - began
    total = len(frames) * PER_FRAME
    return {each: 1e6 * cost.cpu_seconds / total for each, cost in meter.costs.items()}, total / took


async def _shared_out(broker: Broker, shards: int) -> None:
    """Waits until each loader has a shard."""
    async with asyncio.timeout(120):
        while True:
            holders = {await holder(broker, f"loader.{shard_name('wh', number)}") for number in range(shards)}
            if None not in holders and len(holders) == shards:
                return
            await asyncio.sleep(0.1)


async def _loaded(running: Stack, loaders: list[str], events: int) -> None:
    async with asyncio.timeout(300):
        while True:
            if sum([await asyncio.to_thread(running.metric, each, "loader_events_total") for each in loaders]) >= events:
                return
            await asyncio.sleep(0.1)


async def main() -> None:
    """Parses the arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args(sys.argv[1:])
    alone = 0.0
    for _ in range(arguments.rounds):
        for shards in arguments.shards:
            costs, rate = await run(shards, arguments.events)
            busiest = max(cost for name, cost in costs.items() if name.startswith("loader"))
            alone = alone or busiest
            if shards > 1:
                history.keep("shards", f"{shards} shards of a connection", {"events of one loader": alone / busiest})
            told = ", ".join(f"{name} {cost:.1f}" for name, cost in costs.items())
            print(f"{shards} shards: CPU µs an event: {told}; {rate:,.0f} events/s; the busiest loader is {alone / busiest:.2f}")


if __name__ == "__main__":
    uvloop.run(main())
