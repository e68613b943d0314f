"""The metrics of syncs, in the runner of connectors and in the loader."""

from __future__ import annotations

from shared.telemetry.metric import Metric

OF_SYNCS: tuple[Metric, ...] = (
    Metric(
        "sync_runs_total",
        "counter",
        "runs",
        "runs of a sync that ended: status is succeeded, partial, failed, cancelled, timed_out or interrupted",
        labels=("sync", "status"),
    ),
    Metric("sync_run_seconds", "histogram", "seconds", "how long a run of a sync took", labels=("sync",)),
    Metric(
        "sync_rows_read_total", "counter", "rows", "rows that runs which ended read from the connector", labels=("sync", "stream")
    ),
    Metric(
        "sync_rows_dropped_total",
        "counter",
        "rows",
        "rows that runs which ended did not send on: filtered: they do not meet `where`; unreadable: they are not JSON, so no rule can "
        "be applied",
        labels=("sync", "stream", "reason"),
    ),
    Metric("sync_running", "gauge", "flag", "1 while a run of a sync goes on, else 0", labels=("sync",)),
    Metric(
        "sync_failing",
        "gauge",
        "flag",
        "1 if the newest run that ended failed, failed in part, or timed out, else 0",
        labels=("sync",),
    ),
    Metric(
        "sync_held",
        "gauge",
        "flag",
        "1 while a run cannot go on, because its destination or the broker does not take its rows, else 0",
        labels=("sync",),
    ),
    Metric("sync_waiting_batches", "gauge", "batches", "batches of the newest run that wait for the loader", labels=("sync",)),
    Metric("sync_last_success_seconds", "gauge", "seconds", "when the newest run that succeeded ended (epoch)", labels=("sync",)),
    Metric(
        "sync_next_run_seconds", "gauge", "seconds", "when the next run is due (epoch); without a schedule none", labels=("sync",)
    ),
    Metric(
        "sync_source_behind_bytes",
        "gauge",
        "bytes",
        "bytes of the source's log that are not stored yet, where changes are read from a log",
        labels=("sync",),
    ),
    Metric(
        "sync_source_behind_seconds",
        "gauge",
        "seconds",
        "how long ago the last change that was read was committed at the source; 0 if no other waits",
        labels=("sync",),
    ),
    Metric("sync_source_kept_bytes", "gauge", "bytes", "bytes of its log that the source keeps for the sync", labels=("sync",)),
    Metric(
        "loader_sync_last_load_seconds",
        "gauge",
        "seconds",
        "when rows of a sync were loaded the last time (epoch)",
        labels=("sync",),
    ),
    Metric("loader_sync_rows_total", "counter", "rows", "rows of syncs loaded, or merged into others", labels=("sync", "stream")),
    Metric(
        "loader_sync_bytes_total",
        "counter",
        "bytes",
        "bytes of these rows, as JSON or Arrow without compression",
        labels=("sync", "stream"),
    ),
    Metric("loader_sync_rows_dead_total", "counter", "rows", "rows of syncs dead-lettered", labels=("sync", "stream", "reason")),
    Metric(
        "loader_sync_rows_left_out_total",
        "counter",
        "rows",
        "rows of syncs not loaded in a run: failed, run_failed: the stream or the whole run failed, they come again with the next; "
        "empty: no column had a value",
        labels=("sync", "stream", "reason"),
    ),
    Metric(
        "loader_sync_frames_left_out_total",
        "counter",
        "frames",
        "frames of syncs acknowledged without a load: repeated: loaded already; older_run: a newer run reads their rows again; "
        "destination: the sync has another one now; removed: there is no such sync any more",
        labels=("sync", "reason"),
    ),
    Metric("loader_sync_batches_total", "counter", "batches", "batches of syncs noted", labels=("sync",)),
    Metric("loader_sync_failures_total", "counter", "times", "loads of syncs that failed and are tried again", labels=("sync",)),
    Metric(
        "loader_sync_went_back_total",
        "counter",
        "times",
        "an older copy of a destination was put back, or a table was dropped, under rows of a sync",
        labels=("sync", "stream"),
    ),
    Metric(
        "loader_sync_batch_seconds",
        "histogram",
        "seconds",
        "from a batch in columns to its note",
        labels=("sync",),
    ),
    Metric("loader_sync_load_seconds", "histogram", "seconds", "duration of the phases of a batch", labels=("sync", "phase")),
)
