"""The HTTP server: sockets in, protocols behind, and an answer only after the events are durable.

aiohttp's low-level server with one handler: no router, no middleware, no access log, because a request that carries one event costs
mostly its HTTP. The server owns what is the same for all protocols: reading a body within the limit and the time, decoding it,
CORS, limits of requests at once, errors as JSON with `code` and `message`. A protocol never sees a socket.

A client that goes away does not cancel its request: its events share frames with others. Draining: the listener closes first,
requests under way get their answers, idle connections close, then the packer sends what it holds (`ingest/service.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from ingest.address import forwarded_scheme
from ingest.answer import Answer
from ingest.connections import Connections
from ingest.contract import NO_HEADERS, HttpRequest, Refusal, Reply
from ingest.encoding import GZIP_MAGIC, BadEncoding, TooLarge, decode_body
from ingest.intake import Intake, Sender
from ingest.origins import Origins, preflight_headers
from ingest.routes import NO_PARAMS, Match, Routes
from ingest.sockets import Sockets
from shared.errors import Permanent, Transient
from shared.tasks import timeout

LINGER_SECONDS = 2.0
"""How long the rest of a refused body is read and thrown away, so that the client sees the answer."""

FAREWELL_SECONDS = 0.3
"""How long connections stay open when draining: clients that send all the time learn from an answer that theirs will close, instead
of losing the request that crosses with the end."""

TIMED_REQUESTS = 64
"""One request in so many is timed: a histogram costs more than the rest of the counting together."""

RETRY_AFTER_SECONDS = 2

_ENCODE = msgspec.json.Encoder().encode
log = logging.getLogger(__name__)


class EdgeServer:
    """Handles requests; `connections` is what `loop.create_server` takes."""

    def __init__(
        self,
        intake: Intake,
        routes: Routes,
        sockets: Mapping[str, Sockets],
        *,
        read_timeout_seconds: float,
        keepalive_seconds: float,
        max_requests: int,
        max_body_bytes: int,
    ) -> None:
        self._intake = intake
        self._routes = routes
        self._sockets = sockets
        self._read_timeout_seconds = read_timeout_seconds
        self._max_requests = max_requests
        self.max_body_bytes = max_body_bytes
        self._active = 0
        self.body_bytes = 0
        self._handled = 0
        self._draining = False
        self._quiet = asyncio.Event()
        self.connections = Connections(
            self.handle,
            read_timeout_seconds,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=keepalive_seconds,
            lingering_time=LINGER_SECONDS,
            max_line_size=16 * 1024,
            max_field_size=16 * 1024,
        )

    async def drain(self, timeout_seconds: float) -> None:
        """Waits for requests under way; closes every connection. The listener must be closed before."""
        self._draining = True
        ends_at = time.monotonic() + timeout_seconds
        with contextlib.suppress(TimeoutError):  # a client that reads no acknowledgement keeps its connection for ever
            async with timeout(timeout_seconds):
                for sockets in self._sockets.values():
                    await sockets.drain()
                if self.connections.connections:
                    await asyncio.sleep(min(FAREWELL_SECONDS, timeout_seconds / 4))
                    if not self._active:
                        self._quiet.set()
                    await self._quiet.wait()
        self.connections.pre_shutdown()
        await self.connections.shutdown(max(0.1, ends_at - time.monotonic()))

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answers one request. Raises nothing but cancellation."""
        path, _, query = request.raw_path.partition("?")
        method = request.method
        headers = request.headers
        if method == "OPTIONS":
            return self._preflight(request)
        sockets = self._sockets.get(path)
        if sockets is not None and method == "GET" and headers.get("upgrade", "").lower() == "websocket":
            return await self._upgrade(request, path, query, sockets)
        match = self._routes.find(method, path)
        if match is None:
            return self._respond(request, self._unknown(method, path, sockets is not None), "none", None)
        if self._active >= self._max_requests:
            refusal = Refusal(503, "overloaded", "too many requests at once; try again", retry_after=RETRY_AFTER_SECONDS)
            return self._respond(request, _as_reply(refusal), match.protocol.NAME, None)
        self._active += 1
        self._handled += 1
        started = time.perf_counter() if self._handled % TIMED_REQUESTS == 0 else None
        try:
            reply, site = await self._process(request, match, query)
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception:
            log.exception("request failed", extra={"path": path, "protocol": match.protocol.NAME})
            reply, site = _as_reply(Refusal(500, "internal", "the request failed; its events were not accepted")), None
        finally:
            self._active -= 1
            if self._draining and not self._active:
                self._quiet.set()
        if started is not None:
            self._intake.telemetry.record("ingest_request_seconds", time.perf_counter() - started, protocol=match.protocol.NAME)
        return self._respond(request, reply, match.protocol.NAME, site)

    async def _process(self, request: web.BaseRequest, match: Match, query: str) -> tuple[Reply, str | None]:
        if request.method != "POST":
            return await self._judge(self._ask(request, match, query, b""), request, match)
        held = _Held(self)
        try:
            body = await self._read(request, self._request_limit(request, match, query), held)
            if isinstance(body, Refusal):
                return self._refuse(self._ask(request, match, query, b""), match, body)
            return await self._judge(self._ask(request, match, query, body), request, match)
        finally:
            self.body_bytes -= held.bytes

    def _ask(self, request: web.BaseRequest, match: Match, query: str, body: bytes) -> HttpRequest:
        headers: Mapping[str, str] = request.headers
        authority = headers.get("host", "")
        return HttpRequest(
            request.method,
            match.route,
            match.params,
            _parse_query(query) if query else _NO_QUERY,
            headers,
            body,
            _host_name(authority),
            "" if body else self._base_url(request, authority),
        )

    async def _upgrade(self, request: web.BaseRequest, path: str, query: str, sockets: Sockets) -> web.StreamResponse:
        headers = request.headers
        if self._draining:
            refusal = Refusal(503, "unavailable", "the server restarts; connect again", retry_after=RETRY_AFTER_SECONDS)
            return self._respond(request, _as_reply(refusal), "none", None)
        asked = HttpRequest("GET", path, NO_PARAMS, _parse_query(query), headers, b"", _host_name(headers.get("host", "")), "")
        try:
            return await sockets.serve(request, asked, Sender(partial(_peer, request), headers))
        except web.HTTPException as exc:  # no valid handshake
            return self._respond(request, _as_reply(Refusal(exc.status, "bad_handshake", exc.text or exc.reason)), "none", None)

    async def _judge(self, asked: HttpRequest, request: web.BaseRequest, match: Match) -> tuple[Reply, str | None]:
        protocol = match.protocol
        parsed = protocol.parse(asked, self._intake)
        if isinstance(parsed, Reply):
            return parsed, None
        if isinstance(parsed, Refusal):
            return self._refuse(asked, match, parsed)
        site = parsed.admission.site
        limit = int(parsed.admission.limits.request_bytes)
        if len(asked.body) > limit:  # the key stood in the body, which was read within the largest limit of any site
            return self._refuse(asked, match, _too_large(f"the body has {len(asked.body)} bytes", limit, site))
        try:
            result = await self._intake.accept(parsed, Sender(partial(_peer, request), asked.headers), protocol.NAME)
        except Transient as exc:
            log.debug("request not accepted", extra={"site": site, "error": str(exc)})
            result = Refusal(
                503,
                "unavailable",
                f"the events could not be stored yet; send them again: {exc}",
                retry_after=RETRY_AFTER_SECONDS,
                site=site,
            )
        except Permanent as exc:
            result = Refusal(413, "too_large", f"the events cannot be stored: {exc}", site=site)
        if isinstance(result, Refusal):
            return self._refuse(asked, match, result)
        return protocol.reply(asked, result), site

    def _refuse(self, asked: HttpRequest, match: Match, refusal: Refusal) -> tuple[Reply, str | None]:
        self._intake.telemetry.count("ingest_requests_refused_total", code=refusal.code)
        return match.protocol.reply(asked, refusal), refusal.site

    def _request_limit(self, request: web.BaseRequest, match: Match, query: str) -> int:
        """The site's limit where its key stands outside the body, else the largest of any site."""
        keys = self._intake.keys
        if keys.smallest_request == keys.largest_request:
            return keys.largest_request
        found = match.protocol.credentials(self._ask(request, match, query, b""))
        admission = keys.admit(found) if found else None
        if isinstance(admission, tuple):
            return int(admission[0].limits.request_bytes)
        return keys.largest_request

    async def _read(self, request: web.BaseRequest, limit: int, held: _Held) -> bytes | Refusal:
        """Reads and decodes the body; a declared length beyond the limit is refused unread."""
        length = request.content_length
        if length is not None and length > limit:
            return _too_large(f"the body has {length} bytes", limit)
        # what is declared is not counted before it comes: else a few clients that send nothing could keep all others out
        if self.body_bytes and self.body_bytes + (length or 0) > self.max_body_bytes:
            return _TOO_MANY_BYTES
        content = request.content
        if content.is_eof():
            body = content.read_nowait()
            held.grow_to(len(body))
        else:
            if request.headers.get("expect", "").lower() == "100-continue":
                await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                request.writer.output_size = 0
            try:
                async with timeout(self._read_timeout_seconds):
                    read = await _read_stream(content, limit, held)
            except TimeoutError:
                return Refusal(408, "read_timeout", f"the body did not come within {self._read_timeout_seconds:g} s")
            except (web.RequestPayloadError, HttpProcessingError, ConnectionError) as exc:
                return Refusal(400, "broken_body", f"the body could not be read: {exc}")
            if read is None:
                return _TOO_MANY_BYTES
            body = read
        if len(body) > limit:
            return _too_large("the body is larger", limit)
        encoding = request.headers.get("content-encoding")
        if encoding is None and body[:2] != GZIP_MAGIC:
            return body
        try:
            decoded = decode_body(body, encoding, limit)
            return decoded if held.grow_to(len(decoded)) else _TOO_MANY_BYTES
        except TooLarge:
            return _too_large(f"the body of {len(body)} bytes is larger when decoded", limit)
        except BadEncoding as exc:
            return Refusal(415 if exc.unknown else 400, "bad_encoding", str(exc))

    def _respond(self, request: web.BaseRequest, reply: Reply, protocol: str, site: str | None) -> Answer:
        self._intake.telemetry.count("ingest_requests_total", protocol=protocol, status=str(reply.status))
        origin = request.headers.get("origin")
        extra = self._origins(site).headers(origin) if origin else NO_HEADERS
        return Answer(reply, extra, close=self._draining or reply.status in (408, 413))

    def _origins(self, site: str | None) -> Origins:
        desk = self._intake.sites.get(site) if site is not None else None
        return self._intake.all_origins if desk is None else desk.origins

    def _preflight(self, request: web.BaseRequest) -> web.Response:
        by_host = self._intake.keys.site_of_host(_host_name(request.headers.get("host", "")))
        headers = preflight_headers(self._origins(by_host), request.headers)
        headers["Allow"] = "GET, POST, OPTIONS"
        return web.Response(status=204, headers=headers)

    def _unknown(self, method: str, path: str, is_upgrade: bool) -> Reply:
        if is_upgrade:
            return _as_reply(Refusal(426, "upgrade_required", f"{path} speaks WebSocket only"))
        known = self._routes.methods(path)
        if known:
            reply = _as_reply(Refusal(405, "wrong_method", f"{path} takes {' and '.join(known)}, not {method[:20]}"))
            return reply._replace(headers={"Allow": ", ".join([*known, "OPTIONS"])})
        return _as_reply(Refusal(404, "unknown_path", f"nothing is served at {path[:200]!r}"))

    def _base_url(self, request: web.BaseRequest, authority: str) -> str:
        scheme = forwarded_scheme(_peer(request), request.headers, self._intake.trusted) or request.scheme
        return f"{scheme}://{authority}"


