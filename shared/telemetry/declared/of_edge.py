"""The metrics of the edge: what clients send, and what becomes of it."""

from __future__ import annotations

from shared.telemetry.metric import Metric

OF_EDGE: tuple[Metric, ...] = (
    Metric(
        "ingest_events_accepted_total", "counter", "events", "events acknowledged to their senders", labels=("site", "protocol")
    ),
    Metric(
        "ingest_events_rejected_total",
        "counter",
        "events",
        "events dead-lettered at the edge",
        labels=("site", "protocol", "reason"),
    ),
    Metric(
        "ingest_events_dropped_total", "counter", "events", "events left out on purpose at the edge", labels=("site", "reason")
    ),
    Metric(
        "ingest_events_repaired_total",
        "counter",
        "events",
        "events whose JSON was read leniently and written again",
        labels=("site",),
    ),
    Metric("ingest_events_spooled_total", "counter", "events", "events acknowledged from the local journal", labels=("site",)),
    Metric("ingest_requests_total", "counter", "requests", "answers by status code", labels=("protocol", "status")),
    Metric(
        "ingest_requests_refused_total",
        "counter",
        "requests",
        "requests refused whole, by error code; site and key where they are known",
        labels=("code", "site", "key"),
    ),
    Metric(
        "ingest_request_seconds", "histogram", "seconds", "from the last byte of a request to its answer", labels=("protocol",)
    ),
    Metric("ingest_frame_events", "histogram", "events", "events in a published frame"),
    Metric("ingest_inflight_bytes", "gauge", "bytes", "event bytes that wait for their acknowledgement"),
    Metric("ingest_spool_bytes", "gauge", "bytes", "bytes in the local journal"),
    Metric("ingest_spool_fill_ratio", "gauge", "ratio", "part of the journal's room that is taken, 0 to 1"),
    Metric(
        "ingest_key_disagreements_total",
        "counter",
        "requests",
        "requests whose key carriers disagree; the header won",
        labels=("site",),
    ),
    Metric(
        "ingest_skew_ignored_total",
        "counter",
        "requests",
        "requests whose sentAt is no time, or further off than the site's max_clock_skew; their times stay as sent",
        labels=("site",),
    ),
    Metric(
        "ingest_members_ignored_total",
        "counter",
        "members",
        "parts of requests beside their events that mean nothing here",
        labels=("site", "reason"),
    ),
    Metric(
        "ingest_schemas_unknown_total",
        "counter",
        "schemas",
        "self-describing data whose schema the site's folder does not have; they are accepted unchecked",
        labels=("site",),
    ),
    Metric(
        "ingest_schemas_violated_total",
        "counter",
        "schemas",
        "self-describing data of accepted events that do not fit their schema",
        labels=("site",),
    ),
    Metric("ingest_ids_made_total", "counter", "events", "events that came without a messageId", labels=("site",)),
    Metric(
        "ingest_texts_cut_total", "counter", "texts", "texts cut: user_agent, or body of a dead_letter", labels=("site", "reason")
    ),
    Metric(
        "ingest_agents_unparsed_total",
        "counter",
        "requests",
        "requests whose user agent was not parsed, because too many unknown ones came at once; its text is kept",
        labels=("site",),
    ),
    Metric(
        "ingest_process_deaths_total",
        "counter",
        "times",
        "deaths of a process of the edge, by its number, where there are several",
        labels=("process",),
    ),
    Metric("ingest_connections", "gauge", "connections", "open connections, WebSockets among them"),
    Metric(
        "ingest_connections_refused_total",
        "counter",
        "connections",
        "connections refused or ended: too many, an unfinished head or answer, a broken preface",
    ),
    Metric("ingest_unfinished_bytes", "gauge", "bytes", "bytes of bodies, heads and WebSocket frames that are being read"),
    Metric("ingest_tasks", "gauge", "tasks", "tasks of the process"),
    Metric("ingest_websockets", "gauge", "connections", "open WebSocket connections"),
)
