"""Every panel of every dashboard shows something: its queries run against a real Prometheus that watches a real stack under load."""

from __future__ import annotations

import asyncio
import math
import time
from pathlib import Path

import pytest

from deploy.dashboards.all import DASHBOARDS
from deploy.dashboards.substitute import substituted, without_zero
from tests.e2e.deploy.test_rules import alerts
from tests.support.prometheus import Prometheus
from tests.support.watched import SERVICES, watched

NOT_PROVOKED = (
    'status="503"',
    "alerts_failing",
    "archive_oldest_seconds",
    "broker_certificate_expires_seconds",
    "dead_letters_evicted_total",
    "dead_letters_refused_total",
    "destination_retries_total",
    "driver_errors_unknown_total",
    "events_shed_frames_total",
    "feeds_errors_total",
    "feeds_lag_seconds",
    "feeds_records_lost_total",
    "functions_identity_forgotten_total",
    "functions_identity_lost_total",
    "functions_sandboxes_ended_total",
    "ingest_agents_unparsed_total",
    "ingest_events_spooled_total",
    "ingest_process_deaths_total",
    "ingest_websockets",
    "loader_destination_went_back_total",
    "loader_events_dropped_total",
    "loader_events_repeated_total",
    "loader_internal_errors_total",
    "loader_retry_rows_total",
    "loader_rows_overflow_total",
    "loader_stopped",
    "loader_sync_failures_total",
    "loader_sync_rows_dead_total",
    "loader_sync_rows_left_out_total",
    "loader_table_failing",
    "loader_tables_dropped_total",
    "loader_values_changed_total",
    "router_dedupe_shortened_total",
    "router_events_dead_total",
    "sync_source_behind_bytes",
    "sync_source_behind_seconds",
    "sync_source_kept_bytes",
    "telemetry_export_failing",
)
"""What this load does not make; other tests make it. Its queries return 0."""


@pytest.mark.timeout(300)
async def test_every_query_of_every_panel_has_an_answer(tmp_path: Path) -> None:
    left = {
        f"{dashboard.name}, {panel.title}, {legend}": substituted(_strict(query))
        for dashboard in DASHBOARDS
        for panel in dashboard.panels
        for legend, query in panel.queries.items()
    }
    async with watched(tmp_path, failing=True, calm=_check_calm) as now:
        # what a load brings comes when it comes; a minute is enough on an idle machine
        ends_at = asyncio.get_running_loop().time() + 150
        while left and asyncio.get_running_loop().time() < ends_at:
            left = await asyncio.to_thread(_unanswered, now.prometheus, left)
            await asyncio.sleep(0.5)
    assert not left, "no answer to\n" + "\n".join(f"{name}: {query}" for name, query in left.items())


def _check_calm(prometheus: Prometheus) -> None:
    """Right after an install there is no project: no query is wrong, and no rule has a reason to wait for its time."""
    ends_at = time.monotonic() + 60
    while len(prometheus.query("service_ready")) < len(SERVICES):
        assert time.monotonic() < ends_at, "Prometheus did not scrape all services"
        time.sleep(0.2)
    for dashboard in DASHBOARDS:
        for panel in dashboard.panels:
            for query in panel.queries.values():
                prometheus.query(substituted(query))
    for name, rule in alerts().items():
        assert not prometheus.query(rule["expr"]), name


def _strict(query: str) -> str:
    """Returns a query without the 0 that stands for what never happened, unless it is about such a thing."""
    return query if any(name in query for name in NOT_PROVOKED) else without_zero(query)


def _unanswered(prometheus: Prometheus, queries: dict[str, str]) -> dict[str, str]:
    return {name: query for name, query in queries.items() if not _answered(prometheus, query)}


def _answered(prometheus: Prometheus, query: str) -> bool:
    return any(not math.isnan(float(series["value"][1])) for series in prometheus.query(query))
