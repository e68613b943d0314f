"""Draws the pictures of docs/dashboards.md: `make dashboard-pictures`. It runs a whole stack under load for three minutes.

`python -m tests.support.pictures FOLDER` draws them into another folder.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy.dashboards.__main__ import FOLDER
from deploy.dashboards.all import DASHBOARDS
from deploy.dashboards.picture import draw
from deploy.dashboards.substitute import substituted
from tests.support.prometheus import Prometheus
from tests.support.watched import watched

SECONDS = 180
STEP_SECONDS = 3
IMAGES = Path(__file__).parents[2] / "docs" / "images"


async def main(images: Path) -> None:
    """Runs the load, then draws into a folder."""
    with tempfile.TemporaryDirectory(prefix="penstock-pictures-") as folder:
        async with watched(Path(folder)) as now:
            await asyncio.sleep(SECONDS + 20)  # the first seconds are a start, not a load
            await asyncio.to_thread(_draw, now.prometheus, images)


def _draw(prometheus: Prometheus, images: Path) -> None:
    end = time.time() // STEP_SECONDS * STEP_SECONDS

    def ask(query: str) -> Sequence[Any]:
        return prometheus.series(substituted(query, over_seconds=SECONDS), end - SECONDS, end, STEP_SECONDS)

    images.mkdir(exist_ok=True)
    for dashboard in DASHBOARDS:
        document = json.loads((FOLDER / f"{dashboard.name}.json").read_text(encoding="utf-8"))
        (images / f"dashboard-{dashboard.name}.svg").write_text(draw(document, ask, end - SECONDS, end), encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES))
