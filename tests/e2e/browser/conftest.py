"""One stand for the tests of a file: a broker, an edge and Chromium start once."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.e2e.browser.stand import Stand, stand


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_stand(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stand]:
    async with stand(tmp_path_factory.mktemp("stand")) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def shop(shared_stand: Stand) -> AsyncIterator[Stand]:
    """The stand; a page that throws fails its test."""
    shared_stand.problems.clear()
    yield shared_stand
    for context in shared_stand.browser.contexts:
        await context.close()
    assert shared_stand.problems == []
