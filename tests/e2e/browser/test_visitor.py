"""Who the visitor is, what they agreed to, and pages with policies and paths of their own."""

from __future__ import annotations

import asyncio
import time

import pytest
from playwright.async_api import Page

from tests.e2e.browser.stand import Stand, body, ids, names

in_page = pytest.mark.asyncio(loop_scope="module")
KEPT = "[document.cookie, Object.keys(localStorage)]"
TAG = {"type": "tag", "script": "(window.told ??= []).push(event.event)"}


async def started(page: Page) -> Page:
    await page.wait_for_function("window.analytics?.initialized")
    return page


@in_page
async def test_events_wait_for_consent_in_memory_and_then_go_to_all_with_what_the_visitor_chose(shop: Stand) -> None:
    key = await shop.new_site(devices={"tag": TAG})
    context = await shop.visitor()
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page = await started(await shop.opened(shop.put("/consent", shop.script(key, consent="wait")), context))
    await page.evaluate("analytics.identify('u1', {plan: 'pro'}); analytics.track('Early'); analytics.ready()")
    assert await page.evaluate(KEPT) == ["", []]
    assert [url for url in asked if url.startswith(shop.edge.url)] == [shop.edge.url + "/p.js"]
    assert await page.evaluate("[analytics.waiting(), window.told]") == [3, None]
    assert await shop.edge.events(key) == []
    await page.evaluate("analytics.consent({analytics: true, ads: false}); analytics.track('Late'); 0")
    events = [body(each) for each in await shop.arrived(key, 4)]
    assert [event["type"] for event in events] == ["page", "identify", "track", "track"]
    assert {str(event["context"]["consent"]["categoryPreferences"]) for event in events} == {"{'analytics': True, 'ads': False}"}
    assert len({event["anonymousId"] for event in events}) == 1
    await page.wait_for_function("window.told?.length === 4")
    cookie, held = await page.evaluate(KEPT)
    assert events[0]["anonymousId"] in cookie
    assert "penstock_person" in held
    # taken back: the browser forgets, and nothing goes any more
    await page.evaluate("analytics.consent(false); analytics.track('Never'); 0")
    assert await page.evaluate(KEPT) == ["", []]
    assert await page.evaluate("analytics.waiting()") == 0
    await page.evaluate("analytics.consent(true); analytics.track('Again'); analytics.flush()")
    last = (await shop.arrived(key, 5))[-1]
    assert (last.head.event, "consent" in body(last)["context"]) == ("Again", False)
    assert body(last)["anonymousId"] != events[0]["anonymousId"]


@in_page
async def test_a_visitor_stays_the_same_over_pages_until_reset_and_keeps_the_id_of_segments_script(shop: Stand) -> None:
    key = await shop.new_site()
    context = await shop.visitor()
    await context.add_cookies([{"name": "ajs_anonymous_id", "value": "old-id", "url": shop.site.url}])
    url = shop.put("/person", shop.script(key, page="off"))
    first = await started(await shop.opened(url, context))
    await first.evaluate("analytics.identify('u1', {plan: 'pro'}); analytics.group('g1'); analytics.flush()")
    second = await started(await shop.opened(url, context))
    await second.evaluate("analytics.track('Here'); analytics.reset(); analytics.track('New'); analytics.flush()")
    await first.evaluate("analytics.track('There'); analytics.flush()")
    events = {each.head.event: body(each) for each in await shop.arrived(key, 5)}
    assert events["Here"]["anonymousId"] == "old-id"
    assert (events["Here"]["userId"], events["Here"]["context"]["groupId"]) == ("u1", "g1")
    assert events["New"]["anonymousId"] == events["There"]["anonymousId"] != "old-id"
    assert "userId" not in events["New"]


