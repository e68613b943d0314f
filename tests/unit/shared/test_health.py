"""Health: problems make a service unready, warnings do not; a nearly full stream is said once, with the next step."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import msgspec
import pytest

from shared.settings import ServiceSettings
from shared.streams.fill import Fill, tell
from shared.telemetry.health import Health, Report
from shared.telemetry.metrics import Telemetry


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    opened = Telemetry("test", ServiceSettings())
    yield opened
    opened.shutdown()


def test_a_text_with_the_name_of_an_odd_file_can_be_written_as_json() -> None:
    health = Health()
    health.bad("spool", "cannot write /data/\udcff")
    health.warn("disk", "é \udcff")
    assert b"/data/?" in msgspec.json.encode(health.report())


def test_a_problem_that_is_borne_is_a_warning_with_the_reason() -> None:
    health = Health()
    health.good("service")
    assert health.report() == Report(True)
    health.bad("broker", "no connection")
    health.warn("disk", "slow")
    assert health.report() == Report(False, {"broker": "no connection"}, {"disk": "slow"})
    health.bear(lambda part: "events go to the journal" if part == "broker" else None)
    assert health.report() == Report(True, {}, {"broker": "no connection (events go to the journal)", "disk": "slow"})
    health.bad("disk", "gone")
    assert health.report().problems == {"disk": "gone"}


def test_a_nearly_full_stream_is_a_warning_until_it_is_well_below(telemetry: Telemetry, caplog: pytest.LogCaptureFixture) -> None:
    health = Health()
    health.good("service")
    caplog.set_level(logging.INFO)
    for held, warned in ((79, False), (80, True), (90, True), (76, True), (74, False)):
        tell(Fill("EVENTS", held, 100, "bytes"), health, telemetry)
        assert telemetry.value("stream_fill_ratio", stream="EVENTS") == held / 100
        assert ("stream EVENTS" in health.report().warnings) is warned, held
        assert health.report().ready
    assert caplog.text.count("nearly full") == caplog.text.count("has room again") == 1
    tell(Fill("DELIVER", 95, 100, "frames", "deliver.shop-wh"), health, telemetry)
    (text,) = health.warnings.values()
    assert text.startswith("the stream DELIVER, the queue deliver.shop-wh is 95% full (95 of 100 frames); ")
    assert "PENSTOCK_DELIVER_MAX_FRAMES" in text


def test_a_warning_about_fill_does_not_hide_that_the_stream_refuses(telemetry: Telemetry) -> None:
    health = Health()
    health.bad("stream EVENTS", "it is full, requests are answered with 503")
    tell(Fill("EVENTS", 100, 100, "bytes"), health, telemetry)
    assert "503" in health.problems["stream EVENTS"]
