"""The answer to a request as bytes: status line, headers and body in one write.

An answer of the edge is short and its head nearly always the same, but aiohttp's `Response` builds, fills and serialises a header
table each time. A request with its own task returns an `Answer` to aiohttp; all other requests need only `encode_answer`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple

import msgspec
from aiohttp import HttpVersion10, web
from aiohttp.abc import AbstractStreamWriter

from ingest.contract import NO_HEADERS, Admission, Refusal, Reply
from ingest.http.request_ids import new_request_id
from shared.errors import Permanent, Transient

RETRY_AFTER_SECONDS = 2

CLOSE = b"Connection: close\r\n"
KEEP_ALIVE = b"Connection: keep-alive\r\n"
log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode
BARE = {204: b"HTTP/1.1 204 No Content\r\n", 304: b"HTTP/1.1 304 Not Modified\r\n"}
"""Statuses without a body, and so without its type and length."""


class Answered(NamedTuple):
    """A reply and further headers. Their values are the server's or come from a received header, so none holds a line break."""

    reply: Reply
    headers: Mapping[str, str] = NO_HEADERS
    close: bool = False
    """The connection ends with this answer."""
    request_id: bytes = b""
    """The request's id in the log, if it has one."""


def encode_answer(answered: Answered, connection: bytes = b"", *, with_body: bool = True) -> bytes:
    """Returns the bytes to send.

    Args:
        connection: the `Connection` line, if it differs from the default of the HTTP version.
        with_body: False for HEAD.
    """
    reply, extra, _, request_id = answered
    status, body, content_type, own = reply
    if not own and not extra and status not in BARE:  # most answers: one piece
        return b"%b%d\r\n%bX-Request-Id: %b\r\n%b\r\n%b" % (
            _head(status, content_type),
            len(body),
            _date_line(int(time.time())),
            request_id or new_request_id(),
            connection,
            body if with_body else b"",
        )
    lines = "".join([f"{name}: {value}\r\n" for headers in (own, extra) for name, value in headers.items()])
    return b"%b%bX-Request-Id: %b\r\n%b%b\r\n%b" % (
        BARE[status] if status in BARE else b"%b%d\r\n" % (_head(status, content_type), len(body)),
        _date_line(int(time.time())),
        request_id or new_request_id(),
        lines.encode("utf-8", "surrogateescape"),
        connection,
        body if with_body else b"",
    )


class Answer(web.StreamResponse):
    """An answer in the form that aiohttp sends."""

    def __init__(self, answered: Answered) -> None:
        super().__init__(status=answered.reply.status)
        self._answered = answered

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Writes everything."""
        self._keep_alive = not self._answered.close and request.keep_alive
        connection = b""
        if not self._keep_alive:
            connection = CLOSE
        elif request.version == HttpVersion10:
            connection = KEEP_ALIVE
        await request.writer.write(encode_answer(self._answered, connection, with_body=request.method != "HEAD"))
        return request.writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Does nothing: `prepare` wrote the whole."""


@lru_cache(64)
def _head(status: int, content_type: str) -> bytes:
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: {content_type}\r\nContent-Length: ".encode()


@lru_cache(2)
def _date_line(second: int) -> bytes:
    return f"Date: {formatdate(second, usegmt=True)}\r\n".encode()


def as_reply(refusal: Refusal) -> Reply:
    """Words a refusal that no protocol words."""
    headers = {} if refusal.retry_after is None else {"Retry-After": str(refusal.retry_after)}
    return Reply(refusal.status, _encode({"code": refusal.code, "message": refusal.message}), headers=headers)


def not_stored(exc: Exception, admission: Admission) -> Refusal:
    if isinstance(exc, Transient):
        log.debug("request not accepted", extra={"site": admission.site, "error": str(exc)})
        message = f"the events could not be stored yet; send them again: {exc}"
        return admission.refuse(503, "unavailable", message, RETRY_AFTER_SECONDS)
    if isinstance(exc, Permanent):
        return admission.refuse(413, "too_large", f"the events cannot be stored: {exc}")
    raise exc


def too_large(what: str, limit: int, admission: Admission | None = None) -> Refusal:
    """Returns the refusal of a body."""
    refusal = Refusal(413, "request_too_large", f"{what}, the limit is {limit}")
    return refusal if admission is None else admission.refuse(413, refusal.code, refusal.message)
