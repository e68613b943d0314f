"""How a link of ClickHouse takes a server that lets its connection go."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from loader.warehouses.clickhouse.connect import Link, Options
from shared.errors import NotConnected

ANSWER = b'{"n":1}\n'


class LettingGo:
    """Answers the first request of a connection, and closes it at the next one; `answers`: so many in all."""

    def __init__(self, answers: int) -> None:
        self._answers = answers
        self.tasks: set[asyncio.Task[None] | None] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection."""
        self.tasks.add(asyncio.current_task())
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError):
            if self._answers:
                await _request(reader)
                self._answers -= 1
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER))
                await writer.drain()
            await _request(reader)
        await writer.wait_closed()


async def _request(reader: asyncio.StreamReader) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = next((line for line in head.split(b"\r\n") if line.startswith(b"content-length:")), b":0")
    await reader.readexactly(int(length.partition(b":")[2]))


@pytest.mark.parametrize(("answers", "asked"), [(2, 2), (1, 1)])
async def test_a_question_is_asked_once_more_where_the_server_let_the_connection_go(answers: int, asked: int) -> None:
    front = LettingGo(answers)
    server = await asyncio.start_server(front.serve, "127.0.0.1", 0)
    link = Link("wh", Options(url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", database="d"), "test")
    try:
        for _ in range(asked):
            assert await link.fetch("asking", "SELECT 1 AS n") == [{"n": 1}]
        if answers < 2:
            with pytest.raises(NotConnected):
                await link.fetch("asking", "SELECT 1 AS n")
    finally:
        await link.close()
        server.close()
        await server.wait_closed()
        await asyncio.gather(*(task for task in front.tasks if task is not None))
