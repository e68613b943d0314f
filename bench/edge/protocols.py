"""What each protocol of the edge costs beside Segment's: `python -m bench.edge.protocols`. A real ingest process and a real broker.

Each protocol sends events as its own client writes them, in its typical request, and takes turns with Segment's API, which sends as
many events a request, each as long. A round goes there and back (Segment's, the protocol's, the protocol's, Segment's), so a drift of
the machine falls on both. The ratios printed are medians over the rounds: of events for each CPU second of the edge, which neighbours
on the machine hardly change, and of rates, which they do. A protocol should reach 0.6.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any, NamedTuple

from bench import history
from bench.edge.edge import ROOT, open_edge, volley
from bench.kit import snowplow
from bench.kit.machine import Meter
from bench.kit.protocol_requests import MAKERS, requests_in

TYPICAL = {
    "rudder": (1, 100), "jitsu": (1,), "snowplow": (1, 10), "snowplow_get": (1,), "webhook": (1,), "jitsu_classic": (1, 100),
    "jitsu_classic_bulk": (100,), "otlp": (1, 512), "otlp_spans": (512,),
}  # fmt: skip
"""Events in the requests of a protocol's clients."""
CONNECTIONS = {1: 128, 10: 64, 100: 16, 512: 4}


class Turn(NamedTuple):
    """A volley: events a second, and CPU seconds of the edge."""

    rate: float
    cpu: float


def event_bytes(protocol: str, per_request: int) -> int:
    """Returns how long an event of a protocol is: its part of the body or, without body, of the address."""
    sizes = []
    for request in requests_in(protocol, 50, per_request, "127.0.0.1", "bench-key"):
        head, _, body = request.partition(b"\r\n\r\n")
        sizes.append((len(body) or len(head.split(b" ", 2)[1])) / per_request)
    return round(statistics.mean(sizes))


def measure(protocol: str, per_request: int, port: int, ingest: int, *, rounds: int, seconds: float) -> dict[str, float]:
    """Runs one protocol and Segment's by turns; returns the ratios."""
    options: dict[str, Any] = {"per_request": per_request, "connections": CONNECTIONS[per_request]}
    size = event_bytes(protocol, per_request)
    guess = volley(port, protocol="segment", requests=2000 // per_request + 100, event_bytes=size, **options)
    volley(port, protocol=protocol, requests=200, **options)
    requests = max(CONNECTIONS[per_request], int(seconds * guess["requests"] / guess["seconds"]))

    def turn(name: str) -> Turn:
        with Meter({"ingest": ingest}) as meter:
            result = volley(port, protocol=name, requests=requests, event_bytes=size, **options)
        if result["refused"]:
            raise SystemExit(f"{name}: {result['refused']:.0f} of {requests} requests were refused")
        return Turn(requests * per_request / result["seconds"], meter.costs["ingest"].cpu_seconds)

    turns: list[dict[str, float]] = []
    for _ in range(rounds):
        segment, ours, again, after = (turn(name) for name in ("segment", protocol, protocol, "segment"))
        turns.append(
            {
                "events_per_second": (ours.rate + again.rate) / 2,
                "micros": (ours.cpu + again.cpu) / 2 / requests / per_request * 1e6,
                "segment_micros": (segment.cpu + after.cpu) / 2 / requests / per_request * 1e6,
                "rate": (ours.rate + again.rate) / (segment.rate + after.rate),
                "cpu": (segment.cpu + after.cpu) / (ours.cpu + again.cpu),
            }
        )
    ratios = [each["cpu"] for each in turns]
    return {name: statistics.median(each[name] for each in turns) for name in turns[0]} | {
        "bytes": size, "noise": (max(ratios) - min(ratios)) / 2
    }  # fmt: skip


def main() -> None:
    """Parses the arguments and measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1, help="about this long a turn")
    parser.add_argument("--only", choices=sorted(TYPICAL), nargs="+", help="only these protocols")
    arguments = parser.parse_args()
    assert set(TYPICAL) | {"segment"} == {*MAKERS, *snowplow.KINDS}
    with open_edge(ROOT, {}) as (_, port, ingest):
        for protocol, sizes in TYPICAL.items():
            if arguments.only and protocol not in arguments.only:
                continue
            for per_request in sizes:
                found = measure(protocol, per_request, port, ingest, rounds=arguments.rounds, seconds=arguments.seconds)
                history.keep(
                    "protocols",
                    f"{protocol}, {per_request} a request",
                    {"rate of segment": found["rate"], "CPU of segment": found["cpu"]},
                )
                words = (
                    "{protocol}, {per_request} event(s) of {bytes:.0f} bytes a request: {events_per_second:,.0f} events/s, {micros:.1f} µs of CPU "
                    "each, Segment's {segment_micros:.1f}; of Segment's events for each CPU second {cpu:.2f} ± {noise:.2f}, of its rate {rate:.2f}"
                )
                print(words.format(protocol=protocol, per_request=per_request, **found), flush=True)


if __name__ == "__main__":
    main()
