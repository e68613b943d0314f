"""Sends prepared HTTP requests over a few raw sockets as fast as they are answered: `python -m bench.kit.pump`, a process of its own.

It costs about two microseconds an event, so that it measures the edge and not itself. Bodies are made once; what changes from
round to round is the run token inside every messageId, replaced by bytes of the same length.

Prints one JSON object: requests, events, seconds, p50 and p99 in milliseconds, refused (answers that are not 200).
"""

from __future__ import annotations

import argparse
import asyncio
import time

import msgspec

from bench.kit import snowplow
from bench.kit.events import bodies

TOKEN = "RUNTOKEN"


def requests_of(kind: str, count: int, per_request: int, host: str, key: str) -> list[bytes]:
    """Returns `count` whole HTTP requests of `per_request` events; ids hold `TOKEN`."""
    if kind in snowplow.KINDS:
        return snowplow.requests_of(kind, count, per_request, host)
    events = bodies(kind, count * per_request, TOKEN)
    made: list[bytes] = []
    for start in range(0, len(events), per_request):
        chunk = events[start : start + per_request]
        body = chunk[0] if per_request == 1 else b'{"batch":[' + b",".join(chunk) + b"]}"
        path = "/v1/" + ("batch" if per_request > 1 else msgspec.json.decode(chunk[0])["type"])
        head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nX-Write-Key: {key}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        made.append(head.encode() + body)
    return made


async def send(
    host: str, port: int, prepared: list[bytes], total: int, connections: int, rate: float | None, prefix: str
) -> dict[str, object]:
    """Sends `total` requests, each prepared one in turn with a fresh token a round.

    Args:
        rate: requests a second over all connections; None: as fast as they are answered.
    """
    latencies: list[float] = []
    refused = 0
    next_number = 0
    began = time.perf_counter()

    async def one() -> None:
        nonlocal next_number, refused
        reader, writer = await asyncio.open_connection(host, port, limit=1 << 20)
        while next_number < total:
            number = next_number
            next_number += 1
            turn, index = divmod(number, len(prepared))
            payload = prepared[index].replace(TOKEN.encode(), f"{prefix}{turn:05d}".encode())
            if rate is not None:
                await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
            sent = time.perf_counter()
            writer.write(payload)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            latencies.append(time.perf_counter() - sent)
            if not head.startswith(b"HTTP/1.1 200"):
                refused += 1
        writer.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    seconds = time.perf_counter() - began
    latencies.sort()
    return {
        "requests": total,
        "seconds": seconds,
        "p50_ms": 1000 * latencies[len(latencies) // 2],
        "p99_ms": 1000 * latencies[int(len(latencies) * 0.99)],
        "refused": refused,
        "cpu_seconds": time.process_time(),
    }


def main() -> None:
    """Parses the arguments, sends, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--kind", default="flat")
    parser.add_argument("--events", type=int, required=True)
    parser.add_argument("--per-request", type=int, default=100)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--rate", type=float, help="events a second")
    parser.add_argument("--prefix", default="run", help="three characters that tell this run's ids")
    parser.add_argument("--distinct", type=int, default=20_000, help="distinct events prepared")
    arguments = parser.parse_args()
    distinct = min(arguments.distinct, arguments.events)
    prepared = requests_of(
        arguments.kind, max(1, distinct // arguments.per_request), arguments.per_request, arguments.host, arguments.key
    )
    rate = None if arguments.rate is None else arguments.rate / arguments.per_request
    result = asyncio.run(
        send(
            arguments.host,
            arguments.port,
            prepared,
            arguments.events // arguments.per_request,
            arguments.connections,
            rate,
            arguments.prefix,
        )
    )
    print(msgspec.json.encode(result).decode())


if __name__ == "__main__":
    main()
