"""Tables that keep versions: each version of a key once, in its place, whatever order and however often rows come."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pyarrow as pa
import pytest

from loader.contract.warehouse import Kind, Session, TableLoad
from loader.contract.writes import BEGINNING
from shared.errors import RowsRejected
from tests.support.destinations.opened import Open, plan
from tests.support.destinations.versions import NOW, OWN, History, bring, keep, kept, same, versions
from tests.support.dying import Killed, dying

pytestmark = pytest.mark.needs("history")

SHAPE = {"id": Kind.TEXT, "at": Kind.TIMESTAMP, "v": Kind.TEXT, "gone": Kind.TIMESTAMP}
T = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=n) for n in range(10)]


def row(id_: str, at: datetime | None, v: str | None = None, gone: bool = False) -> dict[str, Any]:
    return {"id": id_, "at": at, "v": v, "gone": at if gone else None}


def spans(found: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Returns versions in short: key, value, and between which days they are true."""
    days = {at: place for place, at in enumerate(T)}
    short = [(each["id"], each["v"], days.get(each["_valid_from"]), days.get(each["_valid_to"])) for each in found]
    assert [each["_current"] for each in found] == [each["_valid_to"] is None for each in found]
    return short


CASES: dict[str, tuple[list[list[dict[str, Any]]], list[tuple[Any, ...]]]] = {
    "a first version": ([[row("a", T[1], "x")]], [("a", "x", 1, None)]),
    "a second one": ([[row("a", T[1], "x")], [row("a", T[2], "y")]], [("a", "x", 1, 2), ("a", "y", 2, None)]),
    "several at once": (
        [[row("a", T[2], "y"), row("b", T[1], "x"), row("a", T[1], "x"), row("a", T[3], "z")]],
        [("a", "x", 1, 2), ("a", "y", 2, 3), ("a", "z", 3, None), ("b", "x", 1, None)],
    ),
    "a repeat": ([[row("a", T[1], "x"), row("a", T[2], "y")]] * 2, [("a", "x", 1, 2), ("a", "y", 2, None)]),
    "a repeat in parts": (
        [[row("a", T[1], "x"), row("a", T[2], "y")], [row("a", T[1], "x")], [row("a", T[2], "y")]],
        [("a", "x", 1, 2), ("a", "y", 2, None)],
    ),
    "a late one between two": (
        [[row("a", T[1], "x")], [row("a", T[5], "z")], [row("a", T[3], "y")]],
        [("a", "x", 1, 3), ("a", "y", 3, 5), ("a", "z", 5, None)],
    ),
    "a late one before all": ([[row("a", T[5], "z")], [row("a", T[1], "x")]], [("a", "x", 1, 5), ("a", "z", 5, None)]),
    "of two at one time the later": ([[row("a", T[1], "x"), row("a", T[1], "y")]], [("a", "y", 1, None)]),
    "of two at one time in two loads": (
        [[row("a", T[1], "x"), row("a", T[2], "y")], [row("a", T[1], "w")]],
        [("a", "w", 1, 2), ("a", "y", 2, None)],
    ),
    "a deletion": ([[row("a", T[1], "x")], [row("a", T[2], gone=True)]], [("a", "x", 1, 2)]),
    "a deletion in the same load": ([[row("a", T[1], "x"), row("a", T[2], gone=True)]], [("a", "x", 1, 2)]),
    "a row that comes back": (
        [[row("a", T[1], "x")], [row("a", T[2], gone=True)], [row("a", T[4], "x")]],
        [("a", "x", 1, 2), ("a", "x", 4, None)],
    ),
    "a late one before a deletion": (
        [[row("a", T[1], "x")], [row("a", T[4], gone=True)], [row("a", T[2], "y")]],
        [("a", "x", 1, 2), ("a", "y", 2, 4)],
    ),
    "a late deletion": (
        [[row("a", T[1], "x"), row("a", T[5], "y")], [row("a", T[3], gone=True)]],
        [("a", "x", 1, 3), ("a", "y", 5, None)],
    ),
    "a late one in a gap": (
        [[row("a", T[1], "x"), row("a", T[2], gone=True), row("a", T[5], "z")], [row("a", T[3], "y")]],
        [("a", "x", 1, 2), ("a", "y", 3, 5), ("a", "z", 5, None)],
    ),
    "a deletion at the time of a version": (
        [[row("a", T[1], "x"), row("a", T[2], "y")], [row("a", T[2], gone=True)]],
        [("a", "x", 1, 2)],
    ),
    "deletions of what is not there": ([[row("a", T[1], gone=True)], [row("b", T[2], "x")]], [("b", "x", 2, None)]),
    "two deletions": (
        [[row("a", T[1], "x")], [row("a", T[2], gone=True)], [row("a", T[3], gone=True)]],
        [("a", "x", 1, 2)],
    ),
}


