"""Hydration in front of an address that asks to wait, hangs or is away: what is asked, when its events come again, and which of their tries count."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from functions_runtime.definition import Definition
from functions_runtime.host.fetch import AT_ONCE
from functions_runtime.hydration.asking import Hydrator, ask_all, ask_one
from functions_runtime.hydration.pausing import Pauses
from functions_runtime.rules.hydrating import Answer, Ask, Hydration
from functions_runtime.rules.outcome import Later, outcome_of
from functions_runtime.rules.packing import finish, prepare
from functions_runtime.sandbox import wire
from functions_runtime.sandbox.batch import Fate
from shared.events.headers import Place
from shared.project.model import Connection
from shared.project.webhooks.hydrate import Hydrate
from shared.reading.units import Duration
from shared.telemetry.health import Health
from tests.unit.functions_runtime.test_hydrating import fetcher, frame_of, hydrate_of

__all__ = ["fetcher"]
BUSY = Answer("again", 429, words="the address answers 429", after=60.0)
AWAY = Answer("again", words="api.example.com gives no answer within 5 s")
GOOD = Answer("ok", 200, {})


class Clock:
    """A clock that stands until it is moved."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def noted(clock: Clock, hydrate: Hydrate, *answers: Answer) -> Pauses:
    pauses = Pauses(clock)
    for answer in answers:
        pauses.note("hook", hydrate, answer)
    return pauses


def test_an_address_that_asks_to_wait_is_left_alone_that_long_and_other_webhooks_are_asked() -> None:
    clock = Clock()
    pauses = noted(clock, hydrate_of(), BUSY, GOOD)  # the good one was under way
    left = pauses.instead("hook")
    assert left is not None
    assert (left.kind, left.after, left.unasked) == ("again", 60.0, True)
    assert left.words == "not asked for 60 s more: the address answers 429 and asks to wait"
    assert pauses.instead("other") is None
    clock.now += 60
    assert pauses.instead("hook") is None
    pauses.note("hook", hydrate_of(), GOOD)
    pauses.note("hook", hydrate_of(at_once=2), AWAY)
    assert pauses.instead("hook") is None  # the row began again


@pytest.mark.parametrize("status", [202, 408, 425, 500])
def test_what_only_one_address_asks_holds_for_that_one(status: int) -> None:
    assert noted(Clock(), hydrate_of(), Answer("again", status, words="x", after=60.0)).instead("hook") is None


def test_failures_in_a_row_pause_longer_each_time_up_to_a_minute_until_an_answer_comes() -> None:
    clock, hydrate = Clock(), hydrate_of(at_once=3)
    pauses = noted(clock, hydrate, AWAY, AWAY)
    assert pauses.instead("hook") is None
    waits: list[float] = []
    for _ in range(5):
        pauses.note("hook", hydrate, AWAY)
        pauses.note("hook", hydrate, AWAY)  # it was under way at the same time
        left = pauses.instead("hook")
        assert left is not None
        assert not left.unasked
        waits.append(left.after)
        clock.now += left.after
    assert waits == [10.0, 20.0, 40.0, 60.0, 60.0]
    pauses.note("hook", hydrate, GOOD)
    pauses.note("hook", hydrate, AWAY)
    assert pauses.instead("hook") is None


@pytest.mark.parametrize(
    ("delays", "pause"), [([], 0.1), ([10], 1.0), ([3, 5, 5, 5, 10, 10], 3.0), ([10, 60, 600], 10.0), ([90, 900], 60.0)]
)
def test_a_pause_is_short_beside_the_time_that_events_wait(delays: list[int], pause: float) -> None:
    hydrate = hydrate_of(at_once=1, delays=[Duration(each) for each in delays])
    left = noted(Clock(), hydrate, AWAY).instead("hook")
    assert left is not None
    assert left.after == pytest.approx(pause)


def test_a_webhook_that_was_changed_is_asked_at_once() -> None:
    pauses = noted(Clock(), hydrate_of(), BUSY)
    pauses.keep(["hook"])
    assert pauses.instead("hook") is not None
    pauses.keep([])
    assert pauses.instead("hook") is None


def later(answer: Answer, failures: int, **options: Any) -> tuple[list[Later], dict[str, int]]:
    """Returns what waits of a frame with one delivery, and the dead."""
    hydrate = hydrate_of(**options)
    hydration = Hydration({"hook": hydrate}, {Ask("hook", "https://api.example.com/orders/1"): answer}, failures)
    made = prepare(frame_of({"id": 1}), None, failures, hydrate=hydration)
    finished = finish(made, [Fate(wire.SAME)] * len(made.given))
    outcome = outcome_of(
        made,
        finished,
        queue="q",
        connection="c",
        place=Place("l", 1, 1),
        headers={},
        failures=failures,
        delay=lambda _: 10.0,
        at=0.0,
    )
    return outcome.later, finished.frame.dead


