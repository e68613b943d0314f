"""SDKs of browsers, unmodified, in Chromium, against a real edge of another origin."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from playwright.async_api import Route

from shared.jetstream.broker import Broker
from shared.rules.consent import refused
from tests.e2e.ingest.edge import Edge, Stored, edge_here
from tests.support.browser import chromium, opened, pages
from tests.support.nats import NatsServer
from tests.support.sdks import node_sdks

__all__ = ["node_sdks"]

CALLS = """
  sdk.identify("u1", { plan: "pro" })
  sdk.page("Docs", "Home", { tab: 1 })
  sdk.group("g1", { size: 3 })
  for (let n = 0; n < 5; n++) sdk.track("Order Completed", { total: n * 1.5, items: [{ sku: "é-" + n }] })
  sdk.alias("u2", "u1")
"""
KINDS = {"identify": 1, "page": 1, "group": 1, "track": 5, "alias": 1}


async def arrived(edge: Edge, count: int, enough: Callable[[list[Stored]], bool] = bool) -> list[Stored]:
    """Waits until so many events are stored."""
    async with asyncio.timeout(60):
        while len(stored := await edge.events()) < count or not enough(stored):
            await asyncio.sleep(0.05)
    return stored


async def test_analytics_next_sends_every_call_singly_and_what_it_holds_when_the_page_is_left(
    nats: NatsServer, broker: Broker, node_sdks: Path
) -> None:
    page = """<!doctype html><title>Shop</title><script src="/sdk/index.js"></script><script>
      const load = (options) => {
        const sdk = window.sdk = new window.AnalyticsNext.AnalyticsBrowser()
        sdk.load({ writeKey: "web", cdnURL: "%(edge)s" }, { integrations: { "Segment.io": { protocol: "http", ...options } } })
        return sdk
      }
      const calls = (sdk) => { %(calls)s }
    </script>"""
    async with edge_here(nats, broker) as edge, pages({}, {"/sdk/": node_sdks / "@segment/analytics-next/dist/umd"}) as site:
        site.pages["/"] = page % {"edge": edge.url, "calls": CALLS}
        async with chromium() as browser:
            problems: list[str] = []
            shop = await opened(browser, f"{site.url}/", problems)
            await shop.evaluate("calls(load({}))")
            stored = await arrived(edge, 9)
            assert Counter(each.head.type for each in stored) == KINDS
            for each in stored:
                event = each.materialised()
                assert event["context"]["library"]["name"] == "analytics.js"
                assert event["context"]["page"]["url"] == f"{site.url}/"
                assert event["context"]["ip"]
                assert event["anonymousId"]
            # ten events are a batch that is never full; they leave with the page
            other = await opened(browser, f"{site.url}/", problems)
            batching = '{deliveryStrategy: {strategy: "batching", config: {size: 100, timeout: 600000}}}'
            await other.evaluate(f"calls(load({batching})); sdk.track('last').then(() => 0)")
            assert len(await edge.events()) == 9
            await other.goto("about:blank")
            stored = await arrived(edge, 19)
            assert len({each.head.message_id for each in stored}) == 19
            assert problems == []
            # a server that is overloaded is asked again, and the events have the same ids
            third = await opened(browser, f"{site.url}/", [])
            turned_away: list[str] = []

            async def overloaded(route: Route) -> None:
                if route.request.method != "POST" or len(turned_away) >= 2:
                    await route.continue_()
                    return
                turned_away.append(json.loads(route.request.post_data or "{}")["messageId"])
                await route.fulfill(status=503, headers={"Retry-After": "1", "Access-Control-Allow-Origin": "*"}, body="{}")

            await third.route(f"{edge.url}/v1/*", overloaded)
            await third.evaluate("calls(load({}))")
            stored = await arrived(edge, 28)
            assert len(set(turned_away)) == 2
            assert set(turned_away) <= {each.head.message_id for each in stored[19:]}
            assert len({each.head.message_id for each in stored}) == 28
        assert await edge.dead() == []


async def test_rudderstacks_sdk_sends_every_call_by_xhr_and_by_beacon(nats: NatsServer, broker: Broker, node_sdks: Path) -> None:
    page = """<!doctype html><title>Shop</title><script src="/sdk/index.js"></script><script>
      const load = (options) => {
        const sdk = window.sdk = new window.rudderanalytics.RudderAnalytics()
        sdk.load("web", "%(edge)s", { configUrl: "%(edge)s", logLevel: "ERROR", ...options })
        return sdk
      }
      const calls = (sdk) => { %(calls)s }
    </script>"""
    folder = node_sdks / "@rudderstack/analytics-js/dist/npm/modern/bundled/umd"
    async with edge_here(nats, broker) as edge, pages({}, {"/sdk/": folder}) as site:
        site.pages["/"] = page % {"edge": edge.url, "calls": CALLS}
        async with chromium() as browser:
            problems: list[str] = []
            shop = await opened(browser, f"{site.url}/", problems)
            await shop.evaluate("calls(load({}))")
            stored = await arrived(edge, 9)
            assert Counter(each.head.type for each in stored) == KINDS
            for each in stored:
                event = each.materialised()
                assert event["context"]["library"]["name"] == "RudderLabs JavaScript SDK"
                assert event["context"]["page"]["url"] == f"{site.url}/"
            other = await opened(browser, f"{site.url}/", problems)
            consent = (
                "consentManagement: {enabled: true, provider: 'custom', allowedConsentIds: ['stats'], deniedConsentIds: ['ads']}"
            )
            await other.evaluate(
                f"calls(load({{useBeacon: true, beaconQueueOptions: {{flushQueueInterval: 600000}}, {consent}}}))"
            )
            await other.wait_for_function(
                "Object.keys(localStorage).some((key) => key.includes('beacon') || key.includes('queue'))"
            )
            await other.goto("about:blank")
            stored = await arrived(edge, 18)
            assert Counter(each.head.type for each in stored) == {kind: 2 * count for kind, count in KINDS.items()}
            for each in stored[9:]:  # in the form that a connection's `consent` reads
                assert refused(["ads", "stats"], each.materialised()["context"]) == ["ads"]
            assert problems == []
        assert await edge.dead() == []