@pytest.mark.parametrize("case", CASES)
async def test_versions_have_their_places(wh: Open, case: str) -> None:
    loads, expected = CASES[case]
    session = await wh.session()
    await keep(session, "t", SHAPE)
    model = History(deleted="gone")
    for sequence, rows in enumerate(loads, 1):
        await bring(session, sequence, versions("t", SHAPE, rows, deleted="gone"))
        model.load(rows)
    found = await kept(wh, "t", SHAPE)
    assert spans(found) == expected
    assert same(found, model.rows())


BY_NUMBER = {"id": Kind.TEXT, "at": Kind.BIGINT, "v": Kind.TEXT, "gone": Kind.BOOLEAN}
LOADED = [NOW + timedelta(minutes=n) for n in range(10)]


def numbered(id_: str, number: int | None, v: str | None = None, gone: bool = False) -> dict[str, Any]:
    return {"id": id_, "at": number, "v": v, "gone": True if gone else None}


async def test_a_cursor_that_is_no_time_orders_versions_of_a_load_and_leaves_older_rows_out(wh: Open) -> None:
    session = await wh.session()
    await keep(session, "t", BY_NUMBER)
    model = History(deleted="gone", times=False)
    loads = [
        [numbered("a", 3, "z"), numbered("a", 1, "x"), numbered("b", None, "n"), numbered("a", 2, "w"), numbered("a", 2, "y")],
        [numbered("a", 2, "late"), numbered("a", 3, "z"), numbered("b", None, "m")],
        [numbered("a", 4, gone=True), numbered("b", 1, "o")],
        [numbered("a", 4, gone=True), numbered("a", 3, "z"), numbered("a", 5, "again"), numbered("b", None, "late")],
    ]
    for sequence, rows in enumerate(loads, 1):
        for _ in range(2):  # the second time changes nothing
            await bring(session, sequence, versions("t", BY_NUMBER, rows, deleted="gone", at=LOADED[sequence]))
        model.load(rows, LOADED[sequence])
        assert same(await kept(wh, "t", BY_NUMBER), model.rows())
    found = await kept(wh, "t", BY_NUMBER)
    assert [(each["id"], each["v"]) for each in found] == [
        ("a", "x"),
        ("a", "y"),
        ("a", "z"),
        ("a", "again"),
        ("b", "m"),
        ("b", "o"),
    ]
    micro = timedelta(microseconds=1)
    assert [each["_valid_from"] for each in found[:3]] == [LOADED[1], LOADED[1] + micro, LOADED[1] + 2 * micro]
    assert found[2]["_valid_to"] == LOADED[3]
    assert found[3]["_valid_to"] is None


async def test_without_a_cursor_a_version_begins_with_its_load_and_equal_rows_make_none(wh: Open) -> None:
    shape = {"id": Kind.TEXT, "v": Kind.TEXT, "doc": Kind.JSON, "n": Kind.DOUBLE, "_loaded_at": Kind.TIMESTAMP}
    session = await wh.session()
    await keep(session, "t", shape)

    async def load(sequence: int, *rows: dict[str, Any], of: dict[str, Kind] = shape) -> list[tuple[Any, ...]]:
        at = LOADED[sequence]
        own = [{**each, "_loaded_at": at} for each in rows]
        await bring(session, sequence, versions("t", of, own, cursor=None, at=at))
        found = await kept(wh, "t", shape)
        return [(each["id"], each["v"], each["n"], LOADED.index(each["_valid_from"])) for each in found]

    first = {"id": "a", "v": "x", "doc": '{"k": [1, 2]}', "n": None}
    assert await load(1, {**first, "v": "early"}, first) == [("a", "x", None, 1)]
    assert await load(2, first) == [("a", "x", None, 1)]
    assert await load(3, {**first, "n": 0.5}) == [("a", "x", None, 1), ("a", "x", 0.5, 3)]
    less = {"id": Kind.TEXT, "v": Kind.TEXT, "doc": Kind.JSON}
    # a column that the rows lack has no value
    assert (await load(4, first, of=less))[2:] == [("a", "x", None, 4)]
    assert len(await load(5, first)) == 3
    assert (await load(6, {**first, "doc": "[]"}))[3:] == [("a", "x", None, 6)]


