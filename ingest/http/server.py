"""The HTTP server: sockets in, protocols behind, and an answer only after the events are durable.

aiohttp's low-level server with one handler: no router, no middleware, no access log, because HTTP is most of the cost of a
request with one event. Most whole requests do not even come here (`ingest/http/quick.py`). The server does the work that is the
same for all protocols: it reads a body within the limit and the time, limits requests at once, and words errors as JSON with
`code` and `message`. `ingest/http/pipeline.py` answers a whole request. A protocol never sees a socket.

A client that goes away does not cancel its request: its events share frames with others. Draining: the listener closes first,
requests under way get their answers, idle connections close, then the packer sends what it holds (`ingest/service.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from ingest.clients.own_address import host_of
from ingest.clients.queries import parse_query
from ingest.contract import HttpRequest, Refusal
from ingest.http.answer import RETRY_AFTER_SECONDS, Answer, Answered, too_large
from ingest.http.connections import Connection, Connections
from ingest.http.pipeline import (
    HEALTH_PATH,
    TOO_MANY_BYTES,
    TOO_MANY_REQUESTS,
    Pipeline,
)
from ingest.http.quick import Quick
from ingest.http.routes import NO_PARAMS, Match, Routes
from ingest.http.sockets import Sockets
from ingest.intake.intake import Intake, Sender
from ingest.limits.bounds import Bounds, Held
from ingest.limits.guard import Guard, address_key
from shared.tasks import timeout

LINGER_SECONDS = 2.0
"""How long the server reads and throws away the rest of a refused body, so that the client sees the answer."""

FAREWELL_SECONDS = 0.3
"""How long connections stay open when draining: clients that send all the time learn from an answer that theirs will close,
instead of losing the request that crosses with the end."""


class EdgeServer:
    """Handles requests; `connections` is the protocol factory for `loop.create_server`."""

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
        quick_bytes: int,
        guard: Guard,
        is_ready: Callable[[], bool] = lambda: True,
        public_url: str = "",
    ) -> None:
        self._intake = intake
        self._sockets = sockets
        self._guard = guard
        self._read_timeout_seconds = read_timeout_seconds
        self._pipeline = Pipeline(intake, routes, is_ready, public_url)
        self.bounds = Bounds(max_requests=max_requests, max_body_bytes=max_body_bytes)
        self.quick = Quick(self._pipeline, self.bounds, quick_bytes, sockets)
        self.connections = Connections(
            self.handle,
            self.quick,
            guard,
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
        self._pipeline.draining = True
        ends_at = time.monotonic() + timeout_seconds
        with contextlib.suppress(
            TimeoutError
        ):  # a client that does not read its acknowledgement would keep its connection for ever
            async with timeout(timeout_seconds):
                for sockets in self._sockets.values():
                    await sockets.drain()
                if self.connections.connections:
                    await asyncio.sleep(min(FAREWELL_SECONDS, timeout_seconds / 4))
                    await self.bounds.quiet()
        self.connections.pre_shutdown()
        await self.connections.shutdown(max(0.1, ends_at - time.monotonic()))

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answers one request. Raises nothing but cancellation, and ConnectionError when the client is gone."""
        path, _, query = request.raw_path.partition("?")
        method = method_of(request)
        headers = request.headers
        pipeline = self._pipeline
        if method == "OPTIONS":
            return Answer(pipeline.preflight(headers, path))
        sockets = self._sockets.get(path)
        if sockets is not None and method == "GET" and headers.get("upgrade", "").lower() == "websocket":
            return await self._upgrade(request, path, query, sockets)
        match = pipeline.find(method, path)
        if match is not None and method != request.method and not getattr(match.protocol, "HEAD", True):
            match = None
        if match is None and path == HEALTH_PATH:
            return Answer(pipeline.health(request.method))
        if match is None:
            return Answer(
                pipeline.answer(headers, "none", pipeline.unknown(request.method, path, is_upgrade=sockets is not None))
            )
        bounds = self.bounds
        bounds.requests += 1
        held = Held(bounds)
        try:
            return Answer(await self._process(request, match, query, held))
        finally:
            held.free()
            bounds.leave()

    async def _process(self, request: web.BaseRequest, match: Match, query: str, held: Held) -> Answered:
        pipeline, method, headers, peer = self._pipeline, method_of(request), request.headers, _peer(request)
        body: bytes | Refusal = b""
        if method == "POST":
            limit, is_known = pipeline.admitted(match, method, query, headers)
            client = self._intake.proxies.client_address(peer, headers)
            held.belongs_to(address_key(client or ""), stranger=not is_known)
            # a request that waits for its body keeps no other out: its connection and its bytes are counted
            self.bounds.reading += 1
            try:
                body = await self._read(request, limit, held)
            finally:
                self.bounds.reading -= 1
            if isinstance(body, bytes):
                body = pipeline.unpack(
                    match=match, method=method, query=query, headers=headers, body=body, limit=limit, held=held
                )
        if not isinstance(body, Refusal) and self.bounds.requests - self.bounds.reading > self.bounds.max_requests:
            body = TOO_MANY_REQUESTS
        if isinstance(body, Refusal):
            return pipeline.refuse_unread(
                match, pipeline.ask(match=match, method=method, query=query, headers=headers, body=b"", peer=peer), body, peer
            )
        later: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()

        def done(answered: Answered) -> None:
            if not later.done():  # the server has given up waiting
                later.set_result(answered)

        local = request.protocol.local if isinstance(request.protocol, Connection) else ""
        answered = pipeline.begin(
            match,
            pipeline.ask(match=match, method=method, query=query, headers=headers, body=body, peer=peer, local=local),
            peer,
            done,
        )
        return await later if answered is None else answered

    async def _upgrade(self, request: web.BaseRequest, path: str, query: str, sockets: Sockets) -> web.StreamResponse:
        headers, peer = request.headers, _peer(request)
        if self._pipeline.draining:
            refusal = Refusal(503, "unavailable", "the server restarts; connect again", retry_after=RETRY_AFTER_SECONDS)
            return Answer(self._pipeline.turn_away(headers, "none", refusal, peer))
        host: str = self._intake.proxies.place(peer, headers).authority or headers.get("host") or ""
        asked = HttpRequest(
            method="GET",
            route=path,
            params=NO_PARAMS,
            query=parse_query(query),
            headers=headers,
            body=b"",
            host=host_of(host),
            base_url="",
        )
        try:
            return await sockets.serve(
                request=request, asked=asked, sender=Sender(peer, headers), guard=self._guard, bounds=self.bounds
            )
        except web.HTTPException as exc:  # no valid handshake
            wait = RETRY_AFTER_SECONDS if exc.status == 503 else None
            site, key = self._intake.keys.sender_of(sockets.credentials(asked))
            refusal = Refusal(
                status=exc.status, code="bad_handshake", message=exc.text or exc.reason, retry_after=wait, site=site, key=key
            )
            return Answer(self._pipeline.turn_away(headers, "none", refusal, peer))

    async def _read(self, request: web.BaseRequest, limit: int, held: Held) -> bytes | Refusal:
        """Reads the body; a declared length beyond the limit is refused unread."""
        length = request.content_length
        if length is not None and length > limit:
            return too_large(f"the body has {length} bytes", limit)
        # declared bytes do not count before they come: else a few clients that send nothing could keep all others out
        if not held.has_room(length or 0):
            return TOO_MANY_BYTES
        content = request.content
        if content.is_eof():
            body = content.read_nowait()
            held.grow_to(len(body))
        else:
            if request.headers.get("expect", "").lower() == "100-continue":
                await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                request.writer.output_size = 0
            try:
                if request.transport is None:  # aiohttp would take it for our mistake
                    raise ConnectionResetError("the client is gone")
                async with timeout(self._read_timeout_seconds):
                    read = await _read_stream(content, limit, held)
            except TimeoutError:
                return Refusal(408, "read_timeout", f"the body did not come within {self._read_timeout_seconds:g} s")
            except (web.RequestPayloadError, HttpProcessingError, ConnectionError) as exc:
                return Refusal(400, "broken_body", f"the body could not be read: {exc}")
            except RuntimeError:
                if request.transport is not None:
                    raise
                return Refusal(400, "broken_body", "the server closed the connection in the middle of the body")
            if read is None:
                return TOO_MANY_BYTES
            body = read
        return body


def method_of(request: web.BaseRequest) -> str:
    """Returns the method that a request is answered as. HEAD is a GET whose answer has no body (`Answer`)."""
    return "GET" if request.method == "HEAD" else request.method


async def _read_stream(content: Any, limit: int, held: Held) -> bytes | None:
    """Returns the body, a little more than `limit` bytes of a larger one, or None if all requests together hold too much."""
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


def _peer(request: web.BaseRequest) -> str | None:
    return request.protocol.peer if isinstance(request.protocol, Connection) else None
