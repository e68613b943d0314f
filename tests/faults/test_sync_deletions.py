"""Rows that the source deleted: they keep their values, go, or end as versions, and so do those of a table that was emptied."""

from __future__ import annotations

from collections import Counter

import pytest

from loader.contract.warehouse import Kind
from tests.support.destinations.clickhouse import ClickHouseSubject
from tests.support.destinations.duckdb import DuckDBSubject
from tests.support.destinations.postgres import PostgresSubject
from tests.support.syncs import Loaders, Queue, stream

SHAPE = {"id": Kind.BIGINT, "text": Kind.TEXT}
Warehouse = PostgresSubject | DuckDBSubject | ClickHouseSubject


async def ids(wh: Warehouse, table: str) -> Counter[int]:
    return Counter(row["id"] for row in await wh.rows(table, SHAPE))


ALL = pytest.mark.parametrize("wh", ["postgres", "duckdb", "clickhouse"], indirect=True)


@ALL
async def test_a_row_that_the_source_deleted_keeps_what_the_deletion_does_not_tell(
    wh: Warehouse, queue: Queue, loaders: Loaders
) -> None:
    soft = stream("soft", "merge", key=["id"], cursor="n", marked=("deleted",))
    moment = "2026-01-01T00:00:00Z"
    row = {"id": 1, "n": 1, "text": "a", "deleted": None}
    await queue.put(1, 1, [(soft, [row, {**row, "id": 2}, {**row, "id": 3}])])
    await queue.put(
        1, 2, [(soft, [{"id": 1, "n": 2, "deleted": moment}, {**row, "id": 4}, {"id": 4, "n": 2, "deleted": moment}])]
    )
    await queue.put(1, 3, [(soft, [{"id": 3, "n": 2, "deleted": moment}, {**row, "id": 3, "n": 3, "text": "b"}])], last=True)
    async with loaders.life():
        await queue.is_empty()
    found = {
        row["id"]: (row["text"], row["deleted"] is not None)
        for row in await wh.rows("soft", {**SHAPE, "deleted": Kind.TIMESTAMP})
    }
    told = None if isinstance(wh, ClickHouseSubject) else "a"  # it has no merge that reads stored rows
    assert found == {1: (told, True), 2: ("a", False), 3: ("b", False), 4: (told, True)}
    assert (await queue.progress()).streams["soft"].loaded == 8


@ALL
async def test_rows_that_the_source_has_no_more_go_or_are_marked(wh: Warehouse, queue: Queue, loaders: Loaders) -> None:
    shape = {"id": Kind.BIGINT, "n": Kind.BIGINT}
    soft = stream("soft", "merge", key=["id"], cursor="n", marked=("deleted",))
    streams = [soft, stream("log", "append")]
    if not isinstance(wh, ClickHouseSubject):
        streams += [
            stream("hard", "merge", key=["id"], cursor="n", deleted="deleted"),
            stream("versions", "history", key=["id"], cursor="n"),
        ]
    never = stream("never", "merge", key=["id"], cursor="n", marked=("deleted",))
    await queue.put(1, 1, [(each, [{"id": 1, "n": 1}, {"id": 2, "n": 2}]) for each in streams])
    await queue.put(1, 2, [(each, [{"id": 3, "n": 7}]) for each in streams], emptied=[(each, 5) for each in [*streams, never]])
    await queue.put(1, 3, emptied=[(each, 6) for each in streams], last=True)
    async with loaders.life():
        await queue.is_empty()
    assert await ids(wh, "log") == Counter((1, 2, 3))
    marked = await wh.rows("soft", {**shape, "deleted": Kind.TIMESTAMP})
    assert {row["id"]: row["n"] for row in marked if row["deleted"] is None} == {3: 7}
    assert {row["id"]: row["n"] for row in marked if row["deleted"] is not None} == {1: 5, 2: 5}
    if not isinstance(wh, ClickHouseSubject):
        assert await ids(wh, "hard") == Counter((3,))
        versions = await wh.rows("versions", {**shape, "_current": Kind.BOOLEAN, "_valid_to": Kind.TIMESTAMP})
        assert {row["id"]: (row["_current"], row["_valid_to"] is None) for row in versions} == {
            1: (False, False), 2: (False, False), 3: (True, True),
        }  # fmt: skip
    assert {name: each.failed for name, each in (await queue.progress()).streams.items()} == dict.fromkeys(
        [each.name for each in [*streams, never]], ""
    )
