"""What the edge costs: `python -m bench.edge`. A real ingest process, a real broker with synced writes, and the ceiling beside them.

Requests of 1 and of 100 events. The ceiling (`bench/bare.py`) and the edge take turns within each round, so that what the machine
does meanwhile hits both; the ratio printed is the median over the rounds. Every answer of the edge comes after its events are
synced to disk by the broker; afterwards the events in the stream are counted against the answers.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from bench.machine import Meter
from shared import topology
from shared.config_snapshot import StoredProject, apply_project, resolve
from shared.frame import decode_frame
from shared.jetstream.broker import connect
from tests.support.nats import NatsServer, free_port, nats_server

KEY = "bench-key"
PROJECT: dict[str, Any] = {"sites": {"bench": {"keys": [{"id": KEY, "kind": "server"}], "limits": {"request_bytes": "16MiB"}}}}
ROOT = Path(__file__).parents[1]


@contextlib.contextmanager
def _process(module: str, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-m", module, *arguments], env={**os.environ, **environment}, cwd=ROOT)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(port: int) -> None:
    ends_at = time.monotonic() + 20
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            if time.monotonic() > ends_at:
                raise
            time.sleep(0.05)


def volley(port: int, **options: object) -> dict[str, float]:
    """Runs the load generator once and returns what it printed."""
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "bench.volley", f"--port={port}", f"--key={KEY}", *arguments]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=ROOT).stdout
    result: dict[str, float] = msgspec.json.decode(output)
    return result


async def prepare(nats: NatsServer) -> None:
    """Creates the streams and applies the project."""
    async with connect(nats.url, "bench", patience_seconds=10) as broker:
        await topology.ensure(broker, topology.TopologySettings())
        await apply_project(broker, StoredProject(PROJECT, resolve(PROJECT)))


async def stored(nats: NatsServer) -> tuple[int, int]:
    """Returns how many frames and events are in the stream."""
    async with connect(nats.url, "bench", patience_seconds=10) as broker:
        state = (await broker.js.stream_info(topology.EVENTS)).state
        events = 0
        for sequence in range(state.first_seq, state.last_seq + 1):
            message = await broker.js.get_msg(topology.EVENTS, sequence)
            events += len(decode_frame(message.data or b""))
        return state.messages, events


def measure(rounds: int, seconds: float, kinds: list[tuple[str, int, int]], settings: dict[str, str]) -> None:
    """Prints a line per (kind, events a request)."""
    with tempfile.TemporaryDirectory() as folder, nats_server(Path(folder)) as nats:
        asyncio.run(prepare(nats))
        port, bare_port = free_port(), free_port()
        environment = {
            "PENSTOCK_NATS_URL": nats.url,
            "PENSTOCK_INGEST_PORT": str(port),
            "PENSTOCK_LOG_LEVEL": "warning",
            **settings,
        }
        with _process("ingest", **environment) as ingest, _process("bench.bare", str(bare_port)) as bare:
            _wait_for(port)
            _wait_for(bare_port)
            acknowledged = 0
            for kind, per_request, connections in kinds:
                rates: list[float] = []
                bare_rates: list[float] = []
                cpu: list[float] = []
                bare_cpu: list[float] = []
                broker_cpu: list[float] = []
                slowest: list[tuple[float, float]] = []
                others: list[float] = []
                peak = 0.0
                options = {"kind": kind, "per_request": per_request, "connections": connections}
                warm = volley(port, requests=200, **options)
                acknowledged += int(warm["requests"] - warm["refused"]) * per_request
                guess = volley(bare_port, requests=1000 if per_request == 1 else 100, **options)
                requests = max(connections, int(seconds * guess["requests"] / guess["seconds"]))
                frames_before = asyncio.run(stored(nats))[0]
                for _ in range(rounds):
                    with Meter({"bare": bare.pid}) as meter:
                        result = volley(bare_port, requests=requests, **options)
                    bare_rates.append(requests * per_request / result["seconds"])
                    bare_cpu.append(1e6 * meter.costs["bare"].cpu_seconds / requests / per_request)
                    with Meter({"ingest": ingest.pid, "nats": nats.pid}) as meter:
                        result = volley(port, requests=requests, **options)
                    if result["refused"]:
                        print(f"  {result['refused']:.0f} requests were refused")
                    acknowledged += int(result["requests"] - result["refused"]) * per_request
                    rates.append(requests * per_request / result["seconds"])
                    cpu.append(1e6 * meter.costs["ingest"].cpu_seconds / requests / per_request)
                    broker_cpu.append(1e6 * meter.costs["nats"].cpu_seconds / requests / per_request)
                    slowest.append((result["p50_ms"], result["p99_ms"]))
                    others.append(meter.others_share - result["cpu_seconds"] / meter.wall_seconds / (os.cpu_count() or 1))
                    peak = max(peak, meter.costs["ingest"].peak_mb)
                frames = asyncio.run(stored(nats))[0] - frames_before
                ratio = statistics.median(ours / theirs for ours, theirs in zip(rates, bare_rates, strict=True))
                print(
                    f"{kind}, {per_request} event(s) a request, {connections} connections, {requests} requests a round\n"
                    f"  edge: {statistics.median(rates):,.0f} events/s, {statistics.median(cpu):.2f} CPU s per million events, "
                    f"broker {statistics.median(broker_cpu):.2f}, "
                    f"p50 {statistics.median(p50 for p50, _ in slowest):.1f} ms, p99 {statistics.median(p99 for _, p99 in slowest):.1f} ms, "
                    f"{rounds * requests * per_request / max(1, frames):.0f} events a frame, peak {peak:.0f} MB\n"
                    f"  bare: {statistics.median(bare_rates):,.0f} events/s, {statistics.median(bare_cpu):.2f} CPU s per million events\n"
                    f"  ratio of rates {ratio:.2f}, of CPU {statistics.median(bare_cpu) / statistics.median(cpu):.2f}; "
                    f"others used {100 * max(0.0, statistics.median(others)):.0f} % of the machine",
                    flush=True,
                )
            frames, events = asyncio.run(stored(nats))
            print(f"{events:,} events in {frames:,} frames are stored, {acknowledged:,} were acknowledged")
            if events != acknowledged:
                raise SystemExit("the stream does not hold what was acknowledged")


def main() -> None:
    """Parses the arguments and measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="about this long a round")
    parser.add_argument("--only", type=int, choices=(1, 100), help="only requests of so many events")
    parser.add_argument("--mixed", action="store_true", help="also bodies of 2 to 5 KB")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the edge, PENSTOCK_INGEST_…"
    )
    arguments = parser.parse_args()
    kinds = [("flat", 1, 256), ("flat", 100, 16)]
    if arguments.mixed:
        kinds.append(("mixed", 100, 16))
    if arguments.only:
        kinds = [each for each in kinds if each[1] == arguments.only]
    measure(arguments.rounds, arguments.seconds, kinds, dict(each.split("=", 1) for each in arguments.set))


if __name__ == "__main__":
    main()
