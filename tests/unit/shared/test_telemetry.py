"""Metrics as they are served."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shared.settings import ServiceSettings
from shared.telemetry.metrics import Telemetry


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    opened = Telemetry("test", ServiceSettings())
    yield opened
    opened.shutdown()


def lines(telemetry: Telemetry, start: str) -> list[str]:
    """Returns what is measured, without what other tests of the process left behind."""
    found = [line for line in telemetry.exposition().decode().splitlines() if line.startswith(start)]
    return [line for line in found if 'connection="shop-wh"' not in line]


def test_a_line_carries_the_labels_of_its_metric_and_no_others(telemetry: Telemetry) -> None:
    telemetry.gauge("router_lag_frames", 3, site="shop")
    telemetry.record("ingest_frame_events", 5)
    assert lines(telemetry, "router_lag_frames") == ['router_lag_frames{site="shop"} 3.0']
    assert not [line for line in lines(telemetry, "") if "otel_scope" in line]


def test_gauges_go_with_what_they_are_about(telemetry: Telemetry) -> None:
    for name in ("one", "two"):
        telemetry.gauge("loader_waiting_frames", 3, connection=name)
        telemetry.gauge("account_dead_events", 1, connection=name, stage="loader", reason="too_deep")
        telemetry.count("loader_rows_total", 5, connection=name)
    telemetry.gauge("router_lag_frames", 3, site="one")
    telemetry.forget(connection="one")
    assert lines(telemetry, "loader_waiting_frames") == ['loader_waiting_frames{connection="two"} 3.0']
    assert len(lines(telemetry, "account_dead_events")) == 1
    # the registry is the process's: other tests may have left counters of their own
    assert all(lines(telemetry, f'loader_rows_total{{connection="{name}"}}') for name in ("one", "two"))
    assert lines(telemetry, "router_lag_frames")
    telemetry.forget("account_dead_events", connection="two", stage="router")
    assert lines(telemetry, "account_dead_events")
    telemetry.forget("account_dead_events", connection="two")
    assert not lines(telemetry, "account_dead_events")


def test_a_counter_looked_up_once_counts_as_any_other(telemetry: Telemetry) -> None:
    add = telemetry.counter("ingest_events_accepted_total", site="looked-up", protocol="segment")
    add(2)
    telemetry.count("ingest_events_accepted_total", 3, site="looked-up", protocol="segment")
    assert lines(telemetry, 'ingest_events_accepted_total{protocol="segment",site="looked-up"}')[0].endswith(" 5.0")
