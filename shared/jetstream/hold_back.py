"""Holding EVENTS back: a reader that is no connection of a site says from which sequence on it needs the stream.

While it reads, the routers do not shed frames from that sequence on (`router/room/shed.py`). A hold is a key of the bucket
`leases` with a time to live, so the hold of a dead reader ends soon.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable

from shared.errors import Conflict, Transient
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.tasks import end, timeout

PREFIX = "reader."
TTL_SECONDS = 15.0


@contextlib.asynccontextmanager
async def hold_back(broker: Broker, needs: Callable[[], int]) -> AsyncIterator[None]:
    """Holds EVENTS back from before the body starts until it ends.

    Args:
        needs: the first sequence that the reader has not read; 1 if it does not know yet.

    Raises:
        NotConnected, Transient: the broker does not answer.
    """
    bucket, key = Bucket(broker, topology.LEASE_BUCKET), PREFIX + uuid.uuid4().hex
    revision = await bucket.put(key, str(needs()).encode(), ttl_seconds=TTL_SECONDS)

    async def renew() -> None:
        nonlocal revision
        while True:
            await asyncio.sleep(TTL_SECONDS / 5)
            with contextlib.suppress(Transient, Conflict):
                revision = await bucket.put(key, str(needs()).encode(), ttl_seconds=TTL_SECONDS)

    renewal = asyncio.create_task(renew(), name=f"hold-back-{key}")
    try:
        yield
    finally:
        await end(renewal)
        with contextlib.suppress(TimeoutError):
            async with timeout(2):
                await bucket.remove(revision)


class Holds:
    """The holds on EVENTS. Keep it between two looks: it tells a live reader from a key that the broker forgot to expire.

    A broker whose clock is set back expires keys later, and one that was killed may never expire them. A live reader renews its
    key.

    Args:
        steady: a clock that cannot be set, in seconds.
    """

    def __init__(self, broker: Broker, steady: Callable[[], float] = time.monotonic) -> None:
        self._bucket = Bucket(broker, topology.LEASE_BUCKET)
        self._steady = steady
        self._seen: dict[str, tuple[int, float]] = {}

    async def first(self) -> int | None:
        """Returns the first sequence that a reader needs; None if no reader holds EVENTS back.

        Raises:
            NotConnected: the broker does not answer.
        """
        entries = await self._bucket.entries(PREFIX)
        now = self._steady()
        last = self._seen
        self._seen = {
            entry.key: last[entry.key] if last.get(entry.key, (0, now))[0] == entry.revision else (entry.revision, now)
            for entry in entries
        }
        alive = [entry for entry in entries if now - self._seen[entry.key][1] <= TTL_SECONDS]
        return min((int(entry.value) if entry.value.isdigit() else 1 for entry in alive if entry.value), default=None)
