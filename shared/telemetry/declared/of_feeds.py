"""The metrics of feeds, as `declared.py` has those of the other services."""

from __future__ import annotations

from shared.telemetry.metric import Metric

OF_FEEDS: tuple[Metric, ...] = (
    Metric("feeds_records_total", "counter", "records", "records whose events, or dead letters, are durable", labels=("feed",)),
    Metric("feeds_records_dead_total", "counter", "records", "records that became dead letters", labels=("feed", "reason")),
    Metric(
        "feeds_records_lost_total",
        "counter",
        "records",
        "records of plain subjects that are gone; slow: they came faster than they were read",
        labels=("feed", "reason"),
    ),
    Metric("feeds_errors_total", "counter", "errors", "failures after which a feed was opened again", labels=("feed",)),
    Metric(
        "feeds_failing", "gauge", "flag", "1 while a feed cannot be followed, or is held by the broker, else 0", labels=("feed",)
    ),
    Metric(
        "feeds_lag_records",
        "gauge",
        "records",
        'records of a partition that are not read yet; beyond 200 partitions the rest is one, "(others)"',
        labels=("feed", "partition"),
    ),
    Metric(
        "feeds_lag_seconds",
        "gauge",
        "seconds",
        "how far behind its end a partition is read, of sources that tell the time and not the number",
        labels=("feed", "partition"),
    ),
    Metric("feeds_last_record_seconds", "gauge", "seconds", "when the last record came (epoch)", labels=("feed",)),
)
