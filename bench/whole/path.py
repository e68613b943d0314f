"""The whole path, from HTTP to committed rows: `python -m bench.whole.path [--destination postgres|duckdb] [--events N] …`.

Prints events/s from the first request to the last committed row, CPU seconds per million events by process and peak memory, and
holds the rows against what was sent. `--rate` measures latency in stream mode instead; `--backlog` fills the queue first
and then measures the loader alone; `--idle` measures what nothing costs. The ceiling of the last step, a bare COPY of the same rows, is
in `bench/loading/destinations.py`; that of the first, a bare handler, in `bench/edge/edge.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb

from bench import history
from bench.functions import ENRICH
from bench.kit.machine import Meter
from bench.kit.stack import KEY, Stack, finish, pump, stack
from shared.telemetry.metrics import BUCKETS
from tests.support.postgres import PostgresServer


def project(destination: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the project to measure with."""
    connection: dict[str, Any] = {
        "site": "bench",
        "destination": "wh",
        "mode": arguments.mode,
        "layout": arguments.layout,
        "deduplicate": arguments.merge,
        "batch": {"period": f"{arguments.period}s", "max_rows": 100_000},
    }
    functions: dict[str, Any] = {}
    if arguments.functions:
        functions = {"functions": {"enrich": {"code": ENRICH}}}
        connection["functions"] = ["enrich"]
    return {
        **functions,
        "sites": {"bench": {"keys": [{"id": KEY, "kind": "server"}], "dedupe_window": arguments.dedupe}},
        "destinations": {"wh": destination},
        "connections": {"bench-wh": connection},
    }


@contextlib.contextmanager
def destination(name: str, folder: Path) -> Iterator[tuple[dict[str, Any], PostgresServer | None]]:
    """Yields the destination's part of the project file, running."""
    if name == "postgres":
        with PostgresServer(
            settings={"shared_buffers": "256MB", "max_wal_size": "4GB", "track_commit_timestamp": "on"}
        ) as server:
            yield {"type": "postgres", "dsn": server.dsn()}, server
    else:
        yield {"type": "duckdb", "path": str(folder / "warehouse.duckdb")}, None


def committed(running: Stack) -> float:
    """Returns the events whose rows are committed."""
    return running.metric("loader", "loader_events_total")


def wait_committed(running: Stack, events: int, seconds: float) -> None:
    """Waits until that many events are committed."""
    ends_at = time.monotonic() + seconds
    while committed(running) < events:
        if time.monotonic() > ends_at:
            raise RuntimeError(
                f"only {committed(running):.0f} of {events} committed\n{running.log('loader')}\n{running.log('router')}"
            )
        time.sleep(0.1)


def report(title: str, events: int, seconds: float, meter: Meter, extra: dict[str, str]) -> None:
    """Prints one run, and keeps what each process cost."""
    decodes = {
        f"{name}, CPU in decodes": history.in_decodes(1e6 * cost.cpu_seconds / events) for name, cost in meter.costs.items()
    }
    history.keep("path", f"{title}, {events:,} events", decodes)
    print(f"\n{title}: {events / seconds:,.0f} events/s over {events:,} events in {seconds:.1f} s")
    print(f"  other processes used {100 * meter.others_share:.0f} % of the machine meanwhile")
    for name, cost in meter.costs.items():
        curve = cost.curve_mb
        drift = f"{curve[len(curve) // 4]:.0f} → {curve[-1]:.0f} MB" if len(curve) > 8 else "-"
        print(
            f"  {name:10} {1e6 * cost.cpu_seconds / events:7.1f} CPU s per million events   peak {cost.peak_mb:6.0f} MB   {drift}"
        )
    for key, value in extra.items():
        print(f"  {key}: {value}")


