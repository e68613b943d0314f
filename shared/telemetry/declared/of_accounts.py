"""The accounts: how many events each stage had since a site or connection began. They outlive processes."""

from __future__ import annotations

from shared.telemetry.metric import Metric

OF_ACCOUNTS: tuple[Metric, ...] = (
    Metric(
        "account_accepted_events",
        "gauge",
        "events",
        "events of a site accepted and routed; with `account_unrouted_events`, all that were accepted",
        labels=("site",),
    ),
    Metric("account_unrouted_events", "gauge", "events", "events of a site that wait in EVENTS for the router", labels=("site",)),
    Metric(
        "account_received_events",
        "gauge",
        "events",
        "events accepted for a connection since it began: equals forwarded + dropped + dead of the router + waiting in `events`",
        labels=("connection",),
    ),
    Metric(
        "account_forwarded_events",
        "gauge",
        "events",
        "events the router put into a connection's queue, or before its functions",
        labels=("connection",),
    ),
    Metric(
        "account_replayed_events",
        "gauge",
        "events",
        "events that replays put into a connection's queue and that have ended",
        labels=("connection",),
    ),
    Metric(
        "account_made_events",
        "gauge",
        "events",
        "events that functions gave beyond the events they took, less the events that wait for another attempt",
        labels=("connection",),
    ),
    Metric("account_delivered_events", "gauge", "events", "events whose rows are all committed", labels=("connection",)),
    Metric("account_dead_events", "gauge", "events", "events in the dead letters", labels=("connection", "stage", "reason")),
    Metric("account_dropped_events", "gauge", "events", "events left out on purpose", labels=("connection", "stage", "reason")),
    Metric(
        "account_waiting_events",
        "gauge",
        "events",
        "events that wait, by place: `events` (for a connection behind), `functions`, `queue`, `aside` (for a failing table)",
        labels=("connection", "place"),
    ),
    Metric(
        "account_removed_events",
        "gauge",
        "events",
        "events of connections that left the project, each incarnation apart, by `fate`: received + replayed + made = delivered + dropped + "
        'dead + waiting; the oldest are added up as "(older)". Of sites that left: accepted, unrouted',
        labels=("site", "connection", "incarnation", "fate", "reason"),
        stays=True,
    ),
)
