"""Answers small whole requests as soon as they are parsed: no task, no request object, no writer for each.

A request with one event costs mostly what aiohttp spends on every request. So a connection's parser is aiohttp's own behind a
`QuickParser`, which looks at what comes out. A request that is whole, small and plain it gives to the pipeline itself, and writes
the answer when the events are stored. All others (bodies that are still coming, chunks, `Expect`, upgrades, HTTP/1.0, OPTIONS …)
it passes on, and aiohttp handles them with a task each, as if it had read them from the socket.

Promises. Answers leave in the order of the requests: nothing is passed on while quick answers are outstanding, and nothing is
quick while aiohttp works. A client that goes away cancels nothing. One that does not read is passed on to aiohttp, which waits
for it. No more requests are under way on a connection than aiohttp allows; beyond that the socket is not read.

It leans on the inside of aiohttp's `RequestHandler` in the few places below; `tests/unit/ingest/test_ways.py` sends the same
requests both ways.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Container, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from aiohttp import HttpVersion11
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import MAX_MSG_QUEUE_SIZE

from ingest.answer import CLOSE, Answered, encode_answer
from ingest.bounds import Bounds, Held
from ingest.pipeline import Pending, Pipeline, decode

if TYPE_CHECKING:
    from ingest.connections import Connection

FEW = MAX_MSG_QUEUE_SIZE // 2
"""Reading goes on when so few requests are left."""

_Message = tuple[RawRequestMessage, StreamReader]
_Fed = tuple[Sequence[_Message], bool, bytes]
_NOTHING: _Fed = ((), False, b"")


class Quick:
    """What the quick way shares over all connections: which requests it takes, and how they begin.

    Args:
        max_bytes: the largest body it takes; 0 sends everything the long way.
        sockets: paths that speak WebSocket.
    """

    def __init__(self, pipeline: Pipeline, bounds: Bounds, max_bytes: int, sockets: Container[str]) -> None:
        self.pipeline = pipeline
        self.bounds = bounds
        self._max_bytes = max_bytes
        self._sockets = sockets

    def begin(self, message: RawRequestMessage, payload: StreamReader, peer: str | None, turn: Turn) -> Answered | Pending | None:
        """Takes a request in, or returns None with nothing touched: it is not for the quick way."""
        method = message.method
        size = payload.total_bytes
        if method == "POST":
            if size > self._max_bytes or (payload is not EMPTY_PAYLOAD and not payload.is_eof()):
                return None
        elif method != "GET" or payload is not EMPTY_PAYLOAD or not self._max_bytes:
            return None
        if message.version != HttpVersion11 or message.upgrade or message.chunked:
            return None
        pipeline, bounds = self.pipeline, self.bounds
        if pipeline.draining or bounds.requests >= bounds.max_requests:
            return None
        if size and (size > pipeline.intake.keys.smallest_request or bounds.body_bytes + size > bounds.max_body_bytes):
            return None
        headers = message.headers
        if "expect" in headers:
            return None
        path, _, query = message.path.partition("?")
        match = pipeline.find(method, path)
        if match is None or path in self._sockets:
            return None
        bounds.requests += 1
        turn.grow_to(size)
        body = payload.read_nowait()
        encoding = headers.get("content-encoding")
        read = decode(body, encoding, pipeline.request_limit(match, method, query, headers), turn) if body else body
        if not isinstance(read, bytes):
            return pipeline.refuse(match, pipeline.ask(match, method, query, headers, b"", peer), read)
        return pipeline.begin(match, pipeline.ask(match, method, query, headers, read, peer), peer)


class Turn(Held):
    """A quick request until its answer is written."""

    __slots__ = ("answer", "last")

    def __init__(self, bounds: Bounds, last: bool) -> None:
        super().__init__(bounds)
        self.answer: bytes | None = None
        self.last = last
        """The connection closes after it."""


class QuickParser:
    """A parser for aiohttp's `RequestHandler`; see the module."""

    def __init__(self, parser: Any, connection: Connection, quick: Quick) -> None:
        self._parser = parser
        self._connection = connection
        self._quick = quick
        self._turns: deque[Turn] = deque()
        self._held: _Fed | HttpProcessingError | None = None
        """What is passed on once the turns before it are over."""
        self._stopped = False
        """Nothing is read from the socket until turns are over."""
        self.message_consumed = parser.message_consumed
        self.set_upgraded = parser.set_upgraded
        self.pause_reading = parser.pause_reading
        self.feed_eof = parser.feed_eof

    @property
    def busy(self) -> bool:
        """Whether an answer is outstanding."""
        return bool(self._turns)

    def feed_data(self, data: bytes) -> _Fed:
        """Called by aiohttp with what the socket gave; returns what aiohttp shall handle."""
        if self._held is not None:  # only empty data comes: nothing is read meanwhile
            return _NOTHING if self._turns else self._take_held()
        turns, connection = self._turns, self._connection
        try:
            fed: _Fed = self._parser.feed_data(data)
        except HttpProcessingError as exc:
            if not turns:
                raise
            return self._hold(exc)
        messages = fed[0]
        if messages:
            connection.has_heads(messages, len(data))
        if not messages or not connection.is_idle():
            return fed
        before, taken = len(turns), 0
        for message, payload in messages:
            if connection.writing_paused or not self._take(message, payload):
                break
            taken += 1
            if connection.transport is None:  # that was the last answer of the connection
                return _NOTHING
        if taken < len(messages):
            rest = (messages[taken:], fed[1], fed[2])
            if turns:
                return self._hold(rest)
            if before + len(messages) >= MAX_MSG_QUEUE_SIZE:
                connection.stop_reading()  # aiohttp goes on by itself
            return rest
        if before + taken >= MAX_MSG_QUEUE_SIZE:  # there the parser stops, and may hold more
            self._stop()
        return _NOTHING

    def close_after_last(self) -> None:
        """The client has closed its side: the connection ends with the last answer outstanding."""
        if isinstance(self._held, tuple):
            messages, upgraded, tail = self._held
            message, payload = messages[-1]
            self._held = ([*messages[:-1], (message._replace(should_close=True), payload)], upgraded, tail)
        else:
            self._turns[-1].last = True

    def _take(self, message: RawRequestMessage, payload: StreamReader) -> bool:
        turn = Turn(self._quick.bounds, message.should_close)
        found = self._quick.begin(message, payload, self._connection.peer, turn)
        if found is None:
            return False
        self._turns.append(turn)
        if isinstance(found, Pending):
            found.stored.add_done_callback(partial(self._stored, turn, found))
        else:
            self._settle(turn, found)
        return True

    def _stored(self, turn: Turn, pending: Pending, _: asyncio.Future[None]) -> None:
        self._settle(turn, self._quick.pipeline.finish(pending))

    def _settle(self, turn: Turn, answered: Answered) -> None:
        turn.last = turn.last or answered.close
        turn.answer = encode_answer(answered, CLOSE if turn.last else b"")
        self._write()
        turn.free()
        self._quick.bounds.leave()

    def _write(self) -> None:
        """Writes what is answered, up to the first that is not."""
        turns, connection = self._turns, self._connection
        transport = connection.transport
        if transport is None:  # the client is gone
            turns.clear()
            self._held = None
            return
        while turns and (answer := turns[0].answer) is not None:
            self._parser.message_consumed()
            transport.write(answer)
            if turns.popleft().last:
                turns.clear()
                self._held = None
                connection.force_close()  # when all is written
                return
        connection.has_answered()
        if self._stopped and (not turns or (self._held is None and len(turns) <= FEW)):
            self._go_on()

    def _hold(self, fed: _Fed | HttpProcessingError) -> _Fed:
        self._held = fed
        self._stop()
        return _NOTHING

    def _take_held(self) -> _Fed:
        held, self._held = self._held, None
        if isinstance(held, HttpProcessingError):
            raise held
        assert held is not None  # noqa: S101  # the caller looked
        return held

    def _stop(self) -> None:
        self._stopped = True
        self._connection.stop_reading()
        if not self._turns:
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._connection.transport is not None:
            self._stopped = False
            self._connection.data_received(b"")  # what the parser holds, or what is held from it
            if not self._stopped:
                self._connection.read_on()
