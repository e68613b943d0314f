"""Connections of the HTTP server: aiohttp's, where it does otherwise than clients of an edge need.

They do not wait for ever for their first request, answer broken HTTP in JSON, and answer a client that has closed its side.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import RequestHandler

_ENCODE = msgspec.json.Encoder().encode
_TIMEOUT_BODY = b'{"code":"read_timeout","message":"no complete request came in time"}'
_TIMEOUT_ANSWER = (
    b"HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
    % (len(_TIMEOUT_BODY), _TIMEOUT_BODY)
)


class Connections(web.Server):
    """Makes the connections."""

    def __init__(self, handler: Any, read_timeout_seconds: float, **options: Any) -> None:
        super().__init__(handler, handler_cancellation=False, **options)
        self._options = options
        self._read_timeout_seconds = read_timeout_seconds

    def __call__(self) -> RequestHandler:
        return _Connection(self, self._read_timeout_seconds, loop=self._loop, **self._options)


class _Connection(RequestHandler):
    __slots__ = ("_read_timeout_seconds",)

    def __init__(self, manager: web.Server, read_timeout_seconds: float, **options: Any) -> None:
        super().__init__(manager, **options)
        self._read_timeout_seconds = read_timeout_seconds

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # between requests the keep-alive timer of aiohttp does this; before the first nobody does
        self._loop.call_later(self._read_timeout_seconds, self._end_silence)

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's protocols may return whether to stay open
        """Lets a client close its side after its last request and still have the answer, as `nc -N` does."""
        if self._upgraded or (self._waiter is not None and not self._messages):
            return False  # nothing to answer
        last = None if self._current_request is None else self._current_request.content
        if self._messages:
            message, last = self._messages[-1]
            if isinstance(message, RawRequestMessage):
                self._messages[-1] = (message._replace(should_close=True), last)
        if last is not None and not last.is_eof():
            return False  # a request that will never be whole
        if not self._messages:
            self.close()  # after the answer
        return True

    def handle_error(
        self, _: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        if status >= 500 and not isinstance(exc, ConnectionError):  # else the client is gone, which is no error of ours
            self.log_exception("error handling request", exc_info=exc)
        code = "bad_request" if status < 500 else "internal"
        text = (message or "the request could not be handled").replace("\n", " ")
        response = web.Response(
            status=status, body=_ENCODE({"code": code, "message": text[:500]}), content_type="application/json"
        )
        response.force_close()
        return response

    def _end_silence(self) -> None:
        if self._request_count == 0 and self.transport is not None:
            self.transport.write(_TIMEOUT_ANSWER)
            self.force_close()
