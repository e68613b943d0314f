"""The loader alone: a queue filled with packed frames, drained into Postgres or DuckDB: `python -m bench.loading.loader`.

The ceiling is a bare COPY (Postgres) or a bare insert from Arrow (DuckDB) of the same rows, already shaped, in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import sys
import tempfile
import time
from pathlib import Path

from bench.kit.events import bodies
from bench.kit.machine import Meter
from bench.kit.stack import stack
from bench.whole.path import destination, project, report, wait_committed
from shared.events.event import micros
from shared.events.frame import Head, RequestContext, encode_frame, pack
from shared.events.headers import Place, write_place
from shared.jetstream import topology
from shared.jetstream.broker import connect
from shared.project.snapshot import current_snapshot


async def fill(url: str, kind: str, events: int, per_frame: int) -> None:
    """Puts `events` events into the queue of the benchmark's connection, as the router would."""
    made = bodies(kind, min(events, 20_000), "RUNTOKEN")
    async with connect(url, "bench", patience_seconds=10) as broker:
        await topology.ensure(broker, topology.TopologySettings())
        subject = topology.deliver_subject((await current_snapshot(broker)).queue_of("bench-wh"))
        request = RequestContext(
            received_at=micros(datetime.datetime.now(datetime.UTC)), protocol="segment", key="bench", kind="server"
        )
        for number in range(events // per_frame):
            chunk = [
                made[(number * per_frame + index) % len(made)].replace(b"RUNTOKEN", b"%08d" % number)
                for index in range(per_frame)
            ]
            heads = [
                Head(f"{number:08d}-{(number * per_frame + index) % len(made):09d}", "track", "Order Completed")
                for index in range(per_frame)
            ]
            place = Place("live-bench", number + 1, per_frame)
            payload = encode_frame(pack("bench", [request], heads, chunk))
            await broker.publisher.publish(subject, payload, msg_id=str(number), headers=write_place(place))


def main() -> None:
    """Parses the arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--destination", choices=["postgres", "duckdb"], default="postgres")
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--per-frame", type=int, default=500)
    parser.add_argument("--kind", choices=["flat", "mixed"], default="flat")
    parser.add_argument("--layout", choices=["segment", "single_table", "passthrough"], default="single_table")
    parser.add_argument("--merge", action="store_true")
    arguments = parser.parse_args(sys.argv[1:])
    arguments.mode, arguments.period, arguments.dedupe = "batch", 1, "1h"
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as held:
        folder = Path(name)
        document, server = held.enter_context(destination(arguments.destination, folder))
        running = held.enter_context(stack(folder, {}, sync="2m"))
        asyncio.run(running.apply(project(document, arguments)))
        asyncio.run(fill(running.nats.url, arguments.kind, arguments.events, arguments.per_frame))
        began = time.monotonic()
        running.start("loader")
        running.wait_ready("loader")
        with Meter({"loader": running.pids["loader"], **({"postgres": server.pid} if server else {})}) as meter:
            wait_committed(running, arguments.events, 600)
        title = f"loader alone, {arguments.destination} {arguments.layout} {'merge' if arguments.merge else 'append'} {arguments.kind}"
        report(title, arguments.events, time.monotonic() - began, meter, {})


if __name__ == "__main__":
    main()
