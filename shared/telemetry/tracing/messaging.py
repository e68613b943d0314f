"""The attributes of spans that send or take messages: OpenTelemetry's conventions for messaging, with the names of the broker added.

The conventions are in development and know no NATS yet; `messaging.system` may have a value of one's own, and other libraries use `nats`.
"""

from __future__ import annotations

from typing import Literal

from shared.telemetry.tracing.spans import Span


def describe(
    span: Span,
    *,
    destination: str,
    operation: Literal["send", "process"],
    messages: int | None = None,
    sequence: int | None = None,
    partition: str | None = None,
) -> None:
    """Sets the attributes of a span that has to do with a subject of the broker.

    Args:
        destination: the subject without its partition, or without the number of its connection's life: few values, which stay. Its
            first word is the stream.
        messages: events or rows of the frame, or frames of the batch.
        sequence: of the message in its stream.
    """
    span.set("messaging.system", "nats")
    span.set("messaging.operation.type", operation)
    span.set("messaging.operation.name", span.name.partition(" ")[0])
    span.set("messaging.destination.name", destination)
    span.set("messaging.nats.stream", destination.partition(".")[0].upper())
    if messages is not None:
        span.set("messaging.batch.message_count", messages)
    if sequence is not None:
        span.set("messaging.nats.sequence", sequence)
    if partition is not None:
        span.set("messaging.destination.partition.id", partition)
