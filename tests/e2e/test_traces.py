"""Telemetry of a whole stack at a real collector: one connected trace, metrics and lines of the log, all of the same processes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.otlp import Collector, Got, collector
from tests.support.stack import stack

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SERVICES = ("ingest", "router", "functions_runtime", "loader")


def project(folder: Path) -> dict[str, Any]:
    code = "export default (event) => { if (event.event === 'Bad') throw new Error('no'); return event }"
    return {
        "sites": {"shop": {"keys": [{"id": "k"}]}},
        "destinations": {"wh": {"type": "duckdb", "path": str(folder / "w.duckdb")}},
        "functions": {"check": {"code": code}},
        "connections": {
            "c": {"site": "shop", "destination": "wh", "mode": "stream", "layout": "single_table", "functions": ["check"]}
        },
    }


def one(at: Collector, name: str, trace: str = TRACE) -> Got:
    (found,) = [got for got in at.named(name) if got.what.trace_id.hex() == trace]
    return found


def id_of(got: Got) -> tuple[str, str]:
    return got.what.trace_id.hex(), got.what.span_id.hex()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("protocol", ["http", "grpc"])
async def test_a_request_its_frame_its_functions_and_its_load_are_one_trace_at_the_collector(
    tmp_path: Path, protocol: str
) -> None:
    with collector() as at:
        environment = {
            "PENSTOCK_OTLP_ENDPOINT": at.url if protocol == "http" else at.grpc_url,
            "PENSTOCK_OTLP_PROTOCOL": protocol,
            "PENSTOCK_OTLP_PERIOD": "200ms",
            "PENSTOCK_TRACE_RATIO": "0" if protocol == "grpc" else "1",  # the client's wish holds at any ratio
            "PENSTOCK_LOG_FORMAT": "json",
            "OTEL_METRIC_EXPORT_INTERVAL": "500",
            "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=shop",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        }
        with stack(tmp_path / "stack", environment) as running:
            await running.apply(project(tmp_path))
            await asyncio.to_thread(running.start_all, *SERVICES)
            url = f"http://127.0.0.1:{running.port}/v1/track"
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}
            async with aiohttp.ClientSession() as session:
                for event, sent in (("Bought", headers), ("Bad", {})):
                    body = {"event": event, "anonymousId": "a", "writeKey": "k"}
                    async with session.post(url, json=body, headers=sent) as answer:
                        assert answer.status == 200
            await asyncio.to_thread(at.until, lambda: any(each.what.links for each in at.named("load deliver.c")))
            # a function that throws is in the traces although its request is not sampled
            failed = "transform functions.c"
            await asyncio.to_thread(at.until, lambda: any(each.what.status.code == 2 for each in at.named(failed)))
            await asyncio.to_thread(running.stop_all)
        check_trace(at)
        check_resources(at)
        assert all(each["x-tenant"] == "shop" for each in at.headers)
        if protocol == "http":  # gRPC shows its encoding to nobody
            assert all(each["content-encoding"] == "gzip" for each in at.headers)


def check_trace(at: Collector) -> None:
    request, sent = one(at, "POST /v1/track"), one(at, "send events.shop")
    routed, queued, changed = (one(at, name) for name in ("route events.shop", "send functions.c", "transform functions.c"))
    chain = [request, sent, routed, queued, changed]
    assert [each.what.parent_span_id.hex() for each in chain] == [PARENT, *(id_of(each)[1] for each in chain[:-1])]
    assert {each.what.trace_state for each in chain} == {"vendor=1"}
    kinds = [
        Span.SPAN_KIND_SERVER, Span.SPAN_KIND_PRODUCER, Span.SPAN_KIND_CONSUMER, Span.SPAN_KIND_PRODUCER, Span.SPAN_KIND_CONSUMER
    ]  # fmt: skip
    assert [each.what.kind for each in chain] == kinds
    assert [each.resource["service.name"] for each in chain] == [
        "penstock-ingest", "penstock-ingest", "penstock-router", "penstock-router", "penstock-functions_runtime"
    ]  # fmt: skip
    assert all(each.what.start_time_unix_nano <= each.what.end_time_unix_nano for each in at.spans)
    loads = [each for each in at.named("load deliver.c") if (id_of(changed)) in links_of(each)]
    assert len(loads) == 1
    assert loads[0].what.kind == Span.SPAN_KIND_CONSUMER
    assert not loads[0].what.parent_span_id
    about = request.attributes
    assert (about["http.request.method"], about["http.route"], about["http.response.status_code"]) == ("POST", "/v1/track", 200)
    assert (about["penstock.site"], about["penstock.events"]) == ("shop", 1)
    for each, operation, destination in (
        (sent, "send", "events.shop"),
        (routed, "process", "events.shop"),
        (queued, "send", "functions.c"),
        (changed, "process", "functions.c"),
        (loads[0], "process", "deliver.c"),
    ):
        about = each.attributes
        assert about["messaging.system"] == "nats"
        assert about["messaging.operation.type"] == operation
        assert about["messaging.destination.name"] == destination
        assert about["messaging.batch.message_count"] >= 1
    assert loads[0].attributes["penstock.destination"] == "duckdb"


def links_of(got: Got) -> set[tuple[str, str]]:
    return {(link.trace_id.hex(), link.span_id.hex()) for link in got.what.links}


def check_resources(at: Collector) -> None:
    """Spans, metrics and lines name the same processes."""
    names = ("service.name", "service.instance.id", "service.version")
    found = [{tuple(got.resource[name] for name in names) for got in signal} for signal in (at.spans, at.metrics, at.lines)]
    assert found[0] == found[1] == found[2]
    assert {name for name, _, _ in found[0]} == {f"penstock-{name}" for name in SERVICES}
    assert {"ingest_events_accepted", "loader_rows", "loader_latency_seconds", "telemetry_exported"} <= {
        got.what.name for got in at.metrics
    }
    latencies = [
        point for got in at.metrics if got.what.name == "loader_latency_seconds" for point in got.what.histogram.data_points
    ]
    assert latencies
    timed = [point for got in at.metrics if got.what.name == "ingest_request_seconds" for point in got.what.histogram.data_points]
    exemplars = {exemplar.trace_id.hex() for point in timed for exemplar in point.exemplars}
    assert exemplars
    assert exemplars <= {got.what.trace_id.hex() for got in at.named("POST /v1/track")}
    assert "started" in {got.what.body.string_value for got in at.lines}
