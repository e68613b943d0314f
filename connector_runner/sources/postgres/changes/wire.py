"""The replication protocol, over a link that asyncpg opened.

asyncpg logs in, with TLS, passwords and hosts as for any link, and knows nothing of replication. So its transport gets a protocol
of ours, which speaks the few messages that a stream needs: https://www.postgresql.org/docs/current/protocol-replication.html.

Changes are kept up to `MOST_BYTES`; then the server waits. What is confirmed to the server is only what `confirm` was told.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from collections import deque
from typing import TYPE_CHECKING, Any, cast

from connector_runner.sources.postgres.changes.decode import EPOCH_MICROSECONDS
from connector_runner.sources.postgres.errors import translate
from connector_runner.sources.postgres.links import SPELLING, connect, literal, quoted
from shared.errors import NotConnected, PenstockError
from shared.tasks import timeout

if TYPE_CHECKING:
    import asyncpg

    from connector_runner.sources.postgres import OPTIONS

MOST_BYTES = 8 << 20
STATUS_SECONDS = 5.0
"""The server ends a stream whose client is silent for wal_sender_timeout, a minute by default."""
END_SECONDS = 5.0
_HEADER = struct.Struct("!BI")
_KEEPALIVE = struct.Struct("!QqB")
_STATUS = struct.Struct("!BIBQQQqB")
_DATA, _ERROR, _BOTH, _DONE, _READY = ord("d"), ord("E"), ord("W"), ord("c"), ord("Z")
_CHANGE, _ALIVE = ord("w"), ord("k")
_LOG_HEADER = 25
"""Of a change: its kind, three numbers of the log."""


class Wire(asyncio.Protocol):
    """A stream of changes; made by `follow`, ended by `close`."""

    def __init__(self, driver: asyncpg.Connection, what: str) -> None:
        self.reached = 0
        """The server has sent all that was committed before this position of its log."""
        self._driver = driver
        self._what = what
        self._transport = cast("asyncio.Transport", cast("Any", driver)._transport)
        self._buffer = bytearray()
        self._needed = 5
        """Bytes that make the next message whole."""
        self._changes: deque[bytes] = deque()
        self._held = 0
        self._paused = False
        self._confirmed = 0
        self._error: PenstockError | None = None
        self._ended = False
        self._news = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._transport.set_protocol(self)

    @classmethod
    async def follow(cls, options: OPTIONS, what: str, *, slot: str, publication: str, lsn: int, confirmed: int) -> Wire:
        """Begins a stream behind a position of the log.

        Args:
            confirmed: the server may forget the log before it.

        Raises:
            SetupError, Transient, NotConnected
        """
        spelled = {name: value for name, value in SPELLING.items() if name != "xmloption"}
        wire = cls(await connect(options, what, replication="database", **spelled), what)
        try:
            wire._confirmed = confirmed
            names = literal(quoted(publication)).strip()
            wire._send(
                f"START_REPLICATION SLOT {quoted(slot)} LOGICAL {lsn >> 32:X}/{lsn & 0xFFFFFFFF:X} "
                f"(proto_version '1', publication_names {names})"
            )
            async with timeout(float(options.connect_timeout)):
                await wire.wait()
            if wire._error is not None:
                raise wire._error
            wire._status()
        except BaseException as exc:
            wire._hang_up()
            if isinstance(exc, TimeoutError):
                raise NotConnected(f"{what}: the server did not begin a stream in time") from exc
            raise
        return wire

    def confirm(self, lsn: int) -> None:
        """Tells the server that it may forget the log before a position: all of it is durable elsewhere."""
        if lsn > self._confirmed:
            self._confirmed = lsn
            self._status()

    async def wait(self) -> None:
        """Waits until something came."""
        await self._news.wait()
        self._news.clear()

    def take(self) -> deque[bytes]:
        """Returns what came since the last call, each a message of the plug-in.

        Raises:
            NotConnected, SetupError, Transient: the stream ended, and all that came before was taken.
        """
        if not self._changes:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise NotConnected(f"{self._what}: the server ended the stream")
        found, self._changes, self._held = self._changes, deque(), 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return found

    async def close(self) -> None:
        """Ends the stream: asks first, so that the slot is free at once."""
        if not self._ended and not self._transport.is_closing():
            self._transport.write(_HEADER.pack(_DONE, 4))
            with contextlib.suppress(TimeoutError):
                async with timeout(END_SECONDS):
                    while not self._ended:
                        self._changes.clear()
                        self._held = 0
                        if self._paused:
                            self._paused = False
                            self._transport.resume_reading()
                        await self.wait()
        self._hang_up()

    def data_received(self, data: bytes) -> None:
        """Takes bytes of the server apart."""
        buffer = self._buffer
        buffer += data
        at, end = 0, len(buffer)
        if end < self._needed:
            return
        view, self._needed = bytes(buffer), 5
        while end - at >= 5:
            kind, length = _HEADER.unpack_from(view, at)
            if end - at <= length:
                self._needed = length + 1
                break
            start, at = at + 5, at + 1 + length
            if kind == _DATA:
                self._data(view, start, at)
            else:
                self._other(kind, view[start:at])
        del buffer[:at]
        if self._held > MOST_BYTES and not self._paused and not self._ended:
            self._paused = True
            self._transport.pause_reading()
        self._news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Notes that the link is gone."""
        del exc
        self._ended = True
        self._news.set()

    def _data(self, view: bytes, start: int, end: int) -> None:
        if view[start] == _CHANGE:
            self._changes.append(view[start + _LOG_HEADER : end])
            self._held += end - start
        elif view[start] == _ALIVE:
            position, _, asked = _KEEPALIVE.unpack_from(view, start + 1)
            self.reached = max(self.reached, position)
            if asked:
                self._status()

    def _other(self, kind: int, body: bytes) -> None:
        if kind == _ERROR:
            self._error = self._failed(body)
        elif kind in (_DONE, _READY):
            self._ended = True

    def _failed(self, body: bytes) -> PenstockError:
        import asyncpg

        fields = {part[:1].decode(): part[1:].decode("utf-8", "replace") for part in body.split(b"\0") if part}
        return translate(asyncpg.PostgresError.new(fields), self._what)

    def _send(self, sql: str) -> None:
        body = sql.encode() + b"\0"
        self._transport.write(_HEADER.pack(ord("Q"), len(body) + 4) + body)

    def _status(self) -> None:
        """Says how far we are, now and from now on every few seconds."""
        if self._timer is not None:
            self._timer.cancel()
        if self._ended or self._transport.is_closing():
            return
        now, at = int(time.time() * 1_000_000) - EPOCH_MICROSECONDS, self._confirmed
        fields = (_DATA, 38, ord("r"), at, at, at, now, 0)
        self._transport.write(_STATUS.pack(*fields))
        self._timer = asyncio.get_running_loop().call_later(STATUS_SECONDS, self._status)

    def _hang_up(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._driver.terminate()
