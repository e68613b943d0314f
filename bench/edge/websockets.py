"""What idle WebSocket connections cost: memory of the edge for each, and one active sender among them.

    python -m bench.edge.websockets [--connections 5000] [--messages 200]

A real edge, a process of its own, and a real broker. Clients are bare sockets: they shake hands, read the greeting and say nothing more. Memory is the
private share of the edge's processes (PSS), before the first connection and when all are open. The active sender sends messages one by one and waits for each
acknowledgement, before and among the idle ones. Then the edge restarts, and all idle connections come back at once.

Figures measured: docs/protocols/websocket.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from websockets.asyncio.client import connect

from shared.jetstream import topology
from shared.jetstream.broker import connect as connect_broker
from tests.e2e.ingest.edge import Edge, edge_process, start, stop, track
from tests.support.nats import nats_server

AT_ONCE = 200
"""Handshakes under way."""
HANDSHAKE = (
    b"GET /v1/ws?writeKey=web HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
GREETING = b'"credit":64}'

Link = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def main(connections: int, messages: int) -> None:
    """Prints what each part costs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, connections + 1000), hard))
    print(f"open files: {soft} allowed at first, {hard} at most")
    with TemporaryDirectory() as folder, nats_server(Path(folder) / "nats") as nats:
        async with connect_broker(nats.url, "bench", patience_seconds=60) as broker:
            await topology.ensure(broker, topology.TopologySettings())
            room = str(connections + 100)
            limits = {f"PENSTOCK_INGEST_MAX_{name}": room for name in ("CONNECTIONS", "CONNECTIONS_PER_ADDRESS", "WEBSOCKETS")}
            async with edge_process(nats, broker, Path(folder), **limits) as edge:
                assert edge.process is not None
                process = psutil.Process(edge.process.pid)
                print(f"alone: {await active(edge, messages, 'a')}")
                before = memory(process)
                began = time.monotonic()
                links = await opened(edge, connections)
                seconds = time.monotonic() - began
                await asyncio.sleep(2)
                after = memory(process)
                print(
                    f"{len(links)} idle connections opened in {seconds:.1f} s: {before >> 20} MiB before, {after >> 20} MiB after, "
                    f"{(after - before) / len(links) / 1024:.1f} KiB each"
                )
                print(f"among {len(links)} idle: {await active(edge, messages, 'b')}")
                began = time.monotonic()
                await asyncio.to_thread(stop, edge)
                print(f"the edge with {len(links)} connections ended in {time.monotonic() - began:.1f} s")
                await cut(links)  # `select` needs low numbers
                await start(edge, nats, limits)
                process, began = psutil.Process(edge.process.pid), time.monotonic()
                links = await opened(edge, connections)
                print(f"storm: {len(links)} came back in {time.monotonic() - began:.1f} s, {memory(process) >> 20} MiB")
                print(f"after the storm: {await active(edge, messages, 'c')}")
                stored = set(await edge.ids())
                assert stored == {f"{part}{number}" for part in "abc" for number in range(messages)}
                print(f"events stored, each once acknowledged: {len(stored)}")
                await cut(links)


def memory(process: psutil.Process) -> int:
    """Returns the private share of a process and its children, in bytes."""
    return sum(each.memory_full_info().pss for each in (process, *process.children(recursive=True)))


async def opened(edge: Edge, count: int) -> list[Link]:
    """Opens connections and reads their greetings."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one() -> Link:
        async with places:
            reader, writer = await asyncio.open_connection("127.0.0.1", edge.port, limit=4096)
            writer.write(HANDSHAKE)
            await reader.readuntil(GREETING)
            return reader, writer

    return await asyncio.gather(*(one() for _ in range(count)))


async def cut(links: list[Link]) -> None:
    """Ends connections."""
    for _, writer in links:
        writer.transport.abort()
    links.clear()
    await asyncio.sleep(0.1)


async def active(edge: Edge, messages: int, part: str) -> str:
    """Sends messages one by one; returns how long their acknowledgements took."""
    took: list[float] = []
    async with connect(f"ws://127.0.0.1:{edge.port}/v1/ws?writeKey=web") as socket:
        await socket.recv()
        for number in range(messages):
            began = time.perf_counter()
            await socket.send(json.dumps({"id": number, "event": track(f"{part}{number}")}))
            answer = json.loads(await socket.recv())
            assert (answer["ack"], answer["accepted"]) == (number, 1)
            took.append(1000 * (time.perf_counter() - began))
    took.sort()
    return f"acknowledged in {statistics.median(took):.1f} ms at the median, {took[int(len(took) * 0.95)]:.1f} ms at 95 %"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=5000)
    parser.add_argument("--messages", type=int, default=200)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.connections, arguments.messages))
