"""An operator's settings of the loader, prefix `PENSTOCK_LOADER_`. Users' rules of loading are in the project file."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, field

from loader.watch.stuck import STUCK_SECONDS
from shared.jetstream.lease import TTL_SECONDS
from shared.reading.units import ByteSize, Duration
from shared.scratch import MOST_BYTES

PREFIX = "PENSTOCK_LOADER_"


class LoaderSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the loader."""

    lease: Annotated[Duration, Meta(description="how long a dead loader keeps its connections; at least 2s")] = field(
        default_factory=lambda: Duration(TTL_SECONDS)
    )
    claim: Annotated[
        str,
        Meta(
            description="connections, joined by commas, whose destination was copied from another stack's: their ledgers are taken over. "
            "Only for one start, and only if no other stack loads them"
        ),
    ] = ""
    scratch_dir: Annotated[
        str | None,
        Meta(
            description="where destinations put what does not fit into memory, in a directory of the process that is gone with it; "
            "default: the system's directory for temporary files"
        ),
    ] = None
    scratch_max_bytes: Annotated[ByteSize, Meta(description="how much each destination may put there")] = field(
        default_factory=lambda: ByteSize(MOST_BYTES)
    )
    stuck: Annotated[
        Duration,
        Meta(
            description="how long an event may wait for a destination that answers, besides two periods of its batch, before `/ready` warns"
        ),
    ] = field(default_factory=lambda: Duration(STUCK_SECONDS))
