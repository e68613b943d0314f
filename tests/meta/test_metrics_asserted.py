"""Each metric is asserted by a test: its name stands where a test reads values, and not only in a list of panels or rules."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from shared.telemetry import declared

ROOT = Path(__file__).resolve().parents[2]
APART = (
    "tests/meta",
    "tests/e2e/deploy/test_dashboards.py",
    "tests/e2e/deploy/test_rules.py",
    "tests/unit/shared/test_telemetry.py",
)
"""Tests of tests, of panels, of rules, and of the telemetry itself, which uses any name."""

READERS = frozenset({"value", "metric", "count", "of", "gauges", "until_counted", "get", "samples", "lines"})
"""Calls by which tests read a metric."""

OWED = frozenset(
    {
        "account_dead_events",
        "account_dropped_events",
        "account_made_events",
        "account_replayed_events",
        "broker_certificate_expires_seconds",
        "feeds_lag_records",
        "feeds_lag_seconds",
        "feeds_last_record_seconds",
        "functions_calls_total",
        "functions_rules_missed_total",
        "functions_sandboxes",
        "functions_sandboxes_ended_total",
        "functions_waiting_again_events",
        "ingest_agents_unparsed_total",
        "ingest_events_spooled_total",
        "ingest_frame_events",
        "ingest_request_seconds",
        "loader_events_repeated_total",
        "loader_period_seconds",
        "loader_retry_rows_total",
        "loader_rows_overflow_total",
        "loader_sync_failures_total",
        "loader_sync_rows_dead_total",
        "loader_sync_rows_left_out_total",
        "loader_sync_went_back_total",
        "loader_values_unmapped_total",
        "router_dedupe_shortened_total",
        "router_events_dead_total",
        "router_plan_broken_total",
        "router_plan_violations_lost_total",
        "router_plan_violations_total",
        "sync_source_behind_bytes",
        "sync_source_behind_seconds",
        "sync_source_kept_bytes",
    }
)
"""Metrics that no test asserts yet. It may only shrink."""


def _texts(node: ast.AST) -> set[str]:
    return {each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)}


def _reads(node: ast.AST) -> bool:
    """Whether a node looks at values: an assertion, a condition to wait for, a call that reads."""
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        return name in READERS
    return isinstance(node, ast.Assert | ast.While | ast.DictComp)


def asserted() -> set[str]:
    found: set[str] = set()
    for file in sorted((ROOT / "tests").rglob("*.py")):
        if not str(file.relative_to(ROOT)).startswith(APART):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if _reads(node):
                    found |= _texts(node)
    words = {word for text in found for word in re.findall(r"[a-z][a-z0-9_]+", text)}
    return words | {re.sub(r"_(count|sum|bucket)$", "", word) for word in words}


def test_every_metric_is_asserted_by_some_test() -> None:
    names = {metric.name for metric in declared.METRICS}
    without = names - asserted()
    assert without - OWED == set(), "provoke their state in a test, and assert their value there"
    assert OWED - without == set(), "these are asserted now: take them out of OWED"
