"""Snowplow's tracker for browsers, unmodified, in Chromium, against a real edge of another origin: cookies, GET, POST, anonymous tracking."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page

from shared.jetstream.broker import Broker
from tests.e2e.ingest.edge import Edge, Stored, edge_here
from tests.support.browser import chromium, opened, pages
from tests.support.nats import NatsServer
from tests.support.sdks import node_sdks

__all__ = ["node_sdks"]

PAGE = """<!doctype html><title>Shop</title><script src="/sdk/index.umd.min.js"></script><script>
  const t = window.snowplowBrowserTracking
  const load = (options) => t.newTracker("sp", "%s", { appId: "web", ...options })
  const calls = () => {
    t.trackPageView()
    t.trackStructEvent({ category: "shop", action: "add", value: 1.5 })
    t.trackSelfDescribingEvent({
      event: { schema: "iglu:com.acme/order_placed/jsonschema/1-0-0", data: { items: [{ sku: "é" }] } },
      context: [{ schema: "iglu:com.acme/user/jsonschema/2-0-1", data: { level: 3 } }],
    })
  }
</script>"""
NOBODY = "00000000-0000-0000-0000-000000000000"


async def arrived(edge: Edge, count: int) -> list[Stored]:
    """Waits until so many events are stored; returns the last three."""
    async with asyncio.timeout(60):
        while len(stored := await edge.events()) < count:
            await asyncio.sleep(0.05)
    assert len(stored) == count
    return stored[-3:]


def check(stored: list[Stored], url: str) -> list[dict[str, Any]]:
    events = [each.materialised() for each in stored]
    kept = [event["context"]["snowplow"] for event in events]
    assert [each["e"] for each in kept] == ["pv", "se", "ue"]
    assert [event.get("event") for event in events] == [None, "struct", "order_placed"]
    assert events[2]["properties"] == {"items": [{"sku": "é"}]}
    assert {"schema": "iglu:com.acme/user/jsonschema/2-0-1", "data": {"level": 3}} in kept[2]["contexts"]
    for each in kept:
        assert (each["tv"], each["p"], each["url"]) == ("js-4.10.1", "web", url)
        assert any("/web_page/" in entity["schema"] for entity in each["contexts"])
        assert {"eid", "dtm", "stm", "vp", "ds", "res", "lang", "tz"} <= set(each)
    return kept


async def again(page: Page, options: str) -> None:
    await page.reload()
    await page.evaluate(f"load({options}); calls()")


@pytest.mark.parametrize("method", ["post", "get"])
async def test_the_browser_tracker_sends_every_event_and_keeps_its_cookie(
    nats: NatsServer, broker: Broker, node_sdks: Path, method: str
) -> None:
    folder = node_sdks / "@snowplow/browser-tracker/dist"
    async with edge_here(nats, broker) as edge, pages({}, {"/sdk/": folder}) as site:
        site.pages["/"] = PAGE % edge.url
        async with chromium() as browser:
            problems: list[str] = []
            shop = await opened(browser, f"{site.url}/", problems)
            await shop.evaluate(f"load({{eventMethod: '{method}'}}); calls()")
            first = check(await arrived(edge, 3), f"{site.url}/")
            await again(shop, f"{{eventMethod: '{method}', postPath: '/com.acme/track'}}")
            second = check(await arrived(edge, 6), f"{site.url}/")
            cookie = {each["name"]: each for each in await shop.context.cookies()}["sp"]
            # the three events of the first page may leave before its first answer came with the cookie
            assert {each["nuid"] for each in second} == {cookie["value"]} <= {each["nuid"] for each in first}
            assert (cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (True, True, "None")
            assert {each["duid"] for each in first} == {each["duid"] for each in second}
            await again(shop, f"{{eventMethod: '{method}', anonymousTracking: {{withServerAnonymisation: true}}}}")
            hidden = await arrived(edge, 9)
            for each in hidden:
                event = each.materialised()
                assert event["context"]["snowplow"]["nuid"] == NOBODY
                assert "ip" not in event["context"]
                assert event.get("anonymousId") is None
            assert problems == []
        assert await edge.dead() == []
