"""Dead letters: events that could not be processed, kept whole with the reason, replayable.

One message of the stream DEAD holds the dead letters of one frame or request at one stage. Its id is derived from the origin of
the events. So if a stage dies between dead-lettering and acknowledging, its successor repeats the message and doubles nothing. A
message holds each request context once, however many letters share it: otherwise a request of a few kilobytes could write
hundreds of megabytes into DEAD.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

import msgspec

from shared.errors import QueueFull
from shared.events.frame import RequestContext
from shared.events.headers import EVENTS
from shared.jetstream import topology

BATCH = 200
"""Dead letters a message: bounded, because one is as large as an event may be."""

BATCH_BYTES = 512 * 1024

LETTER_BYTES = 200
"""What a letter holds beside its body, detail and request, about."""

DETAIL_CHARACTERS = 8_192
"""The longest detail that is kept: a driver or a function may say anything, and a broker takes a megabyte."""

VERSION = 2
"""Version 1 repeated the request in every letter."""


class Publishes(Protocol):
    """The part of a publisher that `bury` needs: `shared.jetstream.publisher.Publisher`, or a stage's wrapper around it."""

    async def publish(
        self, subject: str, payload: bytes, *, msg_id: str | None = None, headers: Mapping[str, str] | None = None
    ) -> object:
        """Returns when the message is durable."""
        ...


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event that could not be processed.

    `body` holds the original bytes. `origin` says where it came from, as `lane:sequence:index` (or the request at the edge). If a
    replay of an earlier letter, or of a row set aside, failed again, `first_origin` is the origin of the first letter. `request`
    holds the server's facts, so that a replay is the same event. `form` is what the request said about the body outside it
    (`contract.Parsed.form`), so that the edge can judge it again.
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
    form: str = ""
    id: str | None = None
    """What people name it by, once it was stored a second time because others of its message were removed; None: where it lies."""
    request_index: int | None = None
    """Only in a message: which of its requests `request` is."""
    first_origin: str | None = None

    @property
    def origins(self) -> set[str]:
        """The origins by which a stage recognises the event when one of its frames comes again."""
        return {self.origin, self.first_origin or self.origin}

    @property
    def held_bytes(self) -> int:
        """Its size in a message, about, without its request."""
        return LETTER_BYTES + len(self.body) + len(self.detail)


State = Literal["replayed", "purged"]
ORIGINAL_BYTES = 64 * 1024
"""Bytes of an original that connections with `from: dead` get; `penstock dead show` has all."""


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """A letter that left DEAD. `letter` has its id, and of its body only the beginning; `at` is epoch seconds."""

    state: State
    at: float
    letter: DeadLetter
    body_bytes: int


class DeadLetters(msgspec.Struct, frozen=True, array_like=True):
    """A message of the stream DEAD: letters, or the note that others ended, for connections with `from: dead`."""

    version: int
    letters: list[DeadLetter]
    requests: list[RequestContext] = []
    ended: list[Ended] = []


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(DeadLetters).decode


def encode_dead(letters: Sequence[DeadLetter]) -> bytes:
    """Returns a message of DEAD; letters with the same request object share it."""
    requests: list[RequestContext] = []
    numbers: dict[int, int] = {}
    packed: list[DeadLetter] = []
    for letter in letters:
        request = letter.request
        if request is None:
            packed.append(letter)
            continue
        number = numbers.get(id(request))
        if number is None:
            number = numbers[id(request)] = len(requests)
            requests.append(request)
        packed.append(msgspec.structs.replace(letter, request=None, request_index=number))
    return _encode(DeadLetters(VERSION, packed, requests))


def decode_dead(payload: bytes) -> list[DeadLetter]:
    """Reads the letters of a message of DEAD.

    Raises:
        msgspec.MsgspecError: not such a message, or of a newer version.
    """
    return decode_message(payload).letters


