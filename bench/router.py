"""The router alone: frames of EVENTS into the queues of connections: `python -m bench.router [--sync 2m] [--events N]`.

Prints, for each size of frame and set of rules, events/s, CPU microseconds an event of the router's own process, and the ratio to a
ceiling measured in the same run: reading the same frames and publishing each as it is, one after the other, to as many queues. The
broker is a process of its own and not part of the CPU figure; it bounds the rate, and neighbours on the machine bound both.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import gc
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from bench import history
from bench.kit.events import bodies
from router.forwarding.state import StateKeeper, state_key
from router.rules.compiled import compile_project
from router.settings import RouterSettings
from router.site import SiteRouter
from shared.events.event import micros
from shared.events.frame import Head, RequestContext, encode_frame, pack, with_names
from shared.events.headers import Place, write_place
from shared.jetstream import topology
from shared.jetstream.broker import Broker, connect
from shared.jetstream.reader import StreamReader
from shared.project.read import decode_project
from shared.project.snapshot import ConfigSnapshot
from shared.settings import ServiceSettings
from shared.telemetry.metrics import Telemetry
from tests.support.nats import nats_server

RULES: dict[str, dict[str, Any]] = {
    "no rules": {},
    "where on type": {"where": {"field": "type", "eq": "track"}},
    "where on userId, half": {"where": {"field": "userId", "matches": "*[02468]"}},
    "where on properties, half": {"where": {"field": "properties.total", "gt": 250}},
}
SCHEMA = {"required": ["total"], "properties": {"total": {"type": "number"}}}
SITES: dict[str, dict[str, Any]] = {
    "no catalogue": {"catalog": "off"},
    "catalogue": {"catalog": "samples"},
    "tracking plan": {"catalog": "off", "tracking_plan": "p"},
}
"""Rules of the site; their rows are measured in turns, so that they can be compared with each other."""
PLANS = {"p": {"unplanned_properties": "allow", "events": {"Order Completed": {"schema": SCHEMA}}}}


@dataclass(frozen=True, slots=True)
class Run:
    """What one measurement took, over all events of EVENTS."""

    wall_seconds: float
    cpu_seconds: float


async def fill(broker: Broker, events: int, per_frame: int) -> list[bytes]:
    """Puts `events` events of about 800 bytes into EVENTS; returns the frames."""
    request = RequestContext(
        received_at=micros(datetime.datetime.now(datetime.UTC)),
        protocol="segment",
        key="bench",
        kind="server",
        user_agent="Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/139.0 Safari/537.36",
        headers={"accept-language": "en-GB"},
    )
    made = bodies("flat", 5_000, "RUNTOKEN")
    frames = []
    for number in range(events // per_frame):
        chunk = [
            made[(number * per_frame + index) % len(made)].replace(b"RUNTOKEN", b"%08d" % number) for index in range(per_frame)
        ]
        heads = [
            Head(
                f"{number:08d}-{index:06d}-{'x' * 20}",
                "track",
                "Order Completed",
                f"user-{number * 31 + index * 7}",
                f"{index:016x}",
            )
            for index in range(per_frame)
        ]
        frames.append(encode_frame(with_names(pack("bench", [request] * max(1, per_frame // 100), heads, chunk))))
        await broker.publisher.publish(topology.events_subject("bench"), frames[-1], msg_id=f"{per_frame}-{number}")
    return frames


async def measure(work: Callable[[], Any]) -> Run:
    """Runs `work` and returns what it took."""
    gc.collect()
    gc.freeze()
    cpu, wall = time.process_time(), time.monotonic()
    await work()
    return Run(time.monotonic() - wall, time.process_time() - cpu)


async def empty(broker: Broker) -> None:
    """Empties the queues and forgets the position."""
    await broker.js.purge_stream(topology.DELIVER)
    await broker.js.purge_stream(f"KV_{topology.STATE_BUCKET}", subject=f"$KV.{topology.STATE_BUCKET}.{state_key('bench')}")


async def bare(broker: Broker, frames: int, connections: int, token: str) -> Run:
    """The ceiling: reads every frame and publishes it as it is, in order, to each queue."""
    queues = [asyncio.Queue[tuple[int, bytes]](64) for _ in range(connections)]

    async def read() -> None:
        async with StreamReader(broker, topology.EVENTS, topology.events_filter("bench")) as reader:
            for _ in range(frames):
                message = await reader.next()
                assert message is not None
                for queue in queues:
                    await queue.put((message.seq, message.payload))

    async def send(index: int) -> None:
        for _ in range(frames):
            seq, payload = await queues[index].get()
            headers = write_place(Place("bare", seq, 1))
            await broker.publisher.publish(
                topology.deliver_subject(f"c{index}"), payload, msg_id=f"{token}.{seq}.{index}", headers=headers
            )

    async def work() -> None:
        await asyncio.gather(read(), *(send(index) for index in range(connections)))

    await empty(broker)
    return await measure(work)


async def route(
    broker: Broker,
    telemetry: Telemetry,
    last: int,
    connections: int,
    rules: dict[str, Any],
    site_rules: dict[str, Any],
    revision: int,
) -> Run:
    """Routes all of EVENTS and waits until the position stands at its end."""
    document = {
        "tracking_plans": PLANS,
        "sites": {"bench": {"dedupe_window": "0s", "catalog": "off", **site_rules}},
        "destinations": {"wh": {"type": "duckdb"}},
        "connections": {f"c{index}": {"site": "bench", "destination": "wh", **rules} for index in range(connections)},
    }
    site = compile_project(ConfigSnapshot(revision, decode_project(document)))["bench"]
    keeper = StateKeeper(broker, "bench")

    async def work() -> None:
        stop = asyncio.Event()
        task = asyncio.create_task(SiteRouter(broker, site, telemetry, RouterSettings()).run(stop))
        while True:
            await asyncio.sleep(0.05)
            state = await keeper.load()
            if state is not None and state.position >= last:
                break
            if task.done():
                await task
        stop.set()
        await task

    await empty(broker)
    return await measure(work)


def line(title: str, run: Run, events: int, ceiling: Run) -> None:
    """Prints one measurement, and keeps it unless it is the ceiling."""
    if run is not ceiling:
        ratios = {
            "CPU of the ceiling": ceiling.cpu_seconds / run.cpu_seconds,
            "rate of the ceiling": ceiling.wall_seconds / run.wall_seconds,
        }
        history.keep("router", title, ratios)
    print(
        f"  {title:46} {events / run.wall_seconds:11,.0f} events/s {1e6 * run.cpu_seconds / events:7.2f} CPU µs/event"
        f"   {ceiling.cpu_seconds / run.cpu_seconds:5.2f} of the ceiling's CPU, {ceiling.wall_seconds / run.wall_seconds:5.2f} of its rate"
    )


SITE_RULES = "rules of the site"
TURNS = 5


async def in_turns(
    broker: Broker, telemetry: Telemetry, frames: int, events: int, connections: int, revision: int, ceiling: Run
) -> int:
    """Measures the rules of the site in turns and prints the best of each; returns the last revision."""
    best: dict[str, Run] = {}
    for _ in range(TURNS):
        for title, site in SITES.items():
            revision += 1
            run = await route(broker, telemetry, frames, connections, {}, site, revision)
            if title not in best or run.cpu_seconds < best[title].cpu_seconds:
                best[title] = run
    for title, run in best.items():
        line(f"frames of {events // frames}, {connections} connection(s), {title}", run, events, ceiling)
    bare_site = best["no catalogue"].cpu_seconds
    print("  of the rate without: " + ", ".join(f"{title} {bare_site / run.cpu_seconds:.3f}" for title, run in best.items()))
    return revision


async def main() -> None:
    """Parses the arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--sync", default="always", help="when the broker syncs: always, or an interval")
    parser.add_argument("--frames", type=int, nargs="+", default=[500, 100], help="events a frame")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--only", choices=[*RULES, SITE_RULES])
    arguments = parser.parse_args(sys.argv[1:])
    gc.set_threshold(100_000, 50, 1_000)
    telemetry = Telemetry("bench", ServiceSettings())
    revision = 0
    for per_frame in arguments.frames:
        with tempfile.TemporaryDirectory() as folder, nats_server(Path(folder), sync=arguments.sync) as server:
            async with connect(server.url, "bench", patience_seconds=10) as broker:
                await topology.ensure(broker, topology.TopologySettings(deliver_max_frames=1_000_000))
                frames = await fill(broker, arguments.events, per_frame)
                events = len(frames) * per_frame
                print(
                    f"\nframes of {per_frame} events, {sum(map(len, frames)) / len(frames) / 1024:.0f} KiB each, {events:,} events"
                )
                for connections in arguments.connections:
                    ceiling = await bare(broker, len(frames), connections, f"{per_frame}.{connections}")
                    line(f"{connections} queue(s): bare read and publish", ceiling, events, ceiling)
                    for title, rules in RULES.items():
                        if arguments.only and title != arguments.only:
                            continue
                        for dedupe in ("0s", "1h"):
                            revision += 1
                            site = {"dedupe_window": dedupe}
                            run = await route(broker, telemetry, len(frames), connections, rules, site, revision)
                            line(
                                f"frames of {per_frame}, {connections} connection(s), {title}, dedupe {dedupe}",
                                run,
                                events,
                                ceiling,
                            )
                    if arguments.only in (None, SITE_RULES):
                        revision = await in_turns(broker, telemetry, len(frames), events, connections, revision, ceiling)
    telemetry.shutdown()


if __name__ == "__main__":
    uvloop.run(main())
