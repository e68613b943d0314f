"""Options of the destination `kafka`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from loader.calls.text import MARKS, Text
from loader.queues.kafka.names import require_topic
from shared.driving.kafka import KafkaOptions
from shared.reading.units import ByteSize, Duration

USER = "user"
KEYS = (USER, "anonymous_id", "none")
MOST_TOPIC, MOST_KEY, MOST_VALUE = 1_000, 8_000, 16 * 1024 * 1024
"""The most characters of a rendered template."""
KNOWN = ("event",)


class Options(KafkaOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of topics."""

    topic: Annotated[str, Meta(description="topic of the events; may be a template, such as `events.{{ event.type }}`")]
    key: Annotated[
        str,
        Meta(
            description="key of a record: user (userId, else anonymousId), anonymous_id, none, or a template such as "
            "`{{ event.context.groupId }}`; but for user and none, all events of the connection go out in one line"
        ),
    ] = USER
    value: Annotated[str | None, Meta(description="template of a record; default: the event as JSON")] = None
    timestamp: Annotated[
        Literal["event", "received"], Meta(description="time of a record: the event's own, or when it was received")
    ] = "event"
    compression: Annotated[Literal["none", "gzip", "snappy", "lz4", "zstd"], Meta(description="compression of batches")] = "lz4"
    batch_events: Annotated[
        int, Meta(ge=1, le=10_000, description="most events in a call, which is a batch for each partition")
    ] = 500
    batch_bytes: Annotated[
        ByteSize,
        Meta(description="most bytes of a batch before compression, and of a record; the brokers' limit is max.message.bytes"),
    ] = field(default_factory=lambda: ByteSize(1_000_000))
    ordered: Annotated[
        bool,
        Meta(description="true: the events of a user arrive in their order; a waiting event holds up later ones of its user"),
    ] = True
    calls_at_once: Annotated[int, Meta(ge=1, le=64, description="calls under way together")] = 4
    rate: Annotated[Annotated[float, Meta(gt=0)] | None, Meta(description="most calls a second; none: unlimited")] = None
    timeout: Annotated[
        Duration,
        Meta(description="longest wait for an acknowledgement; then a new session of the producer sends the batch again"),
    ] = field(default_factory=lambda: Duration(120))
    retry_delay: Annotated[
        Duration, Meta(description="first wait of a failed call; each further wait is three times as long, up to 1h")
    ] = field(default_factory=lambda: Duration(10))
    max_age: Annotated[Duration, Meta(description="an event on which the destination fails for longer becomes a dead letter")] = (
        field(default_factory=lambda: Duration(3 * 86_400))
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if _text("topic", self.topic, MOST_TOPIC).constant:
            require_topic(self.topic)
        if self.key not in KEYS and _text("key", self.key, MOST_KEY).constant:
            raise ValueError(f"key: expected {', '.join(KEYS)}, or a template with {MARKS[0]}")
        if self.value is not None:
            _text("value", self.value, MOST_VALUE)
        if self.timeout <= 0:
            raise ValueError("timeout: expected more than 0")
        if self.batch_bytes < 1_000:
            raise ValueError("batch_bytes: expected 1000 or more")


def _text(option: str, source: str, most: int) -> Text:
    try:
        return Text(source, KNOWN, most)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from error
