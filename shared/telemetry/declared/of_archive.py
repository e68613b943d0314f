"""The metrics of archives, as `declared.py` has those of the other parts."""

from __future__ import annotations

from shared.telemetry.metric import Metric

OF_ARCHIVE: tuple[Metric, ...] = (
    Metric("archive_events_total", "counter", "events", "events that are in the archive", labels=("site",)),
    Metric(
        "archive_bytes_total", "counter", "bytes", "compressed bytes of objects that were put into the archive", labels=("site",)
    ),
    Metric(
        "archive_errors_total", "counter", "errors", "failures of the archive's store; the same is tried again", labels=("site",)
    ),
    Metric(
        "archive_missed_frames_total",
        "counter",
        "frames",
        "frames that EVENTS' limits removed before the archive had read them; other sites' frames in the same stretch count too",
        labels=("site",),
    ),
    Metric("archive_lag_frames", "gauge", "frames", "frames in EVENTS that are not archived yet", labels=("site",)),
    Metric("archive_oldest_seconds", "gauge", "seconds", "age of the oldest event that is not archived yet", labels=("site",)),
)
