"""Turns our spans into those of the SDK, in the thread that exports them."""

from __future__ import annotations

from collections.abc import Callable

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, StatusCode, TraceFlags, TraceState, set_span_in_context

from shared.telemetry.otlp.values import sent_text, sent_value
from shared.telemetry.tracing.spans import Span, Trail


class _Given(IdGenerator):
    """Gives the ids that a span has already."""

    trail = Trail(1, 1, sampled=True)

    def generate_trace_id(self) -> int:
        return self.trail.trace_id

    def generate_span_id(self) -> int:
        return self.trail.span_id


class _Collect(SpanProcessor):
    def __init__(self) -> None:
        self.ended: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span)


def span_export(resource: Resource, exporter: SpanExporter) -> Callable[[list[Span]], bool]:
    """Returns a function that exports spans, for one thread; it returns whether the collector took them."""
    ids, collect = _Given(), _Collect()
    provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, id_generator=ids, shutdown_on_exit=False)
    provider.add_span_processor(collect)
    tracer = provider.get_tracer("penstock")

    def export(spans: list[Span]) -> bool:
        for span in spans:
            ids.trail = span.trail
            # a failed span without a sampled trace: its parent is named although it is not sent
            above = set_span_in_context(NonRecordingSpan(_context(span.parent))) if span.parent else set_span_in_context(_NOTHING)
            made = tracer.start_span(
                sent_text(span.name),
                context=above,
                kind=span.kind,
                attributes={name: sent_value(value) for name, value in span.attributes.items()},
                links=[Link(_context(link)) for link in span.links],
                start_time=span.started_ns,
                record_exception=False,
            )
            if span.error:
                made.set_attribute("error.type", sent_text(span.error))
                made.set_status(StatusCode.ERROR, sent_text(span.what) or None)
            made.end(span.ended_ns)
        batch, collect.ended = collect.ended, []
        return exporter.export(batch) is SpanExportResult.SUCCESS

    return export


def _context(trail: Trail) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if trail.sampled else TraceFlags.DEFAULT)
    state = TraceState.from_header([trail.state]) if trail.state else None
    return SpanContext(trail.trace_id, trail.span_id, is_remote=True, trace_flags=flags, trace_state=state)


_NOTHING = NonRecordingSpan(SpanContext(0, 0, is_remote=False))
