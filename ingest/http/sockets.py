"""Serves WebSocket connections: reads messages, lets several wait for durability at once, and acknowledges each when it is
durable.

A connection has at most `credit` messages under way; the events of its messages reach the packer in the order they were sent.
If a client goes away its messages still become durable, and collapse when it sends them again. Draining: the server acknowledges
the messages it took, then closes the connection with 1001.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from ingest.contract import Credential, HttpRequest, Parsed, Refusal, SocketProblem, SocketProtocol
from ingest.http.frames import Frames
from ingest.http.request_ids import new_request_id
from ingest.intake.intake import Intake, Sender
from ingest.limits.bounds import Bounds
from ingest.limits.guard import STRANGERS, Guard, address_key
from ingest.limits.refusals import jittered
from shared.errors import Permanent, Transient
from shared.tasks import task_group

MOST_EXCEEDED = 8
"""Messages beyond the credit, in a row, before the connection is closed."""

RETRY_AFTER_SECONDS = 2

log = logging.getLogger(__name__)


class Sockets:
    """All open connections of one socket protocol."""

    def __init__(self, intake: Intake, protocol: SocketProtocol, *, credit: int, ping_seconds: float, key_seconds: float) -> None:
        self._intake = intake
        self._protocol = protocol
        self._credit = credit
        self._ping_seconds = ping_seconds
        self._key_seconds = key_seconds
        self._open: set[_Session] = set()

    def credentials(self, asked: HttpRequest) -> list[Credential]:
        """Returns the keys of a handshake."""
        return self._protocol.credentials(asked)

    async def serve(
        self, request: web.BaseRequest, asked: HttpRequest, sender: Sender, guard: Guard, bounds: Bounds
    ) -> web.StreamResponse:
        """Takes a connection over until it closes.

        Raises:
            web.HTTPException: the handshake is not valid, its key opens nothing, no project is known yet, or no place is left.
        """
        found = self.credentials(asked)
        refusal = self._intake.keys.admit(found)
        if isinstance(refusal, Refusal) and any(each.carrier != "host" for each in found):
            wrong = web.HTTPUnauthorized if refusal.status == 401 else web.HTTPServiceUnavailable
            raise wrong(text=refusal.message)
        stranger = isinstance(refusal, Refusal)
        if guard.sockets >= guard.max_sockets or (stranger and guard.strangers >= guard.max_sockets / STRANGERS):
            raise web.HTTPServiceUnavailable(text=f"{guard.sockets} WebSockets are open, {guard.strangers} of them without a key")
        largest = self._intake.keys.largest_request
        address = self._intake.proxies.client_address(sender.peer, sender.headers)
        frames = Frames(bounds, largest, address_key(address or ""), stranger=stranger)
        socket = _Socket(
            frames,
            autoping=False,  # a client that reads no pongs would hold up the reading
            # a stranger's few bytes must not unpack to many; a key in the handshake is worth the work
            compress=not stranger,
            heartbeat=self._ping_seconds,
            max_msg_size=largest,
            protocols=self._subprotocols(request),
            timeout=2.0,
        )
        socket.headers["X-Request-Id"] = new_request_id().decode()
        place = _Place(guard, stranger=stranger)
        try:
            socket.headers["Server"] = "penstock"  # instead of aiohttp's and Python's versions
            await socket.prepare(request)
            request.protocol.frames = frames  # type: ignore[attr-defined]  # of ingest/http/watched.py
            session = _Session(
                intake=self._intake,
                protocol=self._protocol,
                socket=socket,
                sender=sender,
                known=found,
                credit=self._credit,
                frames=frames,
                place=place,
            )
            self._open.add(session)
            self._gauge()
            try:
                await session.run(self._key_seconds)
            finally:
                self._open.discard(session)
                self._gauge()
        finally:
            place.leave()
        return socket

    async def drain(self) -> None:
        """Acknowledges what was taken and closes every connection."""
        async with task_group() as group:
            for session in list(self._open):
                group.create_task(session.drain())

    def _subprotocols(self, request: web.BaseRequest) -> tuple[str, ...]:
        """Returns our subprotocol if it is offered; else the client's first, because browsers insist on one of theirs."""
        offered = [name.strip() for name in request.headers.get("sec-websocket-protocol", "").split(",") if name.strip()]
        ours = tuple(name for name in self._protocol.SUBPROTOCOLS if name in offered)
        return ours or tuple(offered[:1])

    def _gauge(self) -> None:
        self._intake.telemetry.gauge("ingest_websockets", len(self._open))


class _Socket(web.WebSocketResponse):
    """Tells `frames` when our side closes, also when aiohttp closes by itself."""

    def __init__(self, frames: Frames, **options: Any) -> None:
        super().__init__(**options)
        self._frames = frames

    async def close(self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True) -> bool:
        self._frames.close()
        return await super().close(code=code, message=message, drain=drain)


class _Place:
    """One WebSocket's place, which the guard counts."""

    def __init__(self, guard: Guard, *, stranger: bool) -> None:
        self._guard = guard
        self._stranger = stranger
        guard.sockets += 1
        guard.strangers += stranger

    def becomes_known(self) -> None:
        """Notes that a key opened a site."""
        self._guard.strangers -= self._stranger
        self._stranger = False

    def leave(self) -> None:
        """Gives the place back: the connection is closed."""
        self.becomes_known()
        self._guard.sockets -= 1


