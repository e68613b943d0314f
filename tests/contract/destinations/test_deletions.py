"""Merges that delete rows, and loads that leave alone rows whose key is there."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from loader.contract.warehouse import Kind, TableLoad
from shared.errors import RowsRejected
from tests.support.destinations.opened import Open, arrow, make, plan

SHAPE = {"id": Kind.TEXT, "at": Kind.TIMESTAMP, "v": Kind.TEXT, "gone": Kind.TIMESTAMP}
T = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=n) for n in range(10)]


def row(id_: str, at: datetime | None, v: str | None = None, gone: bool = False) -> dict[str, Any]:
    return {"id": id_, "at": at, "v": v, "gone": T[0] if gone else None}


async def merge(wh: Open, loads: list[list[dict[str, Any]]], cursor: str | None = "at") -> list[tuple[str, str]]:
    session = await wh.session()
    await make(session, "t", SHAPE, ["id"], cursor)
    for sequence, rows in enumerate(loads, 1):
        load = TableLoad("t", arrow(SHAPE, rows), "merge", ("id",), cursor, deleted="gone")
        report = await session.load(plan(sequence), [load])
        assert report.rows == {"t": len(rows)}
    found = await wh.rows("t", SHAPE)
    assert all(each["gone"] is None for each in found)
    return [(each["id"], each["v"]) for each in found]


CASES: dict[str, tuple[list[list[dict[str, Any]]], list[tuple[str, str]]]] = {
    "a deletion": ([[row("a", T[1], "x"), row("b", T[1], "x")], [row("a", T[2], gone=True)]], [("b", "x")]),
    "an older deletion": ([[row("a", T[2], "x")], [row("a", T[1], gone=True)]], [("a", "x")]),
    "a deletion of the same time": ([[row("a", T[1], "x")], [row("a", T[1], gone=True)]], []),
    "one without a time, of a row without one": ([[row("a", None, "x")], [row("a", None, gone=True)]], []),
    "one without a time, of a row with one": ([[row("a", T[1], "x")], [row("a", None, gone=True)]], [("a", "x")]),
    "one of what is not there": ([[row("a", T[1], gone=True)]], []),
    "a row that comes back": ([[row("a", T[1], "x")], [row("a", T[2], gone=True)], [row("a", T[3], "y")]], [("a", "y")]),
    "beside new and changed rows": (
        [
            [row("a", T[1], "x"), row("b", T[1], "x"), row("c", T[1], "x")],
            [row("c", T[2], gone=True), row("b", T[2], "y"), row("d", T[1], "x"), row("a", T[0], gone=True)],
        ],
        [("a", "x"), ("b", "y"), ("d", "x")],
    ),
    "a repeat": (
        [[row("a", T[1], "x"), row("b", T[1], "x")], [row("a", T[2], gone=True)], [row("a", T[2], gone=True)]],
        [("b", "x")],
    ),
}


@pytest.mark.needs("deletes")
@pytest.mark.parametrize("case", CASES)
async def test_a_merge_deletes_rows_that_are_not_newer(wh: Open, case: str) -> None:
    loads, expected = CASES[case]
    assert await merge(wh, loads) == expected


@pytest.mark.needs("deletes")
async def test_without_a_cursor_the_later_load_decides(wh: Open) -> None:
    loads = [
        [row("a", T[5], "x"), row("b", None, "x")],
        [row("a", None, gone=True)],
        [row("b", T[1], gone=True), row("c", None, "y")],
    ]
    assert await merge(wh, loads, cursor=None) == [("c", "y")]


@pytest.mark.needs("deletes")
async def test_a_bad_row_of_a_merge_with_deletions_is_named_and_nothing_is_done(wh: Open) -> None:
    shape = {**SHAPE, "doc": Kind.JSON}
    session = await wh.session()
    await make(session, "t", shape, ["id"], "at")
    await session.load(plan(1), [TableLoad("t", arrow(shape, [row("a", T[1], "x")]), "merge", ("id",), "at")])
    rows = [row("a", T[2], gone=True), {**row("b", T[2]), "doc": "{broken"}, row("c", T[2])]
    with pytest.raises(RowsRejected) as refused:
        await session.load(plan(2), [TableLoad("t", arrow(shape, rows), "merge", ("id",), "at", deleted="gone")])
    assert set(refused.value.rows) == {1}
    assert [each["id"] for each in await wh.rows("t", shape)] == ["a"]


@pytest.mark.needs("deletes")
async def test_keys_that_are_one_to_the_warehouse_are_one(wh: Open) -> None:
    low, high = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"
    session = await wh.session()
    native = {"mysql": "varchar(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci"}.get(wh.subject.document["type"], "uuid")
    await wh.subject.run(f'CREATE TABLE "{{}}".t (id {native} UNIQUE, v varchar(20), gone varchar(20))')
    shape = {"id": Kind.TEXT, "v": Kind.TEXT, "gone": Kind.TEXT}
    await session.describe(["t"])
    rows = [{"id": low, "v": "x"}, {"id": high, "gone": "yes"}]
    for sequence, sent in enumerate((rows, rows[::-1]), 1):
        await session.load(plan(sequence), [TableLoad("t", arrow(shape, sent), "merge", ("id",), deleted="gone")])
        found = await wh.subject.rows("t", shape)
        assert [each["v"] for each in found] == ([] if sequence == 1 else ["x"])


@pytest.mark.needs("insert_only")
async def test_rows_whose_key_is_there_are_left_alone(wh: Open) -> None:
    session = await wh.session()
    await make(session, "t", SHAPE, ["id"])
    loads = [
        [row("a", T[1], "first"), row("b", T[1], "first")],
        [row("b", T[2], "second"), row("c", T[2], "second")],
        [row("a", T[3], "third"), *(row(f"d{n}", T[3], "third") for n in range(200)), row("c", T[3], "third")],
    ]
    for sequence, rows in enumerate(loads, 1):
        await session.load(plan(sequence), [TableLoad("t", arrow(SHAPE, rows), "insert_only", ("id",))])
    found = {each["id"]: each["v"] for each in await wh.rows("t", SHAPE)}
    expected = {"a": "first", "b": "first", "c": "second"} | {f"d{n}": "third" for n in range(200)}
    assert found == expected
