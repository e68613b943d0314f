"""What each protocol of the edge costs beside Segment's: `python -m bench.protocols`. A real ingest process and a real broker.

Each protocol sends the same events as its own client writes them, in its typical request, and takes turns with Segment's API within
each round. The ratios printed are medians over the rounds: of rates, and of the CPU of the edge for an event. A protocol should
reach 0.6.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from bench import history
from bench.edge import ROOT, open_edge, volley
from bench.kit.machine import Meter
from bench.kit.protocol_requests import MAKERS

TYPICAL = {"rudder": (1, 100), "jitsu": (1,), "jitsu_classic": (1, 100), "otlp": (1, 100)}
"""Events in the requests of a protocol's clients."""
CONNECTIONS = {1: 128, 100: 16}


def measure(protocol: str, per_request: int, port: int, ingest: int, *, rounds: int, seconds: float) -> dict[str, float]:
    """Runs one protocol and Segment's by turns; returns the ratios."""
    options: dict[str, Any] = {"per_request": per_request, "connections": CONNECTIONS[per_request]}
    guess = volley(port, protocol="segment", requests=2000 // per_request + 100, **options)
    volley(port, protocol=protocol, requests=200, **options)
    requests = max(CONNECTIONS[per_request], int(seconds * guess["requests"] / guess["seconds"]))
    turns: list[dict[str, float]] = []
    for _ in range(rounds):
        found: dict[str, tuple[float, float]] = {}
        for name in ("segment", protocol):
            with Meter({"ingest": ingest}) as meter:
                result = volley(port, protocol=name, requests=requests, **options)
            if result["refused"]:
                raise SystemExit(f"{name}: {result['refused']:.0f} of {requests} requests were refused")
            found[name] = (requests * per_request / result["seconds"], meter.costs["ingest"].cpu_seconds)
        ours, other = found[protocol], found["segment"]
        turns.append({"events_per_second": ours[0], "rate": ours[0] / other[0], "cpu": other[1] / ours[1]})
    return {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}


def main() -> None:
    """Parses the arguments and measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2, help="about this long a turn")
    parser.add_argument("--only", choices=sorted(TYPICAL), help="only this protocol")
    arguments = parser.parse_args()
    assert set(TYPICAL) | {"segment"} == set(MAKERS)
    with open_edge(ROOT, {}) as (_, port, ingest):
        for protocol, sizes in TYPICAL.items():
            if arguments.only not in (None, protocol):
                continue
            for per_request in sizes:
                found = measure(protocol, per_request, port, ingest, rounds=arguments.rounds, seconds=arguments.seconds)
                history.keep(
                    "protocols",
                    f"{protocol}, {per_request} a request",
                    {"rate of segment": found["rate"], "CPU of segment": found["cpu"]},
                )
                print(
                    f"{protocol}, {per_request} event(s) a request: {found['events_per_second']:,.0f} events/s; "
                    f"of Segment's rate {found['rate']:.2f}, of its CPU {found['cpu']:.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
