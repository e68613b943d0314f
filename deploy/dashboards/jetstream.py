"""JetStream: streams, their readers and copies, and the broker's servers."""

from __future__ import annotations

from deploy.dashboards.panel import FILL, NO_BOUNDS, NONE_IS_GOOD, Bounds, Dashboard, Panel, number
from deploy.dashboards.promql import OF_SERVER, OF_STREAM, SERVER, STREAM, WINDOW, largest, zero

_COPIES_MISSING = f"max by (stream) (stream_replicas{{{STREAM}}}) - min by (stream) (stream_replicas_current{{{STREAM}}})"

DASHBOARD = Dashboard(
    name="jetstream",
    title="JetStream",
    about="Streams, their readers and copies, and the broker's servers. Buckets are the streams KV_….",
    variables=(OF_STREAM, OF_SERVER),
    rows={
        "Now": (
            number(
                "Servers away",
                "Servers whose monitoring address does not answer.",
                "short",
                f"sum(1 - broker_up{{{SERVER}}})",
                NONE_IS_GOOD,
            ),
            number(
                "Copies missing",
                "Copies of streams that are not up to date. Stop no server while there are any.",
                "short",
                f"sum({_COPIES_MISSING})",
                NONE_IS_GOOD,
            ),
            number(
                "Fullest stream",
                "Part of its room that the fullest stream, or queue, takes.",
                "percentunit",
                "max(stream_fill_ratio)",
                FILL,
            ),
            number(
                "Disk",
                "Part of its room on disk that JetStream takes, on the fullest server.",
                "percentunit",
                f"max(broker_storage_bytes{{{SERVER}}} / (broker_storage_limit_bytes{{{SERVER}}} > 0))",
                FILL,
            ),
            number("Messages", "Messages in all streams.", "short", f"sum(max by (stream) (stream_messages{{{STREAM}}}))"),
            number(
                "Slow consumers",
                "Connections that servers ended because they read too slowly.",
                "short",
                f"sum(broker_slow_consumers{{{SERVER}}})",
                Bounds(warn=1),
            ),
        ),
        "Streams": (
            Panel(
                title="Messages taken",
                about="Messages that each stream takes. EVENTS takes frames of many events.",
                unit="mps",
                queries={"{{stream}}": f"max by (stream) (rate(stream_last_sequence{{{STREAM}}}{WINDOW}))"},
            ),
            Panel(
                title="Messages held",
                about="Messages in each stream. Queues empty themselves; EVENTS and DEAD keep theirs for their age.",
                unit="short",
                queries={"{{stream}}": largest("stream_messages", STREAM, "stream")},
            ),
            Panel(
                title="Bytes held",
                about="Bytes of each stream, one copy.",
                unit="bytes",
                queries={"{{stream}}": largest("stream_bytes", STREAM, "stream")},
                stacked=True,
            ),
            Panel(
                title="Room",
                about="The part of its room that each stream takes; of queues the fullest. A full one stops what fills it.",
                unit="percentunit",
                queries={"{{stream}}": f"max by (stream) (stream_fill_ratio{{{STREAM}}})"},
                bounds=FILL,
                kind="bargauge",
                most=1,
            ),
            Panel(
                title="Oldest message",
                about="How far back a stream reaches. For EVENTS it is how far a replay can go.",
                unit="s",
                queries={"{{stream}}": largest("stream_oldest_seconds", STREAM, "stream")},
            ),
            Panel(
                title="Removed for want of room",
                about="Frames of EVENTS shed before their age, dead letters evicted, and dead letters that DEAD did not take.",
                unit="short",
                queries={
                    "frames shed": zero("sum(events_shed_frames_total)"),
                    "dead letters evicted": zero("sum(dead_letters_evicted_total)"),
                    "dead letters refused": zero("sum(dead_letters_refused_total)"),
                },
                bounds=Bounds(warn=1),
            ),
        ),
        "Readers and copies": (
            Panel(
                title="Furthest behind",
                about="Messages that the consumer furthest behind did not get yet.",
                unit="short",
                queries={"{{stream}}": largest("stream_pending_messages", STREAM, "stream")},
            ),
            Panel(
                title="Not acknowledged",
                about="Messages that consumers got and did not acknowledge yet, and those delivered more than once.",
                unit="short",
                queries={
                    "{{stream}}": largest("stream_unacknowledged_messages", STREAM, "stream"),
                    "{{stream}} again": largest("stream_redelivered_messages", STREAM, "stream"),
                },
            ),
            Panel(
                title="Consumers",
                about="Consumers of each stream at the broker. Their number follows sites, connections and syncs.",
                unit="short",
                queries={"{{stream}}": largest("stream_readers", STREAM, "stream")},
            ),
            Panel(
                title="Copies missing by stream",
                about="Copies that are not up to date. All of a stream's: it has no leader and takes nothing.",
                unit="short",
                queries={"{{stream}}": _COPIES_MISSING},
                bounds=Bounds(warn=1, bad=2),
            ),
            Panel(
                title="Lag of copies",
                about="Operations that the copy furthest behind its leader lacks. It falls to 0 after a restart.",
                unit="short",
                queries={"{{stream}}": largest("stream_replica_lag_messages", STREAM, "stream")},
                bounds=Bounds(warn=1_000, bad=100_000),
            ),
            Panel(
                title="Requests to JetStream",
                about="Requests of the API, and failed requests; a few failures are normal, such as a missing key.",
                unit="reqps",
                queries={
                    "{{server}}": f"sum by (server) (rate(broker_api_requests{{{SERVER}}}{WINDOW}))",
                    "{{server}} failed": f"sum by (server) (rate(broker_api_errors{{{SERVER}}}{WINDOW}))",
                },
            ),
        ),
        "Servers": (
            Panel(
                title="Disk by server",
                about="Bytes that JetStream takes, that the limits of streams reserve, and that it may take.",
                unit="bytes",
                queries={
                    "{{server}} taken": largest("broker_storage_bytes", SERVER, "server"),
                    "{{server}} reserved": largest("broker_storage_reserved_bytes", SERVER, "server"),
                    "{{server}} room": largest("broker_storage_limit_bytes", SERVER, "server"),
                },
                bounds=NO_BOUNDS,
            ),
            Panel(
                title="Memory by server",
                about="Memory of the server's process.",
                unit="bytes",
                queries={"{{server}}": largest("broker_memory_bytes", SERVER, "server")},
            ),
            Panel(
                title="Cores by server",
                about="Cores that the server's process keeps busy.",
                unit="short",
                queries={"{{server}}": largest("broker_cpu_cores", SERVER, "server")},
            ),
            Panel(
                title="Clients by server",
                about="Connections of clients. After a restart of a server they are uneven for a while.",
                unit="short",
                queries={"{{server}}": largest("broker_connections", SERVER, "server")},
            ),
            Panel(
                title="Server answers",
                about="1: the monitoring address of the server answers.",
                unit="short",
                queries={"{{server}}": largest("broker_up", SERVER, "server")},
                bounds=Bounds(bad=1, low=True),
                kind="bargauge",
                most=1,
            ),
            Panel(
                title="Certificates",
                about="Days until the certificate of a server ends. 0: it has none.",
                unit="d",
                queries={
                    "{{server}}": zero(
                        f"(min by (server) (broker_certificate_expires_seconds{{{SERVER}}}) - time()) / 86400", "server"
                    )
                },
                kind="bargauge",
            ),
        ),
    },
)
