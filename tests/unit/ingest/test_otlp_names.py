"""OTLP in JSON under the original names of the fields, which the JSON of protobuf takes too."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from ingest.contract import Refusal
from ingest.protocols import otlp
from tests.unit.ingest.desks import CountingDesk
from tests.unit.ingest.test_otlp import LOG, SOLD, SPAN, TRACE, asked, events, logs, parsed, spans, text

IDS = {"trace_id": TRACE.hex(), "span_id": SPAN.hex(), "parent_span_id": "09" * 8}


def original(message: Any) -> bytes:
    """JSON of OTLP with the names of the .proto files."""
    plain = MessageToDict(message, use_integers_for_enums=True, preserving_proto_field_name=True)
    return json.dumps(_hexed(plain)).encode()


def _hexed(value: Any) -> Any:
    if isinstance(value, list):
        return [_hexed(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {name: IDS.get(name) or _hexed(each) for name, each in value.items()}


@pytest.mark.parametrize("message", [logs(LOG), spans(SOLD)])
def test_original_names_make_the_same_event(message: Any) -> None:
    request = asked(message, packed=False)
    (camel,) = events(parsed(request))
    (snake,) = events(parsed(request._replace(body=original(message))))
    assert {**snake, "messageId": ""} == {**camel, "messageId": ""}


def test_texts_and_names_of_attributes_that_look_like_fields_stay() -> None:
    odd = 'he said "trace_id" : "x", "span_id":'
    record = type(LOG)(attributes=[text("trace_id", odd), text('"span_id":', "trace_id")])
    (event,) = events(parsed(asked(logs(), packed=False)._replace(body=original(logs(record)))))
    assert event["properties"]["attributes"] == {"trace_id": odd, '"span_id":': "trace_id"}


def test_an_export_under_both_names_is_refused_as_half_of_it_would_be_lost() -> None:
    body = b'{"resourceLogs":[],"resource_logs":[]}'
    refused = otlp.parse(asked(logs(), packed=False)._replace(body=body), CountingDesk())
    assert isinstance(refused, Refusal)
    assert (refused.status, refused.code) == (400, "invalid_batch")


@pytest.mark.parametrize("message", [logs(LOG), spans(SOLD)])
@pytest.mark.parametrize(
    "names", [("resourceLogs", "resourceSpans"), ("scopeLogs", "scopeSpans"), ("logRecords",), ("traceId", "spanId")]
)
def test_names_of_one_level_may_be_original_and_those_of_others_not(message: Any, names: tuple[str, ...]) -> None:
    request = asked(message, packed=False)
    (expected,) = events(parsed(request))
    plain = original(message)
    for name in names:  # these in camel case, all others original
        plain = plain.replace(f'"{_original(name)}"'.encode(), f'"{name}"'.encode())
    mixed = request.body
    for name in names:  # and the other way round
        mixed = mixed.replace(f'"{name}"'.encode(), f'"{_original(name)}"'.encode())
    for body in (plain, mixed):
        (event,) = events(parsed(request._replace(body=body)))
        assert {**event, "messageId": ""} == {**expected, "messageId": ""}


def _original(name: str) -> str:
    return "".join(f"_{each.lower()}" if each.isupper() else each for each in name)


@pytest.mark.parametrize("message", [logs(LOG), spans(SOLD)])
def test_names_before_otlp_0_15_make_the_same_event(message: Any) -> None:
    request = asked(message, packed=False)
    (expected,) = events(parsed(request))
    older = request.body.replace(b'"scopeSpans"', b'"instrumentationLibrarySpans"').replace(
        b'"scope"', b'"instrumentationLibrary"'
    )
    older = older.replace(b'"scopeLogs"', b'"instrumentationLibraryLogs"')
    assert b'Library":' in older
    (event,) = events(parsed(request._replace(body=older)))
    assert {**event, "messageId": ""} == {**expected, "messageId": ""}
    both = request.body.replace(b'"scope', b'"instrumentationLibrarySpans":[],"instrumentationLibraryLogs":[{}],"scope', 1)
    assert len(events(parsed(request._replace(body=both)))) == 1
