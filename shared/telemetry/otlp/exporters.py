"""The exporters of the OpenTelemetry SDK, by protocol; imported when there is a collector, because a default run needs none.

They read headers, certificates, compression and time limit from the standard variables `OTEL_EXPORTER_OTLP_*`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from shared.errors import ConfigError, Problem
from shared.settings import ServiceSettings
from shared.telemetry.otlp.refused import Refused, note_refused

if TYPE_CHECKING:
    from opentelemetry.sdk._logs.export import LogRecordExporter
    from opentelemetry.sdk.metrics.export import MetricExporter
    from opentelemetry.sdk.trace.export import SpanExporter


MOST_POINTS = 5000
"""Points of metrics in a request: about 1 MiB, where a collector takes 4 MiB by default over gRPC."""


class Exporters(NamedTuple):
    """One for each signal."""

    spans: SpanExporter
    metrics: MetricExporter
    logs: LogRecordExporter


def exporters(settings: ServiceSettings, refused: Refused) -> Exporters:
    """Returns the exporters to the collector of the settings.

    Args:
        refused: called in the threads that export.

    Raises:
        ConfigError: the package that speaks the protocol is not installed.
    """
    assert settings.otlp_endpoint is not None  # noqa: S101  # the caller looked
    endpoint = settings.otlp_endpoint.rstrip("/")
    try:
        return _over_grpc(endpoint, refused) if settings.otlp_protocol == "grpc" else _over_http(endpoint, refused)
    except ImportError as exc:
        extra = "otlp-grpc" if settings.otlp_protocol == "grpc" else "otlp"
        raise ConfigError([Problem("PENSTOCK_OTLP_ENDPOINT", f"needs an extra: pip install 'penstock[{extra}]'")]) from exc


def _over_http(endpoint: str, refused: Refused) -> Exporters:
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    from shared.telemetry.otlp.session import Session

    spans, metrics, logs = (Session(signal, refused) for signal in ("spans", "metrics", "logs"))
    return Exporters(
        OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces", session=spans),
        OTLPMetricExporter(endpoint=f"{endpoint}/v1/metrics", session=metrics, max_export_batch_size=MOST_POINTS),
        OTLPLogExporter(endpoint=f"{endpoint}/v1/logs", session=logs),
    )


def _over_grpc(endpoint: str, refused: Refused) -> Exporters:
    from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    # the scheme of the address says whether TLS is used
    made = Exporters(
        OTLPSpanExporter(endpoint=endpoint),
        OTLPMetricExporter(endpoint=endpoint, max_export_batch_size=MOST_POINTS),
        OTLPLogExporter(endpoint=endpoint),
    )
    for signal, exporter in made._asdict().items():
        _look_into(signal, exporter, refused)
    return made


def _look_into(signal: str, exporter: Any, refused: Refused) -> None:
    """Has the answers read that an exporter leaves unread; it makes its stub again with each new connection."""
    stub = exporter._stub

    def watched(channel: Any) -> Any:
        made = stub(channel)
        call = made.Export

        def export(**arguments: Any) -> Any:
            response = call(**arguments)
            note_refused(signal, response, refused)
            return response

        made.Export = export
        return made

    exporter._stub = watched
    exporter._channel.close()
    exporter._initialize_channel_and_stub()
