"""The client of nats-py, which here never swallows a cancellation.

The client waits for every answer with `asyncio.wait_for`. Up to Python 3.11 `wait_for` swallows a cancellation that comes in the
moment of the answer: the task goes on, and a task that waits for its end waits for ever. That moment is not rare: after a
reconnection answers, lost leases and reconnecting readers come together. Publishing into a full buffer swallows cancellations on
any version. So here a call ends as cancelled if its task was cancelled during the call, whatever the call returned.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Any, TypeVar

from nats.aio.client import DEFAULT_FLUSH_TIMEOUT, Client
from nats.aio.msg import Msg

T = TypeVar("T")

END_SECONDS = 2.0


class HearingClient(Client):
    """The client; replaces the calls that wait for the server or for room."""

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

    async def _connect_to_server(self, server: Any) -> None:
        """As `Client._connect_to_server`: a `connect` whose cancellation meets a refusal would go on for ever."""
        await _hearing(super()._connect_to_server(server))

    async def _process_pong(self) -> None:
        """As `Client._process_pong`, but the late answer to a cancelled flush does not end the connection."""
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    async def _flush_pending(self, force_flush: bool = False) -> Any:
        """As `Client._flush_pending`, but a closed transport is a lost connection, as on any other loop: uvloop raises
        RuntimeError, which would pass every handler and end the service."""
        try:
            return await super()._flush_pending(force_flush)
        except RuntimeError as exc:
            raise ConnectionResetError(f"the connection to the broker is lost: {exc}") from exc

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
