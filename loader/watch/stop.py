"""Stops a connection for its dead letters, with a note in the bucket `state`, so that it stays stopped after a restart or a
change of loader.

It goes on after `penstock resume`, or after an `apply` that changes the connection, its site or its destination.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from loader.watch.limit import Limit, TooManyDeadError
from shared.errors import UNREADABLE, Conflict
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket, Entry
from shared.tasks import timeout

if TYPE_CHECKING:
    from shared.service import ServiceContext  # brings telemetry, which a command that reads the note does not need

LOOK_SECONDS = 1.0
"""How often a stopped connection checks whether it may go on."""

OPENING = "its destination is being opened"
"""What `/ready` says of a connection before its destination is open."""

log = logging.getLogger(__name__)


class Stop(msgspec.Struct, frozen=True, kw_only=True):
    """The note. `definition`: a hash of all that decides how the connection is loaded. Times are epoch seconds."""

    at: float
    why: str
    definition: str
    resumed: bool = False
    free_until: float = 0.0
    """The limit does not hold until this time."""
    free_seconds: float = 0.0
    """How long that was when the connection was resumed: no clock that is set back makes it longer."""
    over: bool = False
    """The connection goes on. The note stays, so that a loader which was frozen before it noted a stop sees that others decided since."""


def stop_key(queue: str) -> str:
    """Returns the key of a connection's note, by the name of its queue (`shared.jetstream.topology.queue_of`)."""
    return f"stop.{queue}"


def hash_of(definition: object) -> str:
    """Returns a hash that tells one definition of a connection from another."""
    return hashlib.sha256(msgspec.json.encode(definition, enc_hook=float, order="sorted")).hexdigest()


def next_step(connection: str) -> str:
    """Returns the next step for a person."""
    return (
        "its events wait, none is lost: correct the cause, then apply the changed project or run "
        f"`penstock resume {connection}`; or raise `dead_limit`"
    )


async def read_stop(broker: Broker, queue: str) -> Stop | None:
    """Returns why a connection is stopped; None if it is not.

    Raises:
        NotConnected: the broker does not answer.
    """
    stop = _decode(await Bucket(broker, topology.STATE_BUCKET).get(stop_key(queue)))
    return None if stop is None or stop.resumed or stop.over else stop


async def resume(broker: Broker, queue: str, free_seconds: float = 0.0) -> bool:
    """Lets a stopped connection go on; False: it is not stopped.

    Args:
        free_seconds: how long the limit does not hold.

    Raises:
        Conflict: the loader changed the note at the same time.
        NotConnected, Transient: it may not be noted.
    """
    bucket = Bucket(broker, topology.STATE_BUCKET)
    entry = await bucket.get(stop_key(queue))
    stop = _decode(entry)
    if entry is None or stop is None or stop.resumed or stop.over:
        return False
    free_until = time.time() + free_seconds if free_seconds else 0.0
    resumed = msgspec.structs.replace(stop, resumed=True, free_until=free_until, free_seconds=free_seconds)
    await bucket.put(entry.key, msgspec.json.encode(resumed), revision=entry.revision)
    return True


async def forget_notes(broker: Broker, prefix: str, is_gone: Callable[[str], bool]) -> None:
    """Takes away notes of connections that were removed.

    Args:
        prefix: of the notes' keys, before the name of the queue.
        is_gone: says of the name of a queue whether its connection was removed.

    Raises:
        NotConnected: the broker does not answer.
    """
    bucket = Bucket(broker, topology.STATE_BUCKET)
    for key in await bucket.keys(prefix):
        if is_gone(key.removeprefix(prefix)) and (entry := await bucket.get(key)) is not None:
            await bucket.remove(entry.revision)


class Stops:
    """Stops one connection, and holds it until it may go on."""

    def __init__(self, context: ServiceContext, connection: str, queue: str, definition: str, limit: Limit) -> None:
        self._context = context
        self._connection = connection
        self._key = stop_key(queue)
        self._definition = definition
        self._limit = limit
        self._unwritten: Stop | None = None
        self._seen = 0
        """Revision of the note with which loading began; 0: there was none."""

    def begin(self) -> None:
        """Forgets a stop that was not noted under a former lease: others may have decided since."""
        self._unwritten = None

    def stop(self, error: TooManyDeadError) -> None:
        """Stops the connection: the next `hold` notes it."""
        log.error("most events die, the connection is stopped", extra={"connection": self._connection, "error": str(error)})
        self._unwritten = Stop(at=time.time(), why=str(error), definition=self._definition)

    async def hold(self) -> None:
        """Returns when the connection may load, or the service drains.

        Raises:
            NotConnected, Transient: the broker does not answer; load nothing.
        """
        bucket = Bucket(self._context.broker, topology.STATE_BUCKET)
        part, name = f"connection {self._connection}", self._connection
        held = False
        try:
            while not self._context.draining.is_set():
                if self._unwritten is not None:
                    await self._write(bucket, self._unwritten)
                entry = await bucket.get(self._key)
                stop = _decode(entry)
                if entry is None or stop is None or stop.over:
                    self._seen = entry.revision if entry else 0
                    return
                goes_on = await self._goes_on(bucket, entry, stop)
                if goes_on is not None:
                    self._seen = goes_on
                    return
                held = True
                self._context.telemetry.gauge("loader_stopped", 1, connection=name)
                self._context.health.warn(part, f"stopped by its dead letters: {stop.why}; {next_step(name)}")
                with contextlib.suppress(TimeoutError):
                    async with timeout(LOOK_SECONDS):
                        await self._context.draining.wait()
        finally:
            if held:
                self._context.telemetry.forget("loader_stopped", connection=name)
                self._context.health.bad(part, OPENING)

    async def _write(self, bucket: Bucket, stop: Stop) -> None:
        """Notes a stop, unless others have written the note since loading began: then what they decided holds."""
        with contextlib.suppress(Conflict):
            await bucket.put(self._key, msgspec.json.encode(stop), revision=self._seen)
        self._unwritten = None

    async def _goes_on(self, bucket: Bucket, entry: Entry, stop: Stop) -> int | None:
        """Returns the revision of the note if the connection may go on, else None."""
        changed = stop.definition != self._definition
        if not stop.resumed and not changed:
            return None
        left = min(stop.free_until - time.time(), stop.free_seconds)
        if left > 0:
            if entry.revision != self._seen:  # else this loader began with it before
                self._limit.clear()
                self._limit.free_for(left)
            return entry.revision
        try:
            value = msgspec.json.encode(msgspec.structs.replace(stop, over=True))
            revision = await bucket.put(entry.key, value, revision=entry.revision)
        except Conflict:  # another one wrote it: look again
            return None
        self._limit.clear()
        log.info(
            "the connection goes on",
            extra={"connection": self._connection, "why": "another project was applied" if changed else "it was resumed"},
        )
        return revision


def _decode(entry: Entry | None) -> Stop | None:
    if entry is None or entry.value is None:
        return None
    with contextlib.suppress(*UNREADABLE):
        return msgspec.json.decode(entry.value, type=Stop)
    return None
