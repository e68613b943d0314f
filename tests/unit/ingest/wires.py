"""An edge in memory: a server, its packer and connections to it, without sockets and without a broker."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

from ingest.clients.sender import Agent
from ingest.http.routes import Routes
from ingest.http.server import EdgeServer
from ingest.intake.intake import Intake
from ingest.intake.outlet import Outlet
from ingest.intake.packer import PackerSettings, open_packer
from ingest.limits.guard import Guard
from ingest.registry import http_protocols
from shared.events.frame import decode_frame
from shared.project.model import Project
from shared.telemetry.tracing.spans import NO_SPAN, Span

PEER = ("192.0.2.7", 4711)


class Counters:
    """What the edge counts."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, ...]] = Counter()

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Adds to a counter."""
        self.counts[name, *labels.values()] += int(amount)

    def counter(self, name: str, **labels: str) -> Callable[[float], None]:
        """Returns what adds to a counter."""
        return lambda amount: self.count(name, amount, **labels)

    def record(self, name: str, value: float, **labels: str) -> None:
        """Histograms are not looked at."""

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Nor are gauges."""

    def record_in(self, trail: object, name: str, value: float, **labels: str) -> None:
        """Nor are exemplars."""

    def span(self, *_: object) -> contextlib.AbstractContextManager[Span]:
        """Nor are spans."""
        return contextlib.nullcontext(NO_SPAN)

    tracing = None


class Broker:
    """Stores what is published, when `open` is set, or fails with what `failure` makes."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.failure: Callable[[], Exception] | None = None
        self.stored: list[tuple[str, bytes]] = []

    async def publish(self, subject: str, payload: bytes, **_: Any) -> None:
        """As the publisher of the broker's library."""
        await self.open.wait()
        if self.failure is not None:
            raise self.failure()
        self.stored.append((subject, payload))

    def ids(self) -> list[str]:
        """Returns the message ids of all events, in order."""
        frames = [decode_frame(payload) for subject, payload in self.stored if subject.startswith("events.")]
        return [head.message_id for frame in frames for head in frame.heads]


class Wire(asyncio.Transport):
    """A connection: `send` is the client's side, `received` what it was sent."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__({"peername": PEER})
        self.protocol = protocol
        self.received = bytearray()
        self.closed = asyncio.Event()
        self._closing = False
        self._reading = True
        self._waiting: list[bytes | None] = []
        protocol.connection_made(self)

    def send(self, data: bytes | None) -> None:
        """Sends bytes; None closes the client's side."""
        self._waiting.append(data)
        self._deliver()

    def vanish(self) -> None:
        """The client is gone."""
        if not self._closing:
            self._closing = True
            self._lose()

    def write(self, data: Any) -> None:
        if not self._closing:
            self.received += data

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self._lose)

    def abort(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        asyncio.get_running_loop().call_soon(self._deliver)

    def is_reading(self) -> bool:
        return self._reading

    def _deliver(self) -> None:
        while self._waiting and self._reading and not self._closing:
            data = self._waiting.pop(0)
            if data is not None:
                self.protocol.data_received(data)
            elif not self.protocol.eof_received():
                self.close()

    def _lose(self) -> None:
        self.protocol.connection_lost(None)
        self.closed.set()


def answers_of(wire: Wire) -> bytes:
    """Returns what a client was sent, without what differs each time."""
    return re.sub(rb"(Date|X-Request-Id): [^\r]*\r\n|(?<=Retry-After: )\d+", b"", bytes(wire.received))


async def settled() -> None:
    """Lets everything run that waits for nothing outside."""
    for _ in range(30):
        await asyncio.sleep(0)


class Edge:
    """A running edge."""

    def __init__(self, server: EdgeServer, intake: Intake, broker: Broker, counters: Counters) -> None:
        self.server = server
        self.intake = intake
        self.broker = broker
        self.counts = counters.counts

    def connect(self) -> Wire:
        """Opens a connection."""
        return Wire(self.server.connections())

    async def exchange(self, segments: Sequence[bytes | None]) -> bytes:
        """Sends segments, each read by itself, and returns what came until the server closed, without the dates."""
        wire = self.connect()
        for segment in segments:
            wire.send(segment)
            await asyncio.sleep(0)
        async with asyncio.timeout(60):
            await wire.closed.wait()
        return answers_of(wire)


@contextlib.asynccontextmanager
async def edge(project: Project, *, quick_bytes: int = 65536, **options: Any) -> AsyncIterator[Edge]:
    """Runs an edge; `options` are those of the server."""
    counters = Counters()
    telemetry: Any = counters
    broker = Broker()
    numbers = itertools.count(1)
    tasks: set[asyncio.Task[None]] = set()

    def start(work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    outlet = Outlet(broker, None, telemetry, deadline_seconds=5, spool_after_seconds=1)
    async with open_packer(outlet.send_frame, lambda: f"f{next(numbers)}", PackerSettings(linger_seconds=0)) as packer:
        intake = Intake(
            packer,
            outlet,
            telemetry,
            instance="here",
            start=start,
            read_agent=lambda text: Agent(None, "bot" in text),
            read_location=lambda _: None,
        )
        intake.use_project(project)
        settings: dict[str, Any] = {
            "read_timeout_seconds": 5,
            "keepalive_seconds": 75,
            "max_requests": 100,
            "max_body_bytes": 10_000_000,
            "guard": Guard(max_connections=1000, max_per_address=1000, max_sockets=100),
            **options,
        }
        server = EdgeServer(intake, Routes(http_protocols()), {}, quick_bytes=quick_bytes, **settings)
        yield Edge(server, intake, broker, counters)
        broker.open.set()
        await server.drain(1)
