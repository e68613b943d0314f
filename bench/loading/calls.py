"""Events one by one: a queue filled with packed frames, sent by the loader to a local server: `python -m bench.loading.calls`.

The server is a process of its own that reads requests and answers 200, and does nothing else; so what is measured is the loader. The
ceiling, in the same run, is a bare aiohttp client that posts the same bodies with as many calls at once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import aiohttp
import uvloop

from bench.kit.events import bodies
from bench.kit.machine import Meter
from bench.kit.stack import stack
from bench.loading.loader import fill
from bench.whole.path import committed, report, wait_committed
from tests.support.ports import free_port

BARE_CALLS = 10_000
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class _Sink(asyncio.Protocol):
    """Answers each request as soon as all of it is here."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it
        self._held = bytearray()
        self._needed = 0

    def data_received(self, data: bytes) -> None:
        self._held += data
        while len(self._held) >= self._needed:
            end = self._held.find(b"\r\n\r\n")
            if end < 0:
                return
            at = self._held.lower().find(b"content-length:", 0, end)
            length = int(self._held[at + 15 : self._held.find(b"\r\n", at)]) if at >= 0 else 0
            self._needed = end + 4 + length
            if len(self._held) < self._needed:
                return
            del self._held[: self._needed]
            self._needed = 0
            self._transport.write(ANSWER)


def _serve(port: int) -> None:
    async def forever() -> None:
        server = await asyncio.get_running_loop().create_server(_Sink, "127.0.0.1", port)
        await server.serve_forever()

    uvloop.run(forever())


@contextlib.contextmanager
def sink() -> Iterator[str]:
    """Yields the address of a server that answers 200."""
    port = free_port()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(port,), daemon=True)
    process.start()
    try:
        ends_at = time.monotonic() + 15
        while time.monotonic() < ends_at:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/in"
    finally:
        process.terminate()
        process.join()


async def bare(url: str, payloads: list[bytes], calls: int, at_once: int) -> float:
    """Returns calls a second of a bare client."""

    async def post(session: aiohttp.ClientSession, count: int, offset: int) -> None:
        for number in range(count):
            async with session.post(url, data=payloads[(offset + number) % len(payloads)]) as answer:
                await answer.read()

    async with aiohttp.ClientSession() as session:
        began = time.perf_counter()
        await asyncio.gather(*(post(session, calls // at_once, number * 97) for number in range(at_once)))
        return calls / (time.perf_counter() - began)


def main() -> None:
    """Parses the arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--per-frame", type=int, default=500)
    parser.add_argument("--batch", type=int, default=1, help="events a call")
    parser.add_argument("--at-once", type=int, default=8, help="calls at once")
    parser.add_argument("--kind", choices=["flat", "mixed"], default="flat")
    arguments = parser.parse_args(sys.argv[1:])
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as held:
        url = held.enter_context(sink())
        running = held.enter_context(stack(Path(name), {}))
        asyncio.run(running.apply(project(url, arguments)))
        asyncio.run(fill(running.nats.url, arguments.kind, arguments.events, arguments.per_frame))
        payloads = bodies(arguments.kind, 1_000, "RUNTOKEN")
        if arguments.batch > 1:
            payloads = [b"[" + b",".join(payloads[start : start + arguments.batch]) + b"]" for start in range(0, 500, 50)]
        ceiling = uvloop.run(bare(url, payloads, BARE_CALLS // arguments.batch, arguments.at_once))
        running.start("loader")
        running.wait_ready("loader")
        before = committed(running)  # it began before it was ready
        began = time.monotonic()
        with Meter({"loader": running.pids["loader"], "nats": running.pids["nats"]}) as meter:
            wait_committed(running, arguments.events, 600)
        seconds, events = time.monotonic() - began, arguments.events - int(before)
        report(f"webhook, {arguments.batch} events a call, {arguments.at_once} calls at once", events, seconds, meter, {})
        print(
            f"  a bare client: {ceiling * arguments.batch:,.0f} events/s; ratio {events / seconds / ceiling / arguments.batch:.2f}"
        )


def project(url: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the project to measure with."""
    hook = {"type": "webhook", "url": url, "batch_events": arguments.batch, "calls_at_once": arguments.at_once}
    return {
        "sites": {"bench": {"keys": [{"id": "k", "kind": "server"}]}},
        "destinations": {"wh": hook},
        "connections": {"bench-wh": {"site": "bench", "destination": "wh", "mode": "stream"}},
    }


if __name__ == "__main__":
    main()
