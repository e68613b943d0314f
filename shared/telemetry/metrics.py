"""Metrics and traces of one process; `declared.py` says which metrics there are.

Metrics are OpenTelemetry instruments. An instrument costs some 11 µs a call, so `count` adds to a local integer, which an
observable instrument reads at collection: that costs well under a microsecond. `/metrics` serves them in Prometheus' form, and
OTLP sends them if an endpoint is set. Every label has a bounded set of values.

The edge makes a span per frame and the loader one per load; no event has one. The frame's trace travels in its message's headers
through the router, and a load links to its frames. Without an endpoint nothing is traced.
Telemetry never blocks or fails the path.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

from opentelemetry import trace
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Link, Span, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import REGISTRY, generate_latest

from shared.settings import ServiceSettings
from shared.telemetry.declared import METRICS
from shared.telemetry.metric import Metric
from shared.telemetry.names import CounterName, GaugeName, HistogramName
from shared.telemetry.traces import tracer_provider

_BY_NAME: Mapping[str, Metric] = {metric.name: metric for metric in METRICS}
_LABELS: Mapping[str, tuple[str, ...]] = {metric.name: metric.labels for metric in METRICS}
_GAUGES = tuple(metric.name for metric in METRICS if metric.kind == "gauge" and not metric.stays)
BUCKETS = {
    "seconds": (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900),
    "events": (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
}
_PROPAGATOR = TraceContextTextMapPropagator()


class Telemetry:
    """The instruments of one process."""

    def __init__(self, service: str, settings: ServiceSettings) -> None:
        resource = Resource.create({"service.name": f"penstock-{service}"})
        readers: list[MetricReader] = [PrometheusMetricReader(scope_info_enabled=False)]
        if settings.otlp_endpoint:
            # imported here: a default run has no collector and needs no exporter
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

            readers.append(PeriodicExportingMetricReader(OTLPMetricExporter(endpoint=f"{settings.otlp_endpoint}/v1/metrics")))
        views = [
            View(instrument_name=metric.name, aggregation=ExplicitBucketHistogramAggregation(BUCKETS[metric.unit]))
            for metric in METRICS
            if metric.kind == "histogram"
        ]
        self._provider = MeterProvider(readers, resource=resource, views=views)
        self._meter = self._provider.get_meter("penstock")
        self._values: dict[str, dict[tuple[str, ...], float]] = defaultdict(lambda: defaultdict(float))
        self._histograms = {
            metric.name: self._meter.create_histogram(metric.name, unit=_unit(metric), description=metric.meaning)
            for metric in METRICS
            if metric.kind == "histogram"
        }
        for metric in METRICS:
            self._observe(metric)
        self._tracers: TracerProvider | None = None
        if settings.otlp_endpoint:
            self._tracers = tracer_provider(resource, settings)
        self._tracer = self._tracers.get_tracer("penstock") if self._tracers else None

    def count(self, name: CounterName, amount: float = 1, **labels: str) -> None:
        """Adds to a counter."""
        self._values[name][_key(name, labels)] += amount

    def counter(self, name: CounterName, **labels: str) -> Callable[[float], None]:
        """Returns a function that adds to one counter, at half the price of `count`, for counters of every request."""
        values, key = self._values[name], _key(name, labels)

        def add(amount: float) -> None:
            values[key] += amount

        return add

    def gauge(self, name: GaugeName, value: float, **labels: str) -> None:
        """Sets a gauge."""
        self._values[name][_key(name, labels)] = value

    def forget(self, *names: CounterName | GaugeName, **labels: str) -> None:
        """Removes values with these labels, of the named metrics or of all gauges: another process has their site or connection now."""
        for name in names or _GAUGES:
            metric = _BY_NAME[name]
            if not labels.keys() <= set(metric.labels):
                continue
            places = [(metric.labels.index(label), value) for label, value in labels.items()]
            values = self._values[name]
            for key in [key for key in values if all(key[place] == value for place, value in places)]:
                del values[key]

    def record(self, name: HistogramName, value: float, **labels: str) -> None:
        """Records a value in a histogram; for requests, frames and loads, never per event."""
        self._histograms[name].record(value, labels)

    def value(self, name: CounterName | GaugeName, **labels: str) -> float:
        """Returns a counter or gauge as it stands; without labels, the sum over all of them."""
        values = self._values[name]
        return values[_key(name, labels)] if labels else sum(values.values())

    @contextlib.contextmanager
    def span(
        self, name: str, kind: SpanKind, parent: Mapping[str, str] | None = None, links: Iterable[Mapping[str, str]] = ()
    ) -> Iterator[Span | None]:
        """Opens a span; None when nothing is traced.

        Args:
            parent: headers that carry the parent's context.
            links: headers that carry the contexts of the frames a batch holds; at most 128 count.
        """
        if self._tracer is None:
            yield None
            return
        context = _PROPAGATOR.extract(dict(parent)) if parent else None
        linked = [Link(found.get_span_context()) for headers in links if (found := _span_of(headers)) is not None][:128]
        with self._tracer.start_as_current_span(name, context=context, kind=kind, links=linked) as span:
            yield span

    def inject(self, headers: dict[str, str]) -> None:
        """Writes the context of the current span into message headers, when it is sampled."""
        if self._tracer is not None and trace.get_current_span().get_span_context().trace_flags.sampled:
            _PROPAGATOR.inject(headers)

    def exposition(self) -> bytes:
        """Returns all metrics in Prometheus' text form."""
        return generate_latest(REGISTRY)

    def shutdown(self) -> None:
        """Sends the rest, in bounded time."""
        with contextlib.suppress(Exception):
            self._provider.shutdown(timeout_millis=2000)
        if self._tracers is not None:
            with contextlib.suppress(Exception):
                self._tracers.shutdown()

    def _observe(self, metric: Metric) -> None:
        if metric.kind == "histogram":
            return

        def collect(_: CallbackOptions) -> list[Observation]:
            return [
                Observation(value, dict(zip(metric.labels, key, strict=True)))
                for key, value in list(self._values[metric.name].items())
            ]

        if metric.kind == "counter":
            # the exporter appends `_total` itself
            name = metric.name.removesuffix("_total")
            self._meter.create_observable_counter(name, [collect], description=metric.meaning)
        else:
            self._meter.create_observable_gauge(metric.name, [collect], description=metric.meaning)


def _key(name: str, labels: Mapping[str, str]) -> tuple[str, ...]:
    declared = _LABELS[name]
    if tuple(labels) == declared:  # the order that nearly every caller writes, and twice as fast
        return tuple(labels.values())
    return tuple(labels[label] for label in declared)


def _unit(metric: Metric) -> str:
    # a unit that the name ends with already would be appended again by the exporter
    return "" if metric.name.endswith(metric.unit) else metric.unit


def _span_of(headers: Mapping[str, str]) -> Span | None:
    if "traceparent" not in headers:
        return None
    return trace.get_current_span(_PROPAGATOR.extract(dict(headers)))
