"""What all requests together may hold: the counters that bound the memory and the work of one edge process."""

from __future__ import annotations

import asyncio


class Bounds:
    """Counts requests and the bytes of their bodies, over all connections."""

    def __init__(self, *, max_requests: int, max_body_bytes: int) -> None:
        self.max_requests = max_requests
        self.max_body_bytes = max_body_bytes
        self.requests = 0
        """Requests that are being read or answered."""
        self.body_bytes = 0
        self._quiet: asyncio.Event | None = None

    def leave(self) -> None:
        """A request is answered, or its client is gone."""
        self.requests -= 1
        if self._quiet is not None and not self.requests:
            self._quiet.set()

    async def quiet(self) -> None:
        """Waits until no request is under way."""
        self._quiet = asyncio.Event()
        if self.requests:
            await self._quiet.wait()


class Held:
    """The bytes one request holds, within the sum over all requests."""

    __slots__ = ("_bounds", "bytes")

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self.bytes = 0

    def grow_to(self, size: int) -> bool:
        """Counts them; False where all requests together hold too much, unless there is only this one."""
        bounds = self._bounds
        if size > self.bytes:
            bounds.body_bytes += size - self.bytes
            self.bytes = size
        return bounds.body_bytes <= bounds.max_body_bytes or bounds.body_bytes == self.bytes

    def shrink_to(self, size: int) -> None:
        """Counts fewer."""
        self._bounds.body_bytes -= self.bytes - size
        self.bytes = size

    def free(self) -> None:
        """Forgets them."""
        self._bounds.body_bytes -= self.bytes
        self.bytes = 0
