"""A load is committed whole and once: marks, repeats, fences, cancellation, refused rows."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from functools import cache

import pytest

from loader.contract.warehouse import Kind, LoadPlan, Session, TableLoad
from shared.errors import Fenced, NotConnected, PenstockError, RowsRejected
from tests.support.delivery import Delivery
from tests.support.destinations.files import FilesSubject, LocalSubject
from tests.support.destinations.opened import Open, append, arrow, make, merge, plan

SHAPE = {"id": Kind.BIGINT, "text": Kind.TEXT}
MANY = 25_000


@cache
def many(count: int = MANY) -> TableLoad:
    return TableLoad("t", arrow(SHAPE, [{"id": n, "text": f"row {n} " + "x" * 200} for n in range(count)]))


async def load_as_the_core_does(session: Session, sequence: int, load: TableLoad) -> None:
    """Skips what the marks say is loaded."""
    if (await session.marks()).get((load.table, "live-1"), 0) < sequence:
        await session.load(plan(sequence), [load])


async def test_the_same_plan_loaded_twice_leaves_one_copy(wh: Open) -> None:
    session = await wh.session()
    await make(session, "t", SHAPE)
    load = TableLoad("t", arrow(SHAPE, [{"id": 1, "text": "a"}]))
    await load_as_the_core_does(session, 7, load)
    await load_as_the_core_does(session, 7, load)
    await load_as_the_core_does(await wh.session(epoch=2), 7, load)
    await load_as_the_core_does(await wh.session(epoch=3, destination=await wh.another()), 7, load)
    assert await wh.rows("t", SHAPE) == [{"id": 1, "text": "a"}]


@pytest.mark.needs("transactional")
async def test_marks_say_what_is_loaded_by_table_and_lane_and_only_grow(wh: Open) -> None:
    session = await wh.session()
    await make(session, "t", SHAPE)
    await make(session, "u", SHAPE)
    assert await session.marks() == {}
    row = arrow(SHAPE, [{"id": 1}])
    await session.load(LoadPlan("shop-wh", "live-1", 1, 5), [TableLoad("t", row), TableLoad("u", row)])
    await session.load(LoadPlan("shop-wh", "live-1", 6, 9), [TableLoad("t", row)])
    await session.load(LoadPlan("shop-wh", "replay-x", 1, 2), [TableLoad("t", row)])
    await session.load(LoadPlan("shop-wh", "live-1", 3, 4), [TableLoad("t", row)])
    expected = {("t", "live-1"): 9, ("u", "live-1"): 5, ("t", "replay-x"): 2}
    assert await session.marks() == expected
    assert await (await wh.session(epoch=2)).marks() == expected
    assert await (await wh.session("another-connection")).marks() == {}


async def test_a_session_with_an_older_epoch_cannot_open(wh: Open) -> None:
    await wh.session(epoch=5)
    with pytest.raises(Fenced):
        await wh.session(epoch=4)
    await wh.session("another-connection", epoch=4)
    await wh.session(epoch=5)


async def test_a_newer_session_ends_the_older_one(wh: Open) -> None:
    older = await wh.session(epoch=1)
    await make(older, "t", SHAPE)
    await append(older, 1, "t", SHAPE, {"id": 1})
    newer = await wh.session(epoch=2, destination=await wh.another())
    with pytest.raises((Fenced, NotConnected)):
        await append(older, 2, "t", SHAPE, {"id": 2})
    with pytest.raises(Fenced):
        await wh.session(epoch=1)
    await append(newer, 2, "t", SHAPE, {"id": 3})
    assert [row["id"] for row in await wh.rows("t", SHAPE)] == [1, 3]


@pytest.mark.needs("transactional")
async def test_the_ledger_alone_fences_a_session_that_nobody_ended(wh: Open) -> None:
    session = await wh.session(epoch=1)
    await make(session, "t", SHAPE)
    await wh.subject.run("UPDATE \"{}\"._penstock_loads SET epoch = 2 WHERE connection = 'shop-wh' AND table_name = ''")
    with pytest.raises(Fenced):
        await append(session, 1, "t", SHAPE, {"id": 1})
    assert await wh.rows("t", SHAPE) == []
    assert await (await wh.session(epoch=2)).marks() == {}


async def test_a_session_overtaken_in_the_middle_of_a_load_commits_before_its_successor_or_not_at_all(wh: Open) -> None:
    older = await wh.session(epoch=1)
    await make(older, "t", SHAPE)
    other = await wh.another()
    for delay in (0.0, 0.02, 0.1):
        epoch = 2 + int(delay * 1000)
        load = asyncio.ensure_future(older.load(plan(epoch), [many()]))
        await asyncio.sleep(delay)
        older = await wh.session(epoch=epoch, destination=other)
        marks = dict(await older.marks())
        rows = len(await wh.subject.rows("t", SHAPE))
        outcome = (await asyncio.gather(load, return_exceptions=True))[0]
        # what the successor saw when it opened is what there is: nothing arrives behind its back
        assert len(await wh.subject.rows("t", SHAPE)) == rows
        assert await older.marks() == marks
        if isinstance(outcome, BaseException):
            assert isinstance(outcome, (Fenced, NotConnected)), outcome
        if wh.capabilities.transactional:
            assert rows == MANY * sum(1 for mark in marks.values() if mark) or rows % MANY == 0


async def test_connections_do_not_fence_each_other(wh: Open) -> None:
    one, two = await wh.session("one"), await wh.session("two", epoch=9)
    await make(one, "t", SHAPE)
    rows = arrow(SHAPE, [{"id": 1}])
    await one.load(plan(1, connection="one"), [TableLoad("t", rows)])
    await two.load(plan(1, connection="two"), [TableLoad("t", rows)])
    await one.load(plan(2, connection="one"), [TableLoad("t", rows)])
    assert len(await wh.rows("t", SHAPE)) == 3


@pytest.mark.parametrize("delay", [0.0, 0.005, 0.02, 0.06, 0.15])
async def test_a_cancelled_load_leaves_nothing_or_all_with_its_mark(wh: Open, delay: float) -> None:
    session = await wh.session()
    await make(session, "t", SHAPE)
    load = asyncio.ensure_future(session.load(plan(1), [many()]))
    await asyncio.sleep(delay)
    load.cancel()
    outcome = (await asyncio.gather(load, return_exceptions=True))[0]
    rows = len(await wh.subject.rows("t", SHAPE))
    await asyncio.sleep(0.2)
    assert len(await wh.subject.rows("t", SHAPE)) == rows, "nothing may become visible later"
    assert rows in (0, MANY)
    if not isinstance(outcome, BaseException):
        assert rows == MANY
    again = await wh.session(epoch=2)
    if wh.capabilities.transactional:
        assert await again.marks() == ({("t", "live-1"): 1} if rows else {})
    await load_as_the_core_does(again, 1, many())
    assert len(await wh.subject.rows("t", SHAPE)) == MANY


@pytest.mark.needs("transactional")
async def test_tables_and_marks_of_a_plan_commit_together_or_not_at_all(wh: Open) -> None:
    session = await wh.session()
    await make(session, "good", SHAPE)
    await make(session, "bad", {"id": Kind.BIGINT}, ["id"])
    rows = arrow(SHAPE, [{"id": 1, "text": "a"}])
    with pytest.raises(PenstockError):
        await session.load(
            plan(1), [TableLoad("good", rows), TableLoad("bad", arrow({"id": Kind.BIGINT}, [{"id": 1}, {"id": 1}]))]
        )
    again = await wh.session(epoch=2)
    assert await wh.rows("good", SHAPE) == []
    assert await again.marks() == {}


@pytest.mark.needs("transactional")
async def test_one_bad_row_of_thirty_is_named_and_the_others_load_without_it(wh: Open) -> None:
    session = await wh.session()
    shape = {"id": Kind.BIGINT, "doc": Kind.JSON}
    await make(session, "t", shape)
    sent = [{"id": n, "doc": "{}" if n != 17 else "{broken"} for n in range(30)]
    with pytest.raises(RowsRejected) as refused:
        await append(session, 1, "t", shape, *sent)
    assert set(refused.value.rows) == {17}
    assert refused.value.table == "t"
    assert await wh.rows("t", shape) == []
    # the same session goes on: nothing of the refused load is left open
    await append(session, 1, "t", shape, *[row for row in sent if row["id"] != 17])
    assert len(await wh.rows("t", shape)) == 29


@pytest.mark.needs("merge")
@pytest.mark.apart("clickhouse", "its JSON is text")
async def test_a_bad_row_of_a_merge_is_named_too(wh: Open) -> None:
    session = await wh.session()
    shape = {"id": Kind.BIGINT, "doc": Kind.JSON}
    await make(session, "t", shape, ["id"])
    for count in (30, 500):
        with pytest.raises(RowsRejected) as refused:
            await merge(session, 1, "t", shape, *[{"id": n, "doc": "[" if n == 3 else "[]"} for n in range(count)])
        assert set(refused.value.rows) == {3}
    assert await wh.rows("t", shape) == []


@pytest.mark.needs("transactional")
async def test_numbers_outside_a_users_smaller_column_are_all_named(wh: Open) -> None:
    session = await wh.session()
    await wh.subject.run('CREATE TABLE "{}".small (id integer, f real)')
    shape = {"id": Kind.BIGINT, "f": Kind.DOUBLE}
    bad = [{"id": 2**31, "f": 1.0}, {"id": -(2**31) - 1, "f": 1.0}]
    with pytest.raises(RowsRejected) as refused:
        await append(session, 1, "small", shape, {"id": 2**31 - 1, "f": 1.5}, *bad, {"id": -(2**31), "f": None})
    assert set(refused.value.rows) == {1, 2}
    with pytest.raises(RowsRejected) as refused:
        await append(session, 1, "small", shape, {"id": 1, "f": 1e300}, {"id": 2, "f": 2.0})
    assert set(refused.value.rows) == {0}
    await append(session, 1, "small", shape, {"id": 7, "f": 0.5}, {"id": 8})
    assert await wh.rows("small", shape) == [{"id": 7, "f": 0.5}, {"id": 8, "f": None}]


@pytest.mark.needs("transactional")
async def test_a_probe_refuses_as_a_load_would_and_leaves_nothing(wh: Open) -> None:
    session = await wh.session()
    shape = {"id": Kind.BIGINT, "doc": Kind.JSON}
    await make(session, "t", shape, ["id"])
    good, bad = {"id": 1, "doc": "{}"}, {"id": 2, "doc": "{"}
    for write in ("append", "merge"):
        await session.probe([TableLoad("t", arrow(shape, [good]), write, ("id",))])
        with pytest.raises(RowsRejected):
            await session.probe([TableLoad("t", arrow(shape, [good, bad]), write, ("id",))])
    assert await wh.rows("t", shape) == []
    assert await session.marks() == {}


async def test_a_probe_of_fit_rows_passes(wh: Open) -> None:
    session = await wh.session()
    await make(session, "t", SHAPE)
    await session.probe([TableLoad("t", arrow(SHAPE, [{"id": 1}]))])
    assert await wh.rows("t", SHAPE) == []


@pytest.mark.only("local", "s3", "azure")
async def test_objects_are_named_by_table_hour_and_plan(wh: Open) -> None:
    session = await wh.session()
    shape = {"id": Kind.TEXT, "received_at": Kind.TIMESTAMP}
    hours = [datetime(2026, 1, 1, 23, 59, 59, 999999, UTC), datetime(2026, 1, 2, tzinfo=UTC), None]
    rows = arrow(shape, [{"id": str(n), "received_at": at} for n, at in enumerate(hours * 2)])
    first = LoadPlan("shop-wh", "live-1", 5, 12)
    for _ in range(2):
        await session.load(first, [TableLoad("a/../b", rows)])
    assert isinstance(wh.subject, FilesSubject)
    end = {"parquet": "parquet", "ndjson": "ndjson.gz", "csv": "csv.gz"}[wh.subject.document["format"]]
    name = f"shop-wh-live-1-{5:020d}-{12:020d}-0.{end}"
    assert wh.subject.files() == [
        f"a%2F..%2Fb/dt=2026-01-01/hr=23/{name}",
        f"a%2F..%2Fb/dt=2026-01-02/hr=00/{name}",
        f"a%2F..%2Fb/dt=unknown/hr=unknown/{name}",
    ]
    assert len(await wh.rows("a/../b", shape)) == 6


@pytest.mark.only("local")
async def test_a_new_session_removes_what_a_killed_one_left_on_its_way(wh: Open) -> None:
    assert isinstance(wh.subject, LocalSubject)
    await wh.session(epoch=1)
    left = wh.subject.root / "_penstock" / "shop-wh" / "1" / "0.part"
    left.write_bytes(b"half an object")
    await wh.session(epoch=2)
    assert not left.exists()
    assert wh.subject.files() == []


@pytest.mark.needs("transactional")
async def test_marks_are_forgotten_one_by_one(wh: Open) -> None:
    session = await wh.session()
    shape = {"id": Kind.TEXT}
    await make(session, "t", shape)
    for lane in ("live", "aside.1.live", "aside.2.live"):
        await session.load(plan(1, lane=lane), [TableLoad("t", arrow(shape, [{"id": lane}]))])
    await session.forget([("t", "aside.1.live"), ("t", "no such lane")])
    assert set(await session.marks()) == {("t", "live"), ("t", "aside.2.live")}


@pytest.mark.only("local")
async def test_a_file_in_the_way_of_one_table_holds_up_that_table_only(wh: Open) -> None:
    one = Delivery(wh, await wh.session(), layout="segment")
    assert isinstance(wh.subject, LocalSubject)
    (wh.subject.root / "bought").write_bytes(b"")
    await one.send({"messageId": "1", "event": "Bought"}, {"messageId": "2", "event": "Seen"})
    assert "bought" in one.why("bought")
    assert one.kept.aside == 1
    assert {name.partition("/")[0] for name in wh.subject.files()} == {"bought", "tracks", "seen"}
