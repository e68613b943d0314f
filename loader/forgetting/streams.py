"""What streams hold of a person: dead letters and lines of functions, which go; frames in queues, which are counted.

A frame of a queue is never changed: its place in its lane counts. The loader leaves the person's events out when it loads the frame, and
the frame is removed then.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence

import msgspec
from nats.js.api import RawStreamMsg
from nats.js.errors import NotFoundError

from shared.errors import UNREADABLE, NotConnected
from shared.events.dead import DeadLetters, bury, decode_message, id_of, store_ended
from shared.forget.person import Person
from shared.jetstream import topology
from shared.jetstream.broker import Broker, asking, delete_message
from shared.jetstream.reader import Message, StreamReader

SILENCE_SECONDS = 10.0


class Queued:
    """What work queues hold of the person. Remembers the frames that it found, so that it reads a queue as a whole only twice: at first,
    and when the frames that it knew are gone.
    """

    def __init__(self, broker: Broker, person: Person) -> None:
        self._broker = broker
        self._person = person
        self._known: dict[tuple[str, str], dict[int, int]] = {}
        """By stream and subject: how many events of the person each frame has."""

    async def count(self, stream: str, subject: str) -> int:
        """Returns how many events of the person wait under a subject; frames that are being loaded count too.

        Raises:
            NotConnected: the broker does not answer.
        """
        known = self._known.setdefault((stream, subject), {})
        for seq in list(known):
            if await self._next(stream, subject, seq) == seq:
                break  # a queue is loaded in its order, mostly
            del known[seq]
        if not known:
            seq = 1
            while (message := await self._message(stream, subject, seq)) is not None:
                seq = message.seq or seq
                if events := self._person.events_in(message.data or b""):
                    known[seq] = events
                seq += 1
        return sum(known.values())

    async def _next(self, stream: str, subject: str, seq: int) -> int | None:
        message = await self._message(stream, subject, seq)
        return message.seq if message is not None else None

    async def _message(self, stream: str, subject: str, seq: int) -> RawStreamMsg | None:
        with asking(f"cannot look at the stream {stream}"):
            try:
                return await self._broker.js.get_msg(stream, seq, subject=subject, direct=stream != topology.RETRY, next=True)
            except NotFoundError:
                return None


async def find_letters(broker: Broker, person: Person, *, remove: bool) -> int:
    """Counts the person's dead letters and the notes of ended ones, and removes them; others in the same message are stored again
    first, letters under their ids.

    Raises:
        NotConnected, Transient, QueueFull: some may be left; doing it again is harmless.
    """
    count = 0
    async for message in _messages(broker, topology.DEAD):
        try:
            held = decode_message(message.payload)
        except UNREADABLE:  # of a later version
            continue
        gone = [index for index, letter in enumerate(held.letters) if person.has_letter(letter)]
        noted = [index for index, each in enumerate(held.ended) if person.has_letter(each.letter)]
        count += len(gone) + len(noted)
        if (gone or noted) and remove:
            await _rewrite(broker, message, held, gone=gone, noted=noted)
    return count


async def find_lines(broker: Broker, person: Person, *, remove: bool) -> int:
    """Counts lines of functions in LIVE that name the person, and removes them."""
    count = 0
    async for message in _messages(broker, topology.LIVE):
        if person.is_named(message.payload):
            count += 1
            if remove:
                await delete_message(broker, topology.LIVE, message.seq)
    return count


async def _rewrite(broker: Broker, message: Message, held: DeadLetters, *, gone: Sequence[int], noted: Sequence[int]) -> None:
    """Stores a message without some of its letters and notes."""
    rest = [
        msgspec.structs.replace(letter, id=id_of(letter, message.seq, index))
        for index, letter in enumerate(held.letters)
        if index not in gone
    ]
    ended = [each for index, each in enumerate(held.ended) if index not in noted]
    _, stage, name = message.subject.split(".", 2)
    which = hashlib.sha256(repr((gone, noted)).encode()).hexdigest()[:16]
    msg_id = f"forgotten.{message.seq}.{which}"
    if rest:
        await bury(publisher=broker.publisher, stage=stage, name=name, letters=rest, msg_id=msg_id)
    if ended:
        await store_ended(broker.publisher, message.subject, ended, f"{msg_id}.ended")
    await delete_message(broker, topology.DEAD, message.seq)


async def _messages(broker: Broker, stream: str) -> AsyncIterator[Message]:
    """Yields the messages that a stream has now, of all subjects."""
    with asking(f"cannot look at the stream {stream}"):
        state = (await broker.js.stream_info(stream)).state
    if not state.messages:
        return
    async with StreamReader(broker, stream) as reader:
        while True:
            message = await reader.next(SILENCE_SECONDS)
            if message is None:
                raise NotConnected(f"the stream {stream} does not give all messages")
            yield message
            if message.waiting == 0 or message.seq >= state.last_seq:
                return
