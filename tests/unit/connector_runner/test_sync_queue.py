"""A cancelled caller of a sync's queue always hears of it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from connector_runner.syncs.queue import SyncQueue


async def test_a_wait_that_ends_in_the_moment_of_its_cancellation_is_cancelled() -> None:
    queue = SyncQueue(cast("Any", SimpleNamespace(nc=SimpleNamespace(max_payload=1 << 20))), "crm", "wh", lambda _: None)
    cancelled = 0
    for steps in range(8):
        over = asyncio.Event()

        async def waiting(over: asyncio.Event = over) -> None:
            await over.wait()

        task = asyncio.ensure_future(queue._or_failure(waiting()))
        for _ in range(3):
            await asyncio.sleep(0)
        over.set()
        for _ in range(steps):
            await asyncio.sleep(0)
        if task.cancel():
            cancelled += 1
            with pytest.raises(asyncio.CancelledError):
                await task
    assert cancelled > 2
