"""Writes the files that Grafana reads: `make dashboards`."""

from __future__ import annotations

from pathlib import Path

from deploy.dashboards.all import DASHBOARDS
from deploy.dashboards.grafana import text_of

FOLDER = Path(__file__).parents[1] / "grafana" / "dashboards"

if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for dashboard in DASHBOARDS:
        (FOLDER / f"{dashboard.name}.json").write_text(text_of(dashboard), encoding="utf-8")
