"""The metrics of telemetry itself: what leaves by OTLP, and what does not."""

from __future__ import annotations

from shared.telemetry.metric import Metric

OF_TELEMETRY: tuple[Metric, ...] = (
    Metric(
        "telemetry_exported_total",
        "counter",
        "items",
        "spans, lines of the log and points of metrics that the collector took",
        labels=("signal",),
    ),
    Metric(
        "telemetry_dropped_total",
        "counter",
        "items",
        "spans, lines and points that were not exported; full: the queue was; failed: the collector did not take the batch; refused: it "
        "took the rest of the batch; stopped: the process ended first; limited: failed spans of traces that are not sampled, beyond 10 a second",
        labels=("signal", "reason"),
    ),
    Metric(
        "telemetry_export_failing",
        "gauge",
        "flag",
        "1 while the collector does not take spans, logs or metrics, else 0",
        labels=("signal",),
        stays=True,
    ),
)
