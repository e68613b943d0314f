"""What tells a stream from one that was created anew under its name, or from an older copy of itself."""

from __future__ import annotations

from typing import NamedTuple

from nats.errors import Error as NatsError
from nats.js.errors import APIError

from shared.errors import NotConnected
from shared.jetstream.broker import Broker


class Identity(NamedTuple):
    """A stream as it is now: `incarnation` is of this stream only; `first_seq` and `last_seq` are what it holds."""

    incarnation: str
    first_seq: int
    last_seq: int


async def identify(broker: Broker, stream: str) -> Identity:
    """Looks at a stream.

    Raises:
        NotConnected: the broker does not answer, or has no such stream yet.
    """
    try:
        info = await broker.js.stream_info(stream)
    except (APIError, NatsError, OSError, TimeoutError) as exc:
        raise NotConnected(f"cannot look at the stream {stream}: {exc or type(exc).__name__}") from exc
    incarnation = f"{int(info.created.timestamp() * 1e6):x}" if info.created else "0"
    return Identity(incarnation, info.state.first_seq, info.state.last_seq)
