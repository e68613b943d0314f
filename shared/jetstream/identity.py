"""The identity of a stream: tells it from one that was created again under its name, and from an older copy of itself."""

from __future__ import annotations

from typing import NamedTuple

from nats.js import api

from shared.jetstream.broker import Broker, asking


class Identity(NamedTuple):
    """A stream as it is now: only this stream has this `incarnation`; `first_seq` and `last_seq` bound its messages."""

    incarnation: str
    first_seq: int
    last_seq: int


async def identify(broker: Broker, stream: str) -> Identity:
    """Looks at a stream.

    Raises:
        NotConnected: the broker does not answer, or has no such stream yet.
    """
    with asking(f"cannot look at the stream {stream}"):
        info = await broker.js.stream_info(stream)
    return Identity(incarnation_of(info), info.state.first_seq, info.state.last_seq)


def incarnation_of(info: api.StreamInfo) -> str:
    """Returns the text that tells a stream from a later one of its name."""
    return f"{int(info.created.timestamp() * 1e6):x}" if info.created else "0"
