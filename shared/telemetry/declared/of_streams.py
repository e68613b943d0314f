"""The metrics of the broker's streams and servers (one router at a time tells all but how full a stream is), and of what full streams cost."""

from __future__ import annotations

from shared.telemetry.metric import Metric

OF_STREAMS: tuple[Metric, ...] = (
    Metric(
        "stream_fill_ratio",
        "gauge",
        "ratio",
        "part of a stream's room that is taken, 0 to 1; of FUNCTIONS and DELIVER that of the fullest queue",
        labels=("stream",),
    ),
    Metric("stream_bytes", "gauge", "bytes", "bytes that a stream holds, one copy", labels=("stream",)),
    Metric("stream_limit_bytes", "gauge", "bytes", "bytes that a stream may hold, where it has such a limit", labels=("stream",)),
    Metric("stream_messages", "gauge", "messages", "messages that a stream holds", labels=("stream",)),
    Metric("stream_last_sequence", "gauge", "messages", "messages that a stream ever took", labels=("stream",)),
    Metric(
        "stream_oldest_seconds", "gauge", "seconds", "age of the oldest message of a stream; 0 if it is empty", labels=("stream",)
    ),
    Metric("stream_readers", "gauge", "consumers", "consumers of a stream at the broker", labels=("stream",)),
    Metric(
        "stream_pending_messages",
        "gauge",
        "messages",
        "messages that the consumer furthest behind did not get yet",
        labels=("stream",),
    ),
    Metric(
        "stream_unacknowledged_messages",
        "gauge",
        "messages",
        "messages that consumers got and did not acknowledge yet",
        labels=("stream",),
    ),
    Metric(
        "stream_redelivered_messages",
        "gauge",
        "messages",
        "messages that wait for their acknowledgement after a further delivery",
        labels=("stream",),
    ),
    Metric("stream_replicas", "gauge", "copies", "copies that a stream should have", labels=("stream",)),
    Metric(
        "stream_replicas_current",
        "gauge",
        "copies",
        "copies that are up to date, the leader's among them; 0 if the stream has no leader",
        labels=("stream",),
    ),
    Metric(
        "stream_replica_lag_messages",
        "gauge",
        "operations",
        "operations that the copy furthest behind its leader lacks",
        labels=("stream",),
    ),
    Metric("broker_up", "gauge", "1 or 0", "1 if the monitoring address of a broker's server answers", labels=("server",)),
    Metric("broker_storage_bytes", "gauge", "bytes", "bytes on disk that JetStream of a server takes", labels=("server",)),
    Metric(
        "broker_storage_reserved_bytes",
        "gauge",
        "bytes",
        "bytes on disk that the limits of a server's streams reserve",
        labels=("server",),
    ),
    Metric(
        "broker_storage_limit_bytes", "gauge", "bytes", "bytes on disk that JetStream of a server may take", labels=("server",)
    ),
    Metric("broker_memory_bytes", "gauge", "bytes", "memory of a server's process", labels=("server",)),
    Metric("broker_cpu_cores", "gauge", "cores", "cores that a server's process keeps busy", labels=("server",)),
    Metric("broker_connections", "gauge", "connections", "clients connected to a server", labels=("server",)),
    Metric(
        "broker_slow_consumers",
        "gauge",
        "connections",
        "connections that a server ended since it started, because they read too slowly",
        labels=("server",),
    ),
    Metric("broker_api_requests", "gauge", "requests", "requests to JetStream since a server started", labels=("server",)),
    Metric(
        "broker_api_errors", "gauge", "requests", "requests to JetStream that failed since a server started", labels=("server",)
    ),
    Metric(
        "broker_certificate_expires_seconds",
        "gauge",
        "seconds",
        "when a server's certificate ends (epoch), where it has one",
        labels=("server",),
    ),
)

OF_ROOM: tuple[Metric, ...] = (
    Metric(
        "events_shed_frames_total",
        "counter",
        "frames",
        "frames of EVENTS removed before their age for want of room; every reader had passed them",
    ),
    Metric(
        "dead_letters_evicted_total",
        "counter",
        "events",
        "dead letters removed before their age, because their site or connection took more than its share of a full DEAD",
        labels=("stage", "source"),
    ),
    Metric(
        "dead_letters_refused_total",
        "counter",
        "events",
        "refused events that are no dead letters, because DEAD had no room for them",
        labels=("stage", "source"),
    ),
)
