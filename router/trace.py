"""Spans of the router: one for each frame that it routes, below the edge's, and below that one for each queue that gets a part of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

from opentelemetry.trace import SpanKind

from router.rules.arrival import Arrival
from shared.telemetry.metrics import Telemetry
from shared.telemetry.tracing.messaging import describe
from shared.telemetry.tracing.spans import TRACEPARENT


def traced(telemetry: Telemetry, name: str, parent: Mapping[str, str], arrival: Arrival) -> AbstractContextManager[None]:
    """Opens the span of a frame, and puts it into the headers of all parts of the frame.

    Args:
        name: what is done with it, and its subject.
        parent: headers of its message that carry a trace; they are passed on if nothing is traced here.
    """
    arrival.trace = parent
    return _NOTHING if telemetry.tracing is None else _span(telemetry, name, parent, arrival)


@contextmanager
def _span(telemetry: Telemetry, name: str, parent: Mapping[str, str], arrival: Arrival) -> Iterator[None]:
    with telemetry.span(name, SpanKind.CONSUMER, parent) as span:
        describe(span, destination=name.partition(" ")[2], operation="process", messages=len(arrival), sequence=arrival.seq)
        arrival.trace = span.headers
        yield


def sending(
    telemetry: Telemetry, subject: str, trace: Mapping[str, str], events: int
) -> AbstractContextManager[Mapping[str, str]]:
    """Opens the span of a part of a frame, until its queue has it; returns the headers that carry it on.

    Args:
        subject: the queue's, without a life's number.
        trace: headers of the frame's span; where its trace is not sampled, they go on as they are.
    """
    if telemetry.tracing is None or not trace.get(TRACEPARENT, "").endswith("-01"):
        return nullcontext(trace)
    return _sending(telemetry, subject, trace, events)


@contextmanager
def _sending(telemetry: Telemetry, subject: str, trace: Mapping[str, str], events: int) -> Iterator[Mapping[str, str]]:
    with telemetry.span(f"send {subject}", SpanKind.PRODUCER, trace) as span:
        describe(span, destination=subject, operation="send", messages=events)
        yield span.headers


_NOTHING = nullcontext()
