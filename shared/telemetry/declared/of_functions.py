"""The metrics of functions and of identity."""

from __future__ import annotations

from shared.telemetry.metric import Metric

OF_FUNCTIONS: tuple[Metric, ...] = (
    Metric("functions_events_total", "counter", "events", "events that went into functions", labels=("connection",)),
    Metric("functions_events_out_total", "counter", "events", "events that came out of functions", labels=("connection",)),
    Metric(
        "functions_events_dropped_total",
        "counter",
        "events",
        "events that functions left out on purpose",
        labels=("connection", "reason"),
    ),
    Metric(
        "functions_events_dead_total",
        "counter",
        "events",
        "events that became dead letters in functions",
        labels=("connection", "reason"),
    ),
    Metric(
        "functions_errors_total",
        "counter",
        "errors",
        "errors that functions threw, by function",
        labels=("connection", "function"),
    ),
    Metric(
        "functions_calls_total",
        "counter",
        "calls",
        "what functions asked for: kind is store or fetch, result is ok or failed",
        labels=("connection", "kind", "result"),
    ),
    Metric(
        "functions_rules_missed_total", "counter", "rules", "privacy rules that found nothing in an event", labels=("connection",)
    ),
    Metric(
        "functions_sandboxes_ended_total",
        "counter",
        "sandboxes",
        "sandboxes that ended in the middle of their work",
        labels=("connection",),
    ),
    Metric(
        "functions_lookup_loads_total",
        "counter",
        "times",
        "times that the table of a lookup was read: result is read, unchanged (its file is the one read before) or failed",
        labels=("table", "result"),
    ),
    Metric(
        "functions_lookup_missed_total",
        "counter",
        "events",
        "events whose key has no row in the table",
        labels=("connection", "table"),
    ),
    Metric(
        "functions_hydrated_total",
        "counter",
        "events",
        "deliveries of webhooks for which an address was asked: `ok`, `missing` (404, 410), `again` (asked later once more), `failed`",
        labels=("connection", "webhook", "result"),
    ),
    Metric(
        "functions_identity_kept_total",
        "counter",
        "events",
        "anonymous events that are kept until their visitor's user is known",
        labels=("connection",),
    ),
    Metric(
        "functions_identity_stitched_total",
        "counter",
        "events",
        "anonymous events that got a user id: at_once, or again after they had gone on without one",
        labels=("connection", "how"),
    ),
    Metric(
        "functions_identity_forgotten_total",
        "counter",
        "events",
        "anonymous events that stay without a user id: bounds of a visitor, large (larger than these), full (no room in the bucket), frame (no room beside the others of their frame), internal (an error of ours), unreadable (visitors, not events)",
        labels=("connection", "reason"),
    ),
    Metric(
        "functions_identity_lost_total",
        "counter",
        "times",
        "times that what was kept of all visitors was found gone",
        labels=("connection",),
    ),
    Metric("functions_lookup_rows", "gauge", "rows", "rows of the table of a lookup", labels=("table",)),
    Metric("functions_lookup_bytes", "gauge", "bytes", "about what these rows take in memory", labels=("table",)),
    Metric(
        "functions_lookup_failing",
        "gauge",
        "0 or 1",
        "1 while the table of a lookup cannot be read; the one of before stays in force",
        labels=("table",),
    ),
    Metric("functions_lookup_read_seconds", "gauge", "seconds", "when the table was last read, since 1970", labels=("table",)),
    Metric("functions_sandboxes", "gauge", "sandboxes", "sandboxes that run"),
    Metric(
        "functions_waiting_again_events",
        "gauge",
        "events",
        "events that functions want to see again, waiting in RETRY",
        labels=("connection",),
    ),
)
