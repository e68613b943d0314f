"""Connections of the HTTP server: aiohttp's, with changes that clients of an edge need.

They are watched (`ingest/http/watched.py`), answer most requests as soon as they are parsed (`ingest/http/quick.py`), answer
broken HTTP in JSON, and answer a client that closed its side.
"""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import RequestHandler

from ingest.contract import Reply
from ingest.http.answer import Answer, Answered
from ingest.http.quick import Quick, QuickParser
from ingest.http.upgrades import Parser
from ingest.http.watched import Watched
from ingest.limits.guard import Guard

_ENCODE = msgspec.json.Encoder().encode


class Connections(web.Server):
    """Makes the connections."""

    def __init__(self, handler: Any, quick: Quick, guard: Guard, read_timeout_seconds: float, **options: Any) -> None:
        super().__init__(handler, handler_cancellation=False, **options)
        self._options = options
        self._quick = quick
        self._guard = guard
        self._read_timeout_seconds = read_timeout_seconds

    def __call__(self) -> RequestHandler:
        return Connection(self, self._quick, self._guard, self._read_timeout_seconds, loop=self._loop, **self._options)


class Connection(Watched):
    """One connection."""

    __slots__ = ("_sieve",)

    def __init__(self, manager: web.Server, quick: Quick, guard: Guard, read_timeout_seconds: float, **options: Any) -> None:
        super().__init__(manager, guard, read_timeout_seconds, **options)
        assert self._parser is not None  # noqa: S101  # it was just made
        self._sieve = QuickParser(Parser(self._parser), self, quick)
        self._parser = self._sieve  # type: ignore[assignment]  # has all of it that is used

    def data_received(self, data: bytes) -> None:
        waiter = self._waiter
        if (
            waiter is None
            or waiter.done()
            or self._paused
            or self._silence is not None
            or self._body is not None
            or self._head_bytes
            or not self._sieve.take(data)
        ):
            super().data_received(data)

    def is_idle(self) -> bool:
        """Whether aiohttp is idle and waits for a request."""
        return self._waiter is not None and not self._waiter.done() and not self._messages

    def has_answered(self) -> None:
        """Notes that an answer was written without aiohttp."""
        self._request_count += 1
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)

    def stop_reading(self) -> None:
        """Stops reading from the socket until `read_on`, or until aiohttp has few requests left."""
        self._pause_reading_for_buffer()

    def read_on(self) -> None:
        """Reads again, unless aiohttp still has requests; then it will."""
        if not self._messages:
            self._resume_reading_for_buffer()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Called at the end of every body; it has work only if reading was paused."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's protocols may return whether to stay open
        """Lets a client close its side after its last request and still get the answer, as `nc -N` does."""
        if self._sieve.busy:
            self._sieve.close_after_last()
            return True
        if self._upgraded:
            return self._payload_parser is None  # declined, so that this request and the bytes behind it are answered
        if self._waiter is not None and not self._messages:
            return False  # nothing to answer
        last = None if self._current_request is None else self._current_request.content
        if self._messages:
            message, last = self._messages[-1]
            if isinstance(message, RawRequestMessage):
                self._messages[-1] = (message._replace(should_close=True), last)
        if last is not None and not last.is_eof():
            return False  # a request that will never be complete
        if not self._messages:
            self.close()  # after the answer
            self._loop.call_soon(self._end_unfinished)
        return True

    def _end_unfinished(self) -> None:
        """Ends a request that aiohttp has not begun and that can never be complete, because the client closed its side."""
        request = self._current_request
        if self.transport is not None and request is not None and request.content is self._body and not request.content.is_eof():
            self.transport.close()

    def handle_error(
        self, _: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        if status >= 500 and not isinstance(exc, ConnectionError):  # else the client is gone, which is not our error
            self.log_exception("error handling request", exc_info=exc)
        code = "bad_request" if status < 500 else "internal"
        text = (message or "the request could not be handled").replace("\n", " ")
        return Answer(Answered(Reply(status, _ENCODE({"code": code, "message": text[:500]})), close=True))

    def _process_keepalive(self) -> None:
        if self._sieve.busy:
            self._keepalive_handle = self._loop.call_later(self._keepalive_timeout, self._process_keepalive)
        else:
            super()._process_keepalive()
