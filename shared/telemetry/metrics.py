"""Metrics and traces, declared once here and documented from here.

Metrics are OpenTelemetry instruments. An instrument costs some 11 µs a call, so what is counted often is counted in local
integers that observable instruments read when somebody collects: `count` costs well under a microsecond. They are served at
`/metrics` in Prometheus' form and sent by OTLP when an endpoint is set. Every label has a bounded set of values.

Spans are made per frame at the edge and per load at the end, never per event: the frame's trace travels in its message's headers
through the router, and a load links to the frames it holds. Nothing is traced without an endpoint.
Telemetry never blocks or fails the path.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

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
from shared.telemetry.traces import tracer_provider


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: `labels` are all it may carry."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    meaning: str
    labels: tuple[str, ...] = ()


METRICS: tuple[Metric, ...] = (
    Metric("ingest_events_accepted_total", "counter", "events", "events acknowledged to their senders", ("site", "protocol")),
    Metric(
        "ingest_events_rejected_total", "counter", "events", "events dead-lettered at the edge", ("site", "protocol", "reason")
    ),
    Metric("ingest_events_dropped_total", "counter", "events", "events left out on purpose at the edge", ("site", "reason")),
    Metric(
        "ingest_events_repaired_total", "counter", "events", "events whose JSON was read leniently and written again", ("site",)
    ),
    Metric("ingest_events_spooled_total", "counter", "events", "events acknowledged from the local journal", ("site",)),
    Metric("ingest_requests_total", "counter", "requests", "answers by status code", ("protocol", "status")),
    Metric(
        "ingest_requests_refused_total",
        "counter",
        "requests",
        "requests refused whole, by error code; site and key where they are known",
        ("code", "site", "key"),
    ),
    Metric("ingest_request_seconds", "histogram", "seconds", "from the last byte of a request to its answer", ("protocol",)),
    Metric("ingest_frame_events", "histogram", "events", "events in a published frame"),
    Metric("ingest_inflight_bytes", "gauge", "bytes", "event bytes that wait for their acknowledgement"),
    Metric("ingest_spool_bytes", "gauge", "bytes", "bytes in the local journal"),
    Metric("ingest_spool_fill_ratio", "gauge", "ratio", "part of the journal's room that is taken, 0 to 1"),
    Metric(
        "ingest_key_disagreements_total", "counter", "requests", "requests whose key carriers disagree; the header won", ("site",)
    ),
    Metric(
        "ingest_skew_ignored_total",
        "counter",
        "requests",
        "requests whose sentAt is no time, or further off than the site's max_clock_skew; their times stay as sent",
        ("site",),
    ),
    Metric(
        "ingest_members_ignored_total",
        "counter",
        "members",
        "parts of requests beside their events that mean nothing here",
        ("site", "reason"),
    ),
    Metric(
        "ingest_agents_unparsed_total",
        "counter",
        "requests",
        "requests whose user agent was not parsed, because too many unknown ones came at once; its text is kept",
        ("site",),
    ),
    Metric("ingest_connections", "gauge", "connections", "open connections, WebSockets among them"),
    Metric(
        "ingest_connections_refused_total",
        "counter",
        "connections",
        "connections refused or ended: too many, a head or an answer nobody finished, a broken preface",
    ),
    Metric("ingest_unfinished_bytes", "gauge", "bytes", "bytes of bodies, heads and WebSocket frames that are being read"),
    Metric("ingest_tasks", "gauge", "tasks", "tasks of the process"),
    Metric("ingest_websockets", "gauge", "connections", "open WebSocket connections"),
    Metric("router_events_forwarded_total", "counter", "events", "events put into a connection's queue", ("connection",)),
    Metric("router_events_dropped_total", "counter", "events", "events left out on purpose", ("connection", "reason")),
    Metric("router_events_dead_total", "counter", "events", "events dead-lettered by the router", ("site", "reason")),
    Metric("router_frames_total", "counter", "frames", "frames handled", ("site",)),
    Metric("router_lag_frames", "gauge", "frames", "frames of a site not handled yet", ("site",)),
    Metric("router_oldest_seconds", "gauge", "seconds", "age of the frame being handled", ("site",)),
    Metric(
        "router_connection_stopped", "gauge", "1 or 0", "1 while a connection's queue is full and it catches up", ("connection",)
    ),
    Metric("router_dedupe_ids", "gauge", "ids", "message ids remembered", ("site",)),
    Metric(
        "router_dedupe_shortened_total", "counter", "times", "the window forgot ids early because its cap was reached", ("site",)
    ),
    Metric(
        "router_filter_errors_total",
        "counter",
        "events",
        "conditions that failed to evaluate; the event was left out",
        ("connection",),
    ),
    Metric("loader_rows_total", "counter", "rows", "rows committed", ("connection",)),
    Metric(
        "loader_rows_overflow_total",
        "counter",
        "rows",
        "rows in overflow_table, because the connection loads max_tables tables already",
        ("connection",),
    ),
    Metric("loader_events_total", "counter", "events", "events whose rows are committed", ("connection",)),
    Metric("loader_events_dropped_total", "counter", "events", "events left out on purpose", ("connection", "reason")),
    Metric("loader_events_dead_total", "counter", "events", "events dead-lettered by the loader", ("connection", "reason")),
    Metric("loader_events_repeated_total", "counter", "events", "redelivered events that were loaded before", ("connection",)),
    Metric("loader_values_unmapped_total", "counter", "values", "values that did not fit their column", ("connection",)),
    Metric(
        "loader_values_changed_total",
        "counter",
        "values",
        "values that no column can hold as they are: numbers_not_finite became null, nul_characters_replaced and "
        "half_surrogates_replaced became U+FFFD, times_cut_to_microseconds lost finer digits, "
        "type_hints_ignored were no types, hints_left_out were hints that no function wrote",
        ("connection", "reason"),
    ),
    Metric(
        "loader_internal_errors_total",
        "counter",
        "errors",
        "exceptions of our own code in shaping or loading; the events they concern are dead letters (internal_error)",
        ("connection",),
    ),
    Metric(
        "loader_destination_went_back_total",
        "counter",
        "times",
        "an older state of the destination was put back; what is missing is read again from EVENTS",
        ("connection",),
    ),
    Metric("loader_loads_total", "counter", "loads", "loads by result", ("connection", "result")),
    Metric("loader_load_seconds", "histogram", "seconds", "duration of the phases of a load", ("connection", "phase")),
    Metric(
        "loader_latency_seconds",
        "histogram",
        "seconds",
        "from acceptance at the edge to the committed row, oldest of a load",
        ("connection",),
    ),
    Metric("loader_waiting_frames", "gauge", "frames", "frames in a connection's queue", ("connection",)),
    Metric("loader_oldest_seconds", "gauge", "seconds", "age of the oldest event not loaded yet", ("connection",)),
    Metric("loader_last_load_seconds", "gauge", "seconds", "when the last load was committed (epoch)", ("connection",)),
    Metric(
        "loader_table_failing",
        "gauge",
        "tables",
        'tables that fail now, whose rows wait in RETRY; beyond 20 of a connection the rest is one, "(others)"',
        ("connection", "table"),
    ),
    Metric("loader_aside_rows", "gauge", "rows", "rows that are set aside because their table fails", ("connection",)),
    Metric("loader_retry_rows_total", "counter", "rows", "rows set aside because their table fails", ("connection",)),
    Metric(
        "driver_errors_unknown_total",
        "counter",
        "errors",
        "errors of a driver that its plug-in does not know; taken as transient",
        ("plugin",),
    ),
    Metric(
        "account_accepted_events",
        "gauge",
        "events",
        "events of a site accepted and routed; with `account_unrouted_events`, all that were accepted",
        ("site",),
    ),
    Metric("account_unrouted_events", "gauge", "events", "events of a site that wait in EVENTS for the router", ("site",)),
    Metric(
        "account_received_events",
        "gauge",
        "events",
        "events accepted for a connection since it began: equals forwarded + dropped + dead of the router + waiting in `events`",
        ("connection",),
    ),
    Metric("account_forwarded_events", "gauge", "events", "events the router put into a connection's queue", ("connection",)),
    Metric(
        "account_replayed_events",
        "gauge",
        "events",
        "events that replays put into a connection's queue and that have ended",
        ("connection",),
    ),
    Metric("account_delivered_events", "gauge", "events", "events whose rows are all committed", ("connection",)),
    Metric("account_dead_events", "gauge", "events", "events in the dead letters", ("connection", "stage", "reason")),
    Metric("account_dropped_events", "gauge", "events", "events left out on purpose", ("connection", "stage", "reason")),
    Metric(
        "account_waiting_events",
        "gauge",
        "events",
        "events that wait, counted where they do: `events` (for a connection behind), `queue`, `aside` (for a failing table)",
        ("connection", "place"),
    ),
    Metric(
        "stream_fill_ratio",
        "gauge",
        "ratio",
        "part of a stream's room that is taken, 0 to 1; of DELIVER that of the fullest queue",
        ("stream",),
    ),
    Metric(
        "events_shed_frames_total",
        "counter",
        "frames",
        "frames of EVENTS removed before their age for want of room; every reader had passed them",
    ),
    Metric(
        "dead_letters_evicted_total",
        "counter",
        "events",
        "dead letters removed before their age, because their site or connection took more than its share of a full DEAD",
        ("stage", "source"),
    ),
    Metric(
        "dead_letters_refused_total",
        "counter",
        "events",
        "refused events that are no dead letters, because DEAD had no room for them",
        ("stage", "source"),
    ),
    Metric("config_revision", "gauge", "revision", "revision of the project in force"),
)

_BY_NAME: Mapping[str, Metric] = {metric.name: metric for metric in METRICS}
_LABELS: Mapping[str, tuple[str, ...]] = {metric.name: metric.labels for metric in METRICS}
_GAUGES = tuple(metric.name for metric in METRICS if metric.kind == "gauge")
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

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Adds to a counter."""
        self._values[name][_key(name, labels)] += amount

    def counter(self, name: str, **labels: str) -> Callable[[float], None]:
        """Returns what adds to one counter, for what every request adds to: half the price of `count`."""
        values, key = self._values[name], _key(name, labels)

        def add(amount: float) -> None:
            values[key] += amount

        return add

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Sets a gauge."""
        self._values[name][_key(name, labels)] = value

    def forget(self, *names: str, **labels: str) -> None:
        """Takes away what carries these labels, of the named metrics or of all gauges: its site or connection is not ours any more."""
        for name in names or _GAUGES:
            metric = _BY_NAME[name]
            if not labels.keys() <= set(metric.labels):
                continue
            places = [(metric.labels.index(label), value) for label, value in labels.items()]
            values = self._values[name]
            for key in [key for key in values if all(key[place] == value for place, value in places)]:
                del values[key]

    def record(self, name: str, value: float, **labels: str) -> None:
        """Records a value in a histogram; for requests, frames and loads, never per event."""
        self._histograms[name].record(value, labels)

    def value(self, name: str, **labels: str) -> float:
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
        """Sends what is left, in bounded time."""
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
    if tuple(labels) == declared:  # as nearly every caller writes them, and twice as fast
        return tuple(labels.values())
    return tuple(labels[label] for label in declared)


def _unit(metric: Metric) -> str:
    # a unit that the name ends with already would be appended again by the exporter
    return "" if metric.name.endswith(metric.unit) else metric.unit


def _span_of(headers: Mapping[str, str]) -> Span | None:
    if "traceparent" not in headers:
        return None
    return trace.get_current_span(_PROPAGATOR.extract(dict(headers)))
