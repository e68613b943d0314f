"""The one gate to threads: blocking calls run here, a bounded number at once, and leave the event loop free."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from shared.errors import Transient

P = ParamSpec("P")
T = TypeVar("T")


class Stop:
    """Tells a piece of work on its thread to stop; from then on it must make nothing visible."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Asks the work to stop."""
        self._event.set()

    def check(self) -> None:
        """Raises if the work was asked to stop; called between steps, and last before a step that cannot be taken back.

        Raises:
            Transient: the work was asked to stop.
        """
        if self._event.is_set():
            raise Transient("cancelled")


class ThreadGate:
    """Runs blocking calls on at most `limit` threads; further calls wait their turn."""

    def __init__(self, limit: int = 4, name: str = "penstock") -> None:
        self._pool = ThreadPoolExecutor(max_workers=limit, thread_name_prefix=name)

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs `call(*args, **kwargs)` on a thread and returns its result or raises its exception.

        Cancelling the awaiting task does not stop the thread: the task first waits for the call, so that its effects are known
        before the cancellation goes on. A call that can hang must have its own timeout.
        """
        future = asyncio.get_running_loop().run_in_executor(self._pool, lambda: call(*args, **kwargs))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            if not future.cancelled():
                future.exception()  # the cancellation goes on, whatever the call made of it
            raise

    async def run_interruptible(
        self, interrupt: Callable[[], object], call: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Runs as `run` does, but a cancellation first calls `interrupt`, which makes the call end soon, and then waits for it."""
        future = asyncio.get_running_loop().run_in_executor(self._pool, lambda: call(*args, **kwargs))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if not future.done():
                interrupt()
                await asyncio.wait([future])
            if not future.cancelled():
                future.exception()  # the cancellation goes on, whatever the call made of it
            raise

    def close(self) -> None:
        """Waits for running calls and ends the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)
