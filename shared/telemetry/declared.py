"""The metrics of all services: what each counts, in which unit, under which labels. `docs/metrics.md` is made from here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric; it may carry only these `labels`. `stays`: it outlives the site or connection that it names."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    meaning: str
    labels: tuple[str, ...] = ()
    stays: bool = False


METRICS: tuple[Metric, ...] = (
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
    Metric("loader_rows_total", "counter", "rows", "rows committed", labels=("connection",)),
    Metric(
        "loader_rows_overflow_total",
        "counter",
        "rows",
        "rows in overflow_table, because the connection loads max_tables tables already",
        labels=("connection",),
    ),
    Metric("loader_events_total", "counter", "events", "events whose rows are committed", labels=("connection",)),
    Metric("loader_events_dropped_total", "counter", "events", "events left out on purpose", labels=("connection", "reason")),
    Metric(
        "loader_events_dead_total", "counter", "events", "events dead-lettered by the loader", labels=("connection", "reason")
    ),
    Metric(
        "loader_events_repeated_total", "counter", "events", "redelivered events that were loaded before", labels=("connection",)
    ),
    Metric("loader_values_unmapped_total", "counter", "values", "values that did not fit their column", labels=("connection",)),
    Metric(
        "loader_values_changed_total",
        "counter",
        "values",
        "values that no column can hold as they are: numbers_not_finite became null, nul_characters_replaced and "
        "half_surrogates_replaced became U+FFFD, times_cut_to_microseconds lost finer digits, "
        "type_hints_ignored were no types, hints_left_out were hints that no function wrote",
        labels=("connection", "reason"),
    ),
    Metric(
        "loader_internal_errors_total",
        "counter",
        "errors",
        "exceptions of our own code in shaping or loading; the events they concern are dead letters (internal_error)",
        labels=("connection",),
    ),
    Metric(
        "loader_destination_went_back_total",
        "counter",
        "times",
        "an older state of the destination was put back; the loader reads the missing events again from EVENTS",
        labels=("connection",),
    ),
    Metric(
        "loader_tables_dropped_total",
        "counter",
        "tables",
        "tables that were dropped by hand, and are created again by new rows",
        labels=("connection",),
    ),
    Metric("loader_loads_total", "counter", "loads", "loads by result", labels=("connection", "result")),
    Metric("loader_load_seconds", "histogram", "seconds", "duration of the phases of a load", labels=("connection", "phase")),
    Metric(
        "loader_latency_seconds",
        "histogram",
        "seconds",
        "from acceptance at the edge to the committed row, oldest of a load",
        labels=("connection",),
    ),
    Metric("loader_waiting_frames", "gauge", "frames", "frames in a connection's queue", labels=("connection",)),
    Metric("loader_oldest_seconds", "gauge", "seconds", "age of the oldest event not loaded yet", labels=("connection",)),
    Metric("loader_last_load_seconds", "gauge", "seconds", "when the last load was committed (epoch)", labels=("connection",)),
    Metric("loader_stopped", "gauge", "flag", "1 while its dead letters stop the connection", labels=("connection",)),
    Metric(
        "loader_table_failing",
        "gauge",
        "tables",
        'tables that fail now, whose rows wait in RETRY; beyond 20 of a connection the rest is one, "(others)"',
        labels=("connection", "table"),
    ),
    Metric(
        "loader_aside_rows",
        "gauge",
        "rows",
        "rows that are set aside because their table fails, or events that wait for another call",
        labels=("connection",),
    ),
    Metric("loader_retry_rows_total", "counter", "rows", "rows set aside because their table fails", labels=("connection",)),
    Metric(
        "loader_calls_total",
        "counter",
        "calls",
        "calls to destinations that take events one by one, by result: 2xx to 5xx, ok (of a queue), or no_answer",
        labels=("connection", "result"),
    ),
    Metric("loader_calls_again_total", "counter", "calls", "calls that failed and were put into RETRY", labels=("connection",)),
    Metric(
        "loader_call_seconds",
        "histogram",
        "seconds",
        "from the start of a call to its answer, or its failure",
        labels=("connection",),
    ),
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
    Metric("functions_sandboxes", "gauge", "sandboxes", "sandboxes that run"),
    Metric(
        "functions_waiting_again_events",
        "gauge",
        "events",
        "events that functions want to see again, waiting in RETRY",
        labels=("connection",),
    ),
    Metric(
        "driver_errors_unknown_total",
        "counter",
        "errors",
        "errors of a driver that its plug-in does not know; taken as transient",
        labels=("plugin",),
    ),
    Metric(
        "destination_retries_total",
        "counter",
        "attempts",
        "what a plug-in tried again by itself; the reason `locked`: another program had the file open, `read_copy`: the copy could not "
        "be written",
        labels=("plugin", "reason"),
    ),
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
    Metric("service_ready", "gauge", "1 or 0", "1 while `/ready` answers 200"),
    Metric("service_warnings", "gauge", "warnings", "warnings of `/ready`: faults beside which the service does its work"),
    Metric(
        "account_removed_events",
        "gauge",
        "events",
        "events of connections that left the project, each incarnation apart, by `fate`: received + replayed + made = delivered + dropped + "
        'dead + waiting; the oldest are added up as "(older)". Of sites that left: accepted, unrouted',
        labels=("site", "connection", "incarnation", "fate", "reason"),
        stays=True,
    ),
    Metric(
        "stream_fill_ratio",
        "gauge",
        "ratio",
        "part of a stream's room that is taken, 0 to 1; of FUNCTIONS and DELIVER that of the fullest queue",
        labels=("stream",),
    ),
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
    Metric("config_revision", "gauge", "revision", "revision of the project in force"),
)
