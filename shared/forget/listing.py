"""The list of forgotten ids on the broker, in the bucket `forgotten`: written by the command, followed by every service."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Sequence

import msgspec

from shared.errors import Conflict, Transient
from shared.forget.ids import SALT_BYTES, Forgotten, Listed, digest, listed
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.tasks import end

IDS = "id."
"""How the keys of ids begin; the digest follows."""
_SALT = "salt"
_FAULT_SECONDS = 1.0

log = logging.getLogger(__name__)


async def salt_of(broker: Broker) -> bytes:
    """Returns the salt of this installation; makes it where there is none.

    Raises:
        NotConnected, Transient: the broker does not work, or no service has made the bucket.
    """
    bucket = Bucket(broker, topology.FORGOTTEN_BUCKET)
    while True:
        entry = await bucket.get(_SALT)
        if entry is not None and entry.value:
            return entry.value
        with contextlib.suppress(Conflict):
            await bucket.put(_SALT, secrets.token_bytes(SALT_BYTES), revision=0)


async def suppress(broker: Broker, names: Sequence[str], request: str) -> list[str]:
    """Puts ids on the list; returns their digests. Services leave out events of these ids within a second.

    Raises:
        NotConnected, Transient: some may not be on the list; do it again.
    """
    salt = await salt_of(broker)
    bucket = Bucket(broker, topology.FORGOTTEN_BUCKET)
    digests = [digest(name, salt) for name in names]
    for name, key in zip(names, digests, strict=True):
        await bucket.put(IDS + key, msgspec.json.encode(listed(name, salt, at=time.time(), request=request)))
    return digests


async def stop_suppressing(broker: Broker, digests: Sequence[str]) -> None:
    """Takes ids off the list, by their digests.

    Raises:
        NotConnected, Transient: some may still be on the list.
    """
    for key in digests:
        await Bucket(broker, topology.FORGOTTEN_BUCKET).delete(IDS + key)


async def read_forgotten(broker: Broker) -> Forgotten:
    """Returns the list as it is now.

    Raises:
        NotConnected, Transient: the broker does not work, or no service has made the bucket.
    """
    bucket, forgotten = Bucket(broker, topology.FORGOTTEN_BUCKET), Forgotten()
    for key in await bucket.keys(IDS):
        entry = await bucket.get(key)
        if entry is not None and entry.value:
            forgotten.put(key.removeprefix(IDS), msgspec.json.decode(entry.value, type=Listed))
    return forgotten


@contextlib.asynccontextmanager
async def follow_forgotten(broker: Broker) -> AsyncIterator[tuple[Forgotten, asyncio.Event]]:
    """Yields the list, kept as the broker has it, and an event that is set when all of it was read for the first time.

    While the broker is away the list stays as it was.
    """
    forgotten, complete = Forgotten(), asyncio.Event()
    task = asyncio.create_task(_follow(broker, forgotten, complete), name="forgotten-watch")
    try:
        yield forgotten, complete
    finally:
        await end(task)


async def _follow(broker: Broker, forgotten: Forgotten, complete: asyncio.Event) -> None:
    bucket = Bucket(broker, topology.FORGOTTEN_BUCKET)
    missing: set[str] | None = None
    while missing is None:
        await broker.connected.wait()
        try:
            missing = set(await bucket.keys(IDS))
        except Transient:  # no service has made the bucket yet
            await asyncio.sleep(_FAULT_SECONDS)
    if not missing:
        complete.set()
    async for entry in bucket.watch(f"{IDS}>"):
        read: Listed | None = None
        try:
            if entry.value is not None:
                read = msgspec.json.decode(entry.value, type=Listed)
            forgotten.put(entry.key.removeprefix(IDS), read)
        except (msgspec.MsgspecError, ValueError) as exc:
            log.error("an entry of the bucket `forgotten` cannot be read", extra={"key": entry.key, "error": str(exc)})
        missing.discard(entry.key)
        if not missing:
            complete.set()
