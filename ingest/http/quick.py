"""Answers whole requests as soon as they are parsed: no task, no request object, no writer for each.

Most of the cost of a request with one event is aiohttp's work for every request: a task, a request object, a writer. This module
leaves that work out, because it doubles what one core can take (docs/performance.md). A `QuickParser` wraps aiohttp's parser and
looks at its messages. It gives a complete, small and plain request to the pipeline, and writes the answer when the events are
stored. A request whose head came before does not even reach the parser (`ingest/http/heads.py`). The `QuickParser` passes all
other requests on (incomplete bodies, chunks, `Expect`, upgrades, HTTP/1.0, OPTIONS …), and aiohttp handles each with a task, as
if it had read them from the socket.

Promises. Answers leave in the order of the requests: nothing is passed on while quick answers are outstanding, and nothing is
quick while aiohttp works. A client that goes away cancels nothing. Requests pipelined behind one that closes the connection may
have been taken, but get no answer, as when a connection breaks. A client that does not read is passed on to aiohttp, which waits
for it. No more requests are under way on a connection than aiohttp allows; beyond that the socket is not read.

It uses internals of aiohttp's `RequestHandler` in the few places below. `tests/unit/ingest/test_ways.py` sends the same requests
both ways and compares the bytes of the answers, so a new aiohttp that changes these internals fails there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Container
from typing import TYPE_CHECKING

from aiohttp import HttpVersion11
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import MAX_MSG_QUEUE_SIZE

from ingest.contract import HttpRequest, Refusal
from ingest.http.answer import CLOSE, Answered, encode_answer
from ingest.http.heads import END, MAX_HEAD_BYTES, Head, Heads, head_of
from ingest.http.pipeline import Pipeline
from ingest.http.upgrades import Fed, Parser
from ingest.judge.encoding import GZIP_MAGIC, content_encoding
from ingest.limits.bounds import Bounds, Held

if TYPE_CHECKING:
    from ingest.http.connections import Connection

FEW = MAX_MSG_QUEUE_SIZE // 2
"""Reading resumes when so few requests are left."""

_NOTHING: Fed = ((), False, b"")


class Quick:
    """The state that the quick way shares over all connections: which requests it takes, and how they begin.

    Args:
        max_bytes: the largest body it takes; 0 sends everything the long way.
        sockets: paths that speak WebSocket.
    """

    def __init__(self, pipeline: Pipeline, bounds: Bounds, max_bytes: int, sockets: Container[str]) -> None:
        self.bounds = bounds
        self._pipeline = pipeline
        self._max_bytes = max_bytes
        self._sockets = sockets
        self.heads = Heads()

    def take_known(self, data: bytes, parser: QuickParser) -> bool:
        """Begins a request whose head came before, or touches nothing and returns False.

        Args:
            data: all bytes that came, which the parser has not seen.
        """
        pipeline, bounds = self._pipeline, self.bounds
        end = data.find(END, 0, MAX_HEAD_BYTES)
        known = self.heads.get(data[:end])
        if known is None or not self.heads.is_of(pipeline.intake.keys):
            return end > 0 and self._take_alike(data, end, parser)
        size = known.size
        body = data[end + len(END) :]
        if len(body) != size or body[:2] == GZIP_MAGIC or pipeline.draining:
            return False
        if bounds.requests - bounds.reading >= bounds.max_requests or bounds.body_bytes + size > bounds.max_body_bytes:
            return False
        turn = Turn(bounds, parser, last=False, parsed=False)
        turn.hold(size)
        parser.turns.append(turn)
        peer = parser.connection.peer
        method, route, params, query, headers, _, host, _, admission, query_text = known.asked
        match = known.match
        if known.proxied:
            host = pipeline.host(headers, peer)
        asked = HttpRequest(
            method=method,
            route=route,
            params=params,
            query=query,
            headers=headers,
            body=body,
            host=host,
            base_url="",
            admission=admission,
            query_text=query_text,
        )
        answered = pipeline.begin(match, asked, peer, turn.finish)
        if answered is not None:
            turn.finish(answered)
        return True

    def _take_alike(self, data: bytes, end: int, parser: QuickParser) -> bool:
        """Does the same for a request whose head differs from one that came before in values alone."""
        pipeline, bounds, heads = self._pipeline, self.bounds, self.heads
        keys = pipeline.intake.keys
        head = data[:end]
        found = heads.alike(head, keys)
        if found is None:
            return False
        known, query = found
        match, size = known.match, known.size
        body = data[end + len(END) :]
        if (
            len(body) != size
            or (size and known.method != "POST")
            or size > self._max_bytes
            or size > keys.smallest_request
            or body[:2] == GZIP_MAGIC
            or pipeline.draining
        ):
            return False
        if bounds.requests - bounds.reading >= bounds.max_requests or bounds.body_bytes + size > bounds.max_body_bytes:
            return False
        turn = Turn(bounds, parser, last=False, parsed=False)
        turn.hold(size)
        parser.turns.append(turn)
        peer = parser.connection.peer
        asked = pipeline.ask_alike(known, query, body, peer=peer, local="" if size else parser.connection.local)
        if size and match.has_keys and not pipeline.intake.proxies.trusted:
            admission = pipeline.known_admission(match, asked)
            if admission is not None:
                asked = asked._replace(admission=admission)
                heads.remember(head, Head(match, size, asked._replace(body=b""), proxied=False), keys)
        answered = pipeline.begin(match, asked, peer, turn.finish)
        if answered is not None:
            turn.finish(answered)
        return True

    def remember(self, data: bytes, message: RawRequestMessage, payload: StreamReader) -> bool:
        """Remembers the head of a taken request, if possible; returns whether the request was exactly `data`.

        The parser is then between two requests.
        """
        size = payload.total_bytes
        head = head_of(data, message, size)
        pipeline = self._pipeline
        headers = message.headers
        if head and len(head) <= MAX_HEAD_BYTES and not message.should_close and "content-encoding" not in headers:
            path, _, query = message.path.partition("?")
            match = pipeline.find(message.method, path)
            if match is not None:
                keys = pipeline.intake.keys
                self.heads.use_keys(keys)
                self.heads.remember_shape(head, match, message)
                if size and match.has_keys:
                    asked = pipeline.ask(match=match, method="POST", query=query, headers=headers, body=b"?", peer=None)
                    admission = pipeline.known_admission(match, asked)
                    if admission is not None:
                        asked = asked._replace(body=b"", admission=admission)
                        self.heads.remember(head, Head(match, size, asked, bool(pipeline.intake.proxies.trusted)), keys)
        return bool(head)

    def take(self, message: RawRequestMessage, payload: StreamReader, parser: QuickParser) -> bool:
        """Begins a request, or touches nothing and returns False: it is not for the quick way."""
        method = message.method
        size = payload.total_bytes
        if method == "POST":
            if size > self._max_bytes or (payload is not EMPTY_PAYLOAD and not payload.is_eof()):
                return False
        elif method != "GET" or payload is not EMPTY_PAYLOAD or not self._max_bytes:
            return False
        if message.version is not HttpVersion11 or message.upgrade or message.chunked:
            return False
        pipeline, bounds = self._pipeline, self.bounds
        if pipeline.draining or bounds.requests - bounds.reading >= bounds.max_requests:
            return False
        if size and (size > pipeline.intake.keys.smallest_request or bounds.body_bytes + size > bounds.max_body_bytes):
            return False
        headers = message.headers
        if "expect" in headers:
            return False
        path, _, query = message.path.partition("?")
        match = pipeline.find(method, path)
        if match is None or path in self._sockets:
            return False
        turn = Turn(bounds, parser, message.should_close, parsed=True)
        parser.turns.append(turn)
        peer = parser.connection.peer
        body: bytes | Refusal = b""
        if size:
            turn.hold(size)
            body = payload.read_nowait()
            encoding = content_encoding(headers)
            if encoding is not None or body[:2] == GZIP_MAGIC:
                limit = pipeline.request_limit(match, method, query, headers)
                body = pipeline.unpack(
                    match=match, method=method, query=query, headers=headers, body=body, limit=limit, held=turn
                )
        answered: Answered | None
        if isinstance(body, Refusal):
            answered = pipeline.refuse_unread(
                match, pipeline.ask(match=match, method=method, query=query, headers=headers, body=b"", peer=peer), body, peer
            )
        else:
            local = "" if body else parser.connection.local
            asked = pipeline.ask(match=match, method=method, query=query, headers=headers, body=body, peer=peer, local=local)
            answered = pipeline.begin(match, asked, peer, turn.finish)
        if answered is not None:
            turn.finish(answered)
        return True


class Turn(Held):
    """A quick request until its answer is written."""

    __slots__ = ("_parser", "answer", "last", "parsed")

    def __init__(self, bounds: Bounds, parser: QuickParser, last: bool, *, parsed: bool) -> None:
        super().__init__(bounds)
        self._parser = parser
        self.answer: bytes | None = None
        self.last = last
        """True: the connection closes after it."""
        self.parsed = parsed
        """True: the parser read it, and counts it until it is answered."""
        bounds.requests += 1

    def finish(self, answered: Answered) -> None:
        """Takes the answer; it is written as soon as the answers before it are."""
        if answered.close:
            self.last = True
        self.answer = encode_answer(answered, CLOSE if self.last else b"")
        self._parser.write()
        self.free()
        self._bounds.leave()


class QuickParser:
    """A parser for aiohttp's `RequestHandler`, as the module describes."""

    def __init__(self, parser: Parser, connection: Connection, quick: Quick) -> None:
        self._parser = parser
        self.connection = connection
        self._quick = quick
        self.turns: deque[Turn] = deque()
        self._seen: Fed | HttpProcessingError | None = None
        """Messages that `take` found and did not want."""
        self._held: Fed | HttpProcessingError | None = None
        """Bytes to pass on once all turns are over."""
        self._stopped = False
        """True: nothing is read from the socket until turns are over."""
        self._between = False
        """True: the parser holds nothing, so the next bytes begin a request."""
        self.message_consumed = parser.message_consumed
        self.set_upgraded = parser.set_upgraded
        self.pause_reading = parser.pause_reading
        self.feed_eof = parser.feed_eof

    @property
    def busy(self) -> bool:
        """Whether an answer is outstanding."""
        return bool(self.turns)

    def take(self, data: bytes) -> bool:
        """Handles data that is exactly one quick request, as most data is; False: the data must still be fed to the parser."""
        if self.turns or self._held is not None:
            return False
        quick = self._quick
        if self._between and quick.take_known(data, self):
            return True
        self._between = False
        try:
            fed = self._parser.feed_data(data)
        except HttpProcessingError as exc:
            self._seen = exc
            return False
        messages = fed[0]
        if len(messages) == 1:
            message, payload = messages[0]
            if quick.take(message, payload, self):
                self._between = quick.remember(data, message, payload)
                if not self._between:
                    self.connection.count_rest(messages, len(data))
                return True
        self._seen = fed
        return False

    def feed_data(self, data: bytes) -> Fed:
        """Called by aiohttp with bytes of the socket; returns the messages that aiohttp must handle."""
        if self._held is not None:  # only empty data comes: the socket is not read meanwhile
            return _NOTHING if self.turns else self._take_held()
        turns, connection = self.turns, self.connection
        self._between = False
        try:
            fed = self._feed(data)
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
            if connection.writing_paused or not self._quick.take(message, payload, self):
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
        """Called when the client closed its side: the connection ends with the last outstanding answer."""
        if isinstance(self._held, tuple):
            messages, upgraded, tail = self._held
            message, payload = messages[-1]
            self._held = ([*messages[:-1], (message._replace(should_close=True), payload)], upgraded, tail)
        else:
            self.turns[-1].last = True

    def write(self) -> None:
        """Writes the finished answers, up to the first unfinished one."""
        turns, connection = self.turns, self.connection
        transport = connection.transport
        if transport is None:  # the client is gone
            turns.clear()
            self._held = None
            return
        while turns and (answer := turns[0].answer) is not None:
            turn = turns.popleft()
            if turn.parsed:
                self._parser.message_consumed()
            transport.write(answer)
            if turn.last:
                turns.clear()
                self._held = None
                connection.force_close()  # once all is written
                return
        connection.has_answered()
        if self._stopped and (not turns or (self._held is None and len(turns) <= FEW)):
            self._go_on()

    def _feed(self, data: bytes) -> Fed:
        seen, self._seen = self._seen, None
        if seen is None:
            return self._parser.feed_data(data)
        if isinstance(seen, HttpProcessingError):
            raise seen
        return seen

    def _hold(self, fed: Fed | HttpProcessingError) -> Fed:
        self._held = fed
        self._stop()
        return _NOTHING

    def _take_held(self) -> Fed:
        held, self._held = self._held, None
        if isinstance(held, HttpProcessingError):
            raise held
        assert held is not None  # noqa: S101  # the caller looked
        return held

    def _stop(self) -> None:
        self._stopped = True
        self.connection.stop_reading()
        if not self.turns:
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        if self.connection.transport is not None:
            self._stopped = False
            self.connection.data_received(b"")  # bytes that the parser holds, or that wait for it
            if not self._stopped:
                self.connection.read_on()
