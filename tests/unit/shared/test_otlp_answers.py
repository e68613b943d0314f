"""What a collector answers is read with care, and what it is sent can be read by it: nothing is counted as sent that is not, and nothing makes a batch unfit."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.trace import SpanKind

from shared.telemetry import logs
from shared.telemetry.metrics import Telemetry
from shared.telemetry.otlp import outbox
from shared.telemetry.otlp.of_logs import Handler, Line
from shared.telemetry.otlp.outbox import Outbox, Reports
from shared.telemetry.otlp.values import MOST_CHARACTERS, MOST_STACK, sent_value
from tests.support.otlp import Behaviour, Collector, collector, values
from tests.unit.shared.test_otlp import Protocol, telemetry_of

log = logging.getLogger("tests.otlp")


@pytest.fixture
def at() -> Iterator[Collector]:
    with collector() as opened:
        yield opened


def send(telemetry: Telemetry, count: int = 1) -> None:
    for _ in range(count):
        with telemetry.span("x", SpanKind.INTERNAL, may_begin=True):
            pass


def counts(telemetry: Telemetry) -> dict[str, float]:
    reasons = ("failed", "refused", "full", "stopped")
    found = {each: telemetry.value("telemetry_dropped_total", signal="spans", reason=each) for each in reasons}
    return {"sent": telemetry.value("telemetry_exported_total", signal="spans"), **{k: v for k, v in found.items() if v}}


@pytest.mark.parametrize("behaviour", ["redirect", "page", "endless"])
def test_an_answer_that_is_no_collectors_is_no_success(
    at: Collector, behaviour: Behaviour, caplog: pytest.LogCaptureFixture
) -> None:
    at.behave(behaviour)
    telemetry = telemetry_of(at, otlp_logs=False)
    send(telemetry)
    telemetry.shutdown()
    assert counts(telemetry) == {"sent": 0, "failed": 1}
    assert telemetry.value("telemetry_export_failing", signal="spans") == 1
    said = [str(getattr(each, "error", "")) for each in caplog.records if each.message == "telemetry cannot be exported"]
    assert any(("not a collector's" if behaviour != "endless" else "more than") in each for each in said), said


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_what_a_collector_refuses_of_a_batch_is_counted_and_told_once(
    at: Collector, protocol: Protocol, caplog: pytest.LogCaptureFixture
) -> None:
    at.behave("partial")
    telemetry = telemetry_of(at, protocol, otlp_logs=False)
    send(telemetry, 5)
    at.until(lambda: len(at.spans) == 5)
    send(telemetry, 5)
    telemetry.shutdown()
    found = counts(telemetry)
    assert found["sent"] + found["refused"] == 10
    assert found["refused"] >= 2
    told = [each for each in caplog.records if each.message == "the collector refuses a part" and vars(each)["signal"] == "spans"]
    assert [vars(each)["words"] for each in told] == ["one is too old"]


def test_a_collector_that_wants_a_pause_gets_the_batch_afterwards(at: Collector) -> None:
    at.behave("later")
    telemetry = telemetry_of(at, otlp_logs=False)
    send(telemetry)
    at.until(lambda: at.spans)
    telemetry.shutdown()
    assert counts(telemetry) == {"sent": 1}


def test_an_export_without_an_end_is_told_as_failing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "HANGS_SECONDS", -1.0)
    gauges: list[tuple[str, float]] = []

    class Tally:
        def count(self, name: str, amount: float = 1, **labels: str) -> None: ...

        def gauge(self, name: str, value: float, **labels: str) -> None:
            gauges.append((name, value))

    reports = Reports("spans", Tally(), lambda: "")
    box: Outbox[int] = Outbox(reports, lambda _: True, lambda: None, name="test", period_seconds=3600)
    box._began = 1.0  # as while an export is under way
    box.put(1)
    box.put(2)
    box.close()
    box.wait(time.monotonic() + 60)
    assert gauges == [("telemetry_export_failing", 1), ("telemetry_export_failing", 0)]


@pytest.mark.parametrize("way", ["hangs", "failed", "sent"])
def test_the_line_about_lines_that_cannot_be_sent_stops_nobody(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes into the queue of lines itself, where it is dropped, or told as held up, under the same `Reports`."""

    class Tally:
        def count(self, name: str, amount: float = 1, **labels: str) -> None: ...

        def gauge(self, name: str, value: float, **labels: str) -> None: ...

    monkeypatch.setattr(outbox, "HANGS_SECONDS", -1.0)
    monkeypatch.setattr(outbox.log, "handlers", [])
    monkeypatch.setattr(outbox.log, "propagate", False)
    monkeypatch.setattr(outbox.log, "level", logging.INFO)
    reports = Reports("logs", Tally(), lambda: "")
    box: Outbox[Line] = Outbox(reports, lambda _: True, lambda: None, name="test", period_seconds=3600, most=0)
    if way == "sent":
        reports.failed(1)
    handler = Handler(box.put)
    handler.lock = None  # should the test fail, the process must end all the same
    outbox.log.addHandler(handler)

    def work() -> None:
        if way == "hangs":
            box._began = 1.0  # as while an export is under way
            box.put(Line(at_ns=0, level="INFO", logger="x", message="", fields={}, trail=None))
        else:
            getattr(reports, way)(1)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
    box.close()
    box.wait(time.monotonic() + 60)


