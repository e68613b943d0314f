"""The messages of OpenTelemetry in protobuf, imported when they are first needed. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any


@cache
def messages() -> Mapping[str, Any]:
    """Returns the messages by name; imports protobuf, which takes some megabytes, with the first request that has them."""
    from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
    from opentelemetry.proto.resource.v1.resource_pb2 import Resource
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    return {"logs": LogRecord, "traces": Span, "resource": Resource, "scope": InstrumentationScope}


@cache
def decode_error() -> type[Exception]:
    """Returns what protobuf raises for bytes that are no message."""
    from google.protobuf.message import DecodeError

    error: type[Exception] = DecodeError
    return error
