"""Segment's analytics-next, unmodified, finds the device destinations of a site in its settings document."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.browser.stand import Stand, names
from tests.support.sdks import node_sdks

__all__ = ["node_sdks"]

in_page = pytest.mark.asyncio(loop_scope="module")


@in_page
async def test_analytics_next_hands_its_events_to_device_destinations_by_the_same_rules(shop: Stand, node_sdks: Path) -> None:
    tag = {"type": "tag", "script": "(window.told ??= []).push([event.event, event.properties.n, typeof event.timestamp])"}
    key = await shop.new_site(devices={"tag": tag}, tag={"where": {"field": "properties.n", "gte": 1}})
    shop.site.folders["/sdk/"] = node_sdks / "@segment/analytics-next/dist/umd"
    head = f"""<script src="/sdk/index.js"></script><script>
      window.sdk = new window.AnalyticsNext.AnalyticsBrowser()
      sdk.load({{writeKey: "{key}", cdnURL: "{shop.edge.url}"}}, {{integrations: {{"Segment.io": {{protocol: "http"}}}}}})
      for (let n = 0; n < 4; n++) sdk.track("Sold", {{n}})
      sdk.track("Not here", {{n: 9}}, {{integrations: {{"{key}-tag": false}}}})
      sdk.track("Last", {{n: 10}})</script>"""
    page = await shop.opened(shop.put("/next", head))
    await page.wait_for_function("window.told?.length >= 4")
    assert await page.evaluate("told") == [
        ["Sold", 1, "string"],
        ["Sold", 2, "string"],
        ["Sold", 3, "string"],
        ["Last", 10, "string"],
    ]
    assert sorted(map(str, names(await shop.arrived(key, 6)))) == ["Last", "Not here", *["Sold"] * 4]
