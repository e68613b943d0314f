"""What telemetry costs the edge: `python -m bench.edge.telemetry`. Two real ingest processes take turns: one exports traces, metrics and its log to a
collector at the default ratio, the other knows no collector.

Each has a broker of its own with synced writes. Within a round both get the same requests, in an order that changes from round to round, so that
what the machine does meanwhile hits both; the ratios printed are medians over the rounds. Telemetry may cost 3 % of the rate. The edge is the
dearest place: it asks for each request whether it is traced, where later stages ask once a frame.

`--path` measures two whole stacks instead, from requests through a function to committed rows in DuckDB. The collector runs on the same
machine, in the process that measures.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import history
from bench.edge.edge import ROOT, open_edge, volley
from bench.functions import ENRICH
from bench.kit.machine import Meter
from bench.kit.stack import KEY, Stack, finish, pump, stack
from bench.whole.path import committed, wait_committed
from tests.support.otlp import Collector, collector


def measure(
    *, edges: dict[str, tuple[int, int]], per_request: int, connections: int, rounds: int, seconds: float
) -> dict[str, float]:
    """Lets both edges take turns; returns the medians of what the one with telemetry has of the other.

    Args:
        edges: port and process id of `plain` and `traced`.
        seconds: about how long a turn takes.
    """
    guess = {
        name: volley(port, kind="flat", per_request=per_request, connections=connections, requests=1000)
        for name, (port, _) in edges.items()
    }
    requests = max(connections, int(seconds * guess["plain"]["requests"] / guess["plain"]["seconds"]))
    rates: list[float] = []
    costs: list[float] = []
    for round_ in range(rounds):
        took: dict[str, float] = {}
        cpu: dict[str, float] = {}
        for name in sorted(edges, reverse=round_ % 2 == 0):
            port, pid = edges[name]
            with Meter({"ingest": pid}) as meter:
                result = volley(port, kind="flat", per_request=per_request, connections=connections, requests=requests)
            if result["refused"]:
                raise SystemExit(f"{result['refused']:g} requests were refused")
            took[name], cpu[name] = result["seconds"], meter.costs["ingest"].cpu_seconds
        rates.append(took["plain"] / took["traced"])
        costs.append(cpu["traced"] / cpu["plain"])
    return {"rate": statistics.median(rates), "cpu": statistics.median(costs), "requests": requests}


def check(at: Collector) -> None:
    """Prints what was exported.

    Raises:
        SystemExit: nothing was, so nothing was measured.
    """
    print(
        f"the collector got {len(at.spans):,} spans, {len(at.metrics):,} metrics and {len(at.lines):,} lines in {at.calls:,} calls"
    )
    if not at.spans or not at.metrics:
        raise SystemExit("nothing was exported, so nothing was measured")


SERVICES = ("ingest", "router", "functions_runtime", "loader")


def open_path(held: contextlib.ExitStack, folder: Path, settings: dict[str, str]) -> Stack:
    """Starts a whole stack with a connection through a function into DuckDB."""
    project: dict[str, Any] = {
        "sites": {"bench": {"keys": [{"id": KEY, "kind": "server"}]}},
        "functions": {"enrich": {"code": ENRICH}},
        "destinations": {"wh": {"type": "duckdb", "path": str(folder / "wh.duckdb")}},
        "connections": {
            "c": {
                "site": "bench",
                "destination": "wh",
                "mode": "stream",
                "layout": "single_table",
                "deduplicate": False,
                "functions": ["enrich"],
            }
        },
    }
    folder.mkdir()
    running = held.enter_context(stack(folder, settings))
    asyncio.run(running.apply(project))
    running.start_all(*SERVICES)
    return running


def turn(running: Stack, events: int, prefix: str) -> tuple[float, float]:
    """Sends events and waits for their rows; returns the seconds that took, and the services' CPU seconds."""
    before, began = committed(running), time.monotonic()
    with Meter({name: running.pids[name] for name in SERVICES}) as meter:
        sent = finish(pump(running, events=events, per_request=100, connections=16, prefix=prefix))
        wait_committed(running, int(before) + events, 300)
    if sent["refused"]:
        raise SystemExit(f"{sent['refused']:g} requests were refused")
    return time.monotonic() - began, sum(cost.cpu_seconds for cost in meter.costs.values())


def measure_path(settings: dict[str, str], ratio: str, rounds: int, events: int) -> None:
    """Lets two whole stacks take turns, and prints what the one with telemetry has of the other."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as held:
        stacks = {each: open_path(held, Path(name) / each, settings if each == "traced" else {}) for each in ("plain", "traced")}
        for running in stacks.values():  # what is loaded and compiled once
            turn(running, events // 4, "w00")
        rates: list[float] = []
        costs: list[float] = []
        for round_ in range(rounds):
            found = {each: turn(stacks[each], events, f"r{round_:02}") for each in sorted(stacks, reverse=round_ % 2 == 0)}
            rates.append(found["plain"][0] / found["traced"][0])
            costs.append(found["traced"][1] / found["plain"][1])
    rate, cpu = statistics.median(rates), statistics.median(costs)
    history.keep("telemetry", f"the whole path, ratio {ratio}", {"rate of the ceiling": rate})
    print(f"the whole path, {events:,} events a turn: with telemetry {rate:.3f} of the rate, {cpu:.3f} of the CPU", flush=True)
    print("  rates: " + " ".join(f"{each:.3f}" for each in rates) + "; CPU: " + " ".join(f"{each:.3f}" for each in costs))


def main() -> None:
    """Parses the arguments and measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2, help="about this long a turn")
    parser.add_argument("--path", action="store_true", help="measure the whole path")
    parser.add_argument("--events", type=int, default=60_000, help="a turn of the whole path")
    parser.add_argument("--ratio", default="0.01", help="PENSTOCK_TRACE_RATIO")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as held:
        at: Collector = held.enter_context(collector())
        settings = {
            "PENSTOCK_OTLP_ENDPOINT": at.url,
            "PENSTOCK_TRACE_RATIO": arguments.ratio,
            "OTEL_METRIC_EXPORT_INTERVAL": "10000",
        }
        if arguments.path:
            measure_path(settings, arguments.ratio, arguments.rounds, arguments.events)
            check(at)
            return
        _, plain, plain_pid = held.enter_context(open_edge(ROOT, {}))
        _, traced, traced_pid = held.enter_context(open_edge(ROOT, settings))
        for per_request, connections in ((1, 256), (100, 16)):
            found = measure(
                edges={"plain": (plain, plain_pid), "traced": (traced, traced_pid)},
                per_request=per_request,
                connections=connections,
                rounds=arguments.rounds,
                seconds=arguments.seconds,
            )
            history.keep("telemetry", f"{per_request} a request, ratio {arguments.ratio}", {"rate of the ceiling": found["rate"]})
            print(
                f"{per_request} event(s) a request, {found['requests']:,.0f} requests a turn: with telemetry {found['rate']:.3f} of the rate, "
                f"{found['cpu']:.3f} of the CPU",
                flush=True,
            )
        check(at)


if __name__ == "__main__":
    main()
