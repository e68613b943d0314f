"""Nothing is lost and nothing counts twice while network, storage and page fail."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable

import pytest
from playwright.async_api import BrowserContext, Error, Page, Route

from tests.e2e.browser.stand import Stand, ids, names

in_page = pytest.mark.asyncio(loop_scope="module")
EVENTS = "**/p/e"
OPEN_TO_ALL = {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "Retry-After"}
NO_STORAGE = """Object.defineProperty(window, "localStorage", {get() { throw new DOMException("blocked") }})
Object.defineProperty(Document.prototype, "cookie", {get() { throw new DOMException("blocked") }, set() { throw new DOMException("no") }})"""


async def tracked(page: Page, name: str, count: int) -> set[str]:
    """Makes events in a page; returns their ids."""
    made = await page.evaluate(
        f"Promise.all([...Array({count}).keys()].map((n) => analytics.track('{name}', {{n}}))).then((all) => all.map((each) => each.messageId))"
    )
    return set(made)


def answers(status: int, body: str = '{"code": "c", "message": "m"}', **headers: str) -> Callable[[Route], Awaitable[None]]:
    """Answers in place of the edge."""

    async def answer(route: Route) -> None:
        given = {**OPEN_TO_ALL, **{name.replace("_", "-"): value for name, value in headers.items()}}
        await route.fulfill(status=status, headers=given, body=body)

    return answer


async def shop_page(shop: Stand, key: str, context: BrowserContext | None = None, **attributes: str) -> Page:
    """A page of a site that makes no event by itself."""
    page = await shop.opened(shop.put(f"/{key}", shop.script(key, page="off", **attributes)), context)
    await page.wait_for_function("window.analytics?.initialized")
    return page


async def left(page: Page) -> None:
    """Leaves a page for good, as a visitor does."""
    await page.goto("about:blank")
    await page.close()


@in_page
async def test_events_made_offline_go_when_the_network_is_back(shop: Stand) -> None:
    key = await shop.new_site()
    context = await shop.visitor()
    page = await shop_page(shop, key, context)
    await context.set_offline(True)
    made = await tracked(page, "offline", 250)
    assert await page.evaluate("analytics.waiting()") == 250
    await context.set_offline(False)
    stored = await shop.arrived(key, 250)
    assert set(ids(stored)) == made
    assert [json.loads(each.body)["properties"]["n"] for each in stored] == list(range(250))


@in_page
async def test_pages_that_are_left_or_crash_offline_leave_their_events_to_the_next_page(shop: Stand) -> None:
    key = await shop.new_site()
    context = await shop.visitor()
    # by a batch that begins by itself a page could send as it goes: what counts is the record
    page = await shop_page(shop, key, context, flush_after="600000")
    await context.set_offline(True)
    made = await tracked(page, "left", 3)
    await left(page)
    await context.set_offline(False)
    page = await shop_page(shop, key, context, flush_after="600000")
    await shop.arrived(key, 3)
    made |= await tracked(page, "crashed", 3)
    with contextlib.suppress(Error):
        await page.goto("chrome://crash")
    # some minutes later
    other = await context.new_page()
    await other.goto(shop.put("/plain", ""))
    await other.evaluate(
        """() => { const name = Object.keys(localStorage).find((each) => each.startsWith("penstock_queue"))
        localStorage.setItem(name, JSON.stringify({...JSON.parse(localStorage[name]), at: Date.now() - 600000})) }"""
    )
    await shop_page(shop, key, context)
    # a request whose answer is late is sent again, and its ids count once
    assert set(ids(await shop.arrived(key, 6))) == made


@in_page
async def test_a_page_closed_before_it_hears_the_answer_leaves_the_same_ids_to_the_next(shop: Stand) -> None:
    key = await shop.new_site()
    context = await shop.visitor()
    sent = asyncio.Event()

    async def without_answer(route: Route) -> None:
        await route.fetch()
        sent.set()

    await context.route(EVENTS, without_answer)
    page = await shop_page(shop, key, context)
    made = await tracked(page, "mid-flight", 3)
    await asyncio.wait_for(sent.wait(), 60)
    await left(page)
    await context.unroute(EVENTS)
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url) if request.url.endswith("/p/e") else None)
    other = await shop_page(shop, key, context)
    await other.wait_for_function("!Object.keys(localStorage).some((name) => name.startsWith('penstock_queue'))")
    stored = await shop.arrived(key, 3)
    # the same ids once more, which the router's window of duplicates leaves out
    assert (set(ids(stored)), len(asked)) == (made, 1)


@in_page
async def test_pages_that_share_storage_do_not_take_from_each_other_and_one_takes_over_from_one_that_ends(shop: Stand) -> None:
    key = await shop.new_site()
    context = await shop.visitor()
    await context.route(EVENTS, answers(503, Retry_After="1"))
    one, two = await shop_page(shop, key, context), await shop_page(shop, key, context)
    made = set().union(*await asyncio.gather(*(tracked(page, name, 40) for page, name in ((one, "one"), (two, "two")))))
    assert len(made) == 80
    await left(one)
    await two.wait_for_function("analytics.waiting() === 80")
    await context.unroute(EVENTS)
    await two.evaluate("analytics.flush()")
    # the page that ended may have sent its own as it went: the same ids, which count once
    assert set(ids(await shop.arrived(key, 80))) == made
    assert await two.evaluate("Object.keys(localStorage).filter((name) => name.startsWith('penstock_queue'))") == []


@pytest.mark.parametrize("storage", ["blocked", "full"])
@in_page
async def test_without_storage_events_still_arrive(shop: Stand, storage: str) -> None:
    key = await shop.new_site()
    context = await shop.visitor()
    if storage == "blocked":
        await context.add_init_script(NO_STORAGE)
    else:
        await context.add_init_script(
            "try { for (let size = 1 << 22; size >= 1; size >>= 1) try { for (let n = 0; ; n++) localStorage.setItem(`${size}-${n}`, 'x'.repeat(size)) }"
            " catch {} } catch {}"
        )
    page = await shop_page(shop, key, context)
    made = await tracked(page, storage, 5)
    stored = await shop.arrived(key, 5)
    assert ids(stored) == dict.fromkeys(made, 1)
    assert len({each.head.user_key for each in stored}) == 1


@in_page
async def test_a_busy_server_is_left_alone_for_as_long_as_it_asks(shop: Stand) -> None:
    key = await shop.new_site()
    context = await shop.visitor()
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url) if request.url.endswith("/p/e") else None)
    await context.route(EVENTS, answers(429, Retry_After="600"))
    page = await context.new_page()
    await page.clock.install()
    await page.goto(shop.put(f"/{key}", shop.script(key, page="off")))
    await page.wait_for_function("window.analytics?.initialized")
    made = await tracked(page, "busy", 2)
    async with page.expect_response(EVENTS):
        await page.clock.run_for(1000)
    await page.wait_for_function("Object.values(localStorage).some((text) => text[0] === '{' && JSON.parse(text).asked > 0)")
    await page.evaluate("analytics.track('one more')")
    await page.clock.run_for(8_000)
    # neither a page that goes, nor the next one, nor a network that is back asks before its time
    await page.goto(shop.put("/next", shop.script(key)))
    await page.wait_for_function("window.analytics?.waiting() === 4")
    await page.evaluate("dispatchEvent(new Event('online'))")
    await page.clock.run_for(15_000)
    assert len(asked) == 1
    # then a network that wants a log-in answers 200
    await context.unroute(EVENTS)
    await context.route(EVENTS, answers(200, "<html>Log in", content_type="text/html"))
    async with page.expect_response(EVENTS):
        await page.clock.run_for(800_000)
    await page.wait_for_function("analytics.waiting() === 4")
    await context.unroute(EVENTS)
    await page.clock.run_for(10_000)
    stored = await shop.arrived(key, 4)
    assert set(ids(stored)) > made
    assert set(ids(stored).values()) == {1}


@in_page
async def test_what_the_server_can_never_take_goes_and_the_rest_arrives(shop: Stand) -> None:
    key = await shop.new_site({"limits": {"request_bytes": 20_000, "event_bytes": 10_000}})
    page = await shop_page(shop, key)
    words: list[str] = []
    page.on("console", lambda message: words.append(message.text))
    await page.evaluate(
        """() => { for (let n = 0; n < 30; n++) analytics.track('small', {n, pad: 'x'.repeat(2000)})
        analytics.track('huge', {pad: 'x'.repeat(30000)}); analytics.track('last'); return analytics.flush() }"""
    )
    assert names(await shop.arrived(key, 31)) == ["small"] * 30 + ["last"]
    assert any("refuses 1 event" in each for each in words)
    assert await shop.edge.dead(key) == []


@in_page
async def test_what_is_left_when_the_page_goes_is_sent_as_it_goes(shop: Stand) -> None:
    key = await shop.new_site()
    page = await shop_page(shop, key, flush_after="600000")
    made = await tracked(page, "leaving", 5)
    assert await shop.edge.events(key) == []
    await page.goto("about:blank")
    assert set(ids(await shop.arrived(key, 5))) == made
    # of more than a browser lets a page leave under way, the first go, and the next page has the rest
    await page.goto(shop.put("/much", shop.script(key, page="off", flush_after="600000")))
    await page.wait_for_function("window.analytics?.initialized")
    much = await page.evaluate(
        "Promise.all([...Array(90).keys()].map((n) => analytics.track('much', {n, pad: 'x'.repeat(2000)}))).then((all) => all.map((each) => each.messageId))"
    )
    await page.goto("about:blank")
    assert set(ids(await shop.arrived(key, 15))) - made < set(much)
    await shop_page(shop, key, page.context)
    assert set(ids(await shop.arrived(key, 95))) == made | set(much)
