"""Traces and metrics leave by OTLP: a load links to the frame that the edge sent, over the router."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.ports import free_port
from tests.support.stack import stack


class Collector:
    """The receiving end of OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.metrics: set[str] = set()

    async def take_traces(self, request: web.Request) -> web.Response:
        for resource in ExportTraceServiceRequest.FromString(await _body(request)).resource_spans:
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        return web.Response()

    async def take_metrics(self, request: web.Request) -> web.Response:
        for resource in ExportMetricsServiceRequest.FromString(await _body(request)).resource_metrics:
            self.metrics |= {metric.name for scope in resource.scope_metrics for metric in scope.metrics}
        return web.Response()


async def _body(request: web.Request) -> bytes:
    return await request.read()  # aiohttp has taken the gzip off


@pytest.mark.timeout(240)
async def test_a_load_links_to_the_frames_it_holds(tmp_path: Path) -> None:
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take_traces)
    app.router.add_post("/v1/metrics", collector.take_metrics)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    environment = {
        "PENSTOCK_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "PENSTOCK_TRACE_RATIO": "1",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    project: dict[str, Any] = {
        "sites": {"shop": {"keys": [{"id": "k"}]}},
        "destinations": {"wh": {"type": "duckdb", "path": str(tmp_path / "w.duckdb")}},
        "connections": {"c": {"site": "shop", "destination": "wh", "mode": "stream", "layout": "single_table"}},
    }
    try:
        with stack(tmp_path / "stack", environment) as running:
            await running.apply(project)
            await asyncio.to_thread(running.start_all)
            event = {"event": "Bought", "anonymousId": "a", "writeKey": "k"}
            url = f"http://127.0.0.1:{running.port}/v1/track"
            async with aiohttp.ClientSession() as session, session.post(url, json=event) as answer:
                assert answer.status == 200
            async with asyncio.timeout(60):
                while not any(span.name == "load c" and span.links for span in collector.spans):
                    await asyncio.sleep(0.1)
            await asyncio.to_thread(running.stop_all)
        sent = next(span for span in collector.spans if span.name == "send events")
        load = next(span for span in collector.spans if span.name == "load c" and span.links)
        routed = next(span for span in collector.spans if span.name == "route shop")
        assert (routed.trace_id, routed.parent_span_id) == (sent.trace_id, sent.span_id)
        assert [(link.trace_id, link.span_id) for link in load.links] == [(routed.trace_id, routed.span_id)]
        assert "loader_rows" in collector.metrics
    finally:
        await runner.cleanup()
