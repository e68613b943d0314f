"""The sandboxes of one process: a bounded number of them, the least recently used ends first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from functions_runtime.sandbox.chain import Chain, Host
from functions_runtime.sandbox.guest import Guest, Spec

LOOK_SECONDS = 5.0


class Pool:
    """Makes chains, and ends sandboxes that are not used.

    Args:
        most: sandboxes at once.
        idle_seconds: a sandbox that has had nothing to do for so long ends.
        on_count: called with the number of sandboxes when that changes.
    """

    def __init__(self, most: int, idle_seconds: float, on_count: Callable[[int], None] = lambda _: None) -> None:
        self._most = most
        self._idle_seconds = idle_seconds
        self._on_count = on_count
        self._chains: set[Chain] = set()
        self._starting = 0
        self._changed = asyncio.Event()

    def chain(self, spec: Spec, host: Host, on_ended: Callable[[str], None] = lambda _: None) -> Chain:
        """Makes a chain; give it back with `forget`."""
        chain = Chain(spec, host, start=self._start, on_ended=on_ended)
        self._chains.add(chain)
        return chain

    async def forget(self, chain: Chain) -> None:
        """Ends a chain."""
        self._chains.discard(chain)
        await chain.close()
        self._tell()

    async def keep_idle_ended(self) -> None:
        """Ends idle sandboxes, until it is cancelled."""
        while True:
            await asyncio.sleep(min(LOOK_SECONDS, self._idle_seconds))
            limit = time.monotonic() - self._idle_seconds
            for chain in [each for each in self._chains if each.running and not each.busy]:
                if chain.used_at < limit or chain.wastes():
                    await chain.close()
            self._tell()

    async def close(self) -> None:
        """Ends all of them."""
        for chain in list(self._chains):
            await self.forget(chain)

    def _running(self) -> list[Chain]:
        return [chain for chain in self._chains if chain.running]

    def _tell(self) -> None:
        self._on_count(len(self._running()))
        self._changed.set()

    async def _start(self, spec: Spec) -> Guest:
        while len(self._running()) + self._starting >= self._most:
            idle = [chain for chain in self._running() if not chain.busy]
            if idle:
                await min(idle, key=lambda chain: chain.used_at).close()
                continue
            self._changed.clear()
            await asyncio.wait([asyncio.ensure_future(self._changed.wait())], timeout=1.0)
        self._starting += 1
        try:
            return await Guest.start(spec)
        finally:
            self._starting -= 1
            asyncio.get_running_loop().call_soon(self._tell)  # when its chain has it
