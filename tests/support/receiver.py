"""An HTTP server that takes events and misbehaves on command: statuses, `Retry-After`, slow and endless answers, cut connections, silence.

It speaks HTTP by itself, so that it can break it. What it accepted is kept: events of calls answered with 2xx, in the order in which they
came, and every call with its idempotency key.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.ports import free_port

BLOCK = b"x" * 65_536


@dataclass(frozen=True, slots=True)
class Request:
    """A call as it came; header names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def key(self) -> str:
        """Its idempotency key."""
        return self.headers.get("idempotency-key", "")

    @property
    def events(self) -> list[dict[str, Any]]:
        """Its events, where the body is an event or an array of them."""
        if not self.body:
            return []
        found = json.loads(self.body)
        return found if isinstance(found, list) else [found]

    @property
    def ids(self) -> list[str]:
        """The message ids of its events."""
        return [event["messageId"] for event in self.events]


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What is done with a call. `what`: `answer`; `hang`: no answer; `cut`: the connection is closed; `lose`: it is taken, and then closed;
    `huge`: an answer without end."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"ok"
    seconds: float = 0.0
    what: str = "answer"


OK = Behaviour()
Behave = Callable[[Request], Behaviour]


class Receiver:
    """The server; open it as a context. `behave` is asked what to do with each call."""

    def __init__(self, behave: Behave = lambda _: OK) -> None:
        self.behave = behave
        self.requests: list[Request] = []
        self.taken: list[Request] = []
        """Calls whose events it took."""
        self.most_at_once = 0
        self.port = 0
        self._now = 0
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}/in"

    @property
    def ids(self) -> list[str]:
        """Message ids of the events it took, in their order; one that came twice stands twice."""
        return [each for request in self.taken for each in request.ids]

    async def __aenter__(self) -> Receiver:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listens, on the same port as before, which nobody takes meanwhile."""
        self.port = self.port or free_port()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=2**20)

    async def stop(self) -> None:
        """Closes the port and all connections."""
        if self._server is not None:
            self._server.close()
            for task in list(self._serving):
                task.cancel()
            await asyncio.gather(*self._serving)
            await self._server.wait_closed()
            self._server = None

    @property
    def connected(self) -> int:
        """Number of clients that are connected; a dead one is, until its last call is answered."""
        return len(self._serving)

    async def until(self, condition: Callable[[], object], seconds: float = 60.0) -> None:
        """Waits until something is true of it."""
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            while (request := await _read(reader)) is not None:
                if not await self._answer(request, writer):
                    return
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):  # asyncio complains of tasks that end as cancelled
            pass
        finally:
            self._serving.discard(task)
            writer.transport.abort()

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        self.requests.append(request)
        behaviour = self.behave(request)
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            if behaviour.seconds:
                await asyncio.sleep(behaviour.seconds)
            if behaviour.what == "hang":
                await asyncio.sleep(3600)
        finally:
            self._now -= 1
        if behaviour.what == "cut":
            writer.transport.abort()
            return False
        if behaviour.what == "lose" or 200 <= behaviour.status < 300:
            self.taken.append(request)
        if behaviour.what == "lose":
            writer.transport.abort()
            return False
        head = "".join(f"{name}: {value}\r\n" for name, value in behaviour.headers.items())
        size = 2**40 if behaviour.what == "huge" else len(behaviour.body)
        writer.write(f"HTTP/1.1 {behaviour.status} X\r\n{head}Content-Length: {size}\r\n\r\n".encode() + behaviour.body)
        await writer.drain()
        while behaviour.what == "huge":
            writer.write(BLOCK)
            await writer.drain()
        return True


async def _read(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, path, headers, body)
