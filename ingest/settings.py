"""An operator's settings of the edge: environment variables `PENSTOCK_INGEST_*`, read once at start."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, field

from ingest.clients.address import FORWARDED_FOR
from ingest.intake.packer import PackerSettings
from shared.reading.units import ByteSize, Duration

PREFIX = "PENSTOCK_INGEST_"


class IngestSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one ingest process."""

    host: Annotated[str, Meta(description="name or address to listen on; `::` is every interface, IPv4 and IPv6")] = "0.0.0.0"
    port: Annotated[int, Meta(ge=0, le=65535, description="port to listen on; 0 chooses a free one")] = 8080
    unix_socket: Annotated[
        str | None, Meta(description="path of a Unix socket to listen on as well; its clients count as 127.0.0.1")
    ] = None
    processes: Annotated[int, Meta(ge=1, le=64, description="processes that share the port; one uses about one core")] = 1
    process: Annotated[int, Meta(ge=0, description="which of the processes this is; set by the parent")] = 0
    listen_fds: Annotated[list[int], Meta(description="listening sockets handed down; set by the parent")] = []
    rates_fd: Annotated[int | None, Meta(description="memory of rates that processes share; set by the parent")] = None
    max_connections: Annotated[
        int,
        Meta(
            ge=1, description="open connections, at most as many as descriptors allow; beyond it silent ones give way, else 503"
        ),
    ] = 10_000
    max_connections_per_address: Annotated[
        int, Meta(ge=1, description="open connections of one address (IPv6: of one /64), trusted proxies excepted; beyond it 503")
    ] = 1_000
    max_websockets: Annotated[
        int, Meta(ge=1, description="open WebSockets, at most a quarter of them before a key came; beyond it 503")
    ] = 4_000
    proxy_protocol: Annotated[
        bool, Meta(description="true: every connection of a trusted proxy begins with the PROXY protocol, version 1 or 2")
    ] = False
    public_url: Annotated[
        str,
        Meta(
            description="address under which clients reach the edge, for settings documents, such as https://events.example.com"
        ),
    ] = ""
    trusted_proxies: Annotated[
        list[str], Meta(description="networks whose word on the client's address counts, such as 10.0.0.0/8; comma-separated")
    ] = []
    address_header: Annotated[
        str,
        Meta(
            pattern=r"\A[A-Za-z0-9-]{1,64}\Z",
            description="the one header whose word on the client's address counts from trusted proxies; "
            "`Forwarded` also gives scheme and host, beside another they come from X-Forwarded-Proto and X-Forwarded-Host",
        ),
    ] = FORWARDED_FOR
    keep_headers: Annotated[
        list[str], Meta(description="request headers to keep with the events, comma-separated; they appear in the frame only")
    ] = []
    geo_file: Annotated[str | None, Meta(description="MaxMind database (.mmdb) for places of addresses; needs penstock[geo]")] = (
        None
    )
    deadline: Annotated[Duration, Meta(description="how long a request waits for the broker before 503")] = field(
        default_factory=lambda: Duration(8)
    )
    spool_dir: Annotated[
        str | None, Meta(description="folder of the local journal that takes events while the broker is away; none: 503 then")
    ] = None
    spool_max_bytes: Annotated[ByteSize, Meta(description="room of the journal, per process; when it is full: 503")] = field(
        default_factory=lambda: ByteSize(1024**3)
    )
    spool_after: Annotated[
        Duration, Meta(description="with a journal: how long a frame waits for the broker before it goes there")
    ] = field(default_factory=lambda: Duration(1))
    linger: Annotated[Duration, Meta(description="shortest time between two frames of a site, unless the frame is full")] = field(
        default_factory=lambda: Duration(0.005)
    )
    frame_events: Annotated[int, Meta(ge=1, le=10_000, description="most events in a frame")] = 500
    frame_bytes: Annotated[ByteSize, Meta(description="most bytes of event bodies in a frame")] = field(
        default_factory=lambda: ByteSize(512 * 1024)
    )
    window: Annotated[int, Meta(ge=1, le=64, description="frames of one site and partition under way at once")] = 3
    partitions: Annotated[
        int, Meta(ge=1, le=256, description="subjects a site's users are spread over; drain before changing it")
    ] = 1
    inflight_bytes: Annotated[ByteSize, Meta(description="event bytes that may wait for the broker; beyond it 503")] = field(
        default_factory=lambda: ByteSize(128 * 1024 * 1024)
    )
    max_requests: Annotated[int, Meta(ge=1, description="requests in the works at once; beyond it 503")] = 10_000
    quick_bytes: Annotated[
        ByteSize, Meta(description="requests with a body of at most so many bytes are answered without a task for each; 0: none")
    ] = field(default_factory=lambda: ByteSize(256 * 1024))
    read_timeout: Annotated[Duration, Meta(description="how long a client may take to send headers, and a body; then 408")] = (
        field(default_factory=lambda: Duration(20))
    )
    keepalive: Annotated[Duration, Meta(description="how long an idle connection is kept")] = field(
        default_factory=lambda: Duration(75)
    )
    micro: Annotated[
        bool,
        Meta(
            description="true: `/micro/{all,good,bad,reset}` answer test suites of Snowplow Micro, without a key; needs one process. For tests only: anybody may read the events"
        ),
    ] = False
    websocket_credit: Annotated[int, Meta(ge=1, description="messages a WebSocket client may have unacknowledged")] = 64
    websocket_ping: Annotated[Duration, Meta(description="pause between pings on a WebSocket")] = field(
        default_factory=lambda: Duration(20)
    )

    def __post_init__(self) -> None:
        """Refuses settings that contradict each other; raises ValueError."""
        if self.micro and self.processes > 1:
            raise ValueError(
                f"micro: it shows the events of one process, and `processes` is {self.processes}; set one of them otherwise"
            )

    def packer(self) -> PackerSettings:
        """The settings of frames."""
        return PackerSettings(
            max_events=self.frame_events,
            max_bytes=int(self.frame_bytes),
            linger_seconds=float(self.linger),
            window=self.window,
            max_held_bytes=int(self.inflight_bytes),
            partitions=self.partitions,
        )
