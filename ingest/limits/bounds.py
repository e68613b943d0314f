"""Bounds over all requests together: the counters that limit the memory and the work of one edge process.

Bytes count when they have come, not when they are announced. Incomplete bodies have shares: bodies without a key outside of them
may hold a quarter of all bytes together, and bodies of one address a quarter. So neither strangers nor one client can keep the
others out. A body that came whole is not held to the shares: it is answered before the next is read.
"""

from __future__ import annotations

import asyncio

SHARE = 4
"""Strangers together, and each address, may hold one part in so many."""

LEAST_SHARE = 16 * 1024 * 1024
"""Enough for two requests of the default limit."""


class Bounds:
    """Counts requests and the bytes of their bodies, over all connections."""

    def __init__(self, *, max_requests: int, max_body_bytes: int) -> None:
        self.max_requests = max_requests
        self.max_body_bytes = max_body_bytes
        self.requests = 0
        """Number of requests that are being read or answered."""
        self.reading = 0
        """Number of these with an incomplete body."""
        self.body_bytes = 0
        self.stranger_bytes = 0
        self.address_bytes: dict[str, int] = {}
        self._quiet: asyncio.Event | None = None

    def leave(self) -> None:
        """Notes that a request is answered, or its client is gone."""
        self.requests -= 1
        if self._quiet is not None and not self.requests:
            self._quiet.set()

    async def quiet(self) -> None:
        """Waits until no request is under way."""
        self._quiet = asyncio.Event()
        if self.requests:
            await self._quiet.wait()


class Held:
    """The bytes of one request, within the sums over all requests."""

    __slots__ = ("_address", "_bounds", "_stranger", "bytes")

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._address = ""
        self._stranger = False
        self.bytes = 0

    def belongs_to(self, address: str, *, stranger: bool) -> None:
        """Holds all further bytes to shares.

        Args:
            stranger: no key is known yet.
        """
        self._address, self._stranger = address, stranger

    def has_room(self, more: int) -> bool:
        """Whether so many bytes could come. The site's limit bounds the bytes of one request."""
        bounds, own = self._bounds, self.bytes
        if bounds.body_bytes - own and bounds.body_bytes + more > bounds.max_body_bytes:
            return False
        share = max(bounds.max_body_bytes // SHARE, LEAST_SHARE)
        if self._stranger and bounds.stranger_bytes - own and bounds.stranger_bytes + more > share:
            return False
        of_address = bounds.address_bytes.get(self._address, 0)
        return not (self._address and of_address - own and of_address + more > share)

    def hold(self, size: int) -> None:
        """Counts a body that came whole; no share bounds it."""
        self.bytes = size
        self._bounds.body_bytes += size

    def grow_to(self, size: int) -> bool:
        """Counts more bytes; False if all requests together, or the ones that share with it, hold too much."""
        if size > self.bytes:
            self._change(size - self.bytes)
        return self.has_room(0)

    def shrink_to(self, size: int) -> None:
        """Counts fewer bytes."""
        self._change(size - self.bytes)

    def free(self) -> None:
        """Frees all bytes."""
        if self._address or self._stranger:
            self._change(-self.bytes)
        else:
            self._bounds.body_bytes -= self.bytes
            self.bytes = 0

    def _change(self, more: int) -> None:
        bounds = self._bounds
        self.bytes += more
        bounds.body_bytes += more
        if self._stranger:
            bounds.stranger_bytes += more
        if self._address:
            left = bounds.address_bytes.get(self._address, 0) + more
            if left:
                bounds.address_bytes[self._address] = left
            else:
                bounds.address_bytes.pop(self._address, None)
