"""An operator's settings of the router, prefix `PENSTOCK_ROUTER_`. Users' rules are in the project file."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, field

from router.window.dedupe import MAX_IDS
from shared.jetstream.lease import TTL_SECONDS
from shared.jetstream.topology import DAY
from shared.project.archive import LocalArchive
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
    alerts_period: Annotated[Duration, Meta(description="how often alerts are evaluated, at least 200ms")] = field(
        default_factory=lambda: Duration(10)
    )
    disks: Annotated[
        list[str],
        Meta(description="folders whose disks alerts watch, such as the broker's store if it is on the router's machine"),
    ] = []
    pending_bytes: Annotated[ByteSize, Meta(description="bytes a connection may hold in memory before it falls behind")] = field(
        default_factory=lambda: ByteSize(32 * 1024 * 1024)
    )
    nats_monitor: Annotated[
        str,
        Meta(
            description="monitoring addresses of the broker's servers (`http_port`), separated by commas, such as `http://nats-1:8222`; "
            "one router reads their disk, memory and certificates for metrics"
        ),
    ] = ""
    archive_dir: Annotated[
        str | None, Meta(description="directory of the archive of projects whose file does not say where; none: no archive")
    ] = None
    archive_keep: Annotated[Duration, Meta(description="how long that archive keeps a day")] = field(
        default_factory=lambda: Duration(30 * DAY)
    )
    archive_room: Annotated[ByteSize, Meta(description="most that the objects of a site may take there")] = field(
        default_factory=lambda: ByteSize(10 * 1024 * 1024 * 1024)
    )
    archive_period: Annotated[Duration, Meta(description="how long the first event of an object waits there; 1s to 1h")] = field(
        default_factory=lambda: Duration(60)
    )

    @property
    def archive(self) -> LocalArchive | None:
        """The archive of projects whose file does not say.

        Raises:
            ValueError: a bound is out of its range.
        """
        if self.archive_dir is None:
            return None
        return LocalArchive(path=self.archive_dir, keep=self.archive_keep, room=self.archive_room, period=self.archive_period)
