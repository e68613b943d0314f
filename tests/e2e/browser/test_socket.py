"""The script over a WebSocket: every batch is acknowledged by its id, and what has no acknowledgement goes again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.async_api import WebSocketRoute

from tests.e2e.browser.stand import Stand, ids

in_page = pytest.mark.asyncio(loop_scope="module")
MANY = "Promise.all([...Array(%d).keys()].map((n) => analytics.track('socket', {n}))).then((all) => all.map((each) => each.messageId))"


@in_page
async def test_events_go_over_one_socket_and_fetch_sends_nothing(shop: Stand) -> None:
    key = await shop.new_site()
    context = await shop.visitor()
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page = await shop.opened(shop.put("/socket", shop.script(key, transport="websocket", page="off")), context)
    made = await page.evaluate(MANY % 250)
    await page.evaluate("analytics.flush()")
    assert ids(await shop.edge.events(key)) == dict.fromkeys(made, 1)
    assert {each.request.protocol for each in await shop.edge.events(key)} == {"websocket"}
    assert not [url for url in asked if url.endswith("/p/e")]


@in_page
async def test_a_connection_that_breaks_before_the_acknowledgement_resumes_with_the_same_ids(shop: Stand) -> None:
    key = await shop.new_site()
    context = await shop.visitor()
    broken: list[Any] = []

    async def breaks_once(route: WebSocketRoute) -> None:
        server = route.connect_to_server()

        async def from_server(message: str | bytes) -> None:
            if not broken and "ack" in json.loads(message):
                broken.append(message)
                await route.close()  # the events are stored, and the page does not hear of it
            elif not (broken and "ack" in json.loads(message) and message == broken[0]):
                route.send(message)

        server.on_message(from_server)

    await context.route_web_socket("**/v1/ws", breaks_once)
    page = await shop.opened(shop.put("/breaks", shop.script(key, transport="websocket", page="off")), context)
    made = await page.evaluate(MANY % 5)
    await page.evaluate("analytics.flush()")
    assert broken
    assert set(ids(await shop.edge.events(key))) == set(made)


@in_page
async def test_where_sockets_do_not_pass_events_go_by_fetch(shop: Stand) -> None:
    key = await shop.new_site()
    context = await shop.visitor()
    await context.route_web_socket("**/v1/ws", lambda route: route.close())
    page = await shop.opened(shop.put("/proxy", shop.script(key, transport="websocket", page="off")), context)
    made = await page.evaluate(MANY % 5)
    await page.evaluate("analytics.flush()")
    assert ids(await shop.arrived(key, 5)) == dict.fromkeys(made, 1)


@in_page
async def test_a_page_that_goes_sends_what_the_socket_did_not_get_acknowledged(shop: Stand) -> None:
    key = await shop.new_site()
    page = await shop.opened(shop.put("/goes", shop.script(key, transport="websocket", page="off", flush_after="600000")))
    made = await page.evaluate(MANY % 5)
    await page.goto("about:blank")
    assert set(ids(await shop.arrived(key, 5))) == set(made)
