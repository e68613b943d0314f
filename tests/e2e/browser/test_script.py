"""The script in pages: what it sends, from which beginnings."""

from __future__ import annotations

import asyncio

import pytest

from tests.e2e.browser.stand import Stand, body, ids, names

in_page = pytest.mark.asyncio(loop_scope="module")

SNIPPET = """<script>(function(){var i="analytics",a=window[i]=window[i]||[];a.invoked=!0;
a.methods=["track","identify","page","group","alias","reset","ready","on"];
a.factory=function(e){return function(){var r=Array.prototype.slice.call(arguments);
if(["track","page"].indexOf(e)>-1)r.push({__t:"bpc",p:"/seen",u:location.href,s:location.search,t:document.title,r:document.referrer});
r.unshift(e);a.push(r);return a}};for(var n=0;n<a.methods.length;n++){var m=a.methods[n];a[m]=a.factory(m)}
a.load=function(key,o){var t=document.createElement("script");t.async=!0;
t.setAttribute("data-global-segment-analytics-key",i);t.src="%(edge)s/analytics.js/v1/"+key+"/analytics.min.js";
document.head.appendChild(t);a._loadOptions=o};a._writeKey="%(key)s";a.load("%(key)s");a.page();a.track("Early",{n:1})})()</script>"""


@in_page
async def test_the_element_with_a_key_sends_the_page_and_every_call_with_the_page_around_it(shop: Stand) -> None:
    key = await shop.new_site()
    # as Prototype 1.6 leaves arrays
    head = "<script>Array.prototype.toJSON = function () { return '[' + this.join() + ']' }</script>"
    url = shop.put("/start", head + shop.script(key))
    page = await shop.opened(f"{url}?utm_source=mail&utm_campaign=may")
    await page.evaluate(
        """() => { analytics.identify("u1", {plan: "pro"}); analytics.group("g1", {size: 3});
        analytics.track("Sold", {total: 1.5, items: [{sku: "é"}]}); analytics.alias("u2", "u1");
        analytics.page("Docs", "Home", {tab: 1}); return analytics.flush() }"""
    )
    stored = await shop.arrived(key, 6)
    assert set(ids(stored).values()) == {1}
    events = [body(each) for each in stored]
    assert [event["type"] for event in events] == ["page", "identify", "group", "track", "alias", "page"]
    first = events[0]
    assert first["context"]["page"]["url"].startswith(url)
    assert first["context"]["page"]["title"] == "Shop"
    assert first["context"]["campaign"] == {"source": "mail", "name": "may"}
    assert {"locale", "timezone", "screen", "library"} <= first["context"].keys()
    assert len({event["anonymousId"] for event in events}) == 1
    assert events[3]["properties"] == {"total": 1.5, "items": [{"sku": "é"}]}
    assert events[3]["userId"] == "u1"
    assert (events[4]["userId"], events[4]["previousId"]) == ("u2", "u1")
    assert (events[5]["category"], events[5]["name"]) == ("Docs", "Home")
    assert await shop.edge.dead(key) == []
    assert await page.evaluate("analytics.waiting()") == 0
    assert await page.evaluate("Object.keys(localStorage).filter((name) => name.startsWith('penstock_queue'))") == []


@in_page
async def test_segments_snippet_works_with_its_address_changed_and_keeps_its_early_calls(shop: Stand) -> None:
    key = await shop.new_site()
    page = await shop.opened(shop.put("/snippet", SNIPPET % {"edge": shop.edge.url, "key": key}))
    await page.wait_for_function("window.analytics.initialized")
    await page.evaluate("analytics.track('Late')")
    stored = await shop.arrived(key, 3)
    assert names(stored) == [None, "Early", "Late"]
    assert body(stored[1])["context"]["page"]["path"] == "/seen"
    assert body(stored[1])["properties"] == {"n": 1}


@in_page
async def test_the_module_needs_no_element(shop: Stand) -> None:
    key = await shop.new_site()
    head = f"""<script type="module">import {{ load }} from "{shop.edge.url}/p.mjs"
      window.sdk = load({{host: "{shop.edge.url}", key: "{key}"}}); sdk.track("By module")</script>"""
    await shop.opened(shop.put("/module", head))
    assert names(await shop.arrived(key, 1)) == ["By module"]


@in_page
async def test_an_element_of_a_module_a_wrong_call_and_calls_after_the_script_do_not_stop_it(shop: Stand) -> None:
    key = await shop.new_site()
    other = await shop.new_site()
    head = f"""<script>window.analytics = [null, ["nothing"], ["track", "Early"]]</script>
      {shop.script(key).replace("<script", '<script type="module"')}
      <script type="module">analytics.on("track", () => {{ throw 1 }}); (window.analytics ??= []).push(["track", "After"])</script>"""
    said: list[str] = []
    page = await (await shop.visitor()).new_page()
    page.on("console", lambda message: said.append(message.text))
    inner = (head + shop.script(other).replace("<script", "<script defer")).replace('"', "&quot;")
    await page.goto(shop.put("/frame", "", f'<iframe srcdoc="{inner}"></iframe>'))
    stored = await shop.arrived(key, 3)
    assert sorted(map(str, names(stored))) == ["After", "Early", "None"]
    # a frame without an address is of the page around it
    assert {body(each)["context"]["page"]["path"] for each in stored} == {"/frame"}
    # of two scripts for one name the later one says so
    async with asyncio.timeout(60):
        while not any(f"window.analytics is that of {key}; name another for {other}" in each for each in said):
            await asyncio.sleep(0.05)
