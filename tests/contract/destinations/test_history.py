"""Tables that keep versions: each version of a key once, in its place, whatever order and however often rows come."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from loader.contract.warehouse import Kind
from loader.contract.writes import BEGINNING
from tests.support.destinations.opened import Open
from tests.support.destinations.versions import NOW, History, bring, keep, kept, same, versions

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
