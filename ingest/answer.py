"""The answer to a request as bytes: status line, headers and body in one write.

An answer of the edge is short and its head nearly always the same, while aiohttp's `Response` builds a header table, fills it in
and serialises it each time, which costs a tenth of a request that carries one event. Connections, keep-alive, flow control and
errors of the socket stay with aiohttp: this is one of its responses.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

from aiohttp import HttpVersion10, web
from aiohttp.abc import AbstractStreamWriter

from ingest.contract import Reply


class Answer(web.StreamResponse):
    """A reply, ready to be sent once.

    Args:
        extra: headers beside the reply's own. Values are the server's or a header that came in: none holds a line break.
        close: the connection ends with this answer.
    """

    def __init__(self, reply: Reply, extra: Mapping[str, str], *, close: bool) -> None:
        super().__init__(status=reply.status)
        self._reply = reply
        self._extra = extra
        self._close = close

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Writes everything."""
        reply, writer = self._reply, request.writer
        self._keep_alive = not self._close and request.keep_alive
        parts = [
            _head(reply.status, reply.content_type),
            b"Content-Length: %d\r\n" % len(reply.body),
            _date_line(int(time.time())),
        ]
        for headers in (reply.headers, self._extra):
            parts += [f"{name}: {value}\r\n".encode("utf-8", "surrogateescape") for name, value in headers.items()]
        if not self._keep_alive:
            parts.append(b"Connection: close\r\n")
        elif request.version == HttpVersion10:
            parts.append(b"Connection: keep-alive\r\n")
        parts.append(b"\r\n")
        if request.method != "HEAD":
            parts.append(reply.body)
        await writer.write(b"".join(parts))
        return writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Does nothing: `prepare` wrote the whole."""


@lru_cache(64)
def _head(status: int, content_type: str) -> bytes:
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: {content_type}\r\n".encode()


@lru_cache(2)
def _date_line(second: int) -> bytes:
    return f"Date: {formatdate(second, usegmt=True)}\r\n".encode()
