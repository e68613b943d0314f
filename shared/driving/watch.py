"""The clock over a call to a server: it cuts a call that stands still and leaves one alone that moves.

While the server works through a long statement nothing moves, and a hanging server with live sockets looks the same. So during a
long statement the watch asks the server now and then whether it still answers others. The cut is a `TimeoutError`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType

from shared.tasks import timeout

LOST_SECONDS = 0.5
"""After the connection is gone, the driver's own error has this long to arrive; it says more than a timeout."""

SILENCES = 2
"""The server counts as lost after so many unanswered questions in a row."""


class Watch:
    """A timeout that begins again whenever rows moved.

    Args:
        stall_seconds: how long rows may stand still.
        statement_seconds: how long a statement may work on the server.
        answers: asks the server, over another connection, whether it answers; asked every `stall_seconds` of a statement.
    """

    def __init__(
        self,
        stall_seconds: float,
        statement_seconds: float,
        answers: Callable[[], Awaitable[bool]],
    ) -> None:
        self._stall_seconds = stall_seconds
        self._statement_seconds = statement_seconds
        self._limit = timeout(stall_seconds)
        self._timeout: asyncio.Timeout | None = None
        self._answers = answers
        self._asks: asyncio.TimerHandle | None = None
        self._asking: asyncio.Task[None] | None = None

    def moved(self) -> None:
        """Notes that rows moved and that more will."""
        self._stop_asking()
        self._allow(self._stall_seconds)

    def server_works(self) -> None:
        """Notes that the server now works through a statement, which its `statement_timeout` bounds."""
        # the server's own timeout comes first: it answers with words
        self._allow(self._statement_seconds + self._stall_seconds)
        self._stop_asking()
        self._asks = asyncio.get_running_loop().call_later(self._stall_seconds, self._start_asking)

    def lost(self) -> None:
        """Notes that the link is gone: every wait for it ends soon."""
        self._allow(LOST_SECONDS)

    async def __aenter__(self) -> Watch:
        self._timeout = await self._limit.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._timeout = None
        self._stop_asking()
        await self._limit.__aexit__(kind, error, trace)

    def _start_asking(self) -> None:
        self._asking = asyncio.create_task(self._ask())

    def _stop_asking(self) -> None:
        if self._asks is not None:
            self._asks.cancel()
        if self._asking is not None:
            self._asking.cancel()
        self._asks = self._asking = None

    async def _ask(self) -> None:
        silences = 0
        while silences < SILENCES:
            silences = 0 if await self._answers() else silences + 1
            await asyncio.sleep(self._stall_seconds if silences < SILENCES else 0)
        self._allow(0)

    def _allow(self, seconds: float) -> None:
        if self._timeout is not None and not self._timeout.expired():
            self._timeout.reschedule(asyncio.get_running_loop().time() + seconds)
