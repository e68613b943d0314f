"""The table in which rows are tried leaves nothing behind, however the trial ends."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from loader.warehouses.clickhouse.session import ClickHouseSession
from shared.errors import SetupError


def session(run: Any) -> ClickHouseSession:
    """A session that sends its statements to a function, and inserts nothing."""
    made = object.__new__(ClickHouseSession)
    made._database, made._link = "shop", cast("Any", SimpleNamespace(run=run))
    return made


async def test_a_trial_that_is_cancelled_while_its_table_is_made_drops_it() -> None:
    said: list[str] = []
    begun, over = asyncio.Event(), asyncio.Event()

    async def run(_: str, statement: str, __: str) -> None:
        said.append(statement.split()[0])
        if said == ["CREATE"]:
            begun.set()
            await over.wait()

    load = cast("Any", SimpleNamespace(table="t", rows=SimpleNamespace(num_rows=1)))
    task = asyncio.create_task(session(run)._try([load], {"t": cast("Any", SimpleNamespace(refuses=True))}))
    await begun.wait()
    task.cancel()
    over.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert said == ["CREATE", "DROP"]


async def test_the_error_of_a_table_that_cannot_be_made_is_the_one_that_is_told() -> None:
    async def run(_: str, statement: str, __: str) -> None:
        raise SetupError(statement.split()[0])

    load = cast("Any", SimpleNamespace(table="t", rows=SimpleNamespace(num_rows=1)))
    with pytest.raises(SetupError, match="CREATE"):
        await session(run)._try([load], {"t": cast("Any", SimpleNamespace(refuses=True))})
