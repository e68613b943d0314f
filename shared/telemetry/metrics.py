"""Metrics and traces of one process; `declared/` says which metrics there are.

Metrics are OpenTelemetry instruments. An instrument costs some 11 µs a call, so `count` adds to a local integer, which an
observable instrument reads at collection: that costs well under a microsecond. `/metrics` serves them in Prometheus' form, and
OTLP sends them if an endpoint is set. Every label has a bounded set of values.

Spans are made for requests, frames, batches, loads and runs, and never for an event (`tracing/`); without an endpoint nothing is
traced. Telemetry never blocks or fails the path (`otlp/`).
"""

from __future__ import annotations

import contextlib
import inspect
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags, set_span_in_context
from prometheus_client import REGISTRY, generate_latest

from shared.settings import ServiceSettings
from shared.telemetry.declared import METRICS
from shared.telemetry.metric import Metric
from shared.telemetry.names import CounterName, GaugeName, HistogramName
from shared.telemetry.tracing.spans import NO_SPAN, Span, Tracing, Trail, current_trail, read_trail

if TYPE_CHECKING:
    from shared.telemetry.otlp.pipe import Pipe

_BY_NAME: Mapping[str, Metric] = {metric.name: metric for metric in METRICS}
_LABELS: Mapping[str, tuple[str, ...]] = {metric.name: metric.labels for metric in METRICS}
_GAUGES = tuple(metric.name for metric in METRICS if metric.kind == "gauge" and not metric.stays)
BUCKETS = {
    "seconds": (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900),
    "events": (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
}
SHUTDOWN_SECONDS = 2.0
MOST_SERIES = 200_000
"""Of one metric: of so many connections, say. Newer SDKs put all beyond 2,000 into one series, unless told otherwise."""
_LIMITED = "aggregation_cardinality_limit" in inspect.signature(View).parameters
MOST_SAMPLES = 200
"""Samples of one counter."""
SAMPLE_CHARACTERS = 300


class Telemetry:
    """The instruments of one process.

    Args:
        instance: unique to this process.

    Raises:
        ConfigError: the settings want an exporter that is not installed.
    """

    def __init__(self, service: str, settings: ServiceSettings, instance: str = "") -> None:
        resource = Resource.create(
            {
                "service.name": f"penstock-{service}",
                "service.instance.id": instance or service,
                "service.version": version("penstock"),
            }
        )
        self._values: dict[str, dict[tuple[str, ...], float]] = defaultdict(lambda: defaultdict(float))
        readers: list[MetricReader] = [PrometheusMetricReader(scope_info_enabled=False)]
        self._pipe: Pipe | None = None
        self.tracing: Tracing | None = None
        """None: nothing is traced."""
        if settings.otlp_endpoint:
            # imported here: a default run has no collector and needs no exporter
            from shared.telemetry.otlp.pipe import Pipe

            self._pipe = Pipe(resource, settings, self)
            self.tracing = Tracing(
                self._pipe.send_span, self._pipe.lose_span, ratio=settings.trace_ratio, a_second=settings.trace_rate
            )
            readers.append(self._pipe.metrics)
        views = [_view(metric) for metric in METRICS]
        self._provider = MeterProvider(readers, resource=resource, views=views)
        self._meter = self._provider.get_meter("penstock")
        self._samples: dict[str, dict[tuple[str, ...], str]] = defaultdict(dict)
        self._histograms = {
            metric.name: self._meter.create_histogram(metric.name, unit=_unit(metric), description=metric.meaning)
            for metric in METRICS
            if metric.kind == "histogram"
        }
        for metric in METRICS:
            self._observe(metric)

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

    def read(self, name: CounterName) -> list[tuple[dict[str, str], float, str | None]]:
        """Returns a counter's labels and values, with a sample of what it counted since the last `read`."""
        labels, samples = _LABELS[name], self._samples.pop(name, {})
        return [(dict(zip(labels, key, strict=True)), value, samples.get(key)) for key, value in self._values[name].items()]

    def show(self, name: CounterName, sample: str, **labels: str) -> None:
        """Keeps one sample of what a counter counts, for people; a later one is ignored until `read` takes it. No secrets."""
        samples = self._samples[name]
        key = _key(name, labels)
        if key not in samples and len(samples) < MOST_SAMPLES:
            samples[key] = sample[:SAMPLE_CHARACTERS]

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
        self.record_in(current_trail(), name, value, **labels)

    def record_in(self, trail: Trail | None, name: HistogramName, value: float, **labels: str) -> None:
        """As `record`, for work that belongs to another span than the current one."""
        if trail is None or not trail.sampled:
            self._histograms[name].record(value, labels)
        else:  # an exemplar leads from the histogram to the trace
            context = SpanContext(trail.trace_id, trail.span_id, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
            self._histograms[name].record(value, labels, set_span_in_context(NonRecordingSpan(context)))

    def value(self, name: CounterName | GaugeName, **labels: str) -> float:
        """Returns a counter or gauge as it stands; without labels, the sum over all of them."""
        values = self._values[name]
        return values[_key(name, labels)] if labels else sum(values.values())

    def span(
        self,
        name: str,
        kind: SpanKind,
        parent: Trail | Mapping[str, str] | None = None,
        links: Iterable[Trail | Mapping[str, str]] = (),
        *,
        may_begin: bool = False,
        always: bool = False,
    ) -> contextlib.AbstractContextManager[Span]:
        """Opens a span, which is the current one inside; an exception fails it. Where nothing is traced it is `NO_SPAN`.

        Args:
            parent: the span above, or message headers that carry it; None: the current span, if there is one.
            links: spans, or headers of messages, that it has in hand together.
            may_begin: whether a sampled trace may begin here, by ratio; `always`: without the ratio, for rare work.
        """
        tracing = self.tracing
        if tracing is None:
            return contextlib.nullcontext(NO_SPAN)
        above = _trail(parent) if parent is not None else current_trail()
        linked = [trail for link in links if (trail := _trail(link)) is not None]
        return tracing.within(tracing.begin(name, kind, parent=above, links=linked, may_begin=may_begin, always=always))

    def traced(self, name: str, kind: SpanKind, trail: Trail) -> contextlib.AbstractContextManager[Span]:
        """Opens the first span of a trace that `Tracing.decide` began."""
        tracing = self.tracing
        if tracing is None:
            return contextlib.nullcontext(NO_SPAN)
        return tracing.within(Span(name=name, kind=kind, trail=trail, parent=None, links=(), started_ns=time.time_ns()))

    def exposition(self) -> bytes:
        """Returns all metrics in Prometheus' text form."""
        return generate_latest(REGISTRY)

    def shutdown(self) -> None:
        """Sends the rest, in bounded time."""
        ends_at = time.monotonic() + SHUTDOWN_SECONDS
        if self._pipe is not None:
            self._pipe.close()
        with contextlib.suppress(Exception):
            self._provider.shutdown(timeout_millis=SHUTDOWN_SECONDS * 1000)
        if self._pipe is not None:
            self._pipe.wait(ends_at)

    def _observe(self, metric: Metric) -> None:
        if metric.kind == "histogram":
            return

        def collect(_: CallbackOptions) -> list[Observation]:
            return [
                Observation(value, dict(zip(metric.labels, key, strict=True)))
                for key, value in list(self._values[metric.name].items())
            ]

        if metric.kind == "counter":
            self._meter.create_observable_counter(_instrument(metric), [collect], description=metric.meaning)
        else:
            self._meter.create_observable_gauge(metric.name, [collect], description=metric.meaning)


def _key(name: str, labels: Mapping[str, str]) -> tuple[str, ...]:
    declared = _LABELS[name]
    if tuple(labels) == declared:  # the order that nearly every caller writes, and twice as fast
        return tuple(labels.values())
    return tuple(labels[label] for label in declared)


def _view(metric: Metric) -> View:
    buckets = ExplicitBucketHistogramAggregation(BUCKETS[metric.unit]) if metric.kind == "histogram" else None
    more: dict[str, Any] = {"aggregation_cardinality_limit": MOST_SERIES} if _LIMITED else {}
    return View(instrument_name=_instrument(metric), aggregation=buckets, **more)


def _instrument(metric: Metric) -> str:
    # the exporter appends `_total` itself
    return metric.name.removesuffix("_total") if metric.kind == "counter" else metric.name


def _unit(metric: Metric) -> str:
    # a unit that the name ends with already would be appended again by the exporter
    return "" if metric.name.endswith(metric.unit) else metric.unit


def _trail(carrier: Trail | Mapping[str, str]) -> Trail | None:
    return carrier if isinstance(carrier, Trail) else read_trail(carrier)
