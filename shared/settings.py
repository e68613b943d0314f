"""Settings of a process: one Struct per service, filled once from the environment, and the only place that reads it.

A field `admin_port` of a Struct read with prefix `PENSTOCK_` is the variable `PENSTOCK_ADMIN_PORT`. Numbers, booleans, durations
and sizes are read from their text. Options of a plug-in are no settings; they are in the project file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, field

from shared.errors import ConfigError, Problem
from shared.jetstream.topology import DAY, DEAD_DEDUPLICATION_SECONDS, DEDUPLICATION_SECONDS, GIB, TopologySettings
from shared.reading.decode import read_text
from shared.reading.units import ByteSize, Duration

T = TypeVar("T", bound=msgspec.Struct)

_LEAST_SECONDS = {"events_max_age": DEDUPLICATION_SECONDS, "dead_max_age": DEAD_DEDUPLICATION_SECONDS}
"""How long a stream recognises repeats; the broker takes no stream that keeps messages for less."""


_STANDARD = {"otlp_endpoint": "OTEL_EXPORTER_OTLP_ENDPOINT", "otlp_protocol": "OTEL_EXPORTER_OTLP_PROTOCOL"}
"""Variables of OpenTelemetry that hold where ours are not set."""


class ServiceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of every service, prefix `PENSTOCK_`."""

    nats_url: Annotated[str, Meta(description="address of the broker; several, separated by commas, for a cluster")] = (
        "nats://127.0.0.1:4222"
    )
    admin_host: Annotated[str, Meta(description="interface of /live, /ready and /metrics")] = "127.0.0.1"
    admin_port: Annotated[int, Meta(ge=0, le=65535, description="port of /live, /ready and /metrics; 0 chooses a free one")] = 0
    admin_fd: Annotated[
        int | None, Meta(description="listening socket of /live, /ready and /metrics handed down; set by a parent")
    ] = None
    drain_period: Annotated[
        Duration, Meta(description="from SIGTERM to the end; three quarters of it are for finishing work")
    ] = field(default_factory=lambda: Duration(20))
    log_level: Annotated[str, Meta(description="debug, info, warning or error")] = "info"
    log_format: Annotated[str, Meta(description="json (one object a line) or text")] = "json"
    cache_dir: Annotated[
        str | None, Meta(description="where the last good project is kept, so that a service starts while the broker is away")
    ] = None
    otlp_endpoint: Annotated[
        str | None,
        Meta(description="base address of an OpenTelemetry collector; none: no export. Also `OTEL_EXPORTER_OTLP_ENDPOINT`"),
    ] = None
    otlp_protocol: Annotated[
        Literal["http", "http/protobuf", "grpc"],
        Meta(
            description="what the collector speaks at that address: HTTP (port 4318) or gRPC (4317). Also `OTEL_EXPORTER_OTLP_PROTOCOL`"
        ),
    ] = "http"
    otlp_logs: Annotated[bool, Meta(description="whether the lines of the log go to the collector too")] = True
    otlp_period: Annotated[Duration, Meta(description="how often spans and lines of the log are sent")] = field(
        default_factory=lambda: Duration(5)
    )
    trace_ratio: Annotated[float, Meta(ge=0, le=1, description="share of requests, and of frames of feeds, that are traced")] = (
        0.01
    )
    trace_rate: Annotated[
        int, Meta(ge=1, description="most traces that a process begins in a second, and as many at once, at any ratio")
    ] = 20
    replicas: Annotated[int, Meta(ge=1, le=5, description="copies of every stream: 1 on one machine, 3 in a cluster")] = 1
    events_max_age: Annotated[Duration, Meta(description="how long EVENTS keeps frames for replay, at least 2m")] = field(
        default_factory=lambda: Duration(7 * DAY)
    )
    events_max_bytes: Annotated[
        ByteSize, Meta(description="room of EVENTS, or what the broker has; when it is full the edge answers 503")
    ] = field(default_factory=lambda: ByteSize(20 * GIB))
    events_when_short: Annotated[
        Literal["shed", "refuse"],
        Meta(
            description="when room in EVENTS is short: `shed` removes the oldest frames that every reader has passed, "
            "`refuse` keeps them for their age and answers 503 when it is full"
        ),
    ] = "shed"
    deliver_max_frames: Annotated[int, Meta(ge=1, description="frames waiting per connection before the router stops it")] = (
        20_000
    )
    dead_max_age: Annotated[Duration, Meta(description="how long dead letters are kept, at least 2h")] = field(
        default_factory=lambda: Duration(30 * DAY)
    )
    dead_max_bytes: Annotated[
        ByteSize, Meta(description="room of the dead letters; when it is short, the largest holders lose their oldest")
    ] = field(default_factory=lambda: ByteSize(2 * GIB))
    identity_max_bytes: Annotated[
        ByteSize, Meta(description="room of what `identity` keeps of visitors; when it is full, further events stay anonymous")
    ] = field(default_factory=lambda: ByteSize(GIB))

    warnings_period: Annotated[
        Duration, Meta(description="least time between two messages of a process to WARNINGS, at least 100ms")
    ] = field(default_factory=lambda: Duration(60))

    def topology(self) -> TopologySettings:
        """Returns the settings of streams."""
        return TopologySettings(
            replicas=self.replicas,
            events_max_age_seconds=float(self.events_max_age),
            events_max_bytes=int(self.events_max_bytes),
            deliver_max_frames=self.deliver_max_frames,
            dead_max_age_seconds=float(self.dead_max_age),
            dead_max_bytes=int(self.dead_max_bytes),
            identity_max_bytes=int(self.identity_max_bytes),
        )


def read_settings(type_: type[T], prefix: str = "PENSTOCK_", environment: Mapping[str, str] | None = None) -> T:
    """Fills a settings Struct from environment variables named `prefix` + field in capitals; empty ones count as absent.

    Where `OTEL_EXPORTER_OTLP_*` is the name that all programs share, it holds too.

    Raises:
        ConfigError: naming each variable that is wrong or missing, and what was expected.
    """
    source = os.environ if environment is None else environment
    values: dict[str, object] = {}
    problems: list[Problem] = []
    for each in msgspec.structs.fields(type_):
        name = prefix + each.name.upper()
        text = source.get(name, "")
        if text == "" and each.name in _STANDARD:
            name = _STANDARD[each.name]
            text = source.get(name, "")
        if text == "":
            if each.required:
                problems.append(Problem(name, "is not set, and has no default"))
            continue
        try:
            value = values[each.name] = read_text(text, each.type, name)
        except ConfigError as exc:
            problems.extend(exc.problems)
            continue
        least = _LEAST_SECONDS.get(each.name)
        if least is not None and isinstance(value, float) and value < least:
            problems.append(Problem(name, f"expected at least {least:g}s, for which repeats are recognised, got {text}"))
    if problems:
        raise ConfigError(problems)
    return type_(**values)
