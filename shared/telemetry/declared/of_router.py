"""The metrics of the router."""

from __future__ import annotations

from shared.telemetry.metric import Metric

OF_ROUTER: tuple[Metric, ...] = (
    Metric("router_events_forwarded_total", "counter", "events", "events put into a connection's queue", labels=("connection",)),
    Metric("router_events_dropped_total", "counter", "events", "events left out on purpose", labels=("connection", "reason")),
    Metric("router_events_dead_total", "counter", "events", "events dead-lettered by the router", labels=("site", "reason")),
    Metric("router_frames_total", "counter", "frames", "frames handled", labels=("site",)),
    Metric("router_lag_frames", "gauge", "frames", "frames of a site not handled yet", labels=("site",)),
    Metric("router_oldest_seconds", "gauge", "seconds", "age of the frame being handled", labels=("site",)),
    Metric(
        "router_connection_stopped",
        "gauge",
        "1 or 0",
        "1 while a connection's queue is full and it catches up",
        labels=("connection",),
    ),
    Metric("router_dedupe_ids", "gauge", "ids", "message ids remembered", labels=("site",)),
    Metric(
        "router_dedupe_shortened_total",
        "counter",
        "times",
        "the window forgot ids early because its cap was reached",
        labels=("site",),
    ),
    Metric(
        "router_filter_errors_total",
        "counter",
        "events",
        "conditions that failed to evaluate; the event was left out",
        labels=("connection",),
    ),
    Metric("router_plan_broken_total", "counter", "events", "events that broke the site's tracking plan", labels=("site",)),
    Metric(
        "router_plan_violations_total",
        "counter",
        "violations",
        "what was wrong with them: the rule that they broke, and what the plan did with it",
        labels=("site", "rule", "action"),
    ),
    Metric(
        "router_plan_violations_lost_total",
        "counter",
        "violations",
        "violations that became no events, because EVENTS had no room",
        labels=("site",),
    ),
)
