"""Every test of the source suite runs against every plug-in, in a place of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.sources.airbyte import AirbytePlace
from tests.support.sources.databases import ClickHousePlace, DuckDBPlace, MySQLPlace
from tests.support.sources.files import FilesPlace
from tests.support.sources.http_api import HttpApiPlace
from tests.support.sources.place import Place
from tests.support.sources.postgres import PostgresLogPlace, PostgresPlace
from tests.support.sources.python import PythonPlace

PLACES: dict[str, type[Place]] = {
    "airbyte": AirbytePlace,
    "files": FilesPlace,
    "clickhouse": ClickHousePlace,
    "duckdb": DuckDBPlace,
    "http_api": HttpApiPlace,
    "mysql": MySQLPlace,
    "postgres": PostgresPlace,
    "postgres_log": PostgresLogPlace,
    "python": PythonPlace,
}
"""Label to place. A new plug-in gets its line here; a test misses it otherwise."""


@pytest.fixture(params=sorted(PLACES))
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    """A place of each plug-in in turn; skips the tests that it waives."""
    kind = PLACES[request.param]
    name = request.node.originalname
    if name in kind.waivers:
        pytest.skip(f"waived: {kind.waivers[name]}")
    found = kind(tmp_path, request)
    await found.start()
    try:
        yield found
    finally:
        await found.stop()
