"""What the edge costs: `python -m bench.edge.edge`. A real ingest process, a real broker with synced writes, and the ceiling beside them.

Requests of 1 and of 100 events. The ceiling (`bench/kit/bare.py`) and the edge take turns within each round, so that what the machine
does meanwhile hits both; the ratio printed is the median over the rounds. Every answer of the edge comes after its events are
synced to disk by the broker; afterwards the events in the stream are counted against the answers.

`--against FOLDER` lets the edge of another checkout take turns with both, on a broker of its own: what a change saves is the ratio
of CPU within one run, because the machine's speed changes by half from one hour to the next.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bench import history
from bench.kit.machine import Meter
from bench.kit.protocol_requests import SECRET, WEBHOOK
from shared.events.frame import decode_frame
from shared.jetstream import topology
from shared.jetstream.broker import connect
from shared.project.snapshot import StoredProject, apply_project, resolve
from tests.support.nats import NatsServer, nats_server
from tests.support.ports import free_port

KEY = "bench-key"
PROJECT: dict[str, Any] = {
    "sites": {
        "bench": {
            "keys": [{"id": KEY, "kind": "server"}, {"id": "bench-web"}],
            "domains": ["127.0.0.1"],
            "limits": {"request_bytes": "16MiB"},
        }
    },
    "webhooks": {WEBHOOK: {"site": "bench", "type": "github", "secret": SECRET}},
}
ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def _process(module: str, *arguments: str, folder: Path = ROOT, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-m", module, *arguments], env={**os.environ, **environment}, cwd=folder)
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
    command = [sys.executable, "-m", "bench.kit.volley", f"--port={port}", f"--key={KEY}", *arguments]
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


def measure(kind: str, per_request: int, connections: int, rounds: int, seconds: float, stand: Stand) -> dict[str, Any]:
    """Runs one kind of request against the ceiling and the edge by turns; returns what it cost."""
    options = {"kind": kind, "per_request": per_request, "connections": connections}
    warm = volley(stand.port, requests=200, **options)
    guess = volley(stand.bare_port, requests=2000 if per_request == 1 else 200, **options)
    requests = max(connections, int(seconds * guess["requests"] / guess["seconds"]))
    million = requests * per_request / 1e6
    frames_before = asyncio.run(stored(stand.nats))[0]
    turns: list[dict[str, float]] = []
    acknowledged = (warm["requests"] - warm["refused"]) * per_request
    if stand.before is not None:
        volley(stand.before.port, requests=200, **options)
    for _ in range(rounds):
        with Meter({"bare": stand.bare}) as bare_meter:
            bare = volley(stand.bare_port, requests=requests, **options)
        with Meter({"ingest": stand.ingest, "nats": stand.nats.pid}) as meter:
            result = volley(stand.port, requests=requests, **options)
        acknowledged += (result["requests"] - result["refused"]) * per_request
        generator = result["cpu_seconds"] / meter.wall_seconds / (os.cpu_count() or 1)
        ingest_cpu, bare_cpu = meter.costs["ingest"].cpu_seconds, bare_meter.costs["bare"].cpu_seconds
        turn = {
            "events_per_second": 1e6 * million / result["seconds"],
            "bare_events_per_second": 1e6 * million / bare["seconds"],
            "ratio": bare["seconds"] / result["seconds"],
            "cpu_ratio": bare_cpu / ingest_cpu,
            "ingest_cpu_per_million": ingest_cpu / million,
            "nats_cpu_per_million": meter.costs["nats"].cpu_seconds / million,
            "bare_cpu_per_million": bare_cpu / million,
            "p50_ms": result["p50_ms"],
            "p99_ms": result["p99_ms"],
            "refused": result["refused"],
            "peak_mb": meter.costs["ingest"].peak_mb,
            "others_share": max(0.0, meter.others_share - generator),
        }
        if stand.before is not None:
            with Meter({"ingest": stand.before.ingest}) as before_meter:
                before = volley(stand.before.port, requests=requests, **options)
            before_cpu = before_meter.costs["ingest"].cpu_seconds
            turn["before_cpu_per_million"] = before_cpu / million
            turn["before_events_per_second"] = 1e6 * million / before["seconds"]
            turn["cpu_of_before"] = ingest_cpu / before_cpu
        turns.append(turn)
    found: dict[str, Any] = {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}
    frames = asyncio.run(stored(stand.nats))[0] - frames_before
    found |= {
        "kind": kind,
        "events_per_request": per_request,
        "connections": connections,
        "requests_per_round": requests,
        "events_per_frame": rounds * requests * per_request / max(1, frames),
        "acknowledged": int(acknowledged),
    }
    return found


def words(found: dict[str, Any]) -> str:
    """Returns a measurement for people."""
    before = (
        "  before: {before_events_per_second:,.0f} events/s; CPU s per million events: {before_cpu_per_million:.2f}; "
        "the edge costs {cpu_of_before:.2f} of it\n"
    )
    return (
        "{kind}, {events_per_request} event(s) a request, {connections} connections, {requests_per_round:,} requests a round\n"
        "  edge: {events_per_second:,.0f} events/s; CPU s per million events: ingest {ingest_cpu_per_million:.2f}, "
        "broker {nats_cpu_per_million:.2f}; p50 {p50_ms:.1f} ms, p99 {p99_ms:.1f} ms; {events_per_frame:.0f} events a frame, "
        "peak {peak_mb:.0f} MB, {refused:.0f} refused\n"
        "  bare: {bare_events_per_second:,.0f} events/s; CPU s per million events: {bare_cpu_per_million:.2f}\n"
        + (before if "cpu_of_before" in found else "")
        + "  ratio of rates {ratio:.2f}, of CPU {cpu_ratio:.2f}; others used {others_share:.0%} of the machine"
    ).format(**found)


@dataclass(frozen=True)
class Before:
    """The edge of another checkout: port and process id."""

    port: int
    ingest: int


@dataclass(frozen=True)
class Stand:
    """What is measured: ports and process ids."""

    nats: NatsServer
    port: int
    bare_port: int
    ingest: int
    bare: int
    before: Before | None = None


@contextlib.contextmanager
def stand(settings: dict[str, str], against: Path | None = None) -> Iterator[Stand]:
    """Starts a broker, the edge, the ceiling, and the edge of another checkout with a broker of its own."""
    with contextlib.ExitStack() as stack:
        nats, port, ingest = stack.enter_context(open_edge(ROOT, settings))
        bare_port = free_port()
        bare = stack.enter_context(_process("bench.kit.bare", str(bare_port)))
        _wait_for(bare_port)
        before = None
        if against is not None:
            _, before_port, before_ingest = stack.enter_context(open_edge(against, {}))
            before = Before(before_port, before_ingest)
        yield Stand(nats, port, bare_port, ingest, bare.pid, before)


@contextlib.contextmanager
def open_edge(folder: Path, settings: dict[str, str]) -> Iterator[tuple[NatsServer, int, int]]:
    with tempfile.TemporaryDirectory() as data, nats_server(Path(data)) as nats:
        asyncio.run(prepare(nats))
        port = free_port()
        environment = {
            "PENSTOCK_NATS_URL": nats.url,
            "PENSTOCK_INGEST_PORT": str(port),
            "PENSTOCK_ADMIN_PORT": str(free_port()),
            "PENSTOCK_LOG_LEVEL": "warning",
            **settings,
        }
        with _process("ingest", folder=folder, **environment) as ingest:
            _wait_for(port)
            yield nats, port, ingest.pid


def main() -> None:
    """Parses the arguments and measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="about this long a round")
    parser.add_argument("--only", type=int, choices=(1, 100), help="only requests of so many events")
    parser.add_argument("--snowplow", action="store_true", help="Snowplow's page views by POST and GET, beside Segment's event")
    parser.add_argument("--mixed", action="store_true", help="also bodies of 2 to 5 KB")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the edge, PENSTOCK_INGEST_…"
    )
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another checkout whose edge takes turns")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    kinds = [("flat", 1, 256), ("flat", 100, 16)]
    if arguments.snowplow:
        kinds = [("flat", 1, 256), ("snowplow", 1, 256), ("snowplow_get", 1, 256), ("snowplow", 20, 32)]
    if arguments.mixed:
        kinds.append(("mixed", 100, 16))
    if arguments.only:
        kinds = [each for each in kinds if each[1] == arguments.only]
    results = []
    with stand(dict(each.split("=", 1) for each in arguments.set), arguments.against) as running:
        for kind, per_request, connections in kinds:
            found = measure(kind, per_request, connections, arguments.rounds, arguments.seconds, running)
            results.append(found)
            case = f"{kind}, {per_request} a request, {connections} connections" + "".join(f", {each}" for each in arguments.set)
            history.keep("edge", case, {"rate of the ceiling": found["ratio"], "CPU of the ceiling": found["cpu_ratio"]})
            if not arguments.json:
                print(words(found), flush=True)
        frames, events = asyncio.run(stored(running.nats))
    acknowledged = sum(found["acknowledged"] for found in results)
    if arguments.json:
        print(msgspec.json.encode({"results": results, "stored": events, "acknowledged": acknowledged}).decode())
    else:
        print(f"{events:,} events in {frames:,} frames are stored, {acknowledged:,} were acknowledged")
    if events != acknowledged:
        raise SystemExit("the stream does not hold what was acknowledged")


if __name__ == "__main__":
    main()
