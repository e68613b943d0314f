"""ClickHouse's fence where a loader does not see itself that another one overtook it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from unittest.mock import AsyncMock
from unittest.mock import patch as replaced

import pytest

from loader.contract.warehouse import Kind, Part, TableLoad
from shared.errors import Fenced
from tests.support.clickhouse import Place
from tests.support.destinations.clickhouse import ClickHouseSubject
from tests.support.destinations.opened import Open, arrow, make, opened, plan

SHAPE = {"id": Kind.TEXT}


@pytest.fixture
async def wh(clickhouse: Place) -> AsyncIterator[Open]:
    """A database of its own."""
    subject = ClickHouseSubject(clickhouse)
    async with opened(subject) as one:
        yield one
    await subject.drop()


async def test_a_session_that_was_overtaken_unseen_begins_no_refresh(wh: Open) -> None:
    older = await wh.session(epoch=1)
    await make(older, "t", SHAPE)
    await wh.session(epoch=2, destination=await wh.another())
    part = TableLoad("t", arrow(SHAPE, [{"id": "a"}]), "replace", part=Part(1, ends=False))
    with replaced.object(older, "_read_fence", AsyncMock()), pytest.raises(Fenced):
        await older.load(plan(1), [part])
