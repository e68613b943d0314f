"""Leases: one holder of a name at a time, and a number by which every store refuses a former holder.

A lease is a key of the bucket `leases` with a time to live. Its holder renews it every third of that time. `epoch` is the
revision at which the holder took it, so a later holder has a larger one: a store that a holder writes to keeps the epoch and
refuses lower ones. A holder that cannot renew in time considers the lease lost before another can take it. A frozen holder finds
out when it wakes; until then stores refuse its writes by their epoch.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from shared.errors import Conflict, Fenced, NotConnected, Transient
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.tasks import end, timeout

TTL_SECONDS = 10.0
POLL_SECONDS = 0.5
"""How often a waiting process looks again: the broker does not announce an expired key."""
GRACE_SECONDS = 2.0
"""How long the broker gets to expire a lease."""

log = logging.getLogger(__name__)


class Lease:
    """A lease that this process holds. `lost` is set when it may be lost; then stop at once and acknowledge nothing."""

    def __init__(self, name: str, epoch: int, ttl_seconds: float = TTL_SECONDS) -> None:
        self.name = name
        self.epoch = epoch
        self.lost = asyncio.Event()
        self._revision = epoch
        self._good_until = 0.0
        self._renewed(asyncio.get_running_loop().time(), ttl_seconds)

    def check(self) -> None:
        """Returns while the lease is held. A process that was frozen learns here that it slept too long, before it does another step.

        Raises:
            Fenced: it may be lost.
        """
        if self.lost.is_set() or asyncio.get_running_loop().time() >= self._good_until:
            raise Fenced(f"the lease {self.name} is lost")

    def _renewed(self, at: float, ttl_seconds: float) -> None:
        # The server starts to count when it stores the message, we when we send it: ours ends first.
        self._good_until = at + ttl_seconds * 0.9


@contextlib.asynccontextmanager
async def hold(broker: Broker, name: str, owner: str, ttl_seconds: float = TTL_SECONDS) -> AsyncIterator[Lease]:
    """Waits until the lease is free, holds it, and gives it back at the end.

    Args:
        name: of the lease, as subject tokens (`router.shop`).
        owner: who holds it, for people.
        ttl_seconds: how long a dead holder keeps it; whole seconds.
    """
    bucket = Bucket(broker, topology.LEASE_BUCKET)
    epoch = await _take(bucket, name, owner, ttl_seconds)
    lease = Lease(name, epoch, ttl_seconds)
    renewal = asyncio.create_task(_renew(bucket, lease, owner, ttl_seconds), name=f"lease-{name}")
    try:
        yield lease
    finally:
        await end(renewal)
        if not lease.lost.is_set():
            lease.lost.set()
            with contextlib.suppress(TimeoutError):
                async with timeout(2):
                    await asyncio.shield(bucket.remove(lease._revision))


async def holder(broker: Broker, name: str) -> str | None:
    """Returns the present holder of a lease, None if it is free."""
    entry = await Bucket(broker, topology.LEASE_BUCKET).get(name)
    return entry.value.decode(errors="replace") if entry and entry.value is not None else None


async def _take(bucket: Bucket, name: str, owner: str, ttl_seconds: float) -> int:
    free = 0
    while True:
        try:
            return await bucket.put(name, owner.encode(), revision=free, ttl_seconds=ttl_seconds)
        except Conflict:
            log.debug("lease is held by another", extra={"lease": name})
            free = 0
            # The key is there: wait for it to go before trying again, reading is cheaper than a refused write.
            with contextlib.suppress(NotConnected):
                free = await _wait_until_free(bucket, name, ttl_seconds)
        except Transient:
            await asyncio.sleep(POLL_SECONDS)


async def _wait_until_free(bucket: Bucket, name: str, ttl_seconds: float) -> int:
    """Returns the revision that a taker may replace: 0, or the revision of a lease that expired although the broker still has it.

    A broker that is killed and started again may forget to expire a message (seen with nats-server 2.15); a process that waited
    for that would wait for ever. A live holder renews, so a lease that stays the same for longer than its time has no holder. If
    a holder renews late, compare-and-set decides.
    """
    loop = asyncio.get_running_loop()
    revision, since = 0, 0.0
    while (entry := await bucket.get(name)) is not None:
        if entry.revision != revision:
            revision, since = entry.revision, loop.time()
        elif loop.time() - since > (entry.ttl_seconds or ttl_seconds) + GRACE_SECONDS:
            log.warning("taking a lease that the broker forgot to end", extra={"lease": name, "revision": revision})
            return revision
        await asyncio.sleep(POLL_SECONDS)
    return 0


async def _renew(bucket: Bucket, lease: Lease, owner: str, ttl_seconds: float) -> None:
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(ttl_seconds / 3)
        while True:
            started = loop.time()
            if started >= lease._good_until:
                return _lose(lease, "it was not renewed in time")
            try:
                lease._revision = await bucket.put(
                    lease.name,
                    owner.encode(),
                    revision=lease._revision,
                    ttl_seconds=ttl_seconds,
                    deadline_seconds=max(0.1, lease._good_until - started),
                )
                lease._renewed(started, ttl_seconds)
                break
            except Conflict:
                return _lose(lease, "another holder took it")
            except Transient:
                await asyncio.sleep(min(POLL_SECONDS, max(0.0, lease._good_until - loop.time())))


def _lose(lease: Lease, why: str) -> None:
    log.warning("lease lost: %s", why, extra={"lease": lease.name, "epoch": lease.epoch})
    lease.lost.set()
