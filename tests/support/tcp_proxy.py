"""A small TCP proxy that can go wrong: cut connections, let bytes vanish, refuse, or do so after a number of bytes.

It stands between a client under test and a real server, so that the network fails and the server does not.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from types import TracebackType

CHUNK = 16 * 1024


class TcpProxy:
    """Forwards connections to `host:port` while its context is open; `port` is where it listens."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._trigger: tuple[int, Callable[[], None]] | None = None
        self._refusing = False
        self.port = 0
        self.sent = 0
        """Bytes that went from clients to the server."""
        self.ends: list[int] = []
        """What `sent` was after each piece that clients wrote at once."""

    async def __aenter__(self) -> TcpProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._server is not None
        self._server.close()
        self.flow()
        self.cut()
        await self._server.wait_closed()

    def cut(self) -> None:
        """Resets every connection."""
        for writer in list(self._writers):
            writer.transport.abort()

    def vanish(self) -> None:
        """Lets every byte vanish from now on, both ways; connections stay open."""
        self._flowing.clear()

    def flow(self) -> None:
        """Lets bytes through again."""
        self._flowing.set()

    def refuse(self) -> None:
        """Resets every connection and takes no new one, until `accept`."""
        self._refusing = True
        self.cut()

    def accept(self) -> None:
        """Takes connections again."""
        self._refusing = False

    def after(self, count: int, action: Callable[[], None]) -> None:
        """Calls `action` once, before the byte after the next `count` from clients is forwarded."""
        self._trigger = (self.sent + count, action)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, up_writer}
        self._writers |= ends
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, up_writer, counted=True))
                group.create_task(self._pump(up_reader, writer, counted=False))
        finally:
            self._writers -= ends
            for end in ends:
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                if counted:
                    data = self._spend(data, writer)
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    def _spend(self, data: bytes, writer: asyncio.StreamWriter) -> bytes:
        """Counts bytes; at the trigger forwards those before it and acts."""
        if self._trigger is not None and self.sent + len(data) >= self._trigger[0]:
            (limit, action), self._trigger = self._trigger, None
            writer.write(data[: limit - self.sent])
            data = data[limit - self.sent :]
            self.sent = limit
            action()
        self.sent += len(data)
        self.ends.append(self.sent)
        return data
