"""OpenTelemetry's exporters for Python, unmodified, against a real edge: what they say they delivered is what is stored."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import pytest
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from shared.jetstream.broker import Broker
from tests.e2e.ingest.edge import browser, edge_here
from tests.support.nats import NatsServer

KEY = {"X-Write-Key": "api:s3cret"}
COUNT = 50


def send(url: str, compression: Compression) -> None:
    """Writes spans and logs and waits until the exporters are done; blocks."""
    resource = Resource.create({"service.name": "shop"})
    tracing = TracerProvider(resource=resource)
    tracing.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{url}/v1/traces", headers=KEY, compression=compression)))
    logging = LoggerProvider(resource=resource)
    logging.add_log_record_processor(
        BatchLogRecordProcessor(OTLPLogExporter(f"{url}/v1/logs", headers=KEY, compression=compression))
    )
    tracer, logger = tracing.get_tracer("shop.orders", "1.2"), logging.get_logger("shop.orders")
    for number in range(COUNT):
        with tracer.start_as_current_span("sell", attributes={"number": number, "enduser.id": f"user-{number}"}) as span:
            span.add_event("paid", {"cents": 995})
            logger.emit(LogRecord(severity_number=SeverityNumber.INFO, body=f"sold é {number}", attributes={"number": number}))
    tracing.shutdown()
    logging.shutdown()


@pytest.mark.parametrize("compression", [Compression.Gzip, Compression.NoCompression])
async def test_the_exporters_deliver_every_span_and_log(nats: NatsServer, broker: Broker, compression: Compression) -> None:
    async with edge_here(nats, broker) as edge:
        await asyncio.to_thread(send, edge.url, compression)
        stored = await edge.events()
        assert len({each.head.message_id for each in stored}) == len(stored) == 2 * COUNT
        spans = {event["properties"]["span_id"]: event for event in map(_event, stored) if event["type"] == "span"}
        logs = [event for event in map(_event, stored) if event["type"] == "log"]
        assert {event["properties"]["attributes"]["number"] for event in spans.values()} == set(range(COUNT))
        for event in spans.values():
            properties = event["properties"]
            assert event["userId"] == f"user-{properties['attributes']['number']}"
            assert (properties["name"], properties["kind"], properties["resource"]["service.name"]) == (
                "sell",
                "internal",
                "shop",
            )
            assert properties["events"][0]["attributes"] == {"cents": 995}
        # each log was written within its span
        for event in logs:
            span = spans[event["properties"]["span_id"]]["properties"]
            assert event["properties"]["trace_id"] == span["trace_id"]
            assert event["properties"]["attributes"]["number"] == span["attributes"]["number"]
            assert event["properties"]["body"] == f"sold é {span['attributes']['number']}"
        assert await edge.dead() == []


async def test_records_of_json_are_judged_one_by_one_over_http(nats: NatsServer, broker: Broker) -> None:
    spans = [{"traceId": "0a" * 16, "spanId": "0b" * 8, "name": "good"}, {"name": "bad"}]
    body = gzip.compress(json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}).encode())
    headers = {**KEY, "Content-Type": "application/json", "Content-Encoding": "gzip"}
    async with edge_here(nats, broker) as edge, browser() as session:
        async with session.post(f"{edge.url}/v1/traces", data=body, headers=headers) as answer:
            assert answer.status == 200
            assert (await answer.json())["partialSuccess"]["rejectedSpans"] == "1"
        assert await edge.ids() == [f"{'0a' * 16}-{'0b' * 8}"]
        [letter] = await edge.dead()
        assert (letter.reason, letter.form) == ("missing_id", "traces")


def _event(stored: Any) -> dict[str, Any]:
    event: dict[str, Any] = stored.materialised()
    return event
