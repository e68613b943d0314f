"""Incremental reads of an API: which rows come, what is asked for, where states stand, and that no row is missed, by ids."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web

from connector_runner.contract import Checkpoint, JsonRows
from connector_runner.sources.http_api import cursor as cursors
from connector_runner.sources.http_api.cursor import Progress, Window
from connector_runner.sources.http_api.fields import comparable, finder, moment_of
from shared.errors import SetupError
from tests.support.http_api import Api
from tests.support.sources.place import Reading, selected, states_of

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
PAGE = 3


class Shop:
    """An API with orders, which filters by `since` and `until` and gives pages of three. `ignores`: it does not filter."""

    def __init__(self) -> None:
        self.form = "iso"
        self.ignores = False
        self.descending = False
        self.shuffled = False
        self.orders: dict[int, Any] = {number: self.value(number) for number in range(1, 11)}

    def moment(self, number: int) -> datetime:
        return BEGIN + timedelta(days=(number + 1) // 2)

    def value(self, number: int) -> Any:
        moment = self.moment(number)
        seconds = int(moment.timestamp())
        return {
            "iso": f"{moment:%Y-%m-%dT%H:%M:%SZ}", "epoch": seconds, "epoch_ms": seconds * 1000, "text": number, "date": f"{moment:%Y-%m-%d}",
        }[self.form]  # fmt: skip

    def remade(self, form: str) -> None:
        self.form = form
        self.orders = {number: self.value(number) for number in range(1, 11)}

    def __call__(self, request: web.Request) -> Any:
        def read(name: str, default: Any) -> Any:
            text = request.query.get(name)
            return default if text is None else (int(text) if self.form in ("epoch", "epoch_ms", "text") else text)

        low, high = read("since", None), read("until", None)
        rows = [
            {"id": number, "at": value}
            for number, value in self.orders.items()
            if self.ignores or ((low is None or value >= low) and (high is None or value <= high))
        ]
        rows.sort(key=lambda row: (row["at"], row["id"]), reverse=self.descending)
        if self.shuffled:
            rows = rows[::2] + rows[1::2]
        first = (int(request.query["page"]) - 1) * PAGE
        return {"data": rows[first : first + PAGE]}


@pytest.fixture(autouse=True)
def orders(shop: Api) -> None:
    """The API has orders."""
    shop.answer = Shop()


def orders_of(shop: Api) -> Shop:
    assert isinstance(shop.answer, Shop)
    return shop.answer


def stream(**cursor: Any) -> dict[str, Any]:
    return {
        "records": "data",
        "primary_key": ["id"],
        "columns": {"id": "integer"},
        "paging": {"type": "page"},
        "cursor": {"field": "at", "param": "since", **cursor},
    }


@pytest.mark.parametrize("form", ["iso", "epoch", "epoch_ms", "text", "date"])
@pytest.mark.parametrize("order", ["none", "ascending"])
async def test_new_rows_and_rows_at_the_newest_value_come_once(shop: Api, form: str, order: str) -> None:
    own = orders_of(shop)
    own.remade(form)
    how = stream(format=form, order=order)
    first = await shop.one(how)
    assert first.ids() == list(range(1, 11))
    again = await shop.one(how, first.states)
    assert again.ids() == []
    assert again.states == first.states
    own.orders |= {11: own.orders[10], 12: own.value(15), 3: own.value(15)}
    found = await shop.one(how, first.states)
    assert found.ids() == [3, 11, 12]
    assert f"since={first_since(first)}" in shop.requests[0].replace("%3A", ":")


def first_since(reading: Reading) -> str:
    return str(json.loads(next(iter(reading.states.values())))["since"])


async def test_states_stand_behind_pages_only_where_rows_are_sorted(shop: Api) -> None:
    own = orders_of(shop)
    own.shuffled = True
    unsorted = await shop.one(stream(format="iso"))
    assert unsorted.ids() == list(range(1, 11))
    assert sum(isinstance(each, Checkpoint) for each in unsorted.messages) == 1
    own.shuffled = False
    sorted_ = await shop.one(stream(format="iso", order="ascending"))
    assert sum(isinstance(each, Checkpoint) for each in sorted_.messages) == 5
    for place in range(len(sorted_.messages)):
        before = Reading(sorted_.messages[:place])
        rest = await shop.one(stream(format="iso", order="ascending"), before.states)
        assert {*before.ids(), *rest.ids()} == set(range(1, 11)), place


async def test_a_cursor_that_goes_back_where_it_should_grow_takes_the_states_back(shop: Api) -> None:
    own = orders_of(shop)
    own.shuffled = True
    with pytest.raises(
        SetupError, match=r"does not sort its rows by `at`: '2026-01-0.*' comes after a larger value; take `order: ascending` out"
    ) as failed:
        await shop.one(stream(format="iso", order="ascending"))
    reading: Reading = failed.value.reading  # type: ignore[attr-defined]
    assert (await shop.one(stream(format="iso"), reading.states)).ids() == list(range(1, 11)), "nothing was missed"


async def test_without_a_parameter_old_rows_are_left_out_here(shop: Api) -> None:
    own = orders_of(shop)
    how = stream(format="iso", param=None)
    first = await shop.one(how)
    own.orders |= {11: own.orders[10], 12: own.value(15)}
    found = await shop.one(how, first.states)
    assert found.ids() == [11, 12]
    assert len(shop.requests) == 5
    own.descending = True
    assert (await shop.one(stream(format="iso", param=None, order="descending"), first.states)).ids() == [11, 12]
    assert len(shop.requests) == 2, "it ends at the first page with old rows"


async def test_an_api_that_does_not_know_the_parameter_is_told_and_loses_nothing(shop: Api) -> None:
    own = orders_of(shop)
    first = await shop.one(stream(format="iso"))
    own.ignores = True
    found = await shop.one(stream(format="iso"), first.states)
    assert found.ids() == list(range(1, 9))
    assert any("does it know the parameter `since`?" in getattr(each, "text", "") for each in found.messages)


async def test_what_is_looked_back_at_comes_only_where_it_is_new(shop: Api) -> None:
    own = orders_of(shop)
    how = stream(format="iso", lookback="2d")
    first = await shop.one(how)
    assert (await shop.one(how, first.states)).ids() == []
    assert "since=2026-01-04T00:00:00Z" in shop.requests[0].replace("%3A", ":")
    own.orders |= {20: own.value(8), 21: own.value(6), 22: own.value(4)}
    assert (await shop.one(how, first.states)).ids() == [20, 21]


async def test_windows_are_asked_for_one_after_the_other(shop: Api) -> None:
    how = stream(format="date", end_param="until", start="2026-01-01", step="100d")
    orders_of(shop).remade("date")
    found = await shop.one(how)
    assert sorted(set(found.ids())) == list(range(1, 11))
    asked = [each.partition("since=")[2] for each in shop.requests if "since=2026" in each and "page=1" in each]
    assert asked[0].startswith("2026-01-01&until=2026-04-11")
    assert asked[1].startswith("2026-04-11&until=")
    states = [each for each in found.messages if isinstance(each, Checkpoint)]
    assert len(states) == len(asked)
    assert json.loads(states[0].state)["since"] == "2026-04-11T00:00:00Z"
    for place in range(len(found.messages)):
        before = Reading(found.messages[:place])
        rest = await shop.one(how, before.states)
        assert {*before.ids(), *rest.ids()} == set(range(1, 11)), place


async def test_rows_later_than_the_read_do_not_hide_those_of_meanwhile(shop: Api) -> None:
    own = orders_of(shop)
    own.orders[11] = "2999-01-01T00:00:00Z"
    how = stream(format="iso")
    first = await shop.one(how)
    assert 11 in first.ids()
    own.orders[12] = f"{datetime.now(UTC) + timedelta(minutes=1):%Y-%m-%dT%H:%M:%SZ}"
    assert (await shop.one(how, first.states)).ids() == [12], "11 is known again"


async def test_rows_without_a_cursor_come_each_time_and_a_field_that_is_nowhere_is_an_error(shop: Api) -> None:
    own = orders_of(shop)
    shop.answer = lambda request: {
        "data": [{"id": 1}, {"id": 2, "at": None}, {"id": 3, "at": "2026-01-01"}] if request.query["page"] == "1" else []
    }
    first = await shop.one(stream(format="iso"))
    assert first.ids() == [1, 2, 3]
    assert (await shop.one(stream(format="iso"), first.states)).ids() == [1, 2]
    shop.answer = own
    with pytest.raises(SetupError, match=r"no row has the field `updated`; check `cursor\.field`"):
        await shop.one(stream(format="iso", field="updated"))


async def test_another_cursor_begins_again(shop: Api) -> None:
    first = await shop.one(stream(format="iso"))
    how = stream(format="iso")
    shop.answer = lambda request: {"data": [{"id": 1, "on": "2025-01-01"}] if request.query["page"] == "1" else []}
    found = await shop.one({**how, "cursor": {"field": "on"}}, first.states)
    assert found.ids() == [1]
    assert any("another cursor now" in getattr(each, "text", "") for each in found.messages)


async def test_more_rows_at_one_value_than_are_known_again_come_again(shop: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cursors, "MOST_SEEN", 4)
    own = orders_of(shop)
    own.orders = dict.fromkeys(range(1, 11), "2026-01-01T00:00:00Z")
    first = await shop.one(stream(format="iso"))
    assert len(json.loads(next(iter(first.states.values())))["seen"]) == 4
    assert len((await shop.one(stream(format="iso"), first.states)).ids()) == 6


async def test_child_streams_keep_the_newest_value_of_each_row_of_their_parent(shop: Api) -> None:
    notes = {1: {"a": "2026-01-01"}, 2: {"b": "2026-06-01"}}

    def answer(request: web.Request) -> Any:
        if request.path == "/orders":
            return [{"id": number} for number in notes]
        own = notes[int(request.path.split("/")[2])]
        return [{"id": name, "at": at} for name, at in own.items() if at >= request.query.get("since", "")]

    shop.answer = answer
    streams = {
        "orders": {"path": "orders"},
        "notes": {
            "path": "orders/{parent.id}/notes",
            "parent": "orders",
            "cursor": {"field": "at", "param": "since", "format": "date"},
        },
    }

    def names(reading: Reading) -> list[str]:
        of_notes = [each for each in reading.messages if isinstance(each, JsonRows) and each.stream.name == "notes"]
        return [json.loads(line)["id"] for each in of_notes for line in each.rows]

    first = await shop.read(streams)
    assert names(first) == ["a", "b"]
    notes |= {3: {"old": "2020-01-01"}, 1: {"a": "2026-01-01", "c": "2026-02-01"}}
    found = await shop.read(streams, states_of(first.messages))
    assert names(found) == ["a", "c", "b", "old"], "rows at the newest value come again"
    assert "GET /orders/2/notes?since=2026-06-01" in shop.requests
    assert "GET /orders/3/notes" in shop.requests


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (b"1", b"2"),
        (b'"9"', b'"10"'),
        (b"9007199254740993", b"9007199254740994"),
        (b'"2026-01-01T00:00:00Z"', b'"2026-01-01T00:00:00.5Z"'),
        (b'"2026-01-01T00:00:00+02:00"', b'"2026-01-01T00:00:00Z"'),
        (b'"2026-01-01"', b'"2026-01-01 00:00:01"'),
        (b'"2026-01-01T00:00:00.123456788Z"', b'"2026-01-01T00:00:00.123456789Z"'),
        (b'"a"', b'"b"'),
        (b"1", b'"x"'),
        (b"-5.5", b"1e400"),
    ],
)
def test_values_are_compared_by_what_they_mean(low: bytes, high: bytes) -> None:
    assert comparable(low) < comparable(high)


@pytest.mark.parametrize("text", ["2026-13-01", "2026-01-01T25:00:00", "tomorrow", "", "20260101", "2026-01-01T00:00:00+99:99"])
def test_texts_that_are_no_moment(text: str) -> None:
    assert moment_of(text) is None


def test_values_are_found_by_their_path() -> None:
    row = b'{"a": {"b": {"c d": 5}, "n": null}, "l": [1]}'
    assert finder(("a", "b", "c d"))(row) == b"5"
    for path in (("a", "n"), ("a", "x"), ("l", "x"), ("x", "y")):
        assert finder(path)(row) is None


async def test_windows_are_made_one_by_one(shop: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Millions of them, of an old first value and a short step, take more memory than there is."""
    made: list[Window] = []
    windows = Progress.windows

    def counted(progress: Progress) -> Iterator[Window]:
        for each in windows(progress):
            made.append(each)
            yield each

    monkeypatch.setattr(Progress, "windows", counted)
    orders_of(shop).remade("date")
    how = stream(format="date", end_param="until", start="2026-01-01", step="1d")
    source = await shop.open({"s": {"path": "rows", **how}})
    chosen = [selected(each) for each in await source.discover()]
    made.clear()
    async with aclosing(source.read(chosen, {})) as messages:
        async for message in messages:
            if isinstance(message, Checkpoint):
                break
    assert len(made) == 2
