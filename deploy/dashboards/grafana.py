"""Dashboards as JSON for Grafana 11 or newer (schema 39; https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from deploy.dashboards.panel import Bounds, Dashboard, Panel, Variable

SCHEMA = 39
COLUMNS = 24
HEIGHTS = {"timeseries": 8, "stat": 4, "bargauge": 8}
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
GREEN, YELLOW, RED = "green", "#EAB839", "red"


def text_of(dashboard: Dashboard) -> str:
    """Returns the file of a dashboard."""
    return json.dumps(document(dashboard), indent=1, ensure_ascii=False) + "\n"


def document(dashboard: Dashboard) -> dict[str, Any]:
    """Returns a dashboard as Grafana reads it."""
    return {
        "uid": f"penstock-{dashboard.name.replace('_', '-')}",
        "title": f"Penstock: {dashboard.title}",
        "description": dashboard.about,
        "tags": ["penstock"],
        "schemaVersion": SCHEMA,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": [
            {
                "type": "dashboards",
                "title": "Penstock",
                "tags": ["penstock"],
                "asDropdown": True,
                "includeVars": True,
                "keepTime": True,
                "icon": "external link",
                "targetBlank": False,
                "tooltip": "",
                "url": "",
            }
        ],
        "annotations": {"list": [_revisions()]},
        "templating": {"list": [_source(), *(_variable(each) for each in dashboard.variables)]},
        "panels": list(_panels(dashboard)),
    }


def _revisions() -> dict[str, Any]:
    return {
        "name": "Revisions of the project",
        "datasource": SOURCE,
        "enable": True,
        "hide": False,
        "iconColor": "blue",
        "expr": "changes(max(config_revision)[1m:]) > 0",
        "step": "60s",
        "titleFormat": "a new revision of the project",
    }


def _source() -> dict[str, Any]:
    return {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "hide": 0,
        "refresh": 1,
        "regex": "",
    }


def _variable(variable: Variable) -> dict[str, Any]:
    every = {"current": {"selected": True, "text": ["All"], "value": ["$__all"]}, "allValue": ".*"} if variable.many else {}
    return {
        "name": variable.name,
        "label": variable.title,
        "type": "query",
        "datasource": SOURCE,
        "definition": variable.values_of,
        "query": {"query": variable.values_of, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
        "hide": 0,
        "includeAll": variable.many,
        "multi": variable.many,
        "refresh": 2,
        "regex": "",
        "sort": 1,
        **every,
    }


def _panels(dashboard: Dashboard) -> Iterator[dict[str, Any]]:
    number, y = 0, 0
    for title, row in dashboard.rows.items():
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
            "panels": [],
        }
        y += 1
        x, tallest = 0, 0
        for panel in row:
            if x + panel.width > COLUMNS:
                x, y, tallest = 0, y + tallest, 0
            number += 1
            height = HEIGHTS[panel.kind]
            yield _panel(panel, number, {"x": x, "y": y, "w": panel.width, "h": height})
            x, tallest = x + panel.width, max(tallest, height)
        y += tallest


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    instant = panel.kind != "timeseries"
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _OPTIONS[panel.kind],
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": SOURCE,
                "editorMode": "code",
                "expr": query,
                "legendFormat": legend,
                "instant": instant,
                "range": not instant,
            }
            for index, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def _defaults(panel: Panel) -> dict[str, Any]:
    found: dict[str, Any] = {
        "unit": panel.unit,
        "min": 0,
        "color": {"mode": "palette-classic" if panel.kind == "timeseries" else "thresholds"},
        "thresholds": {"mode": "absolute", "steps": steps(panel.bounds)},
    }
    if panel.most is not None:
        found["max"] = panel.most
    if panel.kind == "timeseries":
        bounded = panel.bounds != Bounds()
        found["custom"] = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 30 if panel.stacked else 10,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if bounded else "off"},
        }
    return found


def steps(bounds: Bounds) -> list[dict[str, Any]]:
    """Returns thresholds as Grafana reads them, from below; the first has no value."""
    values = [(bounds.warn, YELLOW), (bounds.bad, RED)]
    known = [(value, colour) for value, colour in values if value is not None]
    if not bounds.low:
        return [{"color": GREEN, "value": None}, *({"color": colour, "value": value} for value, colour in known)]
    # below the smallest bound it is worst, and good from the largest on
    colours = [colour for _, colour in reversed(known)] + [GREEN]
    return [
        {"color": colour, "value": value}
        for colour, value in zip(colours, [None, *sorted(value for value, _ in known)], strict=True)
    ]


_OPTIONS: dict[str, dict[str, Any]] = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {
        "colorMode": "value",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "textMode": "value",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    },
    "bargauge": {
        "displayMode": "basic",
        "orientation": "horizontal",
        "valueMode": "color",
        "showUnfilled": True,
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    },
}
