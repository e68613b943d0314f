"""Export to a real collector, over HTTP and gRPC: what comes, with which headers, and what a bad collector does to us: nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from opentelemetry.trace import SpanKind

from shared.errors import ConfigError
from shared.reading.units import Duration
from shared.settings import ServiceSettings, read_settings
from shared.telemetry import logs
from shared.telemetry.metrics import Telemetry
from shared.telemetry.otlp.outbox import MOST_ITEMS
from tests.support.certificate import make_certificate
from tests.support.otlp import Behaviour, Collector, Got, collector

Protocol = Literal["http", "grpc"]
log = logging.getLogger("tests.otlp")


@pytest.fixture
def at() -> Iterator[Collector]:
    with collector() as opened:
        yield opened


def telemetry_of(at: Collector, protocol: Protocol = "http", **more: Any) -> Telemetry:
    url = at.url if protocol == "http" else at.grpc_url
    more = {"otlp_period": Duration(0.05), "trace_ratio": 1.0, "trace_rate": 100_000, **more}
    return Telemetry("test", ServiceSettings(otlp_endpoint=url, otlp_protocol=protocol, **more), "test-1")


def lines_of(at: Collector) -> list[Got]:
    """Returns the lines of this module; threads that other tests left behind may have a word too."""
    return [got for got in at.lines if got.scope == log.name]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_spans_lines_and_metrics_come_with_the_same_resource(at: Collector, protocol: Protocol) -> None:
    telemetry = telemetry_of(at, protocol)
    try:
        with telemetry.span("outer", SpanKind.SERVER, may_begin=True) as outer:
            outer.set("http.response.status_code", 200)
            with telemetry.span("inner", SpanKind.INTERNAL):
                log.warning("it is so", extra={"rows": 3, "names": ["a", "b"], "nothing": None})
            telemetry.record("ingest_request_seconds", 0.1, protocol="otlp-test")
        with pytest.raises(ZeroDivisionError), telemetry.span("failed", SpanKind.INTERNAL, may_begin=True):
            try:
                _ = 1 / 0
            except ZeroDivisionError:
                log.exception("it failed")
                raise
        telemetry.count("loader_rows_total", 5, connection="otlp-test")
        at.until(lambda: len(at.spans) == 3 and len(lines_of(at)) == 2)
    finally:
        telemetry.shutdown()
    at.until(lambda: at.metrics)
    for got in (*at.spans, *at.lines, *at.metrics):
        names = ("service.name", "service.instance.id", "service.version")
        assert [got.resource[name] for name in names] == ["penstock-test", "test-1", "0.1.0"]
    inner, outer_got = at.named("inner")[0], at.named("outer")[0]
    assert (inner.what.trace_id, inner.what.parent_span_id) == (outer_got.what.trace_id, outer_got.what.span_id)
    assert outer_got.attributes == {"http.response.status_code": 200}
    failed = at.named("failed")[0]
    assert (failed.what.status.code, failed.what.status.message) == (2, "division by zero")
    assert failed.attributes == {"error.type": "ZeroDivisionError"}
    first, second = lines_of(at)
    assert (first.what.body.string_value, first.what.severity_text, first.scope) == ("it is so", "warning", "tests.otlp")
    assert first.attributes == {"rows": 3, "names": '["a","b"]'}
    assert (first.what.trace_id, first.what.span_id) == (inner.what.trace_id, inner.what.span_id)
    assert second.attributes["exception.type"] == "ZeroDivisionError"
    assert "1 / 0" in second.attributes["exception.stacktrace"]
    points = [
        point for got in at.metrics if got.what.name == "ingest_request_seconds" for point in got.what.histogram.data_points
    ]
    assert outer_got.what.span_id in {exemplar.span_id for point in points for exemplar in point.exemplars}


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_headers_and_the_certificate_of_a_collector_come_from_the_variables_that_all_programs_share(
    protocol: Protocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make_certificate(tmp_path)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20one,x-tenant=shop")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(certificate))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/etc/ssl/certs/ca-certificates.crt")  # for other programs
    with collector(certificate) as at:
        telemetry = telemetry_of(at, protocol)
        try:
            with telemetry.span("x", SpanKind.INTERNAL, may_begin=True):
                pass
            at.until(lambda: at.spans)
        finally:
            telemetry.shutdown()
    assert {(each["authorization"], each["x-tenant"]) for each in at.headers} == {("Bearer one", "shop")}
    if protocol == "http":
        assert {each["content-encoding"] for each in at.headers} == {"gzip"}


def full(telemetry: Telemetry) -> float:
    return telemetry.value("telemetry_dropped_total", signal="spans", reason="full")


class Lines(logging.Handler):
    """What the log says."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def said(self, line: str) -> int:
        return self.lines.count(line)


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler, ours = Lines(), logging.getLogger("shared.telemetry")
    logging.getLogger().addHandler(handler)
    ours.setLevel(logging.INFO)
    yield handler
    ours.setLevel(logging.NOTSET)
    logging.getLogger().removeHandler(handler)


