"""An operator's settings of the router, prefix `PENSTOCK_ROUTER_`. Users' rules are in the project file."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, field

from router.window.dedupe import MAX_IDS
from shared.jetstream.lease import TTL_SECONDS
from shared.reading.units import ByteSize, Duration


class RouterSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the router."""

    dedupe_max_ids: Annotated[
        int, Meta(ge=1000, description="message ids remembered per site; 14 bytes each. Beyond it the window gets shorter")
    ] = MAX_IDS
    lease: Annotated[Duration, Meta(description="how long a dead router keeps its sites; at least 2s")] = field(
        default_factory=lambda: Duration(TTL_SECONDS)
    )
    pending_frames: Annotated[int, Meta(ge=1, description="frames a connection may hold in memory before it falls behind")] = 64
    pending_bytes: Annotated[ByteSize, Meta(description="bytes a connection may hold in memory before it falls behind")] = field(
        default_factory=lambda: ByteSize(32 * 1024 * 1024)
    )