class Odd:
    """Written by its `str`."""

    def __str__(self) -> str:
        return "odd"


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        ("plain", "plain"),
        ("half \ud83d", "half ?"),
        (1 << 70, str(1 << 70)),
        (-(1 << 63), -(1 << 63)),
        (True, True),
        ({"at": Odd()}, '{"at":"odd"}'),
        (["\ud83d"], "['\\ud83d']"),
        (Path("/a"), '"/a"'),
    ],
)
def test_a_value_becomes_one_that_can_be_sent(value: object, sent: object) -> None:
    assert sent_value(value) == sent


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_no_value_makes_a_batch_unfit_and_none_is_long(at: Collector, protocol: Protocol) -> None:
    changing: dict[str, Any] = {"a": 1}
    telemetry = telemetry_of(at, protocol)
    mebibyte = "x" * (1 << 20)
    try:
        for number in range(20):
            try:
                raise ValueError(mebibyte)
            except ValueError:
                log.exception(
                    f"line \ud83d {mebibyte}", extra={"text": mebibyte, "odd": "\ud83d", "many": 1 << 70, "map": changing}
                )
            changing[str(number)] = mebibyte
            with telemetry.span(f"span {mebibyte}", SpanKind.INTERNAL, may_begin=True) as span:
                span.set("text", mebibyte)
                span.set("odd", "\ud83d")
                span.set("many", 1 << 70)
                span.fail("ValueError", mebibyte)
        at.until(lambda: len(at.lines) == 20 and len(at.spans) == 20)
    finally:
        telemetry.shutdown()
    for got in (*at.lines, *at.spans):
        assert got.what.ByteSize() < 20_000
        for name, value in got.attributes.items():
            assert len(str(value)) <= (MOST_STACK if name == "exception.stacktrace" else MOST_CHARACTERS)
    assert at.lines[0].attributes["map"] == '{"a":1}'  # as it was when the line was written


def test_metrics_of_thousands_of_connections_fit_into_what_a_collector_takes(
    at: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "1000")
    telemetry = telemetry_of(at, "grpc", otlp_logs=False)  # 4 MiB a message, as at a real one
    long = "x" * 600
    for number in range(7000):  # 5 MB
        telemetry.count("loader_rows_total", connection=f"{long}{number:04}")

    def points() -> list[Any]:
        return [point for got in list(at.metrics) if got.what.name == "loader_rows" for point in got.what.sum.data_points]

    try:
        at.until(lambda: len(points()) >= 7000)
        shown = telemetry.exposition().decode()
    finally:
        telemetry.shutdown()
    assert len({str(values(point.attributes)) for point in points()}) == 7000
    assert f'loader_rows_total{{connection="{long}6999"}} 1.0' in shown
    assert "overflow=" not in shown


def test_a_line_with_half_a_surrogate_pair_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        logs.configure("test", "info", "json")
        log.info("it is so", extra={"odd": "\ud83d", "many": 1 << 70})
    finally:
        root.handlers[:], root.level = before
    (line,) = capsys.readouterr().err.splitlines()
    assert "it is so" in line
    assert "\\ud83d" in line
