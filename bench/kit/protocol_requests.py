"""Prepared requests of every protocol: the events of `bench/kit/events.py` as that protocol's own client sends them."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from bench.kit.events import bodies
from bench.kit.pump import TOKEN

KIND = "flat"

_encode = msgspec.json.encode
_decode = msgspec.json.decode


def requests_in(protocol: str, count: int, per_request: int, host: str, key: str) -> list[bytes]:
    """Returns `count` whole HTTP requests of `per_request` events; ids hold `TOKEN`."""
    events = [_decode(body) for body in bodies(KIND, count * per_request, TOKEN)]
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
    made = []
    for event in events:
        context = {
            "event_id": event["messageId"], "user": {"anonymous_id": event.get("anonymousId") or "a1", "id": event.get("userId")}, "ids": {},
            "utc_time": "2026-09-01T12:00:00.000000Z", "local_tz_offset": 0, "utm": {}, "click_id": {}, "doc_path": "/a",
        }  # fmt: skip
        name = {"event_type": event.get("event") or event["type"], "api_key": key, "src": "jitsu"}
        made.append({**context, **name, **event.get("properties", {})})
    return _request(f"/api/v1/event?token={key}", host, _encode(made), Content_Type="application/json")


def _otlp(events: list[dict[str, Any]], host: str, key: str) -> bytes:
    """As OpenTelemetry's exporters: protobuf, and the id as an attribute."""
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
    from opentelemetry.proto.resource.v1.resource_pb2 import Resource

    def attribute(name: str, value: Any) -> KeyValue:
        return KeyValue(key=name, value=AnyValue(string_value=str(value)))

    records = [
        LogRecord(
            time_unix_nano=1_788_264_000_000_000_000,
            severity_text="INFO",
            body=AnyValue(string_value=str(event.get("event"))),
            attributes=[attribute("id", event["messageId"]), *(attribute(*each) for each in event.get("properties", {}).items())],
        )
        for event in events
    ]
    resource = Resource(attributes=[attribute("service.name", "shop")])
    export = ExportLogsServiceRequest(
        resource_logs=[ResourceLogs(resource=resource, scope_logs=[ScopeLogs(log_records=records)])]
    )
    return _request("/v1/logs", host, export.SerializeToString(), X_Write_Key=key, Content_Type="application/x-protobuf")


MAKERS: Mapping[str, Callable[[list[dict[str, Any]], str, str], bytes]] = {
    "segment": _segment,
    "rudder": _rudder,
    "jitsu": _jitsu,
    "jitsu_classic": _jitsu_classic,
    "otlp": _otlp,
}
"""By protocol."""
