"""An API beside the test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from connector_runner.sources.http_api import link
from tests.support.http_api import Api, api


@pytest.fixture
async def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    """An API; the test gives it its answer. A source does not wait long before it asks again."""
    monkeypatch.setattr(link, "FIRST_SECONDS", 0.001)
    async with api(lambda _: [], tmp_path) as running:
        yield running
