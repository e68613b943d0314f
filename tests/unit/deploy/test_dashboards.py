"""The dashboards as files: they are what the generator writes, and every panel has the same parts and asks for metrics that exist."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from deploy.dashboards.__main__ import FOLDER
from deploy.dashboards.all import DASHBOARDS
from deploy.dashboards.grafana import COLUMNS, steps, text_of
from deploy.dashboards.panel import Bounds
from shared.telemetry.declared import METRICS

UNITS = {"Bps", "bytes", "cps", "d", "eps", "mps", "none", "ops", "percentunit", "recps", "reqps", "rowsps", "s", "short"}
"""Grafana's names (packages/grafana-data/src/valueFormats/categories.ts)."""
ADDED = {"instance", "job", "process"}
"""Labels that Prometheus or the edge adds."""
LABELS = {
    **{metric.name: {*metric.labels} for metric in METRICS if metric.kind != "histogram"},
    **{f"{metric.name}_bucket": {*metric.labels, "le"} for metric in METRICS if metric.kind == "histogram"},
    **{f"process_{name}": set() for name in ("cpu_seconds_total", "resident_memory_bytes", "open_fds", "max_fds")},
    "up": set(),
}
NO_METRICS = {"histogram_quantile", "label_replace", "clamp_min", "clamp_max", "group_left"}

FILES = sorted(FOLDER.glob("*.json"))
DOCUMENTS: dict[str, Any] = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in FILES}


def panels(name: str) -> list[dict[str, Any]]:
    return [panel for panel in DOCUMENTS[name]["panels"] if panel["type"] != "row"]


def queries(name: str) -> Iterator[str]:
    for panel in panels(name):
        yield from (target["expr"] for target in panel["targets"])


def test_the_files_are_what_the_generator_writes() -> None:
    assert [path.name for path in FILES] == sorted(f"{dashboard.name}.json" for dashboard in DASHBOARDS)
    for dashboard in DASHBOARDS:
        written = (FOLDER / f"{dashboard.name}.json").read_text(encoding="utf-8")
        assert written == text_of(dashboard), f"{dashboard.name}.json is old, or was changed by hand: make dashboards"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_panel_says_what_it_shows_in_which_unit_and_when_it_is_bad(name: str) -> None:
    for panel in panels(name):
        defaults = panel["fieldConfig"]["defaults"]
        assert panel["description"].endswith("."), panel["title"]
        assert defaults["unit"] in UNITS, panel["title"]
        assert defaults["thresholds"]["steps"][0]["value"] is None, panel["title"]
        assert panel["targets"], panel["title"]
    titles = Counter(panel["title"] for panel in panels(name))
    assert max(titles.values()) == 1, titles.most_common(1)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_panel_lies_on_another_one(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DOCUMENTS[name]["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= COLUMNS
        taken |= cells
    numbers = [panel["id"] for panel in DOCUMENTS[name]["panels"]]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_choice_is_used_and_what_queries_use_can_be_chosen(name: str) -> None:
    defined = {each["name"] for each in DOCUMENTS[name]["templating"]["list"]}
    text = json.dumps(panels(name))
    assert set(re.findall(r"\$\{?([a-z]+)", text)) == defined
    assert "datasource" in defined
    assert len({document["uid"] for document in DOCUMENTS.values()}) == len(DOCUMENTS)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_queries_name_metrics_and_labels_that_exist(name: str) -> None:
    for query in queries(name):
        bare = re.sub(r"\[[^\]]*\]", "", query)
        selectors = re.findall(r"([a-z]\w*)\{([^}]*)\}", bare)
        for metric, inner in selectors:
            assert metric in LABELS, query
            assert {part.partition("=")[0].strip() for part in inner.split(",") if part} <= LABELS[metric] | ADDED, query
        words = set(re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", re.sub(r'"[^"]*"', "", bare))) - NO_METRICS
        assert words <= LABELS.keys(), f"{query}: {words - LABELS.keys()}"
        known = ADDED.union(*(LABELS[metric] for metric in words | {metric for metric, _ in selectors}))
        for by in re.findall(r"by \(([^)]*)\)", query):
            assert {label.strip() for label in by.split(",")} <= known, query


def test_thresholds_rise_or_fall() -> None:
    assert [step["value"] for step in steps(Bounds())] == [None]
    assert [(step["color"], step["value"]) for step in steps(Bounds(warn=1, bad=2))] == [
        ("green", None),
        ("#EAB839", 1),
        ("red", 2),
    ]
    low = steps(Bounds(warn=2, bad=1, low=True))
    assert [(step["color"], step["value"]) for step in low] == [("red", None), ("#EAB839", 1), ("green", 2)]
