"""Copies problems into EVENTS, while a connection wants them: dead letters from DEAD, warnings from WARNINGS.

One router at a time does it (a lease). It publishes the frames of a message and then notes its sequence. If it is killed in
between, its successor publishes the same frames again, under the same ids; and the window of the reserved site, which is as long as
EVENTS keeps frames, recognises their events even later. So each problem becomes one event.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec
from nats.js.errors import NotFoundError

from router.forwarding.keeper import look_while_held
from router.problems.letters import frames_of
from shared.errors import UNREADABLE, Permanent
from shared.events.dead import decode_message
from shared.events.frame import Frame, decode_frame, encode_frame, select
from shared.jetstream import topology
from shared.jetstream.broker import Broker, asking
from shared.jetstream.identity import identify
from shared.jetstream.kv import Bucket, value_of
from shared.jetstream.lease import hold
from shared.jetstream.reader import Message, StreamReader
from shared.project.model import Project
from shared.project.problems import SITES, From, are_wanted, is_reserved
from shared.service import ServiceContext
from shared.warnings.events import site_of

LEASE = "keeper.problems"
PERIOD_SECONDS = 1.0
QUIET_SECONDS = 5.0
SAVE_SECONDS = 1.0

log = logging.getLogger(__name__)


class Place(msgspec.Struct, frozen=True):
    """A value of the bucket `state`: all messages of this stream up to `seq` are copied."""

    incarnation: str = ""
    seq: int = 0


class Store(NamedTuple):
    """A stream as it is now; `keeps_seconds` is the age at which it forgets a message, 0: never."""

    incarnation: str
    keeps_seconds: float


class Source(NamedTuple):
    """A stream of problems, and the frames of one of its messages; `name` is what `from` says."""

    name: From
    stream: str
    frames: Callable[[Message, Store], Iterator[Frame]]

    @property
    def key(self) -> str:
        """Where its place is kept."""
        return f"problems.{self.name}"


def _dead(message: Message, store: Store) -> Iterator[Frame]:
    try:
        found = decode_message(message.payload)
    except UNREADABLE as exc:
        log.warning(
            "a message of DEAD is of a later version, its letters become no rows", extra={"seq": message.seq, "error": str(exc)}
        )
        return
    yield from frames_of(
        found.letters,
        found.ended,
        store=store.incarnation,
        seq=message.seq,
        now=time.time(),
        expires_at=message.at_seconds + store.keeps_seconds if store.keeps_seconds else None,
    )


def _warnings(message: Message, _: Store) -> Iterator[Frame]:
    try:
        frame = decode_frame(message.payload)
        kept = [index for index, head in enumerate(frame.heads) if not is_reserved(site_of(head))]
        if kept:
            yield frame if len(kept) == len(frame) else select(frame, kept)
    except Permanent as exc:
        log.warning("a message of WARNINGS cannot be read, it becomes no rows", extra={"seq": message.seq, "error": str(exc)})


SOURCES = (Source("dead", topology.DEAD, _dead), Source("warnings", topology.WARNINGS, _warnings))


async def keep_copied(context: ServiceContext) -> None:
    """Copies for ever, while this process holds the lease for it."""
    while True:
        async with hold(context.broker, LEASE, context.instance) as lease:

            async def look() -> None:
                for source in wanted(context.config.current.project):
                    lease.check()
                    await copy(context.broker, source)

            await look_while_held(lease, "problems", PERIOD_SECONDS, look)


def wanted(project: Project) -> list[Source]:
    """Returns the sources that connections name."""
    return [source for source in SOURCES if are_wanted(project.connections, source.name)]


async def copy(broker: Broker, source: Source) -> int:
    """Copies all messages that are not copied yet, also the ones that come meanwhile; returns their number.

    Raises:
        NotConnected, Transient, QueueFull: the rest is not copied yet.
        Conflict: another router copies.
    """
    bucket = Bucket(broker, topology.STATE_BUCKET)
    entry = await bucket.get(source.key)
    revision = entry.revision if entry is not None else 0
    place = value_of(entry, Place) or Place()
    stream = await identify(broker, source.stream)
    if place.incarnation != stream.incarnation or place.seq > stream.last_seq:
        place = Place(stream.incarnation)
    if place.seq >= stream.last_seq or not await _has_more(broker, source.stream, place.seq):
        return 0
    store = Store(stream.incarnation, await _keeps_seconds(broker, source.stream))
    copied, saved_at = 0, time.monotonic()
    async with StreamReader(broker, source.stream, start_seq=place.seq + 1) as reader:
        while (message := await reader.next(QUIET_SECONDS)) is not None:
            for number, frame in enumerate(source.frames(message, store)):
                await broker.publisher.publish(
                    topology.events_subject(SITES[source.name]),
                    encode_frame(frame),
                    msg_id=f"{source.key}.{stream.incarnation}.{message.seq}.{number}",
                )
            copied += 1
            place = Place(stream.incarnation, message.seq)
            if message.waiting == 0 or time.monotonic() - saved_at >= SAVE_SECONDS:
                revision, saved_at = await bucket.put(source.key, msgspec.json.encode(place), revision=revision), time.monotonic()
            if message.waiting == 0:
                break
    return copied


async def _keeps_seconds(broker: Broker, stream: str) -> float:
    with asking(f"cannot look at the stream {stream}"):
        return (await broker.js.stream_info(stream)).config.max_age or 0.0


async def _has_more(broker: Broker, stream: str, seq: int) -> bool:
    """Whether a message is left behind a sequence; others may have been removed."""
    with asking(f"cannot read the stream {stream}"):
        try:
            await broker.js.get_msg(stream, seq + 1, next=True, subject=">")
        except NotFoundError:
            return False
    return True
