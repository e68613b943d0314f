"""An edge under test: in this process over real sockets and a real broker, or as a process of its own; and what reached the streams."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import socket
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec

from ingest import service
from ingest.settings import IngestSettings
from shared.events.dead import DeadLetter, decode_dead
from shared.events.event import JSON, facts_of, materialise
from shared.events.frame import Frame, Head, RequestContext, decode_frame
from shared.jetstream import topology
from shared.jetstream.broker import Broker, connect
from shared.project.snapshot import StoredProject, apply_project, resolve, watch_config
from shared.service import ServiceContext
from shared.settings import ServiceSettings
from shared.telemetry.health import Health
from shared.telemetry.metrics import Telemetry
from shared.telemetry.names import CounterName, GaugeName
from tests.support import logs
from tests.support.forked import Process, start_forked
from tests.support.nats import NatsServer
from tests.support.ports import free_port

ROOT = Path(__file__).parents[3]

PROJECT: dict[str, Any] = {
    "sites": {
        "shop": {
            "keys": [{"id": "web"}, {"id": "api", "kind": "server", "secret": "s3cret"}],
            "domains": ["shop.example.com"],
        },
        "strict": {
            "keys": [{"id": "strict"}],
            "origins": ["https://strict.example"],
            "bots": "drop",
            "ip": "truncate",
            "limits": {"event_bytes": 2000, "request_bytes": 10_000, "events_per_request": 20, "rate": 1000},
        },
        "closed": {"keys": [{"id": "closed"}], "enabled": False},
    }
}


class Stored(NamedTuple):
    """One event in EVENTS."""

    head: Head
    body: bytes
    request: RequestContext
    frame: int
    """Sequence of its frame."""

    def materialised(self) -> JSON:
        return materialise(self.body, self.head, facts_of(self.request))


@dataclass
class Edge:
    """A running edge."""

    port: int
    broker: Broker
    context: ServiceContext | None = None
    process: Process | None = None
    log: Path | None = None
    admin_port: int = 0
    frames: dict[int, Frame] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def events(self, site: str = "shop") -> list[Stored]:
        """Returns every event of a site in EVENTS, in order."""
        found: list[Stored] = []
        for sequence, payload in await messages(self.broker, topology.EVENTS, f"events.{site}."):
            frame = decode_frame(payload)
            assert frame.site == site
            found.extend(
                Stored(head, body, frame.requests[head.request], sequence)
                for head, body in zip(frame.heads, frame.bodies(), strict=True)
            )
        return found

    async def ids(self, site: str = "shop") -> list[str]:
        """Returns the message ids of a site in EVENTS, in order."""
        return [each.head.message_id for each in await self.events(site)]

    async def dead(self, site: str = "shop") -> list[DeadLetter]:
        """Returns every dead letter of a site from the edge, in order."""
        found = await messages(self.broker, topology.DEAD, f"dead.ingest.{site}")
        return [letter for _, payload in found for letter in decode_dead(payload)]

    def count(self, name: CounterName | GaugeName, **labels: str) -> float:
        """Returns a counter of an edge in this process."""
        assert self.context is not None
        return self.context.telemetry.value(name, **labels)


async def messages(broker: Broker, stream: str, subject: str) -> list[tuple[int, bytes]]:
    """Returns (sequence, payload) of every message of a stream whose subject starts so."""
    state = (await broker.js.stream_info(stream)).state
    found: list[tuple[int, bytes]] = []
    for sequence in range(max(1, state.first_seq), state.last_seq + 1):
        message = await broker.js.get_msg(stream, sequence)
        if (message.subject or "").startswith(subject):
            found.append((sequence, message.data or b""))
    return found


async def apply(broker: Broker, document: dict[str, Any]) -> int:
    """Applies a project; returns its revision."""
    return await apply_project(broker, StoredProject(document, resolve(document)))


@contextlib.asynccontextmanager
async def edge_here(
    nats: NatsServer, broker: Broker, document: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[Edge]:
    """Runs the service in this process, with its own connection to the broker; at the end it drains."""
    revision = await apply(broker, document or PROJECT)
    port = free_port()
    options: IngestSettings = msgspec.structs.replace(IngestSettings(host="127.0.0.1", port=port), **settings)
    service_settings = ServiceSettings(nats_url=nats.url, drain_period=8)  # type: ignore[arg-type]  # a number of seconds
    async with connect(nats.url, "edge", patience_seconds=60) as own, watch_config(own) as config:
        telemetry = Telemetry("ingest", service_settings)
        context = ServiceContext("ingest", "edge-here", service_settings, own, config, telemetry, Health())
        task = asyncio.create_task(service.run(context, options))
        try:
            while not _listens(port) or config.current.revision < revision:
                if task.done():
                    await task
                await asyncio.sleep(0.01)
            await asyncio.sleep(0)
            yield Edge(port, broker, context)
        finally:
            context.draining.set()
            try:
                await asyncio.wait_for(task, 60)
            finally:
                telemetry.shutdown()


@contextlib.asynccontextmanager
async def edge_process(nats: NatsServer, broker: Broker, folder: Path, **environment: str) -> AsyncIterator[Edge]:
    """Runs `python -m ingest` until the end of the context."""
    await apply(broker, PROJECT)
    edge = Edge(free_port(), broker, log=folder / "ingest.log", admin_port=free_port())
    try:
        await start(edge, nats, environment)
        yield edge
    finally:
        if edge.process is not None:
            stop(edge)


async def start(edge: Edge, nats: NatsServer, environment: Mapping[str, str] | None = None) -> None:
    """Starts the process of an edge and waits until it serves."""
    assert edge.log is not None
    logs.note("ingest", edge.log)
    with edge.log.open("ab") as output:
        variables = {
            **os.environ,
            "PENSTOCK_NATS_URL": nats.url,
            "PENSTOCK_ADMIN_PORT": str(edge.admin_port),
            "PENSTOCK_INGEST_HOST": "127.0.0.1",
            "PENSTOCK_INGEST_PORT": str(edge.port),
            **(environment or {}),
        }
        edge.process = start_forked("ingest", variables, output)
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(is_ready, edge.admin_port):
            if edge.process.poll() is not None:
                raise RuntimeError(f"ingest ended with {edge.process.returncode}:\n{edge.log.read_text()[-4000:]}")
            await asyncio.sleep(0.02)


def stop(edge: Edge, number: int = signal.SIGTERM) -> int:
    """Ends the process of an edge; returns its exit code."""
    assert edge.process is not None
    if edge.process.poll() is None:
        edge.process.send_signal(number)
    return edge.process.wait(60)


@contextlib.asynccontextmanager
async def browser() -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client with many connections and no opinion on statuses."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=200)) as session:
        yield session


def track(id_: str, **more: Any) -> JSON:
    """A good track event."""
    return {"type": "track", "event": "Sold", "userId": "u", "messageId": id_, **more}


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def is_ready(port: int) -> bool:
    """Whether `/ready` on an admin port answers 200; blocks."""
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=1) as answer:
        return bool(answer.status == 200)
    return False


def numbers(prefix: str, count: int) -> Iterator[str]:
    """Ids `prefix-0`, `prefix-1`, …"""
    return (f"{prefix}-{number}" for number in range(count))


KEY = {"X-Write-Key": "web"}


async def post(edge: Edge, path: str, body: Any, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """Returns (status, decoded answer)."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with browser() as session, session.post(edge.url + path, data=io.BytesIO(data), headers=headers or KEY) as answer:
        return answer.status, json.loads(await answer.read())


async def raw(edge: Edge, data: bytes, *, read_seconds: float = 60) -> bytes:
    """Sends bytes over a socket of its own and returns what comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(data)
    await writer.drain()
    async with asyncio.timeout(read_seconds):
        answer = await reader.read()
    writer.close()
    return answer
