"""What an operator sets of the functions' runtime, prefix `PENSTOCK_FUNCTIONS_`. What a user sets stands in the project file."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, field

from shared.driving.egress import Guard, networks
from shared.jetstream.lease import TTL_SECONDS
from shared.reading.units import ByteSize, Duration

PREFIX = "PENSTOCK_FUNCTIONS_"


class FunctionsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the functions' runtime."""

    lease: Annotated[Duration, Meta(description="how long a dead runtime keeps its connections; at least 2s")] = field(
        default_factory=lambda: Duration(TTL_SECONDS)
    )
    sandboxes: Annotated[
        int, Meta(ge=1, description="sandboxes of one process at once; the least recently used ends for another")
    ] = 50
    idle: Annotated[
        Duration, Meta(description="a sandbox without events for so long ends; it starts again with the next event")
    ] = field(default_factory=lambda: Duration(600))
    heap: Annotated[ByteSize, Meta(description="memory of the JavaScript heap of one sandbox")] = field(
        default_factory=lambda: ByteSize(128 * 1024 * 1024)
    )
    memory: Annotated[ByteSize, Meta(description="all memory of one sandbox's process")] = field(
        default_factory=lambda: ByteSize(512 * 1024 * 1024)
    )
    wall: Annotated[
        Duration, Meta(description="how long one event may wait in its functions, for answers of `fetch` above all")
    ] = field(default_factory=lambda: Duration(5))
    egress: Annotated[
        str,
        Meta(
            description="networks that `fetch` and `hydrate` may reach although they are not of the internet, joined by commas: `10.1.0.0/16, 127.0.0.1`"
        ),
    ] = ""


def guard_of(settings: FunctionsSettings) -> Guard:
    """Returns the egress guard of functions and hydration.

    Raises:
        ConfigError: `egress` is no list of networks.
    """
    allowed = networks(settings.egress, f"{PREFIX}EGRESS")
    return Guard(allowed, remedy=f"an operator allows networks with {PREFIX}EGRESS")
