"""The metrics of the loader: events, rows, loads and calls; and what plug-ins count, each under its name."""

from __future__ import annotations

from shared.telemetry.metric import Metric

OF_LOADER: tuple[Metric, ...] = (
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
    Metric(
        "loader_period_seconds",
        "gauge",
        "seconds",
        "how long events of a connection wait on purpose, to be loaded together; 0 in stream mode",
        labels=("connection",),
    ),
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
)

OF_PLUG_INS: tuple[Metric, ...] = (
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
)