@pytest.mark.parametrize(("protocol", "behaviour"), [("http", "hang"), ("http", "slow"), ("grpc", "hang"), ("grpc", "refuse")])
def test_a_bad_collector_costs_spans_and_nothing_else(
    at: Collector, lines: Lines, protocol: Protocol, behaviour: Behaviour, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")
    at.behave(behaviour)
    telemetry = telemetry_of(at, protocol)
    spans = 0
    try:
        with telemetry.span("first", SpanKind.INTERNAL, may_begin=True):
            pass
        at.until(lambda: at.calls)  # the exporter is in the collector's hands
        while spans < MOST_ITEMS + 2000 or (behaviour != "refuse" and not full(telemetry)):
            spans += 1
            with telemetry.span("x", SpanKind.INTERNAL, may_begin=True):
                pass
    finally:
        began = time.monotonic()
        telemetry.shutdown()
        took = time.monotonic() - began
    assert took < 30  # while the exporters' own limits are 60 s each
    by_reason = {
        reason: telemetry.value("telemetry_dropped_total", signal="spans", reason=reason)
        for reason in ("full", "failed", "stopped")
    }
    exported = telemetry.value("telemetry_exported_total", signal="spans")
    if behaviour == "refuse":
        assert exported == 0
        assert sum(by_reason.values()) == spans + 1
        assert telemetry.value("telemetry_export_failing", signal="spans") == 1
        assert lines.said("telemetry cannot be exported") <= 3  # one for each signal
        assert lines.said("telemetry cannot be exported") >= 1
    else:
        assert by_reason["full"] > 0
    assert not [line for line in lines.lines if "Failed to export" in line or "Transient error" in line]


def test_what_comes_after_the_collector_is_back_arrives_and_the_log_has_a_line_for_each_change(
    at: Collector, lines: Lines
) -> None:
    at.behave("refuse")
    telemetry = telemetry_of(at, otlp_logs=False)
    try:
        for round_ in range(3):
            calls = at.calls
            with telemetry.span("lost", SpanKind.INTERNAL, may_begin=True):
                pass
            at.until(lambda calls=calls: at.calls > calls)  # type: ignore[misc]
            deadline = time.monotonic() + 60
            while telemetry.value("telemetry_dropped_total", signal="spans", reason="failed") <= round_:
                assert time.monotonic() < deadline
                time.sleep(0.005)
        at.behave("ok")
        with telemetry.span("kept", SpanKind.INTERNAL, may_begin=True):
            pass
        at.until(lambda: at.spans)
    finally:
        telemetry.shutdown()
    assert [got.what.name for got in at.spans] == ["kept"]
    assert lines.said("telemetry cannot be exported") == 1
    assert lines.said("telemetry is exported again") == 1


def test_nothing_listens_at_the_address(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")
    settings = ServiceSettings(otlp_endpoint="http://127.0.0.1:9", otlp_period=Duration(0.01), trace_ratio=1.0)
    telemetry = Telemetry("test", settings)
    with telemetry.span("x", SpanKind.INTERNAL, may_begin=True):
        pass
    began = time.monotonic()
    telemetry.shutdown()
    assert time.monotonic() - began < 30
    assert telemetry.value("telemetry_exported_total", signal="spans") == 0


def test_a_line_written_in_a_span_names_it_in_both_forms(at: Collector, capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    telemetry = telemetry_of(at, otlp_logs=False)
    try:
        logs.configure("test", "info", "json")
        with telemetry.span("x", SpanKind.INTERNAL) as span:
            log.info("inside")
        log.info("outside")
    finally:
        root.handlers[:], root.level = before
        telemetry.shutdown()
    inside, outside = capsys.readouterr().err.splitlines()
    assert f'"trace_id":"{span.trail.trace_id:032x}","span_id":"{span.trail.span_id:016x}"' in inside
    assert "trace_id" not in outside


def test_the_variables_of_opentelemetry_hold_where_ours_are_not_set() -> None:
    theirs = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://theirs:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    read = read_settings(ServiceSettings, environment=theirs)
    assert (read.otlp_endpoint, read.otlp_protocol) == ("http://theirs:4317", "grpc")
    ours = {"PENSTOCK_OTLP_ENDPOINT": "http://ours:4318", "PENSTOCK_OTLP_PROTOCOL": "http"}
    read = read_settings(ServiceSettings, environment=theirs | ours)
    assert (read.otlp_endpoint, read.otlp_protocol) == ("http://ours:4318", "http")
    assert read_settings(ServiceSettings, environment={}).otlp_endpoint is None
    with pytest.raises(ConfigError, match="OTEL_EXPORTER_OTLP_PROTOCOL"):
        read_settings(ServiceSettings, environment={"OTEL_EXPORTER_OTLP_PROTOCOL": "carrier-pigeon"})


def test_without_a_collector_nothing_is_traced_and_no_thread_runs() -> None:
    telemetry = Telemetry("test", ServiceSettings())
    try:
        assert telemetry.tracing is None
        with telemetry.span("x", SpanKind.INTERNAL, may_begin=True) as span:
            span.set("a", 1)
            span.fail("no")
            assert span.headers == {}
    finally:
        telemetry.shutdown()
