"""OpenTelemetry's logs and spans: protobuf as its own library writes it, the same in JSON, and what a request is answered."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from google.rpc import status_pb2
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from ingest.contract import Accepted, Admission, HttpRequest, Parsed, Refusal
from ingest.protocols import otlp
from ingest.protocols.otlp import cut
from tests.unit.ingest.desks import CountingDesk, post

AT = 1_788_264_000_123_456_789
TRACE, SPAN = bytes(range(16)), bytes(range(8))
KEY = {"x-write-key": "web"}


def text(key: str, value: str) -> KeyValue:
    return KeyValue(key=key, value=AnyValue(string_value=value))


RESOURCE = Resource(attributes=[text("service.name", "shop"), KeyValue(key="process.pid", value=AnyValue(int_value=7))])
SCOPE = InstrumentationScope(name="shop.orders", version="1.2")
LOG = LogRecord(
    time_unix_nano=AT,
    observed_time_unix_nano=AT + 1,
    severity_number=9,  # type: ignore[arg-type]  # a number stands for its name
    severity_text="INFO",
    body=AnyValue(string_value="sold"),
    trace_id=TRACE,
    span_id=SPAN,
    attributes=[
        text("user.id", "u1"),
        KeyValue(key="total", value=AnyValue(double_value=9.5)),
        KeyValue(key="paid", value=AnyValue(bool_value=True)),
        KeyValue(key="big", value=AnyValue(int_value=2**62 + 1)),
        KeyValue(key="tags", value=AnyValue(array_value=ArrayValue(values=[AnyValue(string_value="a"), AnyValue(int_value=1)]))),
        KeyValue(key="at", value=AnyValue(kvlist_value=KeyValueList(values=[text("city", "Ulm")]))),
        KeyValue(key="raw", value=AnyValue(bytes_value=b"\x00\xff")),
        KeyValue(key="nothing"),
    ],
)  # fmt: skip
SOLD = Span(
    trace_id=TRACE,
    span_id=SPAN,
    parent_span_id=b"\x09" * 8,
    name="POST /orders",
    kind=2,  # type: ignore[arg-type]
    start_time_unix_nano=AT,
    end_time_unix_nano=AT + 1500,
    attributes=[text("http.request.method", "POST")],
    events=[Span.Event(time_unix_nano=AT + 5, name="exception", attributes=[text("exception.type", "KeyError")])],
    links=[Span.Link(trace_id=TRACE, span_id=SPAN)],
    status=Status(code=2, message="broken"),  # type: ignore[arg-type]
)  # fmt: skip


def logs(*records: LogRecord, resource: Resource = RESOURCE) -> ExportLogsServiceRequest:
    return ExportLogsServiceRequest(
        resource_logs=[ResourceLogs(resource=resource, scope_logs=[ScopeLogs(scope=SCOPE, log_records=records)])]
    )


def spans(*records: Span) -> ExportTraceServiceRequest:
    return ExportTraceServiceRequest(
        resource_spans=[ResourceSpans(resource=RESOURCE, scope_spans=[ScopeSpans(scope=SCOPE, spans=records)])]
    )


def hexed(value: Any) -> Any:
    """JSON of OTLP: ids are hex there, where the JSON of protobuf has base64."""
    if isinstance(value, list):
        return [hexed(each) for each in value]
    if not isinstance(value, dict):
        return value
    ids = {"traceId": TRACE.hex(), "spanId": SPAN.hex(), "parentSpanId": "09" * 8}
    return {name: ids[name] if name in ids else hexed(each) for name, each in value.items()}


def asked(message: Any, *, packed: bool, path: str = "") -> HttpRequest:
    path = path or ("/v1/traces" if isinstance(message, ExportTraceServiceRequest) else "/v1/logs")
    if packed:
        body = message if isinstance(message, bytes) else message.SerializeToString()
        return post(path, body, headers={**KEY, "content-type": "application/x-protobuf"})
    body = (
        message if isinstance(message, bytes) else json.dumps(hexed(MessageToDict(message, use_integers_for_enums=True))).encode()
    )
    return post(path, body, headers={**KEY, "content-type": "application/json"})


def parsed(request: HttpRequest, desk: CountingDesk | None = None) -> Parsed:
    result = otlp.parse(request, desk or CountingDesk())
    assert isinstance(result, Parsed), result
    return result


def events(result: Parsed) -> list[dict[str, Any]]:
    return [json.loads(bytes(body)) for body in result.bodies]


@pytest.mark.parametrize("packed", [True, False])
def test_a_log_record_is_an_event(packed: bool) -> None:
    result = parsed(asked(logs(LOG), packed=packed))
    assert result.rejects == []
    [event] = events(result)
    assert event.pop("messageId").endswith("-0")
    assert event == {
        "type": "log",
        "userId": "u1",
        "timestamp": "2026-09-01T12:00:00.123456Z",
        "properties": {
            "body": "sold",
            "severity_number": 9,
            "severity_text": "INFO",
            "trace_id": TRACE.hex(),
            "span_id": SPAN.hex(),
            "time_unix_nano": AT,
            "observed_time_unix_nano": AT + 1,
            "attributes": {
                "user.id": "u1",
                "total": 9.5,
                "paid": True,
                "big": 2**62 + 1,
                "tags": ["a", 1],
                "at": {"city": "Ulm"},
                "raw": "AP8=",
            },
            "resource": {"service.name": "shop", "process.pid": 7},
            "scope": {"name": "shop.orders", "version": "1.2"},
        },
    }


@pytest.mark.parametrize("packed", [True, False])
def test_a_span_is_an_event_with_its_own_id(packed: bool) -> None:
    result = parsed(asked(spans(SOLD), packed=packed))
    assert result.rejects == []
    [event] = events(result)
    assert list(event["properties"])[:4] == ["trace_id", "span_id", "parent_span_id", "name"]  # the order of new columns
    assert event["messageId"] == result.heads[0].message_id == f"{TRACE.hex()}-{SPAN.hex()}"
    properties = event["properties"]
    assert (event["type"], properties["name"], properties["kind"]) == ("span", "POST /orders", "server")
    assert (properties["status"], properties["status_message"], properties["duration_nanoseconds"]) == ("error", "broken", 1500)
    assert properties["parent_span_id"] == "09" * 8
    assert properties["events"] == [{"name": "exception", "time_unix_nano": AT + 5, "attributes": {"exception.type": "KeyError"}}]
    assert properties["links"] == [{"trace_id": TRACE.hex(), "span_id": SPAN.hex(), "attributes": {}}]


@pytest.mark.parametrize("packed", [True, False])
def test_records_are_judged_one_by_one_and_the_answer_counts_the_rejected(packed: bool) -> None:
    nameless = Span(name="no ids")
    big = Span(trace_id=TRACE, span_id=SPAN, name="x" * 300_000)
    request = asked(spans(SOLD, nameless, big, SOLD), packed=packed)
    result = parsed(request)
    assert len(result.heads) == 2
    assert [(each.position, str(each.reason)) for each in result.rejects] == [(1, "missing_id"), (2, "too_large")]
    reply = otlp.reply(request, Accepted(2, result.rejects))
    if packed:
        success = ExportTraceServiceResponse.FromString(reply.body).partial_success
        assert (reply.content_type, success.rejected_spans) == ("application/x-protobuf", 2)
        assert success.error_message.startswith("missing_id: ")
    else:
        assert json.loads(reply.body)["partialSuccess"]["rejectedSpans"] == "2"
    full = otlp.reply(request, Accepted(4))
    assert full.body == (ExportTraceServiceResponse().SerializeToString() if packed else b"{}")


@pytest.mark.parametrize("packed", [True, False])
def test_a_dead_letter_is_an_export_of_its_own_that_can_be_judged_again(packed: bool) -> None:
    result = parsed(asked(logs(LOG, LogRecord(trace_id=b"\x01" * 3), LOG), packed=packed))
    if not packed:  # hexed() gives every record the same good id
        result = parsed(
            asked(json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": [{"traceId": "01"}]}]}]}).encode(), packed=False)
        )
    [reject] = result.rejects
    assert str(reject.reason) == "wrong_type"
    if packed:
        alone = ExportLogsServiceRequest.FromString(reject.body)
        assert alone == logs(LogRecord(trace_id=b"\x01" * 3))
        mended = logs(LOG).SerializeToString()
    else:
        assert json.loads(reject.body)["resourceLogs"][0]["scopeLogs"][0]["logRecords"] == [{"traceId": "01"}]
        mended = reject.body.replace(b'"01"', b'"%s"' % TRACE.hex().encode())
    again = Parsed(result.admission, form=result.form)
    otlp.judge_again(again, mended, result.form, lambda: "again")
    assert [(head.message_id, head.type) for head in again.heads] == [("again", "log")]
    event = otlp.as_event(mended, result.form)
    assert event is not None
    assert json.loads(event)["type"] == "log"
    still = Parsed(result.admission, form=result.form)
    otlp.judge_again(still, reject.body, result.form, lambda: "again")
    assert [str(each.reason) for each in still.rejects] == ["wrong_type"]


def test_a_request_sent_again_has_the_same_ids_and_another_has_others() -> None:
    def ids(message: Any) -> list[str]:
        return [head.message_id for head in parsed(asked(message, packed=True)).heads]

    assert ids(logs(LOG, LOG)) == ids(logs(LOG, LOG))
    assert len(set(ids(logs(LOG, LOG)))) == 2
    assert not set(ids(logs(LOG, LOG))) & set(ids(logs(LOG)))


@pytest.mark.parametrize("packed", [True, False])
def test_a_refusal_is_in_the_encoding_of_the_request(packed: bool) -> None:
    request = asked(logs(LOG), packed=packed)
    stranger = request._replace(headers={**request.headers, "x-write-key": "nobody"})
    refused = otlp.parse(stranger, CountingDesk())
    assert isinstance(refused, Refusal)
    assert refused.code == "unknown_key"
    reply = otlp.reply(request, Refusal(503, "unavailable", "later", retry_after=3))
    assert (reply.status, reply.headers["Retry-After"]) == (503, "3")
    if packed:
        status = status_pb2.Status.FromString(reply.body)
        assert (status.code, status.message) == (14, "unavailable: later")
    else:
        assert json.loads(reply.body) == {"code": 14, "message": "unavailable: later"}


@pytest.mark.parametrize(
    ("body", "packed", "code"),
    [
        (logs(LOG).SerializeToString()[:-5], True, "invalid_protobuf"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", True, "invalid_protobuf"),
        (b"\x0b", True, "invalid_protobuf"),
        (b'{"resourceLogs":[', False, "invalid_json"),
        (b'{"resourceLogs":5}', False, "invalid_batch"),
        (b"[]", False, "invalid_batch"),
        (b"", False, "empty_body"),
        (b"\x0a\x80\x80\x80\x01" + b"\x12\x00" * 1_048_576, True, "too_many_events"),
        (b"\x08\x00" * 4_000_000, True, "invalid_protobuf"),
        (b'{"resourceLogs":[' + b"{}," * 2_700_000 + b"{}]}", False, "too_many_events"),
        (b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[' + b"{}," * 2_700_000 + b"{}]}]}]}", False, "too_many_events"),
        (logs(*[LogRecord()] * 10_001).SerializeToString(), True, "too_many_events"),
    ],
)  # fmt: skip
def test_a_body_that_is_no_export_is_refused(body: bytes, packed: bool, code: str) -> None:
    result = otlp.parse(asked(body, packed=packed, path="/v1/logs"), CountingDesk())
    assert isinstance(result, Refusal), result
    assert result.code == code


def test_a_large_resource_does_not_multiply() -> None:
    large = Resource(attributes=[text("a", "x" * 200_000)])
    refused = otlp.parse(asked(logs(*[LOG] * 1000, resource=large), packed=True), CountingDesk())
    assert isinstance(refused, Refusal)
    assert (refused.status, refused.code) == (413, "context_too_large")
    # in JSON a byte may become six
    wide = Resource(attributes=[text("a", "\x01" * 40_000)])
    result = parsed(asked(logs(*[LOG] * 800, resource=wide), packed=True))
    assert sum(map(len, result.bodies)) < 40 * 2**20
    assert {str(each.reason) for each in result.rejects} == {"too_large"}
    assert len(result.heads) + len(result.rejects) == 800


@pytest.mark.parametrize("packed", [True, False])
def test_records_share_the_bytes_of_their_resource_and_scope(packed: bool) -> None:
    # a copy for each of ten thousand records made gigabytes of a body of megabytes
    body = asked(logs(LOG, LOG, LOG), packed=packed).body
    pieces = cut.cut(body, "logs", Admission("shop", "web", "server", cut.NO_LIMITS), packed=packed)
    assert not isinstance(pieces, Refusal)
    assert len(pieces) == 3
    assert len({id(each.resource) for each in pieces}) == len({id(each.scope) for each in pieces}) == 1


def test_lists_without_end_are_not_built() -> None:
    for record in (
        LogRecord(attributes=[KeyValue()] * 5001),
        LogRecord(body=AnyValue(array_value=ArrayValue(values=[AnyValue()] * 5001))),
        LogRecord(body=AnyValue(kvlist_value=KeyValueList(values=[KeyValue()] * 5001))),
    ):
        assert [str(each.reason) for each in parsed(asked(logs(record), packed=True)).rejects] == ["too_many_keys"]
    many = [KeyValue()] * 5001
    assert [str(each.reason) for each in parsed(asked(logs(LOG, resource=Resource(attributes=many)), packed=True)).rejects] == [
        "too_many_keys"
    ]
    assert [
        str(each.reason)
        for each in parsed(asked(spans(Span(trace_id=TRACE, span_id=SPAN, events=[Span.Event()] * 5001)), packed=True)).rejects
    ] == ["too_many_keys"]


def test_odd_values_cost_their_record_only() -> None:
    odd: list[dict[str, Any]] = [
        {"timeUnixNano": "x"},
        {"timeUnixNano": "9" * 40},
        {"attributes": [{"key": "a", "value": {"intValue": "1e5"}}]},
        {"attributes": 5},
        {"severityNumber": "INFO"},
        {"body": {"doubleValue": "NaN"}},
        {"timeUnixNano": 5, "extra": {"a": [1]}},
    ]
    body = json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": odd}]}]}).encode()
    result = parsed(asked(body, packed=False, path="/v1/logs"))
    assert [str(each.reason) for each in result.rejects] == ["wrong_type"] * 5
    assert len(result.heads) == 2


def test_an_empty_export_is_a_success() -> None:
    for packed in (True, False):
        assert parsed(asked(ExportLogsServiceRequest(), packed=packed)).heads == []
    assert isinstance(CountingDesk().admit(otlp.credentials(asked(b"", packed=True, path="/v1/logs"))), Admission)
    assert (
        ExportLogsServiceResponse.FromString(otlp.reply(asked(b"", packed=True, path="/v1/logs"), Accepted(0)).body) is not None
    )