@in_page
async def test_the_server_sets_the_cookie_of_the_anonymous_id_for_the_domain_of_the_pages(shop: Stand) -> None:
    page_url = f"http://www.shop.test:{shop.site.port}"
    edge_url = f"http://events.shop.test:{shop.edge.port}"
    options = {"origins": [page_url], "browser": {"cookie_domain": "shop.test", "cookie_days": 300}}
    key = await shop.new_site(options)
    shop.put("/cookie", f'<script src="{edge_url}/p.js" data-key="{key}"></script>')
    context = await shop.visitor()
    page = await started(await shop.opened(f"{page_url}/cookie", context))
    await page.wait_for_function("localStorage.penstock_cookie")
    await shop.arrived(key, 1)
    cookies = await context.cookies(edge_url)
    assert [(each["name"], each["domain"]) for each in cookies] == [("penstock_id", ".shop.test")]
    # the script asks for 365 days
    assert cookies[0]["expires"] < time.time() + 301 * 86_400
    assert {body(each)["anonymousId"] for each in await shop.edge.events(key)} == {cookies[0]["value"]}
    # older cookies of other domains: one visitor, and one cookie is left, which a new visitor and a refusal change
    context = await shop.visitor()
    await context.add_cookies([{"name": "penstock_id", "value": "of-host", "url": page_url}])
    await context.add_cookies([{"name": "penstock_id", "value": "narrow", "domain": ".www.shop.test", "path": "/"}])
    await context.add_cookies([{"name": "penstock_id", "value": "wide", "domain": ".shop.test", "path": "/"}])
    page = await started(await shop.opened(f"{page_url}/cookie", context))
    await page.wait_for_function("localStorage.penstock_cookie")
    for code in ("'of-host'", "(analytics.reset(), analytics.setAnonymousId('new'), analytics.user().anonymousId())"):
        value = await page.evaluate(code)
        assert await page.evaluate("analytics.user().anonymousId()") == value
        assert [(each["domain"], each["value"]) for each in await context.cookies(edge_url)] == [(".shop.test", value)]
    await page.evaluate("analytics.flush()")
    assert {body(each)["anonymousId"] for each in await shop.edge.events(key)} == {cookies[0]["value"], "of-host"}
    await context.add_cookies([{"name": "penstock_id", "value": "of-host", "url": page_url}])
    await page.evaluate("analytics.consent(false); 0")
    assert await page.evaluate("document.cookie") == ""


@in_page
async def test_a_strict_policy_needs_the_nonce_of_the_element_and_the_host_of_the_edge_only(shop: Stand) -> None:
    key = await shop.new_site(devices={"tag": TAG})
    policy = f"default-src 'none'; script-src 'nonce-r4nd' 'strict-dynamic'; connect-src {shop.edge.url}; require-trusted-types-for 'script'"
    head = f'<meta http-equiv="Content-Security-Policy" content="{policy}; trusted-types penstock">'
    script = shop.script(key).replace("<script", '<script nonce="r4nd"')
    page = await started(await shop.opened(shop.put("/csp", head + script)))
    await shop.arrived(key, 1)
    while await page.evaluate("window.told?.length") != 1:  # the policy forbids the waiting functions of Playwright
        await asyncio.sleep(0.05)
    # without a device the script needs no policy of trusted types
    plain = await shop.new_site()
    head = f'<meta http-equiv="Content-Security-Policy" content="{policy}; trusted-types \'none\'">'
    script = shop.script(plain).replace("<script", '<script nonce="r4nd"')
    await started(await shop.opened(shop.put("/types", head + script)))
    await shop.arrived(plain, 1)


@in_page
async def test_a_path_of_the_sites_own_serves_everything_and_nothing_else_is_asked_for(shop: Stand) -> None:
    key = await shop.new_site({"browser": {"path": "/assets/k3v9"}}, devices={"tag": TAG})
    context = await shop.visitor()
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url.removeprefix(shop.edge.url)))
    script = shop.script(key).replace("/p.js", "/assets/k3v9.js")
    page = await started(await shop.opened(shop.put("/own", script), context))
    await page.wait_for_function("window.told?.length === 1")
    assert len(ids(await shop.arrived(key, 1))) == 1
    ours = [path.partition("?")[0] for path in asked if not path.startswith(shop.site.url)]
    assert set(ours) == {
        "/assets/k3v9.js",
        "/assets/k3v9/e",
        f"/assets/k3v9/s/{key}",
        "/assets/k3v9/m/devices.mjs",
        "/assets/k3v9/d/tag.js",
    }


@in_page
async def test_middlewares_change_and_stop_events_and_listeners_hear_of_them(shop: Stand) -> None:
    key = await shop.new_site()
    page = await started(await shop.opened(shop.put("/middle", shop.script(key, page="off"), "<a id=go href=#there>go</a>")))
    await page.evaluate(
        """() => { window.heard = []; analytics.on("track", (event) => heard.push(event.event))
        analytics.addSourceMiddleware(({payload, next}) => { if (payload.obj.event === "Stop") return
          payload.obj.properties.seen = true; next(payload) })
        analytics.trackLink(document.querySelector("#go"), "Clicked", {where: "top"})
        analytics.track("Stop"); analytics.track("Go", {}, {integrations: {CRM: false}, timestamp: "2026-01-02T03:04:05.000Z"}) }"""
    )
    await page.click("#go")
    events = [body(each) for each in await shop.arrived(key, 2)]
    assert [(event["event"], event["properties"]) for event in events] == [
        ("Go", {"seen": True}),
        ("Clicked", {"where": "top", "seen": True}),
    ]
    assert (events[0]["integrations"], events[0]["timestamp"]) == ({"CRM": False}, "2026-01-02T03:04:05.000Z")
    assert await page.evaluate("heard") == ["Stop", "Go", "Clicked"]
    assert names(await shop.edge.events(key)) == ["Go", "Clicked"]
