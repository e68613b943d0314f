"""Merges that delete rows, and loads that leave alone rows whose key is there."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from loader.contract.warehouse import Column, Emptied, Kind, TableLoad, TablePatch
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


def marked(id_: str, at: int | None, v: str | None = None, w: int | None = None) -> dict[str, Any]:
    return {"id": id_, "at": None if at is None else T[at], "v": v, "w": w, "gone": T[9]}


def stays(id_: str, at: int | None, v: str | None = None, w: int | None = None) -> dict[str, Any]:
    return {**marked(id_, at, v, w), "gone": None}


MARKED_SHAPE = {"id": Kind.TEXT, "at": Kind.TIMESTAMP, "v": Kind.TEXT, "w": Kind.BIGINT, "gone": Kind.TIMESTAMP}
MARKS: dict[str, tuple[list[list[dict[str, Any]]], list[dict[str, Any]]]] = {
    "a mark keeps the values": (
        [[stays("a", 1, "x", 1), stays("b", 1, "y", 2)], [marked("a", 2)]],
        [marked("a", 2, "x", 1), stays("b", 1, "y", 2)],
    ),
    "what the mark tells counts": ([[stays("a", 1, "x", 1)], [marked("a", 2, "z")]], [marked("a", 2, "z", 1)]),
    "an older mark changes nothing": ([[stays("a", 2, None, 1)], [marked("a", 1, "z")]], [stays("a", 2, None, 1)]),
    "one of what is not there": ([[marked("a", 1)]], [marked("a", 1)]),
    "a row that comes back": ([[stays("a", 1, "x", 1)], [marked("a", 2)], [stays("a", 3, "y")]], [stays("a", 3, "y")]),
    "a row and its mark in one load, over a stored row": (
        [[stays("a", 1, "x", 1)], [stays("a", 2, "y", None), marked("a", 2), stays("b", 2, "z", 5), stays("c", 1)]],
        [marked("a", 2, "y", None), stays("b", 2, "z", 5), stays("c", 1)],
    ),
    "a repeat": (
        [[stays("a", 1, "x", 1), marked("a", 2)], [stays("a", 1, "x", 1), marked("a", 2)], [marked("a", 2)]],
        [marked("a", 2, "x", 1)],
    ),
    "without columns of values": ([[stays("a", 1, "x", 1)], [{"id": "a", "at": T[2], "gone": T[9]}]], [marked("a", 2, "x", 1)]),
}


@pytest.mark.needs("marks")
@pytest.mark.parametrize("case", MARKS)
async def test_a_row_that_is_marked_as_deleted_keeps_its_values(wh: Open, case: str) -> None:
    loads, expected = MARKS[case]
    session = await wh.session()
    await make(session, "t", MARKED_SHAPE, ["id"], "at")
    for sequence, rows in enumerate(loads, 1):
        shape = {name: kind for name, kind in MARKED_SHAPE.items() if any(name in each for each in rows)}
        load = TableLoad("t", arrow(shape, rows), "merge", ("id",), "at", marked="gone")
        assert (await session.load(plan(sequence), [load])).rows == {"t": len(rows)}
    assert await wh.rows("t", MARKED_SHAPE) == expected


@pytest.mark.needs("marks")
async def test_rows_are_marked_and_others_deleted_in_one_load(wh: Open) -> None:
    session = await wh.session()
    shape = {**MARKED_SHAPE, "left": Kind.TIMESTAMP}
    await make(session, "t", shape, ["id"], "at")
    stored = [stays("a", 1, "x", 1), stays("b", 1, "y", 2), stays("c", 5, "z", 3), stays("e", 1, "w", 4)]
    await session.load(plan(1), [TableLoad("t", arrow(MARKED_SHAPE, stored), "merge", ("id",), "at", marked="gone")])
    left = {"left": T[9]}
    rows = [
        marked("a", 2),
        {**stays("b", 2), **left},
        {**stays("c", 2), **left},
        stays("d", 2, "v"),
        {**stays("e", 2), **left},
        marked("e", 3),
    ]
    load = TableLoad("t", arrow(shape, rows), "merge", ("id",), "at", deleted="left", marked="gone")
    for sequence in (2, 3):
        await session.load(plan(sequence), [load])
        found = [
            {**each, "left": None} for each in (marked("a", 2, "x", 1), stays("c", 5, "z", 3), stays("d", 2, "v"), marked("e", 3))
        ]
        assert await wh.rows("t", shape) == found


@pytest.mark.needs("marks")
async def test_a_bad_row_of_a_merge_with_marks_is_named_and_nothing_is_done(wh: Open) -> None:
    shape = {**SHAPE, "doc": Kind.JSON}
    session = await wh.session()
    await make(session, "t", shape, ["id"], "at")
    await session.load(plan(1), [TableLoad("t", arrow(shape, [row("a", T[1], "x")]), "merge", ("id",), "at")])
    rows = [row("a", T[2], gone=True), {**row("b", T[2]), "doc": "{broken"}, row("c", T[2])]
    with pytest.raises(RowsRejected) as refused:
        await session.load(plan(2), [TableLoad("t", arrow(shape, rows), "merge", ("id",), "at", marked="gone")])
    assert set(refused.value.rows) == {1}
    assert [(each["id"], each["gone"]) for each in await wh.rows("t", shape)] == [("a", None)]


@pytest.mark.needs("marks")
async def test_a_mark_of_a_key_that_is_one_to_the_warehouse_finds_the_row(wh: Open) -> None:
    low, high = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"
    session = await wh.session()
    native = {"mysql": "varchar(36) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci"}.get(wh.subject.document["type"], "uuid")
    await wh.subject.run(f'CREATE TABLE "{{}}".t (id {native} UNIQUE, v varchar(20), gone varchar(20))')
    shape = {"id": Kind.TEXT, "v": Kind.TEXT, "gone": Kind.TEXT}
    await session.describe(["t"])
    rows = [{"id": low, "v": "x"}, {"id": high, "v": "y"}, {"id": high, "gone": "yes"}, {"id": low, "gone": "yes"}]
    await session.load(plan(1), [TableLoad("t", arrow(shape, rows), "merge", ("id",), marked="gone")])
    assert [(each["v"], each["gone"]) for each in await wh.subject.rows("t", shape)] == [("y", "yes")]


NUMBERED = {"id": Kind.TEXT, "n": Kind.BIGINT, "v": Kind.TEXT, "gone": Kind.TIMESTAMP}


@pytest.mark.needs("empties")
@pytest.mark.parametrize("marking", [True, False])
@pytest.mark.parametrize("alone", [True, False])
async def test_rows_that_are_older_than_a_cursor_go_or_are_marked(wh: Open, marking: bool, alone: bool) -> None:
    if not marking and not wh.capabilities.deletes:
        pytest.skip("it deletes no rows")
    session = await wh.session()
    await make(session, "t", NUMBERED, ["id"], "n")
    rows: list[dict[str, Any]] = [
        {"id": "a", "n": 1, "v": "x"}, {"id": "b", "n": 5, "v": "x"}, {"id": "c", "n": None, "v": "x"}, {"id": "d", "n": 2, "v": "x", "gone": T[1]},
    ]  # fmt: skip
    await session.load(plan(1), [TableLoad("t", arrow(NUMBERED, rows), "merge", ("id",), "n")])
    emptied = Emptied(5, T[9], "gone" if marking else None)
    more: list[dict[str, Any]] = (
        [] if alone else [{"id": "e", "n": 7, "v": "y"}, {"id": "f", "n": 3, "v": "y"}, {"id": "a", "n": 6, "v": "y"}]
    )
    sent = arrow(NUMBERED, more) if more else pa.table({})
    for sequence in (2, 3):  # a repeat changes nothing
        load = TableLoad(table="t", rows=sent, write="merge", key=("id",) if more else (), cursor="n", emptied=emptied)
        assert (await session.load(plan(sequence), [load])).rows == {"t": len(more)}
    found = {each["id"]: each for each in await wh.rows("t", NUMBERED)}
    left = {"b": 5} if alone else {"a": 6, "b": 5, "e": 7}
    assert {id_: each["n"] for id_, each in found.items() if each["gone"] is None} == left
    gone = {id_: (each["n"], each["v"], each["gone"]) for id_, each in found.items() if each["gone"] is not None}
    marked_now = {"c": (5, "x", T[9])} | ({"a": (5, "x", T[9])} if alone else {"f": (5, "y", T[9])})
    assert gone == ({**marked_now, "d": (2, "x", T[1])} if marking else {})


@pytest.mark.needs("empties")
@pytest.mark.needs("history")
async def test_versions_that_are_older_than_a_cursor_end(wh: Open) -> None:
    shape = {"id": Kind.TEXT, "n": Kind.BIGINT}
    versions = {**shape, "_valid_from": Kind.TIMESTAMP, "_valid_to": Kind.TIMESTAMP, "_current": Kind.BOOLEAN}
    session = await wh.session()
    await session.describe(["t"])
    patch = TablePatch(
        "t",
        tuple(Column(name, kind) for name, kind in versions.items()),
        primary_key=("id", "_valid_from"),
        cursor="n",
        history=True,
    )
    await session.create([patch])
    for sequence, (rows, emptied) in enumerate(
        [
            ([{"id": "a", "n": 1}, {"id": "b", "n": 2}], None),
            ([{"id": "b", "n": 6}], None),
            ([{"id": "c", "n": 5}], Emptied(5, T[5])),
        ],
        1,
    ):
        load = TableLoad(
            table="t", rows=arrow(shape, rows), write="history", key=("id",), cursor="n", at=T[sequence], emptied=emptied
        )
        await session.load(plan(sequence), [load])
    found = await wh.rows("t", versions)
    assert sorted((each["id"], each["_valid_from"], each["_valid_to"], each["_current"]) for each in found if not each["_current"]) == [
        ("a", T[1], T[5], False), ("b", T[1], T[2], False),
    ]  # fmt: skip
    assert {each["id"] for each in found if each["_current"]} == {"b", "c"}


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
