"""Follows events as they are accepted, as whole events with the server's facts.

Reads EVENTS, beginning a given number of events before its end. It acknowledges nothing and disturbs no other reader.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import AsyncIterator
from typing import NamedTuple

import msgspec
from nats.js.errors import NotFoundError

from shared.errors import Permanent
from shared.events.event import JSON, facts_of, materialise
from shared.events.frame import decode_frame, decode_ids
from shared.jetstream import topology
from shared.jetstream.broker import Broker, asking
from shared.jetstream.reader import Message, StreamReader

FIRST_WINDOW = 64
SILENCE_SECONDS = 5.0


class Tailed(NamedTuple):
    """An event and its place."""

    site: str
    seq: int
    event: JSON


async def tail(broker: Broker, site: str | None, last: int, *, follow: bool) -> AsyncIterator[Tailed]:
    """Yields the last events, oldest first, then, with `follow`, every new one for ever.

    Args:
        site: None: all sites.

    Raises:
        NotConnected: the broker does not answer.
    """
    subject = topology.events_filter(site) if site else "events.>"
    with asking("cannot read EVENTS"):
        state = (await broker.js.stream_info(topology.EVENTS)).state
        end = await _last_seq(broker, subject)
    window = FIRST_WINDOW
    held: deque[Tailed] = deque(maxlen=last)
    # a stream cannot be read backwards: look at ever longer ends of it until enough events are found
    while last:
        held.clear()
        start = max(state.first_seq, end - window + 1)
        async for found in _until(broker, subject, start, end):
            held.append(found)
        if len(held) >= last or start <= state.first_seq:
            break
        window *= 8
    for found in held:
        yield found
    if follow:
        async with StreamReader(broker, topology.EVENTS, subject, start_seq=state.last_seq + 1) as reader:
            async for message in reader:
                for found in events_of(message):
                    yield found


async def last_frames(broker: Broker, site: str, events: int) -> list[Message]:
    """Returns the newest frames of a site with at least so many events together, or all frames; the oldest first.

    Raises:
        NotConnected: the broker does not answer.
    """
    subject = topology.events_filter(site)
    with asking("cannot read EVENTS"):
        first = (await broker.js.stream_info(topology.EVENTS)).state.first_seq
        end = await _last_seq(broker, subject)
    window = FIRST_WINDOW
    while True:
        start = max(first, end - window + 1)
        held = [message async for message in _messages(broker, subject, start, end)]
        kept: deque[Message] = deque()
        total = 0
        while held and total < events:
            kept.appendleft(held.pop())
            with contextlib.suppress(Permanent):
                total += len(decode_ids(kept[0].payload))
        if total >= events or start <= first:
            return list(kept)
        window *= 8


def events_of(message: Message) -> list[Tailed]:
    """Returns the whole events of a frame; leaves out unreadable ones."""
    try:
        frame = decode_frame(message.payload)
        bodies = frame.bodies()
        facts = [facts_of(request) for request in frame.requests]
    except Permanent:
        return []
    found: list[Tailed] = []
    for head, body in zip(frame.heads, bodies, strict=True):
        with contextlib.suppress(msgspec.MsgspecError, RecursionError):
            found.append(Tailed(frame.site, message.seq, materialise(body, head, facts[head.request])))
    return found


async def _last_seq(broker: Broker, subject: str) -> int:
    try:
        return (await broker.js.get_last_msg(topology.EVENTS, subject, direct=True)).seq or 0
    except NotFoundError:
        return 0


async def _until(broker: Broker, subject: str, start: int, end: int) -> AsyncIterator[Tailed]:
    async for message in _messages(broker, subject, start, end):
        for found in events_of(message):
            yield found


async def _messages(broker: Broker, subject: str, start: int, end: int) -> AsyncIterator[Message]:
    if start > end:
        return
    async with StreamReader(broker, topology.EVENTS, subject, start_seq=start) as reader:
        while (message := await reader.next(SILENCE_SECONDS)) is not None and message.seq <= end:
            yield message
            if message.seq == end or message.waiting == 0:
                return
