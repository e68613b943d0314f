"""Dead letters: events that could not be processed, kept whole with the reason, replayable.

One message of the stream DEAD holds the dead letters of one frame or request at one stage. Its id is derived from where the events
came from, so that a stage which died between dead-lettering and acknowledging does it again without doubling them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

import msgspec

from shared import topology
from shared.frame import RequestContext

BATCH = 200
"""Dead letters a message: bounded, because one is as large as an event may be."""

BATCH_BYTES = 512 * 1024


class Publishes(Protocol):
    """What `bury` needs of a publisher: `shared.jetstream.publisher.Publisher`, or what a stage puts before it."""

    async def publish(self, subject: str, payload: bytes, *, msg_id: str | None = None) -> object:
        """Returns when the message is durable."""
        ...


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event that could not be processed.

    `body` holds the original bytes. `origin` says where it came from, as `lane:sequence:index` (or the request at the edge).
    `request` is what the server knew, so that a replay is the same event.
    """

    stage: str
    site: str
    reason: str
    detail: str
    body: bytes
    at: float
    """Epoch seconds."""
    origin: str
    connection: str | None = None
    table: str | None = None
    message_id: str | None = None
    type: str | None = None
    event: str | None = None
    user_id: str | None = None
    anonymous_id: str | None = None
    request: RequestContext | None = None


class DeadLetters(msgspec.Struct, frozen=True, array_like=True):
    """A message of the stream DEAD."""

    version: int
    letters: list[DeadLetter]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(DeadLetters).decode


def decode_dead(payload: bytes) -> list[DeadLetter]:
    """Reads a message of DEAD.

    Raises:
        msgspec.MsgspecError: not such a message.
    """
    return _decode(payload).letters


async def bury(publisher: Publishes, stage: str, name: str, letters: Sequence[DeadLetter], msg_id: str) -> None:
    """Stores dead letters durably.

    Args:
        stage: `ingest`, `router` or `loader`.
        name: site for ingest, connection for the others.
        msg_id: derived from the origin; the same letters buried again under it, in the same order, are stored once.

    Raises:
        NotConnected, Transient, QueueFull: not known to be stored; keep the events.
    """
    subject = topology.dead_subject(stage, name)
    start = part = 0
    while start < len(letters):
        end, size = start, 0
        while end < len(letters) and end - start < BATCH:
            letter = letters[end]
            more = len(letter.body) + (letter.request.client_bytes if letter.request is not None else 0)
            if end > start and size + more > BATCH_BYTES:
                break
            size += more
            end += 1
        await publisher.publish(subject, _encode(DeadLetters(1, list(letters[start:end]))), msg_id=f"{msg_id}.{part}")
        start, part = end, part + 1


def now() -> float:
    """Epoch seconds, for `DeadLetter.at`."""
    return time.time()