def decode_message(payload: bytes) -> DeadLetters:
    """Reads a message of DEAD; its letters have their requests.

    Raises:
        msgspec.MsgspecError: not such a message, or of a newer version.
    """
    message = _decode(payload)
    if message.version > VERSION:
        raise msgspec.ValidationError(f"dead letters of version {message.version} are newer than {VERSION}; upgrade")
    requests = message.requests
    if not requests:
        return message
    letters = [
        letter
        if letter.request_index is None or not 0 <= letter.request_index < len(requests)
        else msgspec.structs.replace(letter, request=requests[letter.request_index], request_index=None)
        for letter in message.letters
    ]
    return msgspec.structs.replace(message, letters=letters)


def id_of(letter: DeadLetter, seq: int, index: int) -> str:
    """Returns the id of a letter that lies at this place."""
    return letter.id or f"{seq}.{index}"


async def note_ended(publisher: Publishes, subject: str, letters: Sequence[DeadLetter], state: State, msg_id: str) -> None:
    """Notes in DEAD that letters leave it, so that connections with `from: dead` learn it behind the letters themselves.

    Args:
        subject: where the letters lie.
        letters: with their ids.
        msg_id: derived from the letters.

    Raises:
        NotConnected, Transient, QueueFull: the note may not be stored.
    """
    at = now()
    ended = [Ended(state=state, at=at, letter=_short(letter), body_bytes=len(letter.body)) for letter in letters]
    await store_ended(publisher, subject, ended, msg_id)


async def store_ended(publisher: Publishes, subject: str, ended: Sequence[Ended], msg_id: str) -> None:
    """Stores a note of letters that left DEAD.

    Raises:
        NotConnected, Transient, QueueFull: the note may not be stored.
    """
    await publisher.publish(subject, _encode(DeadLetters(VERSION, [], [], list(ended))), msg_id=msg_id, headers={EVENTS: "0"})


def _short(letter: DeadLetter) -> DeadLetter:
    """Returns a letter as a note holds it: smaller than the letter itself, so that the broker takes it."""
    request = letter.request
    if request is not None:
        request = RequestContext(received_at=request.received_at, protocol=request.protocol, key=request.key)
    return msgspec.structs.replace(letter, body=letter.body[:ORIGINAL_BYTES], request=request)


async def bury(
    publisher: Publishes,
    stage: str,
    name: str,
    letters: Sequence[DeadLetter],
    msg_id: str,
    *,
    on_full: Callable[[Sequence[DeadLetter]], None] | None = None,
    trace: Mapping[str, str] | None = None,
) -> None:
    """Stores dead letters durably.

    Args:
        stage: `ingest`, `feeds`, `router`, `functions` or `loader`.
        name: site for ingest and feeds, connection for the others.
        msg_id: derived from the origin; the same letters buried again under it, in the same order, are stored once.
        trace: headers of the trace in which they died; a replay goes on with it.
        on_full: called with letters that DEAD has no room for, which are then lost; None: raise `QueueFull`.

    Raises:
        NotConnected, Transient, QueueFull: the letters may not be stored; keep the events.
    """
    subject = topology.dead_subject(stage, name)
    letters = [letter if len(letter.detail) <= DETAIL_CHARACTERS else _cut(letter) for letter in letters]
    start = part = 0
    while start < len(letters):
        end, size = start, 0
        seen: set[int] = set()
        while end < len(letters) and end - start < BATCH:
            letter = letters[end]
            more = letter.held_bytes
            if letter.request is not None and id(letter.request) not in seen:
                more += letter.request.client_bytes
                seen.add(id(letter.request))
            if end > start and size + more > BATCH_BYTES:
                break
            size += more
            end += 1
        some = letters[start:end]
        try:
            await publisher.publish(
                subject, encode_dead(some), msg_id=f"{msg_id}.{part}", headers={EVENTS: str(len(some)), **(trace or {})}
            )
        except QueueFull:
            if on_full is None:
                raise
            on_full(some)
        start, part = end, part + 1


def _cut(letter: DeadLetter) -> DeadLetter:
    return msgspec.structs.replace(letter, detail=f"{letter.detail[: DETAIL_CHARACTERS - 1]}…")


def origin_of(lane: str, seq: int, index: int) -> str:
    """Returns the origin of an event: its lane, its frame's sequence there, and its place in that frame."""
    return f"{lane}:{seq}:{index}"


def now() -> float:
    """Epoch seconds, for `DeadLetter.at`."""
    return time.time()
