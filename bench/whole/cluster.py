"""A cluster of three synced brokers beside one broker, in turns: `python -m bench.whole.cluster [--events N] [--rounds N] [--tls]`.

The whole path, from HTTP to committed rows in DuckDB, with one process of each service. The ratio is what counts: three brokers on the
machine of one write each message three times to the same disk. Then the gaps: for how long the edge acknowledges nothing when the
leader of EVENTS is killed or the edge's node hangs, with and without a journal, and how soon another loader goes on for one that was killed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import statistics
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from bench import history
from bench.kit.stack import KEY, Stack, finish, pump, stack
from penstock.stack.certificates import certificates
from shared.jetstream import topology
from shared.jetstream.broker import connect
from tests.support.nats_cluster import Cluster, Node

SERVICES = ("ingest", "router", "loader")


def project(folder: Path, period: str = "1s") -> dict[str, Any]:
    """Returns the project to measure with."""
    return {
        "sites": {"bench": {"keys": [{"id": KEY, "kind": "server"}]}},
        "destinations": {"wh": {"type": "duckdb", "path": str(folder / "warehouse.duckdb")}},
        "connections": {
            "bench-wh": {
                "site": "bench",
                "destination": "wh",
                "mode": "batch",
                "layout": "single_table",
                "deduplicate": False,
                "batch": {"period": period, "max_rows": 100_000},
            }
        },
    }


def throughput(cluster: bool, arguments: argparse.Namespace) -> float:
    """Returns events/s of the whole path, to the last committed row."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with stack(folder, cluster=made(folder, arguments) if cluster else None) as running:
            asyncio.run(running.apply(project(folder)))
            running.start_all(*SERVICES)
            began = time.monotonic()
            finish(pump(running, events=arguments.events, kind="flat", per_request=100, connections=16))
            wait_committed(running, arguments.events)
            return float(arguments.events / (time.monotonic() - began))


def made(folder: Path, arguments: argparse.Namespace) -> Cluster:
    """Returns a cluster that is not started."""
    return Cluster(folder, certificates=certificates(folder / "tls") if arguments.tls else None)


def wait_committed(running: Stack, events: int, seconds: float = 300.0) -> None:
    """Waits until so many events are committed."""
    ends_at = time.monotonic() + seconds
    while running.metric("loader", "loader_events_total") < events:
        if time.monotonic() > ends_at:
            raise RuntimeError(f"not committed in {seconds:g} s\n{running.log('loader')}")
        time.sleep(0.05)


class Probe:
    """Sends one event after the other and keeps when each was acknowledged."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/v1/track"
        self.acknowledged: list[float] = []
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)

    def __enter__(self) -> Probe:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def gap_after(self, moment: float) -> float:
        """Waits until events are acknowledged again that were sent after a moment; returns the longest time without one since."""
        time.sleep(15)
        times = [moment, *(at for at in self.acknowledged if at > moment)]
        return max(after - before for before, after in zip(times, [*times[1:], time.monotonic()], strict=True))

    def _send(self) -> None:
        number = 0
        while not self._ending.is_set():
            number += 1
            event = {"event": "Probe", "userId": "u", "messageId": f"probe-{number}"}
            request = urllib.request.Request(
                self._url, json.dumps(event).encode(), {"X-Write-Key": KEY, "Content-Type": "application/json"}
            )
            try:
                with urllib.request.urlopen(request, timeout=12):
                    self.acknowledged.append(time.monotonic())
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)


def broker_gap(arguments: argparse.Namespace, *, journal: bool, hangs: bool = False) -> float:
    """Returns for how many seconds the edge acknowledges nothing after the leader of EVENTS is killed.

    Args:
        hangs: the node to which the edge is connected is frozen instead; it may lead nothing.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cluster = made(folder, arguments)
        variables = {"PENSTOCK_INGEST_SPOOL_DIR": str(folder / "spool")} if journal else {}
        with stack(folder, variables, cluster=cluster) as running:
            asyncio.run(running.apply(project(folder)))
            running.start_all("ingest", "router")
            with Probe(running.port) as probe:
                time.sleep(2)
                node = node_of(cluster, running.pids["ingest"]) if hangs else cluster.node(asyncio.run(leader_of_events(running)))
                moment = time.monotonic()
                node.send_signal(signal.SIGSTOP if hangs else signal.SIGKILL)
                try:
                    return probe.gap_after(moment)
                finally:
                    if hangs:
                        node.send_signal(signal.SIGCONT)