_NO_QUERY: Mapping[str, str] = {}
_TOO_MANY_BYTES = Refusal(503, "overloaded", "too many bytes at once; try again", retry_after=RETRY_AFTER_SECONDS)


class _Held:
    """The bytes one request holds, within the sum over all requests."""

    __slots__ = ("_server", "bytes")

    def __init__(self, server: EdgeServer) -> None:
        self._server = server
        self.bytes = 0

    def grow_to(self, size: int) -> bool:
        """Counts them; False where all requests together hold too much, unless there is only this one."""
        server = self._server
        if size > self.bytes:
            server.body_bytes += size - self.bytes
            self.bytes = size
        return server.body_bytes <= server.max_body_bytes or server.body_bytes == self.bytes


async def _read_stream(content: Any, limit: int, held: _Held) -> bytes | None:
    """Returns the body, a little more than `limit` of a larger one, or None where all requests together hold too much."""
    parts: list[bytes] = []
    size = 0
    while not content.at_eof():
        part = await content.readany()
        size += len(part)
        parts.append(part)
        if not held.grow_to(size):
            return None
        if size > limit:
            break
    return b"".join(parts)


def _parse_query(query: str) -> Mapping[str, str]:
    return dict(parse_qsl(query, keep_blank_values=True))  # the line's limit of 16 KiB bounds it


def _host_name(authority: str) -> str:
    if authority.startswith("["):
        return authority.partition("]")[0][1:].lower()
    return authority.partition(":")[0].lower()


def _peer(request: web.BaseRequest) -> str | None:
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    return peer[0] if isinstance(peer, (tuple, list)) else None


def _too_large(what: str, limit: int, site: str | None = None) -> Refusal:
    return Refusal(413, "request_too_large", f"{what}, the limit is {limit}", site=site)


def _as_reply(refusal: Refusal) -> Reply:
    headers = {} if refusal.retry_after is None else {"Retry-After": str(refusal.retry_after)}
    return Reply(refusal.status, _ENCODE({"code": refusal.code, "message": refusal.message}), headers=headers)
