"""Prepared requests of every protocol: the events of `bench/kit/events.py` as that protocol's own client sends them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import random
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from bench.kit import snowplow
from bench.kit.events import bodies
from bench.kit.pump import TOKEN

KIND = "flat"
SECRET = "bench-secret"  # of this benchmark
WEBHOOK = "github"
"""The name of the webhook that `deliveries` calls."""
AT = 1_788_264_000_000_000_000

_encode = msgspec.json.encode
_decode = msgspec.json.decode


def requests_in(protocol: str, count: int, per_request: int, host: str, key: str, event_bytes: int = 0) -> list[bytes]:
    """Returns `count` whole HTTP requests of `per_request` events; ids hold `TOKEN`.

    Args:
        event_bytes: events of Segment's form are filled up to so many bytes with a longer text.
    """
    if protocol in snowplow.KINDS:
        return snowplow.requests_of(protocol, count, per_request, host)
    events = [_decode(body) for body in bodies(KIND, count * per_request, TOKEN)]
    for event in events if event_bytes else ():
        event["properties"]["note"] += "x" * (event_bytes - len(_encode(event)))
    make = MAKERS[protocol]
    return [make(events[start : start + per_request], host, key) for start in range(0, len(events), per_request)]


def _request(path: str, host: str, body: bytes, **headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def _segment(events: list[dict[str, Any]], host: str, key: str) -> bytes:
    body = _encode(events[0]) if len(events) == 1 else _encode({"batch": events})
    path = f"/v1/{events[0]['type'] if len(events) == 1 else 'batch'}"
    return _request(path, host, body, X_Write_Key=key, Content_Type="application/json")


def _rudder(events: list[dict[str, Any]], host: str, key: str) -> bytes:
    """As RudderStack's browser SDK: Basic and its own header."""
    basic = "Basic " + base64.b64encode(f"{key}:".encode()).decode()
    body = _encode(events[0]) if len(events) == 1 else _encode({"batch": events, "sentAt": "2026-09-01T12:00:00.000Z"})
    path = f"/v1/{events[0]['type'] if len(events) == 1 else 'batch'}"
    return _request(path, host, body, Authorization=basic, AnonymousId="a1", Content_Type="application/json")


def _jitsu(events: list[dict[str, Any]], host: str, key: str) -> bytes:
    path = f"/api/s/{events[0]['type']}" if len(events) == 1 else "/api/s/s2s/batch"
    body = _encode(events[0]) if len(events) == 1 else _encode({"batch": events})
    return _request(path, host, body, X_Write_Key=key, Content_Type="application/json")


def _jitsu_classic(events: list[dict[str, Any]], host: str, key: str) -> bytes:
    """As @jitsu/sdk-js: an array, and the key in the query and in each event."""
    body = _encode(_classic_events(events, key))
    return _request(f"/api/v1/event?token={key}", host, body, Content_Type="application/json")