def node_of(cluster: Cluster, pid: int) -> Node:
    """Returns the node to which a service is connected; the names of its connections end with its process id."""
    for node in cluster.nodes:
        with urllib.request.urlopen(f"http://127.0.0.1:{node.ports.monitor}/connz", timeout=5) as answer:
            if any(str(each.get("name")).endswith(f"-{pid}") for each in json.load(answer)["connections"]):
                return node
    raise RuntimeError("the edge is connected to no node")


async def leader_of_events(running: Stack) -> str:
    """Returns the node that leads EVENTS."""
    async with connect(running.url, "bench", patience_seconds=30) as broker:
        cluster = (await broker.js.stream_info(topology.EVENTS)).cluster
    if cluster is None or cluster.leader is None:
        raise RuntimeError("EVENTS has no leader")
    return str(cluster.leader)


def service_gap(arguments: argparse.Namespace, service: str) -> float:
    """Returns how many seconds after the kill of the one at work the other process of a service has committed new events."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # the leases that a service has by default
        variables = {"PENSTOCK_ROUTER_LEASE": "10s", "PENSTOCK_LOADER_LEASE": "10s"}
        with stack(folder, variables, cluster=made(folder, arguments)) as running:
            asyncio.run(running.apply(project(folder)))
            running.start_all(*SERVICES)
            send(running, 100, "one")
            wait_committed(running, 100)
            running.start(f"{service}-2")
            running.wait_ready(f"{service}-2")
            moment = time.monotonic()
            running.kill(service)
            send(running, 100, "two")
            ends_at = moment + 120
            while committed(running) < (100 if service == "loader" else 200):
                if time.monotonic() > ends_at:
                    raise RuntimeError(f"nothing is committed 120 s after the kill of {service}\n{running.log(f'{service}-2')}")
                time.sleep(0.05)
            return time.monotonic() - moment


def committed(running: Stack) -> float:
    """Returns the events that the loaders that live have committed."""
    loaders = [name for name in running.names if name.startswith("loader") and running.running(name)]
    return sum(running.metric(name, "loader_events_total") for name in loaders)


def send(running: Stack, events: int, prefix: str) -> None:
    """Sends so many events; the three characters of `prefix` tell them from others."""
    finish(pump(running, events=events, kind="flat", per_request=10, connections=2, prefix=prefix))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--only", choices=["throughput", "brokers", "services"])
    arguments = parser.parse_args(sys.argv[1:])
    if arguments.only in (None, "throughput"):
        rates: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(arguments.rounds):
            for cluster, measured in rates.items():
                measured.append(throughput(cluster, arguments))
        one, three = (statistics.median(rates[cluster]) for cluster in (False, True))
        history.keep("cluster", f"{arguments.events:,} events", {"three brokers of the ceiling": three / one})
        print(f"one broker {one:,.0f} events/s, cluster of three {three:,.0f} events/s: {three / one:.2f}")
    if arguments.only in (None, "brokers"):
        print(
            f"leader of EVENTS killed: nothing acknowledged for {broker_gap(arguments, journal=True):.1f} s with a journal,",
            end="",
        )
        print(f" {broker_gap(arguments, journal=False):.1f} s without")
        print(f"node of the edge frozen: {broker_gap(arguments, journal=True, hangs=True):.1f} s with a journal,", end="")
        print(f" {broker_gap(arguments, journal=False, hangs=True):.1f} s without")
    if arguments.only in (None, "services"):
        for service in ("router", "loader"):
            print(f"{service} killed: the other one has loaded new events after {service_gap(arguments, service):.1f} s")


if __name__ == "__main__":
    main()
