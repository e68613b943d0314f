"""Vendors' scripts under strain: slow, blocked, twice in a page, from another address, for another visitor."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest

from loader.cloud.ga4 import _name as name_of_server
from loader.cloud.ga4 import _parameters as parameters_of_server
from loader.cloud.meta_conversions import MetaConversions
from loader.cloud.meta_conversions import Options as MetaOptions
from penstock.control.project.check import check_destinations
from shared.devices.registry import parse_device
from shared.errors import ConfigError
from tests.contract.devices.subjects import SUBJECTS, vendor
from tests.e2e.browser.stand import Stand

in_page = pytest.mark.asyncio(loop_scope="module")
GOLDEN = Path(__file__).parent / "golden"
GTAG = "https://www.googletagmanager.com/gtag/js?id=G-"


@in_page
async def test_thousands_of_events_before_a_script_that_never_comes_are_bounded_and_told_once(shop: Stand) -> None:
    devices = {
        "one": {"type": "hotjar", **SUBJECTS["hotjar"].options},
        "two": {"type": "tag", "script": "(window.second ??= []).push(event)"},
    }
    key = await shop.new_site(devices=devices)
    context = await shop.visitor()
    await context.route("https://static.hotjar.com/**", lambda route: None)
    page = await shop.opened(shop.put("/slow", shop.script(key, page="off", cookie="false")), context)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    await page.evaluate("analytics.ready()")
    await page.evaluate(
        "(async () => { for (let n = 0; n < 3000; n++) { analytics.track('e' + n); if (n % 500 == 0) await new Promise((r) => setTimeout(r)) } })()"
    )
    await page.wait_for_function("window.second?.length > 1000")
    assert len([each for each in said if "events wait for it" in each and f"{key}-one" in each]) == 1
    assert await page.evaluate("window.hj.q ?? []") == []


@in_page
async def test_two_ids_in_a_page_get_their_own_events_by_one_script_and_forget_the_visitor(shop: Stand) -> None:
    devices = {"one": {"type": "ga4_tag", "measurement_id": "G-A"}, "two": {"type": "ga4_tag", "measurement_id": "G-B"}}
    key = await shop.new_site(devices=devices, two={"where": {"field": "event", "eq": "both"}})
    context = await shop.visitor()
    await context.route(
        lambda url: url.startswith(GTAG), lambda route: route.fulfill(body=vendor("gtag.js"), content_type="text/javascript")
    )
    page = await shop.opened(shop.put("/two", shop.script(key, page="off")), context)
    await page.evaluate(
        "analytics.identify('u1'); analytics.track('one'); analytics.track('both'); analytics.reset(); analytics.track('late'); 0"
    )
    await page.wait_for_function("window.told?.filter(([verb]) => verb === 'event').length === 4")
    told = json.loads(await page.evaluate("JSON.stringify(told)"))
    events = [(words[1], words[2]["send_to"]) for words in told if words[0] == "event"]
    assert sorted(events) == [("both", "G-A"), ("both", "G-B"), ("late", "G-A"), ("one", "G-A")]
    assert await page.evaluate("window.loads") == 1
    users = [words[2].get("user_id") for words in told if words[:2] == ["config", "G-A"]]
    assert users == ["u1", None]


@in_page
async def test_a_script_of_ones_own_must_have_its_hash(shop: Stand) -> None:
    text = vendor("clarity.js")
    good = "sha384-" + base64.b64encode(hashlib.sha384(text.encode()).digest()).decode()
    for integrity, count in ((good, 1), ("sha384-" + "A" * 64, 0)):
        clarity = {"type": "clarity", "project_id": "abc123", "script": "/own.js", "integrity": integrity}
        key = await shop.new_site(devices={"one": clarity, "two": {"type": "tag", "script": "window.second = event"}})
        shop.site.pages["/own.js"] = text
        page = await shop.opened(shop.put("/own", shop.script(key, page="off")))
        async with (
            page.expect_console_message(lambda message: "does not load" in message.text)
            if not count
            else page.expect_request("**/own.js")
        ):
            await page.evaluate("analytics.track('a'); 0")
        await page.wait_for_function(f"(window.told ?? []).length >= {count} && window.second")
        assert await page.evaluate("(window.told ?? []).length") == count


def test_the_pixel_and_the_server_tell_meta_the_same_names_ids_and_values() -> None:
    (case, *_) = json.loads((GOLDEN / "meta_pixel.json").read_text())
    server = MetaConversions(MetaOptions(pixel_id="12", access_token="x"))
    events = [each for each in case["events"] if each != "reset"]
    made = server.calls(events, 1772359200.0)
    told = {each["event_id"]: each for call in made.calls for each in json.loads(call.body)["data"]}
    pixel = {words[4]["eventID"]: words for words in case["calls"] if words[0].startswith("trackSingle")}
    assert pixel.keys() == told.keys()
    for key, words in pixel.items():
        assert (words[2], words[3]) == (told[key]["event_name"], told[key].get("custom_data", {}))


def test_the_tag_and_the_server_tell_google_the_same_names_and_parameters() -> None:
    (case, *_) = json.loads((GOLDEN / "ga4_tag.json").read_text())
    server = [(name_of_server(each), each) for each in case["events"] if each != "reset"]
    tag = [words for words in case["calls"] if words[0] == "event"]
    assert [words[1] for words in tag] == [name for name, _ in server if name]
    for words, (name, event) in zip(tag, [each for each in server if each[0]], strict=True):
        expected = parameters_of_server(event, name) | {"send_to": "G-ABC123"}
        assert words[2] == {key: value for key, value in expected.items() if key != "engagement_time_msec"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"type": "ga4_tag", "measurement_id": "G-1", "config": {"send_page_view": True}}, "take it out"),
        ({"type": "ga4_tag", "measurement_id": "G-1", "consent_mode": {"ads": ["x"]}}, "unknown; known: ad_storage"),
        ({"type": "gtm", "container_id": "GTM-1", "data_layer": "a b"}, "a name in JavaScript"),
        ({"type": "posthog_js", "project_key": "phc_a", "config": {"api_host": "x"}}, "write it as `host`"),
        ({"type": "clarity", "project_id": "a", "script": "http://x.example/"}, "expected an address with https://"),
        ({"type": "clarity", "project_id": "a", "integrity": "sha384-AAAA"}, "name a copy of your own"),
        ({"type": "hotjar", "site_id": "x"}, "a whole number"),
    ],
)
def test_wrong_options_are_told_with_the_remedy(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_device("d", options)


@pytest.mark.asyncio
async def test_check_names_the_hosts_of_the_vendor_and_of_a_script_of_ones_own() -> None:
    document = {"type": "clarity", "project_id": "a", "script": "https://js.shop.example/c.js"}
    (found,) = await check_destinations({"d": document}, None, lambda *_, **__: None)
    assert found.steps[0].message.endswith("must allow https://*.clarity.ms https://c.bing.com https://js.shop.example")
