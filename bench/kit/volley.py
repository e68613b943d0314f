"""A cheap load generator: `python -m bench.kit.volley`, a process of its own over raw sockets, about 20 µs of CPU a request.

`bench/kit/pump.py` is for batches and paced streams; for requests of one event it would cost as much as the edge it measures. Each
connection sends the next prepared request when the answer to the last one is complete. Prints one JSON object: requests, seconds,
p50 and p99 in milliseconds, refused (answers that are not 200), and its own CPU seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from collections.abc import Iterator
from typing import cast

import msgspec
import uvloop

from bench.kit.protocol_requests import requests_in
from bench.kit.pump import requests_of


class Volley:
    """What all connections share."""

    def __init__(self, requests: Iterator[bytes], total: int) -> None:
        self.requests = requests
        self.left = total
        self.open = 0
        self.refused = 0
        self.latencies: list[float] = []
        self.done = asyncio.get_running_loop().create_future()


class _Connection(asyncio.Protocol):
    def __init__(self, volley: Volley) -> None:
        self._volley = volley
        self._seen = b""
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._volley.open += 1

    def data_received(self, data: bytes) -> None:
        self._seen = seen = self._seen + data if self._seen else data
        end = seen.find(b"\r\n\r\n")
        if end < 0:
            return
        start = seen.find(b"Content-Length: ", 0, end) + 16
        if start >= 16 and len(seen) < end + 4 + int(seen[start : seen.index(b"\r\n", start)]):  # 304 has none
            return
        self._volley.latencies.append(time.perf_counter() - self._sent_at)
        if not seen.startswith((b"HTTP/1.1 200", b"HTTP/1.1 304")):
            self._volley.refused += 1
        self._seen = b""
        self.send()

    def connection_lost(self, _: Exception | None) -> None:
        self._volley.open -= 1
        if not self._volley.open and not self._volley.done.done():
            self._volley.done.set_result(None)

    def send(self) -> None:
        """Sends the next request; closes the connection when there is none."""
        if self._volley.left <= 0:
            self._transport.close()
            return
        self._volley.left -= 1
        self._sent_at = time.perf_counter()
        self._transport.write(next(self._volley.requests))


async def fire(port: int, prepared: list[bytes], total: int, connections: int) -> dict[str, float]:
    """Sends `total` requests over `connections` sockets."""
    volley = Volley(itertools.cycle(prepared), total)
    loop = asyncio.get_running_loop()
    opened = [(await loop.create_connection(lambda: _Connection(volley), "127.0.0.1", port))[1] for _ in range(connections)]
    # connecting is not what is measured, and a full backlog costs a second
    began, cpu = time.perf_counter(), time.process_time()
    for connection in opened:
        connection.send()
    await volley.done
    seconds = time.perf_counter() - began
    ordered = sorted(volley.latencies)
    return {
        "requests": len(ordered),
        "seconds": seconds,
        "p50_ms": 1000 * ordered[len(ordered) // 2],
        "p99_ms": 1000 * ordered[int(len(ordered) * 0.99)],
        "refused": volley.refused + total - len(ordered),
        "cpu_seconds": time.process_time() - cpu,
    }


def main() -> None:
    """Parses the arguments, sends, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--kind", default="flat")
    parser.add_argument("--protocol", default="", help="requests of a protocol, see bench/kit/protocol_requests.py")
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--per-request", type=int, default=1)
    parser.add_argument("--event-bytes", type=int, default=0, help="how long Segment's events are, with --protocol")
    parser.add_argument("--connections", type=int, default=128)
    arguments = parser.parse_args()
    distinct = max(1, min(2_000, 20_000 // arguments.per_request))
    if arguments.protocol:
        prepared = requests_in(
            arguments.protocol, max(4, distinct // 4), arguments.per_request, "127.0.0.1", arguments.key,
            arguments.event_bytes if arguments.protocol == "segment" else 0,
        )  # fmt: skip
    else:
        prepared = requests_of(arguments.kind, distinct, arguments.per_request, "127.0.0.1", arguments.key)
    result = uvloop.run(fire(arguments.port, prepared, arguments.requests, arguments.connections))
    print(msgspec.json.encode(result).decode())


if __name__ == "__main__":
    main()
