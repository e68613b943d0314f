"""Watched connections: the guard admits them, and the bytes that they hold outside of requests are counted.

aiohttp does not bound a head or a frame that never ends, or answers that the client does not read. Here their bytes are counted
as they come, within one connection and over all, and a connection that exceeds a bound or a time is ended. To see a head before
it is complete, this module must sit between the socket and aiohttp's `RequestHandler`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from ingest.clients.proxy_protocol import read_preface
from ingest.contract import Reply
from ingest.http.answer import CLOSE, Answered, encode_answer
from ingest.http.frames import Frames
from ingest.limits.guard import MAX_HEAD_BYTES, MAX_HEADS_BYTES, Guard

LOCAL = "127.0.0.1"
"""The address of clients of a Unix socket."""

SMALL_CHUNK = 4096
"""Bytes that may follow a complete request in one piece of data and are counted only when more come."""

LOOK_SECONDS = 0.05
"""How long sockets are read once more before a client counts as silent."""

CHUNK_LINES_BYTES = 512 * 1024
"""What the lines between the chunks of a body may take, besides an eighth of the body: chunks of forty bytes never reach it,
while millions of a byte each would cost seconds."""

_ENCODE = msgspec.json.Encoder().encode


class Watched(RequestHandler):
    """One connection. `peer` is the client's address, from the socket or a trusted proxy's preface; None: unknown."""

    __slots__ = (
        "_around",
        "_body",
        "_guard",
        "_head_bytes",
        "_heads_came",
        "_preface",
        "_seconds",
        "_silence",
        "_unread",
        "frames",
        "peer",
    )

    def __init__(self, manager: web.Server, guard: Guard, read_timeout_seconds: float, **options: Any) -> None:
        super().__init__(manager, **options)
        self._guard = guard
        self._seconds = read_timeout_seconds
        self._head_bytes = 0
        self._heads_came = False
        self._body: StreamReader | None = None
        """The incomplete body. aiohttp forgets it while it throws away the rest of a refused one."""
        self._around = 0
        """Bytes of lines between chunks, as far as the parser has read them."""
        self._preface: bytes | None = None
        self._silence: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self.frames: Frames | None = None
        """Set when the connection became a WebSocket."""
        self.peer: str | None = None

    @property
    def local(self) -> str:
        """Address and port of our side."""
        name = self.transport.get_extra_info("sockname") if self.transport is not None else None
        if not isinstance(name, tuple):
            return "localhost"
        return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, (tuple, list)) else LOCAL
        why = self._guard.enter(self, self.peer)
        if why:
            assert isinstance(transport, asyncio.WriteTransport)  # noqa: S101  # of a stream
            transport.write(_refusal(503, "too_many_connections", f"{why}; try again later", {"Retry-After": "2"}))
            transport.close()
            self._manager = None  # so that aiohttp sees neither the client's further bytes nor its end
            return
        super().connection_made(transport)
        if self._guard.expects_proxy_header and self._guard.trusts(self.peer):
            self._preface = b""
        # aiohttp's keep-alive timer does this between requests, but not before the first
        self._silence = self._loop.call_later(self._seconds, self._end_silence)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._guard.leave(self)
        self._count_head(0)
        for timer in (self._silence, self._unread):
            if timer is not None:
                timer.cancel()  # it would keep the connection in memory
        if self.frames is not None:
            self.frames.free()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._manager is None:
            return
        if self._preface is not None:
            data = self._read_preface(data)
            if not data:
                return
        if self.frames is not None and data and not self.frames.feed(len(data)):
            self._end_frames()
            return
        body = self._body
        before = 0 if body is None else body.total_bytes
        super().data_received(data)
        if self._heads_came:
            self._heads_came = False
        elif body is not None and self._has_small_chunks(body, len(data) - body.total_bytes + before):
            self._refuse(400, "too_many_chunks", "the body comes in too many small chunks")
        elif data and not self._upgraded:
            size = len(data)
            if body is not None:
                if not body.is_eof():
                    return
                self._body = None
                if size < SMALL_CHUNK:
                    return
                size -= body.total_bytes - before  # what follows the end of the body
            self._count_head(self._head_bytes + size)
            if self._head_bytes > MAX_HEAD_BYTES or self._guard.head_bytes > MAX_HEADS_BYTES:
                self._refuse(431, "headers_too_large", f"the headers do not end within {MAX_HEAD_BYTES} bytes")

    def has_heads(self, messages: Sequence[tuple[RawRequestMessage, StreamReader]], size: int) -> None:
        """Notes that complete heads came; of the rest of `size` bytes of data at most a small piece is not counted."""
        self._heads_came = True
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
            self._guard.settle(self)
        self._body = None if messages[-1][1].is_eof() else messages[-1][1]
        self._around = 0
        self.count_rest(messages, size)

    def count_rest(self, messages: Sequence[tuple[RawRequestMessage, StreamReader]], size: int) -> None:
        """Counts the bytes behind complete heads in `size` bytes of data."""
        rest = 0
        if size > SMALL_CHUNK and self._body is None:
            rest = max(0, size - self._head_bytes - sum(_size_of(*message) for message in messages))
        if self._head_bytes or rest:
            self._count_head(rest)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self._loop.call_later(self._seconds, self._end_unread)
        if self.frames is not None and not self.frames.block():
            self._end_unread()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        if self.frames is not None:
            self.frames.unblock()

    def make_room(self) -> None:
        """Ends the connection, because the guard gave its place to another (`guard.Occupant`)."""
        self._refuse(503, "too_many_connections", "the place was given to another connection; try again later")

    def _read_preface(self, data: bytes) -> bytes:
        """Returns the bytes behind the header of the PROXY protocol; nothing while the header is incomplete."""
        assert self._preface is not None  # noqa: S101  # the caller looked
        self._preface += data
        try:
            preface = read_preface(self._preface)
        except ValueError as exc:
            self._refuse(400, "bad_proxy_header", str(exc))
            return b""
        if preface is None:
            return b""
        rest, self._preface = self._preface[preface.size :], None
        # if a proxy does not say whose connection it is, no header counts: the client may have written it
        self.peer = preface.address
        if preface.address is not None:
            why = self._guard.move(self, preface.address)
            if why:
                self._refuse(503, "too_many_connections", f"{why}; try again later")
                return b""
        return rest

    def _has_small_chunks(self, body: StreamReader, more: int) -> bool:
        """Counts `more` bytes of lines between chunks; returns whether there are too many."""
        self._around += more
        return not body.is_eof() and self._around > CHUNK_LINES_BYTES + body.total_bytes // 8

    def _count_head(self, size: int) -> None:
        self._guard.head_bytes += size - self._head_bytes
        self._head_bytes = size

    def _end_silence(self) -> None:
        # if the process was held up, the request may be here and unread: uvloop calls timers before it reads sockets
        self._silence = self._loop.call_later(LOOK_SECONDS, self._end_silent)

    def _end_silent(self) -> None:
        self._silence = None
        self._refuse(408, "read_timeout", "no complete request came in time")

    def _end_unread(self) -> None:
        """Ends a connection whose client does not read its answers."""
        self._guard.refused += 1
        if self.transport is not None:
            self.transport.abort()

    def _end_frames(self) -> None:
        assert self.frames is not None  # noqa: S101  # the caller looked
        self._guard.refused += 1
        if self.transport is not None:
            self.transport.write(self.frames.farewell)
            self.transport.close()

    def _refuse(self, status: int, code: str, message: str) -> None:
        if self.transport is not None:
            self._guard.refused += 1
            self.transport.write(_refusal(status, code, message))
            self.force_close()


def _refusal(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> bytes:
    body = _ENCODE({"code": code, "message": message})
    return encode_answer(Answered(Reply(status, body, headers=headers or {})), CLOSE)


def _size_of(message: RawRequestMessage, payload: StreamReader) -> int:
    """Returns about how many bytes a complete request took on the wire, never more."""
    return sum(len(name) + len(value) + 3 for name, value in message.raw_headers) + len(message.path) + payload.total_bytes