def test_an_event_waits_as_long_as_its_address_asks_and_never_shorter_than_its_delay() -> None:
    assert [each.delay for each in later(BUSY, 0)[0]] == [60.0]
    assert [each.delay for each in later(BUSY._replace(after=2.0), 0)[0]] == [10.0]


def test_a_wait_that_the_address_asked_for_uses_up_no_tries_of_events_that_were_not_asked_for() -> None:
    unasked = BUSY._replace(unasked=True)
    assert [later(unasked, failures)[0][0].failures for failures in (0, 1, 7, 50)] == [1, 1, 7, 50]
    assert [later(BUSY, failures)[0][0].failures for failures in (0, 1, 6)] == [1, 2, 7]
    assert later(BUSY, 7) == ([], {"hydration_failed": 1})
    assert later(AWAY._replace(after=60.0), 7) == ([], {"hydration_failed": 1})
    assert later(unasked, 0, delays=[]) == ([], {"hydration_failed": 1})


class Limited:
    """An API that answers one request, then asks to wait, in the words that it is given."""

    def __init__(self) -> None:
        self.asked = 0
        self.wait = "60"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        if self.asked == 1:
            return web.json_response({"id": request.match_info["id"]})
        return web.Response(status=429, headers={"Retry-After": self.wait}, body=b"x" * 100_000)


async def test_after_one_answer_that_asks_to_wait_no_frame_asks_and_none_makes_an_event_wait_for_longer_than_a_day(
    fetcher: Any,
) -> None:
    api = Limited()
    application = web.Application()
    application.router.add_get("/orders/{id}", api.answer)
    async with TestServer(application) as server:
        hydrate = hydrate_of(url=f"{server.make_url('/orders/')}{{id}}", at_once=1, max_bytes=1024)
        asks = [Ask("hook", hydrate.url.replace("{id}", f"a{number}")) for number in range(20)]
        pauses = Pauses(Clock())
        answers = await ask_all(fetcher, asks, {"hook": hydrate}, pauses=pauses)
        assert [answer.kind for answer in answers.values()] == ["ok", *["again"] * 19]
        assert [answer.unasked for answer in answers.values()] == [False, False, *[True] * 18]
        assert {answer.after for answer in answers.values()} == {0.0, 60.0}
        await ask_all(fetcher, asks, {"hook": hydrate}, pauses=pauses)
        assert api.asked == 2
        api.wait = "1000000"
        (answer,) = (await ask_all(fetcher, asks[:1], {"hook": hydrate})).values()
        assert answer.after == 24 * 3600


async def test_events_that_wait_unasked_have_a_policy_of_their_own(fetcher: Any) -> None:
    class Context:
        health = Health()
        forgotten = None

    context: Any = Context()
    hydrates = {"hook": hydrate_of(delays=[Duration(3), Duration(9)])}
    definition = Definition("c", "c", Connection(site="shop", destination="wh"), (), "duckdb", hydrates=hydrates)
    hydrator = Hydrator(context, "c", fetcher, lambda: False)
    await hydrator.of(frame_of({"none": 1}), definition, 0)
    assert [hydrator.policies["hydrate.hook"].delay(failures) for failures in (1, 2, 3)] == [3.0, 9.0, None]
    assert [hydrator.policies["unasked.hook"].delay(failures) for failures in (1, 50)] == [3.0, 3.0]


async def test_requests_that_hang_take_no_places_of_other_connections(fetcher: Any) -> None:
    """There are 100 for the functions of a process; the hydration of each connection bounds itself."""
    hung, let_go = asyncio.Semaphore(0), asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.match_info["id"] == "hang":
            hung.release()
            await let_go.wait()
        return web.json_response({})

    application = web.Application()
    application.router.add_get("/{id}", answer)
    async with TestServer(application) as server, asyncio.TaskGroup() as group:
        slow = hydrate_of(timeout=Duration(30))
        for _ in range(AT_ONCE):
            group.create_task(ask_one(fetcher, str(server.make_url("/hang")), slow))
        for _ in range(AT_ONCE):
            await hung.acquire()
        assert (await ask_one(fetcher, str(server.make_url("/other")), slow)).kind == "ok"
        assert (await fetcher.fetch({"url": str(server.make_url("/other")), "timeout": 10_000}))["status"] == 200
        let_go.set()
