"""The client of nats-py, which here never swallows a cancellation.

The client waits for every answer with `asyncio.wait_for`. Up to Python 3.11 `wait_for` swallows a cancellation that comes in the
moment of the answer: the task goes on, and a task that waits for its end waits for ever. That moment is not rare: after a
reconnection answers, lost leases and reconnecting readers come together. Publishing into a full buffer swallows cancellations on
any version. So here a call ends as cancelled if its task was cancelled during the call, whatever the call returned.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Iterable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from nats.aio.client import DEFAULT_FLUSH_TIMEOUT, DEFAULT_INBOX_PREFIX, Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.protocol.parser import PERMISSIONS_ERR

T = TypeVar("T")

END_SECONDS = 2.0


class HearingClient(Client):
    """The client; replaces the calls that wait for the server or for room.

    Args:
        inbox_prefix: where answers arrive.
        only_tls: send nothing to a server that speaks without TLS.
    """

    def __init__(self, inbox_prefix: str = DEFAULT_INBOX_PREFIX.decode(), *, only_tls: bool = False) -> None:
        super().__init__()
        # `connect` sets it too, but our publisher makes its inbox before
        self._inbox_prefix = bytearray(inbox_prefix, "ascii")
        self._only_tls = only_tls

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        timeout: float = 0.5,
        old_style: bool = False,
        headers: dict[str, Any] | None = None,
    ) -> Msg:
        """As `Client.request`, but hears a cancellation."""
        return await _hearing(
            super().request(subject=subject, payload=payload, timeout=timeout, old_style=old_style, headers=headers)
        )

    async def publish(self, subject: str, payload: bytes = b"", reply: str = "", headers: dict[str, str] | None = None) -> None:
        """As `Client.publish`, but hears a cancellation."""
        await _hearing(super().publish(subject, payload, reply, headers))

    async def end_tasks(self) -> None:
        """Ends tasks that `close` leaves running: a reconnection under way may finish after it and start its tasks again."""
        for names in (("_reconnection_task",), ("_reading_task", "_ping_interval_task", "_flusher_task")):
            await _end([getattr(self, name) for name in names])
        await _end([subscription._wait_for_msgs_task for subscription in self._subs.values()])

    @property
    def server_id(self) -> str:
        """Which server this is; empty before the first connection."""
        return str(self._server_info.get("server_id", ""))

    @property
    def in_cluster(self) -> bool:
        """Whether the server is a node of a cluster."""
        return bool(self._server_info.get("cluster"))

    def abort(self) -> None:
        """Ends the connection without a farewell. A server that hangs never answers that of TLS, for which asyncio waits 30 s."""
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            with contextlib.suppress(
                AttributeError
            ):  # of Python 3.11.2: a closed TLS transport has no protocol, so nothing is left to end
                writer.transport.abort()

    async def move_to(self, server: str) -> None:
        """Connects to another server of the pool; to the next ones if it refuses, to the present one last."""
        netloc = urlsplit(server).netloc
        self._server_pool.sort(key=lambda each: 0 if each.uri.netloc == netloc else 2 if each is self._current_server else 1)
        await self.force_reconnect()

    async def _attempt_reconnect(self) -> None:
        """As `Client._attempt_reconnect`, but does not wait for a server that hangs."""
        self.abort()
        await super()._attempt_reconnect()

    async def _process_err(self, err_msg: str) -> None:
        """As `Client._process_err`, but an error after which the server closes the connection leads to another connection. The
        client would close for ever, if a password was changed on the server, or if the server has too many connections."""
        if PERMISSIONS_ERR in err_msg.lower():
            await super()._process_err(err_msg)
        else:
            error = NatsError(f"nats: {err_msg.strip(chr(39))}")
            await self._process_op_err(error)
            await self._error_cb(error)

    async def _connect_to_server(self, server: Any) -> None:
        """As `Client._connect_to_server`: a `connect` whose cancellation meets a refusal would go on for ever, and the connection to a
        server that refused the user would stay open."""
        self.abort()
        await _hearing(super()._connect_to_server(server))

    def _connect_command(self) -> bytes:
        """As `Client._connect_command`, which holds the password. The client asks for TLS if the server does; a server, or an
        intruder before it, that does not ask would get the password in clear."""
        if self._only_tls and not self._server_info.get("tls_required"):
            raise NatsError("the broker speaks without TLS and the address demands it: configure TLS there, or use nats://")
        return super()._connect_command()

    async def _process_pong(self) -> None:
        """As `Client._process_pong`, but the late answer to a cancelled flush does not end the connection."""
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    async def _flush_pending(self, force_flush: bool = False) -> Any:
        """As `Client._flush_pending`, but a closed transport is a lost connection, as on any other loop: uvloop raises
        RuntimeError, and one of asyncio's TLS has no protocol; either would pass every handler and end the service."""
        try:
            return await super()._flush_pending(force_flush)
        except (RuntimeError, AttributeError) as exc:
            raise ConnectionResetError(f"the connection to the broker is lost: {exc}") from exc

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        """As `Client._close`, which ends half-way where bytes wait for a connection that is lost: it writes them to the closed
        transport. Nobody gets them any more, and the rest of its work is done without them."""
        try:
            await super()._close(status, do_cbs)
        except (
            RuntimeError,
            OSError,
            AttributeError,
        ):  # uvloop raises RuntimeError; a closed TLS transport of asyncio has no protocol
            self._pending, self._pending_data_size = [], 0
            self._status = Client.DISCONNECTED
            await super()._close(status, do_cbs)

    async def flush(self, timeout: int = DEFAULT_FLUSH_TIMEOUT) -> None:
        """As `Client.flush`, but hears a cancellation."""
        await _hearing(super().flush(timeout))


async def _end(tasks: Iterable[asyncio.Task[Any] | None]) -> None:
    alive = [task for task in tasks if task is not None and not task.done()]
    for task in alive:
        task.cancel()
    if alive:
        await asyncio.wait(alive, timeout=END_SECONDS)


async def _hearing(call: Awaitable[T]) -> T:
    task = asyncio.current_task()
    if task is None:
        return await call
    before = task.cancelling()
    try:
        result = await call
    except asyncio.CancelledError:
        raise
    except Exception:
        if task.cancelling() > before:
            raise asyncio.CancelledError from None
        raise
    if task.cancelling() > before:
        raise asyncio.CancelledError
    return result
