"""Follows what the functions of connections log: the lines that the broker keeps of each, and new ones as they come.

The writer does not wait for readers: a line that is not read in time is lost (`functions_runtime/host/lines.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Collection
from typing import NamedTuple

import msgspec

from functions_runtime.host.lines import STAGE, Line
from shared.errors import UNREADABLE
from shared.jetstream import topology
from shared.jetstream.broker import Broker, asking
from shared.jetstream.reader import Message, StreamReader

SILENCE_SECONDS = 5.0

_decode = msgspec.json.Decoder(Line).decode


class Logged(NamedTuple):
    """A line, and whose functions said it."""

    connection: str
    line: Line


async def live_lines(broker: Broker, connections: Collection[str], last: int, *, follow: bool) -> AsyncIterator[Logged]:
    """Yields the last lines, oldest first, then, with `follow`, every new one for ever.

    Args:
        connections: whose lines.

    Raises:
        NotConnected: the broker does not answer.
    """
    pattern = topology.live_subject(STAGE, "*")
    with asking(f"cannot read {topology.LIVE}"):
        end = (await broker.js.stream_info(topology.LIVE)).state.last_seq
    held: deque[Logged] = deque(maxlen=last)
    async with StreamReader(broker, topology.LIVE, pattern, start_seq=1) as reader:
        while reader.last_seq < end and (message := await reader.next(SILENCE_SECONDS)) is not None:
            held.extend(_read(message, connections))
            if message.waiting == 0:
                break
        for found in held:
            yield found
        if follow:
            async for message in reader:
                for found in _read(message, connections):
                    yield found


def _read(message: Message, connections: Collection[str]) -> list[Logged]:
    connection = message.subject.rpartition(".")[2]
    try:
        return [Logged(connection, _decode(message.payload))] if connection in connections else []
    except UNREADABLE:  # of a later version
        return []
