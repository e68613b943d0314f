"""Merging: one row a key, the newest wins, nothing older ever overwrites it, with or without coalescing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from loader.contract.warehouse import Kind, TableLoad, TablePatch
from shared.errors import RowsRejected
from tests.support.destinations.opened import Open, arrow, columns, make, merge, plan

pytestmark = pytest.mark.needs("merge")

SHAPE = {"id": Kind.TEXT, "at": Kind.TIMESTAMP, "v": Kind.TEXT}
T0 = datetime(2026, 1, 1, tzinfo=UTC)
T1, T2 = T0 + timedelta(microseconds=1), T0 + timedelta(microseconds=2)


async def test_repeats_across_batches_collapse_and_the_last_wins(wh: Open) -> None:
    session = await wh.session()
    await make(session, "t", SHAPE, ["id"])
    await merge(session, 1, "t", SHAPE, {"id": "a", "v": "one"}, {"id": "b", "v": "one"})
    await merge(session, 2, "t", SHAPE, {"id": "b", "v": "two"}, {"id": "c", "v": "two"})
    found = await wh.rows("t", {"id": Kind.TEXT, "v": Kind.TEXT})
    assert found == [{"id": "a", "v": "one"}, {"id": "b", "v": "two"}, {"id": "c", "v": "two"}]


@pytest.mark.parametrize(
    ("stored", "incoming", "winner"),
    [
        (T0, T1, "new"),
        (T1, T1, "new"),
        (T2, T1, "old"),
        (None, T1, "new"),
        (T1, None, "old"),
        (None, None, "new"),
    ],
)
async def test_a_stored_row_is_replaced_only_by_one_that_is_not_older(
    wh: Open, stored: datetime | None, incoming: datetime | None, winner: str
) -> None:
    session = await wh.session()
    await make(session, "t", SHAPE, ["id"], "at")
    await merge(session, 1, "t", SHAPE, {"id": "a", "at": stored, "v": "old"}, cursor="at")
    await merge(
        session, 2, "t", SHAPE, {"id": "a", "at": incoming, "v": "new"}, {"id": "b", "at": incoming, "v": "new"}, cursor="at"
    )
    found = await wh.rows("t", {"id": Kind.TEXT, "v": Kind.TEXT})
    # a null of the incoming cursor is older than any time, and as old as a stored null
    assert found == [{"id": "a", "v": winner}, {"id": "b", "v": "new"}]


@pytest.mark.needs("coalesce")
async def test_coalescing_keeps_what_the_newer_row_does_not_say(wh: Open) -> None:
    shape = {**SHAPE, "email": Kind.TEXT, "n": Kind.BIGINT, "doc": Kind.JSON}
    session = await wh.session()
    await make(session, "users", shape, ["id"])
    await merge(session, 1, "users", shape, {"id": "u", "at": T0, "v": "a", "email": "x@y", "n": 1}, cursor="at", coalesce=True)
    newer = {"id": "u", "at": T2, "v": None, "n": 2, "doc": "{}"}
    await merge(session, 2, "users", shape, newer, cursor="at", coalesce=True)
    await merge(session, 3, "users", shape, {"id": "u", "at": T1, "v": "late", "email": "late"}, cursor="at", coalesce=True)
    assert await wh.rows("users", shape) == [{"id": "u", "at": T2, "v": "a", "email": "x@y", "n": 2, "doc": "{}"}]


@pytest.mark.needs("coalesce")
async def test_coalescing_fills_nulls_from_an_older_row(wh: Open) -> None:
    shape = {**SHAPE, "email": Kind.TEXT}
    session = await wh.session()
    await make(session, "users", shape, ["id"])
    await merge(session, 1, "users", shape, {"id": "u", "at": T2, "v": "new"}, cursor="at", coalesce=True)
    await merge(session, 2, "users", shape, {"id": "u", "at": T0, "v": "old", "email": "x@y"}, cursor="at", coalesce=True)
    assert await wh.rows("users", shape) == [{"id": "u", "at": T2, "v": "new", "email": "x@y"}]


@pytest.mark.needs("coalesce")  # the destinations that change a stored row in its place
async def test_a_replaced_row_keeps_what_is_made_for_each_row_only(wh: Open) -> None:
    session = await wh.session()
    await wh.subject.run("CREATE SEQUENCE {}.numbers")
    made = "id varchar, a varchar, n bigint DEFAULT 7, t varchar DEFAULT 'it''s', s bigint DEFAULT nextval('{}.numbers'), u varchar UNIQUE"
    await wh.subject.run(f'CREATE TABLE "{{}}".t ({made})')
    await session.patch(TablePatch("t", primary_key=("id",)))
    full = {"id": Kind.TEXT, "a": Kind.TEXT, "n": Kind.BIGINT, "t": Kind.TEXT}
    await merge(session, 1, "t", full, {"id": "x", "a": "1", "n": 1, "t": "1"})
    await merge(session, 2, "t", {"id": Kind.TEXT, "a": Kind.TEXT}, {"id": "x", "a": "2"})
    assert await wh.rows("t", {**full, "s": Kind.BIGINT}) == [{"id": "x", "a": "2", "n": 7, "t": "it's", "s": 1}]


async def test_without_coalescing_nulls_and_missing_columns_replace(wh: Open) -> None:
    session = await wh.session()
    shape = {"id": Kind.TEXT, "a": Kind.TEXT, "b": Kind.TEXT}
    await make(session, "t", shape, ["id"])
    await merge(session, 1, "t", shape, {"id": "x", "a": "1", "b": "1"})
    await merge(session, 2, "t", {"id": Kind.TEXT, "a": Kind.TEXT}, {"id": "x", "a": None})
    assert await wh.rows("t", shape) == [{"id": "x", "a": None, "b": None}]


async def test_compound_and_reordered_keys(wh: Open) -> None:
    session = await wh.session()
    shape = {"id": Kind.TEXT, "day": Kind.DATE, "n": Kind.BIGINT, "v": Kind.TEXT}
    await session.patch(TablePatch("t", add=columns(shape), primary_key=("id", "day", "n")))
    day = T0.date()
    one, two = {"id": "a", "day": day, "n": 1, "v": "one"}, {"id": "a", "day": day, "n": 2, "v": "two"}
    await merge(session, 1, "t", shape, one, two, key=["id", "day", "n"])
    reordered = await session.patch(TablePatch("t", primary_key=("n", "id", "day")))
    assert reordered.primary_key == ("n", "id", "day")
    await merge(session, 2, "t", shape, {**two, "v": "changed"}, key=["n", "id", "day"])
    assert await wh.rows("t", shape, order="n") == [one, {**two, "v": "changed"}]


async def test_a_table_that_is_all_key_takes_repeats(wh: Open) -> None:
    session = await wh.session()
    shape = {"id": Kind.TEXT, "n": Kind.BIGINT}
    await make(session, "t", shape, ["id", "n"])
    for sequence in (1, 2):
        await merge(session, sequence, "t", shape, {"id": "a", "n": 1}, key=["id", "n"])
    assert await wh.rows("t", shape) == [{"id": "a", "n": 1}]


async def test_rows_without_a_key_are_refused_by_index(wh: Open) -> None:
    session = await wh.session()
    await make(session, "t", SHAPE, ["id"])
    with pytest.raises(RowsRejected) as refused:
        await merge(session, 1, "t", SHAPE, {"id": "a"}, {"id": None}, {"id": "c"}, {"id": None})
    assert set(refused.value.rows) == {1, 3}
    assert await wh.rows("t", SHAPE) == []


async def test_large_merges_with_and_without_repeats_take_turns(wh: Open) -> None:
    session = await wh.session()
    shape = {"id": Kind.BIGINT, "v": Kind.BIGINT, "extra": Kind.TEXT}
    await make(session, "t", shape, ["id"])
    starts = [0, 150, 300, 200, 1000, 1150, 1300, 1450, 1600, 1700]  # of 150 rows each; some meet rows that are there
    for sequence, start in enumerate(starts, 1):
        sent = [{"id": id_, "v": sequence} for id_ in range(start, start + 150)]
        await merge(session, sequence, "t", {"id": Kind.BIGINT, "v": Kind.BIGINT}, *sent)
    expected = {id_: sequence for sequence, start in enumerate(starts, 1) for id_ in range(start, start + 150)}
    assert {row["id"]: row["v"] for row in await wh.rows("t", shape)} == expected


async def test_a_table_with_repeats_leaves_the_one_beside_it_as_it_would_be_alone(wh: Open) -> None:
    session = await wh.session()
    shape = {"id": Kind.BIGINT, "v": Kind.BIGINT}
    for table in ("a", "b", "c"):
        await make(session, table, shape, None if table == "c" else ["id"])
    for sequence in (1, 2):
        first = {"a": sequence * 150, "b": 0, "c": 0}  # only those of `b` come again
        rows = {table: arrow(shape, [{"id": start + n, "v": sequence} for n in range(150)]) for table, start in first.items()}
        loads = [TableLoad(table, rows[table], *(() if table == "c" else ("merge", ("id",)))) for table in ("a", "c", "b")]
        report = await session.load(plan(sequence), loads)
        assert report.rows == dict.fromkeys(("a", "b", "c"), 150)
    assert [len(await wh.rows(table, shape)) for table in ("a", "b", "c")] == [300, 150, 300]
    assert {row["v"] for row in await wh.rows("b", shape)} == {2}


@pytest.mark.parametrize("rows", [1, 99, 101, 3000])
async def test_batches_of_every_size_merge_alike(wh: Open, rows: int) -> None:
    session = await wh.session()
    shape = {"id": Kind.BIGINT, "at": Kind.TIMESTAMP, "doc": Kind.JSON, "big": Kind.DECIMAL, "day": Kind.DATE, "x": Kind.DOUBLE}
    await make(session, "t", shape, ["id"], "at")
    for sequence, offset in ((1, 0), (2, rows // 2)):
        sent = [
            {
                "id": n + offset,
                "at": T0 + timedelta(seconds=sequence),
                "doc": f'{{"s": {sequence}}}',
                "big": n,
                "day": T0.date(),
                "x": n / 3,
            }
            for n in range(rows)
        ]
        await session.load(plan(sequence), [TableLoad("t", arrow(shape, sent), "merge", ("id",), "at")])
    found = await wh.rows("t", shape)
    assert [row["id"] for row in found] == list(range(rows + rows // 2))
    assert [row["at"] for row in found] == [T0 + timedelta(seconds=1 if n < rows // 2 else 2) for n in range(rows + rows // 2)]