async def test_no_cursor_at_all_and_a_clock_that_goes_back(wh: Open) -> None:
    session = await wh.session()
    shape = {"id": Kind.TEXT, "v": Kind.TEXT, "gone": Kind.TEXT}
    await keep(session, "t", shape)
    model = History(cursor=None, deleted="gone")
    loads = [
        (5, [{"id": "a", "v": "x", "gone": None}, {"id": "b", "v": "x", "gone": None}]),
        (3, [{"id": "a", "v": "y", "gone": None}, {"id": "b", "v": "x", "gone": None}]),
        (4, [{"id": "a", "v": None, "gone": "yes"}]),
        (2, [{"id": "a", "v": "y", "gone": None}, {"id": "c", "v": None, "gone": ""}]),
    ]
    for sequence, (at, rows) in enumerate(loads, 1):
        await bring(session, sequence, versions("t", shape, rows, cursor=None, deleted="gone", at=LOADED[at]))
        model.load(rows, LOADED[at])
        assert same(await kept(wh, "t", shape), model.rows())
    micro = timedelta(microseconds=1)
    found = [each for each in await kept(wh, "t", shape) if each["id"] == "a"]
    assert [each["_valid_from"] - LOADED[5] for each in found] == [0 * micro, micro, 3 * micro]


async def test_a_null_cursor_is_the_beginning_and_a_date_is_its_midnight(wh: Open) -> None:
    session = await wh.session()
    shape = {"id": Kind.TEXT, "at": Kind.DATE, "v": Kind.TEXT}
    await keep(session, "t", shape)
    rows: list[dict[str, Any]] = [{"id": "a", "at": T[2].date(), "v": "y"}, {"id": "a", "at": None, "v": "x"}]
    for sequence in (1, 2):
        await bring(session, sequence, versions("t", shape, rows))
    found = await kept(wh, "t", shape)
    assert [(each["v"], each["_valid_from"], each["_valid_to"]) for each in found] == [
        ("x", BEGINNING, T[2]),
        ("y", T[2], None),
    ]


@pytest.mark.parametrize("cursor", ["time", "number", "none"])
async def test_random_loads_leave_the_versions_that_plain_python_has(wh: Open, cursor: str) -> None:
    session = await wh.session()
    shape = BY_NUMBER if cursor == "number" else SHAPE
    named = None if cursor == "none" else "at"
    for seed in range(4):
        chance, table = Random(f"{cursor} {seed}"), f"t{seed}"
        await keep(session, table, shape)
        model = History(cursor=named, deleted="gone", times=cursor == "time")
        sent: list[list[dict[str, Any]]] = []
        for sequence in range(1, 9):
            if sent and chance.random() < 0.25:
                rows = [each for each in chance.choice(sent) if chance.random() < 0.7] or sent[0]
            else:
                rows = [_random_row(chance, cursor) for _ in range(chance.randint(1, 12))]
            sent.append(rows)
            at = chance.choice(LOADED)
            await bring(session, 100 * seed + sequence, versions(table, shape, rows, cursor=named, deleted="gone", at=at))
            model.load(rows, at)
            assert same(await kept(wh, table, shape), model.rows()), (seed, sequence)


def _random_row(chance: Random, cursor: str) -> dict[str, Any]:
    at = chance.choice([None, *range(6)])
    key, value, gone = chance.choice("abc"), chance.choice("xyz"), chance.random() < 0.25
    if cursor == "number":
        return numbered(key, at, value, gone)
    when = None if at is None or cursor == "none" else T[at]
    return {"id": key, "at": when, "v": value, "gone": T[0] if gone else None}


async def test_a_loader_killed_between_any_two_steps_repeats_and_loses_no_version(wh: Open) -> None:
    epoch, left, killed = 1, 0, True
    session = await wh.session(epoch=epoch)
    await keep(session, "t", SHAPE)
    model = History(deleted="gone")
    start = datetime(2026, 1, 1, tzinfo=UTC)
    while killed:
        at = start + timedelta(hours=left)
        rows = [
            {"id": "a", "at": at, "v": f"{left}", "gone": None},
            {"id": f"b{left}", "at": at, "v": "x", "gone": None},
            {"id": f"b{left - 1}", "at": at, "v": None, "gone": at},
        ]
        load, before = versions("t", SHAPE, rows, deleted="gone"), model.rows()
        model.load(rows)
        killed = False
        with dying(session, left) as death, contextlib.suppress(Killed):
            await bring(session, left + 1, load)
        if death.happened:
            killed = True
            found = await kept(wh, "t", SHAPE)
            assert same(found, before) or same(found, model.rows())
            epoch += 1
            session = await wh.session(epoch=epoch)
            if (await session.marks()).get(("t", "live-1"), 0) <= left:
                await bring(session, left + 1, load)
        assert same(await kept(wh, "t", SHAPE), model.rows())
        left += 1
    assert left > 10, "so few steps are no load"