def _classic_events(events: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    made = []
    for event in events:
        context = {
            "event_id": event["messageId"], "user": {"anonymous_id": event.get("anonymousId") or "a1", "id": event.get("userId")}, "ids": {},
            "utc_time": "2026-09-01T12:00:00.000000Z", "local_tz_offset": 0, "utm": {}, "click_id": {}, "doc_path": "/a",
        }  # fmt: skip
        name = {"event_type": event.get("event") or event["type"], "api_key": key, "src": "jitsu"}
        made.append({**context, **name, **event.get("properties", {})})
    return made


def _classic(events: list[dict[str, Any]], host: str, key: str) -> bytes:
    """As a bulk upload: a file with an event a line."""
    lines = b"\n".join(_encode(event) for event in _classic_events(events, key))
    return _request("/api/v1/events/bulk", host, lines, X_Auth_Token=key, Content_Type="application/x-ndjson")


def _webhook(events: list[dict[str, Any]], host: str, key: str) -> bytes:  # noqa: ARG001  # the address is the key
    """As GitHub delivers: signed, each delivery with an id of its own."""
    body = _encode({"action": "opened", **events[0]})
    sign = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    return _request(
        f"/webhooks/{WEBHOOK}",
        host,
        body,
        Accept="*/*",
        User_Agent="GitHub-Hookshot/044aadd",
        X_GitHub_Delivery=hashlib.md5(body, usedforsecurity=False).hexdigest(),
        X_GitHub_Event="issues",
        X_GitHub_Hook_ID="292430182",
        X_Hub_Signature_256=f"sha256={sign}",
        Content_Type="application/json",
    )


def _spans(events: list[dict[str, Any]], host: str, key: str) -> bytes:
    """As the batch processor of OpenTelemetry's SDKs: protobuf, spans of HTTP servers."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

    chance = random.Random(events[0]["messageId"])
    spans = [
        Span(
            trace_id=chance.randbytes(16),
            span_id=chance.randbytes(8),
            parent_span_id=chance.randbytes(8),
            name="GET /orders/{id}",
            kind=Span.SPAN_KIND_SERVER,
            start_time_unix_nano=AT + number * 1000,
            end_time_unix_nano=AT + number * 1000 + 12_345_678,
            attributes=[
                _attribute("http.request.method", "GET"),
                _attribute("http.route", "/orders/{id}"),
                _attribute("url.path", f"/orders/{number}"),
                _attribute("url.scheme", "https"),
                _attribute("server.address", "shop.example.com"),
                _attribute("server.port", 443),
                _attribute("http.response.status_code", 200),
                _attribute("network.protocol.version", "1.1"),
                _attribute("user_agent.original", "Mozilla/5.0 (X11; Linux x86_64) Chrome/139.0 Safari/537.36"),
                _attribute("enduser.id", event["userId"]),
            ],
            status=Status(),
            flags=256,
        )
        for number, event in enumerate(events)
    ]
    held = ScopeSpans(scope=_scope("opentelemetry.instrumentation.asgi"), spans=spans)
    export = ExportTraceServiceRequest(resource_spans=[ResourceSpans(resource=_resource(), scope_spans=[held])])
    return _request("/v1/traces", host, export.SerializeToString(), X_Write_Key=key, Content_Type="application/x-protobuf")


def _otlp(events: list[dict[str, Any]], host: str, key: str) -> bytes:
    """As OpenTelemetry's exporters: protobuf, and the id as an attribute."""
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue
    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs, SeverityNumber

    records = [
        LogRecord(
            time_unix_nano=AT,
            observed_time_unix_nano=AT + 1,
            severity_number=SeverityNumber.SEVERITY_NUMBER_INFO,
            severity_text="INFO",
            body=AnyValue(string_value=str(event.get("event"))),
            attributes=[
                _attribute("id", event["messageId"]),
                *(_attribute(*each) for each in event.get("properties", {}).items()),
            ],
        )
        for event in events
    ]
    held = ScopeLogs(scope=_scope("shop.orders"), log_records=records)
    export = ExportLogsServiceRequest(resource_logs=[ResourceLogs(resource=_resource(), scope_logs=[held])])
    return _request("/v1/logs", host, export.SerializeToString(), X_Write_Key=key, Content_Type="application/x-protobuf")


def _resource() -> Any:
    from opentelemetry.proto.resource.v1.resource_pb2 import Resource

    said = {"telemetry.sdk.language": "python", "telemetry.sdk.name": "opentelemetry", "telemetry.sdk.version": "1.37.0"}
    return Resource(attributes=[_attribute(*each) for each in {**said, "service.name": "shop"}.items()])


def _scope(name: str) -> Any:
    from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope

    return InstrumentationScope(name=name, version="0.58b0")


def _attribute(name: str, value: Any) -> Any:
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

    if isinstance(value, bool):
        return KeyValue(key=name, value=AnyValue(bool_value=value))
    if isinstance(value, int):
        return KeyValue(key=name, value=AnyValue(int_value=value))
    if isinstance(value, float):
        return KeyValue(key=name, value=AnyValue(double_value=value))
    return KeyValue(key=name, value=AnyValue(string_value=value if isinstance(value, str) else _encode(value).decode()))


MAKERS: Mapping[str, Callable[[list[dict[str, Any]], str, str], bytes]] = {
    "segment": _segment,
    "rudder": _rudder,
    "jitsu": _jitsu,
    "jitsu_classic": _jitsu_classic,
    "jitsu_classic_bulk": _classic,
    "otlp": _otlp,
    "otlp_spans": _spans,
    "webhook": _webhook,
}
"""By protocol; Snowplow's are in `bench/kit/snowplow.py`."""
