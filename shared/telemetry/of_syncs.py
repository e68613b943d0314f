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
        "loader_sync_batch_seconds",
        "histogram",
        "seconds",
        "from a batch in columns to its note",
        labels=("sync",),
    ),
    Metric("loader_sync_load_seconds", "histogram", "seconds", "duration of the phases of a batch", labels=("sync", "phase")),
)