class _Session:
    """One connection."""

    def __init__(
        self,
        intake: Intake,
        protocol: SocketProtocol,
        socket: web.WebSocketResponse,
        sender: Sender,
        known: list[Credential],
        credit: int,
        frames: Frames,
        place: _Place,
    ) -> None:
        self._intake = intake
        self._frames = frames
        self._place = place
        self._protocol = protocol
        self._socket = socket
        self._sender = sender
        self._known = tuple(known)
        self._credit = credit
        self._under_way = 0
        self._exceeded = 0
        self._draining = False
        self._settled = asyncio.Event()
        self._settled.set()
        self._reading: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()

    async def run(self, key_seconds: float) -> None:
        try:
            await self._send(self._protocol.write_hello(False, self._credit))
            async with task_group() as group:
                self._reading = group.create_task(self._read(key_seconds, group))
            if self._draining:
                # only here, when no task reads: closed under a reader, aiohttp does not wait for the client's end, and the
                # connection is reset with acknowledgements that the client has not read
                await self._socket.close(code=WSCloseCode.GOING_AWAY, message=b"the server restarts; connect again")
        finally:
            self._ended.set()

    async def drain(self) -> None:
        self._draining = True
        await self._settled.wait()
        if self._reading is not None:
            self._reading.cancel()
        await self._ended.wait()

    async def _read(self, key_seconds: float, group: asyncio.TaskGroup) -> None:
        key_by = asyncio.get_running_loop().time() + key_seconds
        while True:
            if self._frames.stranger and not isinstance(self._intake.keys.admit(self._known), Refusal):
                self._frames.stranger = False
                self._place.becomes_known()
            try:
                # one bound for all that a stranger sends: pings do not keep the connection open
                left = max(0.0, key_by - asyncio.get_running_loop().time()) if self._frames.stranger else None
                message = await self._socket.receive(left)
            except TimeoutError:
                await self._tell(False, SocketProblem("missing_key", "no key came in time", fatal=True))
                break
            self._frames.taken()
            if message.type is WSMsgType.PING:
                await self._send_pong(message.data)
                continue
            if message.type is WSMsgType.PONG:
                continue
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                break
            if not await self._take(message.data, group):
                break

    async def _send_pong(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError, RuntimeError):  # the client is gone
            await self._socket.pong(data)

    async def _take(self, data: str | bytes, group: asyncio.TaskGroup) -> bool:
        """Handles one message; False when the connection has been closed."""
        binary = isinstance(data, bytes)
        message = self._protocol.read(data, self._intake, self._known)
        if isinstance(message, SocketProblem):
            return await self._tell(binary, message)
        if message.credentials:
            self._known = message.credentials
        if message.ping is not None:
            await self._send(self._protocol.write_pong(binary, message.ping))
        if message.parsed is None:
            return True
        if self._draining:
            text = "the server restarts; send it again"
            return await self._tell(binary, SocketProblem("closing", text, message.id, 1, sender=message.parsed.admission))
        if self._under_way >= self._credit:
            self._exceeded += 1
            text = f"{self._under_way} messages are unacknowledged, the credit is {self._credit}"
            fatal = self._exceeded > MOST_EXCEEDED
            sender = message.parsed.admission
            return await self._tell(
                binary,
                SocketProblem(code="credit_exceeded", message=text, id=message.id, retry_after=1, fatal=fatal, sender=sender),
            )
        self._exceeded = 0
        self._under_way += 1
        self._settled.clear()
        group.create_task(self._settle(binary, message.id, message.parsed))
        return True

    async def _settle(self, binary: bool, id_: Any, parsed: Parsed) -> None:
        try:
            await self._send(await self._accept(binary, id_, parsed))
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._settled.set()

    async def _accept(self, binary: bool, id_: Any, parsed: Parsed) -> str | bytes:
        try:
            result = await self._intake.accept(parsed, self._sender, self._protocol.NAME)
        except Transient as exc:
            problem = SocketProblem("unavailable", f"not stored yet, send it again: {exc}", id_, jittered(RETRY_AFTER_SECONDS))
        except Permanent as exc:
            problem = SocketProblem("too_large", f"cannot be stored: {exc}", id_)
        except Exception:
            log.exception("message failed", extra={"site": parsed.admission.site})
            problem = SocketProblem("internal", "the message failed; its events were not accepted", id_)
        else:
            if not isinstance(result, Refusal):
                return self._protocol.write_ack(binary, id_, result, self._credit)
            wait = None if result.retry_after is None else jittered(result.retry_after)
            problem = SocketProblem(result.code, result.message, id_, wait)
        self._note(problem, parsed.admission.site, parsed.admission.key)
        return self._protocol.write_problem(binary, problem)

    async def _tell(self, binary: bool, problem: SocketProblem) -> bool:
        sender = problem.sender
        self._note(problem, *(self._intake.keys.sender_of(self._known) if sender is None else (sender.site, sender.key)))
        await self._send(self._protocol.write_problem(binary, problem))
        if problem.fatal:
            await self._socket.close(code=WSCloseCode.POLICY_VIOLATION, message=problem.code.encode())
        return not problem.fatal

    def _note(self, problem: SocketProblem, site: str | None, key: str) -> None:
        refusal = Refusal(0, problem.code, problem.message, site=site, key=key)
        self._intake.refusals.note(refusal, self._sender.peer, new_request_id())

    async def _send(self, data: str | bytes) -> None:
        try:
            if isinstance(data, bytes):
                await self._socket.send_bytes(data)
            else:
                await self._socket.send_str(data)
        except (ConnectionError, RuntimeError):  # the client is gone; its messages are handled all the same
            log.debug("websocket client is gone")
