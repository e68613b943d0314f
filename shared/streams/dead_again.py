"""Reads the dead letters that a stage wrote itself, to know which events or rows that come again have one already."""

from __future__ import annotations

from collections.abc import AsyncIterator

from nats.js.errors import NotFoundError

from shared.errors import UNREADABLE, NotConnected
from shared.events.dead import DeadLetter, decode_dead
from shared.jetstream import topology
from shared.jetstream.broker import Broker, asking
from shared.jetstream.reader import StreamReader

READ_SECONDS = 10.0


async def letters_since(broker: Broker, stage: str, name: str, since: float) -> AsyncIterator[DeadLetter]:
    """Yields the letters of a connection or a sync, oldest first, up to the present end.

    Args:
        stage, name: whose letters; `name` is that of the connection, or what letters of a sync have for it.
        since: epoch seconds of the first one.

    Raises:
        NotConnected: the broker does not answer.
    """
    subject = topology.dead_subject(stage, name)
    with asking("cannot look at the dead letters"):
        try:
            newest = (await broker.js.get_last_msg(topology.DEAD, subject, direct=True)).time
        except NotFoundError:
            return
    if newest is None or newest.timestamp() < since:
        return
    async with StreamReader(broker, topology.DEAD, subject, start_seconds=since) as reader:
        waiting = 1
        while waiting:
            message = await reader.next(READ_SECONDS)
            if message is None:
                raise NotConnected("the dead letters cannot be read")
            waiting = message.waiting
            try:
                letters = decode_dead(message.payload)
            except UNREADABLE:  # of a later version
                continue
            for letter in letters:
                yield letter
