"""Holding EVENTS back: a reader that is no connection of a site says from where on it needs the stream.

While it reads, frames from that sequence on are not shed (`router/shed.py`). The word is a key of the bucket `leases` with a time to
live, so a reader that dies holds nothing for long.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable

from shared import topology
from shared.errors import Conflict, Transient
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.tasks import timeout

PREFIX = "reader."
TTL_SECONDS = 15.0


@contextlib.asynccontextmanager
async def hold_back(broker: Broker, needs: Callable[[], int]) -> AsyncIterator[None]:
    """Holds EVENTS back from before the body starts until it ends.

    Args:
        needs: the first sequence that is still to be read; 1 where that is not known yet.

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
        renewal.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await renewal
        with contextlib.suppress(TimeoutError):
            async with timeout(2):
                await bucket.remove(revision)


async def held_back_from(broker: Broker) -> int | None:
    """Returns the first sequence that a reader needs; None where nobody holds EVENTS back.

    Raises:
        NotConnected: the broker does not answer.
    """
    entries = await Bucket(broker, topology.LEASE_BUCKET).entries(PREFIX)
    return min((int(entry.value) for entry in entries if entry.value), default=None)
