"""Counts a person's events in EVENTS, and removes their frames where the request says so.

A frame holds events of others too. So frames go only after every reader has passed them: the routers of all sites with all connections,
replays, and archives. Otherwise events of others would be lost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from datetime import UTC, datetime
from typing import NamedTuple

from router.room.readers import Readers, look_at_events
from shared.errors import NotConnected
from shared.forget.person import Person
from shared.jetstream import topology
from shared.jetstream.broker import Broker, asking, delete_message
from shared.jetstream.hold_back import Holds
from shared.jetstream.reader import StreamReader
from shared.project.model import Project

SILENCE_SECONDS = 10.0
WORK_SECONDS = 0.02
"""The time that a look may take before it lets the loop rest for as long: events are routed meanwhile."""


class Accepted(NamedTuple):
    """Frames of EVENTS with events of the person: their number, how many events, and the time of the newest (epoch)."""

    frames: int = 0
    events: int = 0
    newest_at: float = 0.0


async def last_accepted(broker: Broker) -> int:
    """Returns the last sequence of EVENTS. Raises as `look_at_events`."""
    return (await look_at_events(broker)).state.last_seq


async def held_by(*, broker: Broker, project: Project, holds: Holds, archived: Collection[str], last: int) -> str:
    """Returns who needs a frame up to a sequence, in words; empty: nobody.

    Raises:
        NotConnected: the broker does not answer.
    """
    info = await look_at_events(broker)
    readers = Readers(broker=broker, project=project, holds=holds, archived=archived)
    first = min(await readers.needs(info), default=None)
    if first is not None and first.seq <= last:
        return first.reader
    return "an archive, which is behind" if await readers.not_archived(info) <= min(last, info.state.last_seq) else ""


async def look_at_accepted(broker: Broker, person: Person, *, remove_to: int = 0) -> Accepted:
    """Returns what EVENTS holds of the person.

    Args:
        remove_to: frames with events of the person up to this sequence are removed; what is returned is behind it.

    Raises:
        NotConnected: the broker does not answer.
    """
    found = Accepted()
    with asking(f"cannot look at the stream {topology.EVENTS}"):
        state = (await broker.js.stream_info(topology.EVENTS)).state
    if not state.messages:
        return found
    began = time.perf_counter()
    async with StreamReader(broker, topology.EVENTS) as reader:
        while True:
            message = await reader.next(SILENCE_SECONDS)
            if message is None:
                raise NotConnected(f"the stream {topology.EVENTS} does not give all messages")
            if events := person.events_in(message.payload):
                if message.seq <= remove_to:
                    await delete_message(broker, topology.EVENTS, message.seq)
                else:
                    found = Accepted(found.frames + 1, found.events + events, max(found.newest_at, message.at_seconds))
            if message.waiting == 0 or message.seq >= state.last_seq:
                return found
            if (took := time.perf_counter() - began) > WORK_SECONDS:
                await asyncio.sleep(took)
                began = time.perf_counter()


async def end_of(broker: Broker, accepted: Accepted) -> str:
    """Says when the last of these frames ends. Raises as `look_at_accepted`."""
    with asking(f"cannot look at the stream {topology.EVENTS}"):
        keeps = (await broker.js.stream_info(topology.EVENTS)).config.max_age
    return f"{datetime.fromtimestamp(accepted.newest_at + keeps, UTC):%Y-%m-%dT%H:%M:%SZ}" if keeps else "never"
