"""Spans of the router: one for each frame whose trace the edge sampled, none for the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

from opentelemetry.trace import SpanKind

from router.rules.arrival import Arrival
from shared.jetstream import topology
from shared.telemetry.metrics import Telemetry


def traced(telemetry: Telemetry, name: str, parent: Mapping[str, str], arrival: Arrival) -> AbstractContextManager[None]:
    """Opens the span of a frame, below the span in its message's headers, and puts it into the headers of all parts of the frame."""
    return _span(telemetry, name, parent, arrival) if parent else _NOTHING


@contextmanager
def _span(telemetry: Telemetry, name: str, parent: Mapping[str, str], arrival: Arrival) -> Iterator[None]:
    arrival.trace = parent
    with telemetry.span(name, SpanKind.CONSUMER, parent) as span:
        if span is not None:
            span.set_attribute("messaging.system", "nats")
            span.set_attribute("messaging.operation.type", "process")
            span.set_attribute("messaging.destination.name", topology.EVENTS)
            span.set_attribute("messaging.nats.sequence", arrival.seq)
            span.set_attribute("messaging.batch.message_count", len(arrival))
            headers: dict[str, str] = {}
            telemetry.inject(headers)
            arrival.trace = headers or parent
        yield


_NOTHING = nullcontext()
