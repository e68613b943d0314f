"""Metrics and reasons are what they are declared to be: each one is written, each one is given somewhere."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from shared.events.outcome import DeadReason, DropReason
from shared.telemetry.metrics import METRICS

ROOT = Path(__file__).resolve().parents[2]


def trees() -> Iterator[ast.AST]:
    for folder in ("shared", "ingest", "router", "loader"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            if file.name not in ("outcome.py", "telemetry.py"):
                yield ast.parse(file.read_text(encoding="utf-8"))


NODES = [node for tree in trees() for node in ast.walk(tree)]


def test_every_metric_is_written() -> None:
    named = {node.value for node in NODES if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert {metric.name for metric in METRICS} - named == set()


def test_every_reason_is_given_by_some_stage() -> None:
    given = {
        (node.value.id, node.attr)
        for node in NODES
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id.endswith("Reason")
    }
    declared = {("DropReason", each.name) for each in DropReason} | {("DeadReason", each.name) for each in DeadReason}
    assert declared - given == set()