def run(arguments: argparse.Namespace) -> None:
    """Runs one measurement."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as held:
        folder = Path(name)
        document, server = held.enter_context(destination(arguments.destination, folder))
        running = held.enter_context(stack(folder, {"PENSTOCK_INGEST_PROCESSES": str(arguments.processes)}))
        asyncio.run(running.apply(project(document, arguments)))
        services = ["ingest", "router"] if arguments.backlog else ["ingest", "router", "loader"]
        if arguments.functions:
            services.append("functions_runtime")
        for service in services:
            running.start(service)
        for service in services:
            running.wait_ready(service)
        pids = dict(running.pids)
        if server is not None:
            pids["postgres"] = server.pid
        if arguments.idle:
            with Meter(pids) as meter:
                time.sleep(arguments.idle)
            total = sum(cost.cpu_seconds for cost in meter.costs.values())
            print(f"idle: {100 * total / meter.wall_seconds:.2f} % of one core: ", end="")
            print(", ".join(f"{key} {100 * cost.cpu_seconds / meter.wall_seconds:.2f} %" for key, cost in meter.costs.items()))
            return
        began = time.monotonic()
        options = {
            "kind": arguments.kind,
            "per_request": arguments.per_request,
            "connections": arguments.connections,
            "rate": arguments.rate,
        }
        with Meter(pids) as meter:
            sender = pump(running, events=arguments.events, **options)
            pids["pump"] = sender.pid
            sent = finish(sender)
            if not arguments.backlog:
                wait_committed(running, arguments.events, 600)
        seconds = time.monotonic() - began
        extra = {
            "requests": f"p50 {sent['p50_ms']:.1f} ms, p99 {sent['p99_ms']:.1f} ms, {sent['refused']} refused",
            "sender": f"{1e6 * sent['cpu_seconds'] / arguments.events:.1f} CPU s per million events",
        }
        title = f"{arguments.destination} {arguments.layout} {'merge' if arguments.merge else 'append'} {arguments.mode} {arguments.kind}"
        if arguments.functions:
            title += " with a function"
        if arguments.backlog:
            running.start("loader")
            running.wait_ready("loader")
            began = time.monotonic()
            with Meter({"loader": running.pids["loader"], **({"postgres": server.pid} if server else {})}) as meter:
                wait_committed(running, arguments.events, 600)
            seconds = time.monotonic() - began
            title += " backlog"
        report(title, arguments.events, seconds, meter, extra)
        latency = bounds(running) if arguments.rate else ""
        if arguments.layout == "single_table":
            running.stop("loader")  # so that the file of DuckDB is free
            query = "select count(*), count(distinct message_id) from events"
            rows, distinct = psql(server, query).split("|") if server else duckdb_row(document["path"], query)
            print(f"  in the table: {int(rows):,} rows, {int(distinct):,} distinct of {arguments.events:,} sent")
        if arguments.rate:
            print(f"  accepted → committed, oldest event of each load, by the loader's histogram: {latency}")
            if server is not None:
                print_latency(server)


def bounds(running: Stack) -> str:
    """Returns between which bounds of `loader_latency_seconds` the median and the 99th percentile lie."""
    total = running.metric("loader", "loader_latency_seconds_count")
    edges = [0.0, *(edge for edge in BUCKETS["seconds"])]
    found = []
    for share in (0.5, 0.99):
        for low, high in pairwise(edges):
            if running.metric("loader", "loader_latency_seconds_bucket", le=str(float(high))) >= share * total:
                found.append(f"p{100 * share:g} {1000 * low:g} to {1000 * high:g} ms")
                break
    return ", ".join(found)


def duckdb_row(path: str, query: str) -> tuple[Any, ...]:
    """Returns the first row of an answer."""
    with duckdb.connect(path, read_only=True) as database:
        return database.sql(query).fetchall()[0]


def print_latency(server: PostgresServer) -> None:
    """Prints the time from acceptance to the committed row, as the database's clock has it (`track_commit_timestamp`)."""
    query = (
        "select percentile_cont(array[0.5, 0.99]) within group (order by extract(epoch from pg_xact_commit_timestamp(xmin) - received_at))"
        " from events where received_at > (select min(received_at) + interval '2 seconds' from events)"
    )
    print(f"  accepted → committed, p50 and p99 in seconds: {psql(server, query)}")


def psql(server: PostgresServer, query: str) -> str:
    """Returns what a query answers, as text."""
    return subprocess.run(["psql", server.dsn(), "-Atc", query], capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    """Parses the arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--destination", choices=["postgres", "duckdb"], default="postgres")
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--kind", choices=["flat", "mixed"], default="flat")
    parser.add_argument("--layout", choices=["segment", "single_table", "passthrough"], default="single_table")
    parser.add_argument("--mode", choices=["batch", "stream"], default="batch")
    parser.add_argument("--merge", action="store_true")
    parser.add_argument("--period", type=float, default=1)
    parser.add_argument("--dedupe", default="1h")
    parser.add_argument("--per-request", type=int, default=100)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--rate", type=float, help="events a second; none: as fast as they go")
    parser.add_argument("--functions", action="store_true", help="the connection has one small function")
    parser.add_argument("--backlog", action="store_true", help="fill the queue first, then measure the loader alone")
    parser.add_argument("--idle", type=float, help="measure so many seconds of nothing")
    run(parser.parse_args(sys.argv[1:]))


if __name__ == "__main__":
    main()
