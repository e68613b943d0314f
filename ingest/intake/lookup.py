"""Asks the broker whether it stored messages that were sent without an answer."""

from __future__ import annotations

from nats.js.errors import NotFoundError

from shared.errors import NotConnected
from shared.jetstream import topology
from shared.jetstream.broker import Broker, asking
from shared.jetstream.publisher import MSG_ID
from shared.jetstream.reader import StreamReader

SLACK_SECONDS = 60.0
"""The largest difference between the broker's clock and ours."""
QUIET_SECONDS = 10.0


async def stored_ids(broker: Broker, subject: str, ids: set[str], since: float) -> set[str]:
    """Returns the message ids that are stored on a subject since a time (epoch).

    Raises:
        NotConnected: the broker does not answer.
    """
    if not broker.nc.is_connected:
        raise NotConnected("the broker is away")
    stream = topology.EVENTS if subject.startswith("events.") else topology.DEAD
    start, found = max(0.0, since - SLACK_SECONDS), set[str]()
    with asking(f"cannot look at the stream {stream}"):
        try:
            newest = await broker.js.get_last_msg(stream, subject)
        except NotFoundError:
            return found
    last = newest.seq or 0
    if newest.time is not None and newest.time.timestamp() < start:
        return found
    async with StreamReader(broker, stream, subject, start_seconds=start, headers_only=True, pull_messages=512) as reader:
        while reader.last_seq < last and found != ids:
            message = await reader.next(QUIET_SECONDS)
            if message is None:
                raise NotConnected(f"the stream {stream} does not tell what it holds")
            if (msg_id := message.headers.get(MSG_ID)) in ids:
                found.add(msg_id)
    return found