async def test_compound_keys_and_hostile_names(wh: Open) -> None:
    key, cursor, gone = ('i"d', "a`b c"), "w'hen;", "$1 {gone}"
    shape = {key[0]: Kind.TEXT, key[1]: Kind.BIGINT, cursor: Kind.TIMESTAMP, "%s": Kind.TEXT, gone: Kind.BOOLEAN, "k0": Kind.TEXT}
    table = "t'); DROP TABLE x --"
    session = await wh.session()
    await keep(session, table, shape, key)
    model = History(key=key, cursor=cursor, deleted=gone)
    for sequence in range(1, 4):
        rows = [
            {key[0]: id_, key[1]: number, cursor: T[sequence], "%s": f"{sequence}", gone: sequence == 3 or None, "k0": "mine"}
            for id_ in ("a", "A", "a'")
            for number in (1, 2)
        ]
        await bring(session, sequence, versions(table, shape, rows, key, cursor, gone))
        model.load(rows)
    assert same(await kept(wh, table, shape, (*key, "_valid_from")), model.rows())


async def test_a_row_without_a_key_is_named(wh: Open) -> None:
    session = await wh.session()
    await keep(session, "t", SHAPE)
    rows = [row("a", T[1], "x"), {**row("b", T[1]), "id": None}]
    with pytest.raises(RowsRejected) as refused:
        await bring(session, 1, versions("t", SHAPE, rows))
    assert set(refused.value.rows) == {1}
    assert await kept(wh, "t", SHAPE) == []


async def test_two_connections_that_load_one_table_make_one_current_version_a_key(wh: Open) -> None:
    one, two = await wh.session("one"), await wh.session("two", destination=await wh.another())
    await keep(one, "t", SHAPE)

    async def loads(session: Session, connection: str, first: int) -> None:
        for number in range(first, 8, 2):
            rows = [row(f"k{key}", T[number], connection) for key in range(50)]
            await session.load(plan(number + 1, connection=connection), [versions("t", SHAPE, rows)])

    await asyncio.gather(loads(one, "one", 0), loads(two, "two", 1))
    found = await kept(wh, "t", SHAPE)
    assert len(found) == 50 * 8
    for key in range(50):
        own = [each for each in found if each["id"] == f"k{key}"]
        assert [each["_valid_from"] for each in own] == T[:8]
        assert [each["_valid_to"] for each in own] == [*T[1:8], None]


@pytest.mark.only("postgres", "duckdb")
async def test_no_session_makes_a_second_current_version(wh: Open) -> None:
    session = await wh.session()
    await keep(session, "t", SHAPE)
    await bring(session, 1, versions("t", SHAPE, [row("a", T[1], "x"), row("a", T[2], "y")]))
    with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
        await wh.subject.run("INSERT INTO \"{}\".t (id, _valid_from, _current) VALUES ('a', '2027-01-01', true)")
    await wh.subject.run("INSERT INTO \"{}\".t (id, _valid_from, _current) VALUES ('a', '2027-01-01', false)")


@pytest.mark.apart("mysql", "its joins of temporary tables are slow: known limits of its page")
async def test_a_hundred_thousand_versions_go_set_by_set(wh: Open) -> None:
    session = await wh.session()
    shape = {"id": Kind.BIGINT, "at": Kind.TIMESTAMP, "v": Kind.BIGINT}
    await keep(session, "t", shape)
    count = 50_000
    first = T[1]
    for sequence in (1, 2):
        base = {"id": pa.array(range(count), pa.int64()), "v": pa.array([sequence] * count, pa.int64())}
        at = pa.array([first + timedelta(days=sequence)] * count, pa.timestamp("us", "UTC"))
        load = TableLoad("t", pa.table({"id": base["id"], "at": at, "v": base["v"]}), "history", ("id",), "at", at=NOW)
        for again in range(2):
            await session.load(plan(10 * sequence + again), [load])
    found = await wh.subject.rows("t", {**shape, **OWN})
    assert len(found) == 2 * count
    assert {(each["v"], each["_current"]) for each in found} == {(1, False), (2, True)}
    assert {each["id"] for each in found if each["_current"]} == set(range(count))
