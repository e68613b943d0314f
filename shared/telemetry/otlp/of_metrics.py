"""Exports the metrics at intervals, and notes what became of that. What is not exported comes with the next interval: counters are sums."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    MetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
)

from shared.telemetry.otlp.outbox import Reports


class _Noted(MetricExporter):
    def __init__(self, inner: MetricExporter, reports: Reports) -> None:
        super().__init__(preferred_temporality=inner._preferred_temporality, preferred_aggregation=inner._preferred_aggregation)
        self._inner = inner
        self._reports = reports

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        result = MetricExportResult.FAILURE
        points = sum(
            len(metric.data.data_points)
            for of_resource in metrics_data.resource_metrics
            for of_scope in of_resource.scope_metrics
            for metric in of_scope.metrics
        )
        try:
            result = self._inner.export(metrics_data, timeout_millis=timeout_millis, **kwargs)
        finally:
            note = self._reports.sent if result is MetricExportResult.SUCCESS else self._reports.failed
            note(points)
        return result

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return self._inner.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
        self._inner.shutdown(timeout_millis=timeout_millis)


def metric_reader(exporter: MetricExporter, reports: Reports) -> MetricReader:
    """Returns a reader that exports every minute, or as often as `OTEL_METRIC_EXPORT_INTERVAL` says."""
    return PeriodicExportingMetricReader(_Noted(exporter, reports))
