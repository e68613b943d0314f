"""The edge under attack: a process over a real broker, what it costs, and a healthy client beside it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import psutil

MIB = 1024 * 1024
KEY = "web"
SECONDS = 60.0
"""How long an attack may take at most; nothing is asserted about it."""

GAUGES = ("ingest_connections", "ingest_unfinished_bytes", "ingest_tasks", "ingest_websockets", "ingest_inflight_bytes")

PROJECT: dict[str, Any] = {
    "sites": {
        "shop": {
            "keys": [{"id": KEY}, {"id": "api", "kind": "server", "secret": "s3cret"}],
            "domains": ["shop.example.com"],
        },
        "strict": {"keys": [{"id": "strict"}], "origins": ["https://strict.example"], "limits": {"rate": 100}},
    },
    "webhooks": {
        "open": {"site": "shop", "type": "open", "event": ["a.b.c"], "message_id": ["id"]},
        "signed": {"site": "shop", "type": "github", "secret": "s3cret"},
        "sms": {"site": "shop", "type": "twilio", "secret": "s3cret", "url": "https://in.example.com/webhooks/sms"},
    },
}


@dataclass(frozen=True, slots=True)
class Target:
    """Where to attack."""

    port: int
    admin_port: int
    pid: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def send(self, data: bytes) -> list[int]:
        """Sends bytes on a connection of their own; returns the statuses of all answers until the server closes or says nothing more."""
        async with self.connection() as (reader, writer):
            writer.write(data)
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            return await read_statuses(reader)

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    def gauges(self) -> dict[str, float]:
        """What must be as before when an attack is over."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/metrics", timeout=60) as page:
            lines = page.read().decode().splitlines()
        found = dict.fromkeys(GAUGES, 0.0)
        found |= {
            name: float(line.rpartition(" ")[2]) for line in lines if (name := line.partition("{")[0].partition(" ")[0]) in GAUGES
        }
        return found | {"descriptors": psutil.Process(self.pid).num_fds()} if found["ingest_tasks"] else {}


@dataclass
class Cost:
    """What an attack cost the process."""

    cpu_seconds: float = 0.0
    grown_bytes: int = 0


@contextlib.asynccontextmanager
async def measured(target: Target, idle_bytes: int) -> AsyncIterator[Cost]:
    """Measures the process, its memory every few milliseconds."""
    process = psutil.Process(target.pid)
    cost = Cost()

    async def watch() -> None:
        while True:
            cost.grown_bytes = max(cost.grown_bytes, process.memory_info().rss - idle_bytes)
            await asyncio.sleep(0.005)

    watcher = asyncio.create_task(watch())
    before = process.cpu_times()
    try:
        yield cost
    finally:
        after = process.cpu_times()
        watcher.cancel()
        cost.cpu_seconds = after.user + after.system - before.user - before.system


@dataclass
class Neighbour:
    """A healthy client. It sends one event after the other, and what it hears must be 200."""

    statuses: Counter[str] = field(default_factory=Counter)
    told: list[bytes] = field(default_factory=list)
    """The bodies of what it heard besides 200."""
    _stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, target: Target) -> None:
        body = json.dumps({"type": "page", "userId": "u"}).encode()
        data = request("POST /v1/page", body, {"X-Write-Key": KEY})
        async with target.connection() as (reader, writer):
            while not self._stop.is_set() or self.statuses.total() < 3:
                writer.write(data)
                try:
                    async with asyncio.timeout(SECONDS):
                        heard = str(await read_status(reader, self.told))
                except (TimeoutError, ConnectionError) as exc:
                    heard = type(exc).__name__
                self.statuses[heard] += 1
                if heard != "200":
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.02):
                        await self._stop.wait()

    def stop(self) -> None:
        self._stop.set()


@contextlib.asynccontextmanager
async def neighbour(target: Target) -> AsyncIterator[Neighbour]:
    client = Neighbour()
    async with asyncio.TaskGroup() as group:
        group.create_task(client.run(target))
        try:
            yield client
        finally:
            client.stop()


def request(line: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
    """Returns the bytes of a request."""
    lines = [f"{line} HTTP/1.1", "Host: a.example"]
    lines += [
        f"{name}: {value}" for name, value in ({"Content-Length": str(len(body))} if body or "POST" in line else {}).items()
    ]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def read_status(reader: asyncio.StreamReader, told: list[bytes] | None = None) -> int:
    """Reads one whole answer; 0 where the connection ends instead. `told` is given the body where it is no 200."""
    head = await reader.readline()
    if not head:
        return 0
    length = 0
    while (line := await reader.readline()) not in (b"\r\n", b""):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    body = await reader.readexactly(length)
    status = int(head.split(b" ")[1])
    if told is not None and status != 200:
        told.append(body)
    return status


async def read_statuses(reader: asyncio.StreamReader, quiet_seconds: float = 0.3) -> list[int]:
    """Reads answers until the connection ends, or none came for a while after the first."""
    statuses: list[int] = []
    with contextlib.suppress(ConnectionError, TimeoutError, asyncio.IncompleteReadError):
        while True:
            async with asyncio.timeout(quiet_seconds if statuses else SECONDS):
                status = await read_status(reader)
            if not status:
                break
            statuses.append(status)
    return statuses


def wait_for_calm(target: Target, calm: dict[str, float]) -> dict[str, tuple[float, float]]:
    """Waits until every gauge is back; returns those that stay away, with what they should be."""
    ends_at = time.monotonic() + SECONDS
    while True:
        now = target.gauges()
        off = (
            {"metrics": (0.0, 0.0)}
            if not now
            else {name: (value, calm[name]) for name, value in now.items() if value > calm[name]}
        )
        if not off or time.monotonic() > ends_at:
            return off
        time.sleep(0.2)
