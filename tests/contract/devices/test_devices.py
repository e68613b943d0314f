"""What every device destination promises (`shared/devices/contract.py`), in Chromium, against stand-ins of the vendors' scripts."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Page, Request, Route

from shared.devices.registry import DEVICES, parse_device, public_options, script_of
from shared.errors import ConfigError
from shared.plugins import secret_options
from tests.contract.devices.subjects import SUBJECTS, Subject
from tests.e2e.browser.stand import Stand, ids

in_page = pytest.mark.asyncio(loop_scope="module")
EACH = pytest.mark.parametrize("name", sorted(SUBJECTS))
DOCS = Path(__file__).parents[3] / "docs/devices"
CALLS = "for (let n = 0; n < 5; n++) analytics.track('e' + n, {n, big: n > 2})"


def test_every_device_stands_in_the_suite_with_its_script() -> None:
    assert set(SUBJECTS) == set(DEVICES.names()), "rows of SUBJECTS in tests/contract/devices/subjects.py"
    for name in DEVICES.names():
        assert re.search(r"^export (async )?function load\(", script_of(name), re.MULTILINE), name


@EACH
def test_its_options_are_public_and_described_and_its_check_refuses_wrong_ones(name: str) -> None:
    device, subject = DEVICES.get(name), SUBJECTS[name]
    assert secret_options(device.OPTIONS) == frozenset(), "every visitor reads the options"
    document = {"type": name, **subject.options}
    assert json.dumps(public_options("d", document))
    wrong, words = subject.wrong
    assert words, "a row has options that are refused"
    with pytest.raises(ConfigError, match=re.escape(words)) as refused:
        parse_device("d", {"type": name, **wrong})
    assert all(problem.path.startswith("destinations.d") for problem in refused.value.problems)
    with pytest.raises(ConfigError, match="every visitor's browser reads"):
        parse_device("d", {"type": name, **subject.options, next(iter(subject.options)): "${file:/run/secrets/x}"})


async def opened(shop: Stand, key: str, subject: Subject, *, blocked: bool = False, **attributes: str) -> tuple[Page, list[str]]:
    """Opens a page with the script; returns it with the addresses that it asks for, other than ours."""
    asked: list[str] = []

    async def stand_in(route: Route) -> None:
        text = None if blocked else subject.vendor.get(route.request.url)
        if text is None:
            await route.abort()
        else:
            await route.fulfill(body=text, content_type="text/javascript")

    def note(request: Request) -> None:
        if not request.url.startswith((shop.edge.url, shop.site.url)):
            asked.append(request.url)

    context = await shop.visitor()
    await context.route(lambda url: not url.startswith((shop.edge.url, shop.site.url)), stand_in)
    context.on("request", note)
    page = await shop.opened(shop.put(f"/{key}", shop.script(key, page="off", **attributes)), context)
    return page, asked


async def told(page: Page, subject: Subject, count: int) -> list[str]:
    """Waits until the vendor was told so many events; returns their names."""
    await page.wait_for_function(f"({subject.names}).length >= {count}")
    found: list[str] = await page.evaluate(subject.names)
    return found


@EACH
@in_page
async def test_it_gets_each_event_once_in_order_also_those_before_it_was_loaded(shop: Stand, name: str) -> None:
    subject = SUBJECTS[name]
    key = await shop.new_site(devices={"one": {"type": name, **subject.options}})
    page, asked = await opened(shop, key, subject)
    await page.evaluate(f"{CALLS}; analytics.ready().then(() => analytics.track('late')); 0")
    assert await told(page, subject, 6) == ["e0", "e1", "e2", "e3", "e4", "late"]
    await shop.arrived(key, 6)
    assert await page.evaluate(subject.names) == ["e0", "e1", "e2", "e3", "e4", "late"]
    hosts = {f"{each.scheme}://{each.netloc}" for each in map(urlsplit, asked)}
    allowed = DEVICES.get(name).HOSTS
    assert all(any(fnmatch(host, pattern) for pattern in allowed) for host in hosts), f"HOSTS lacks some of {hosts}"


@EACH
@in_page
async def test_it_gets_what_consent_integrations_and_where_let_pass_and_nothing_of_it_loads_before(
    shop: Stand, name: str
) -> None:
    subject = SUBJECTS[name]
    rules: dict[str, Any] = {"consent": ["ads"], "where": {"field": "properties.n", "gte": 1}}
    key = await shop.new_site(devices={"one": {"type": name, **subject.options}}, one=rules)
    page, asked = await opened(shop, key, subject, consent="wait")
    await page.evaluate(f"{CALLS}; analytics.ready()")
    assert asked == []
    assert await page.evaluate(subject.names) == []
    # events that waited go to all, with what the visitor chose
    await page.evaluate("analytics.consent({ads: true, other: false}); 0")
    assert await told(page, subject, 4) == ["e1", "e2", "e3", "e4"]
    await page.evaluate(
        f"""() => {{ analytics.track('out', {{n: 9}}, {{integrations: {{All: false}}}})
        analytics.track('out', {{n: 9}}, {{integrations: {{'{key}-one': false}}}})
        analytics.track('out', {{n: 9}}, {{context: {{consent: {{categoryPreferences: {{ads: false}}}}}}}})
        analytics.track('in', {{n: 9}}, {{integrations: {{All: false, {name}: true}}}}); return 0 }}"""
    )
    assert await told(page, subject, 5) == ["e1", "e2", "e3", "e4", "in"]
    # taken back, the vendor hears of it or its page says that it cannot; granted again, it goes on
    await page.evaluate("analytics.consent({ads: false}); 0")
    if subject.revoked:
        await page.wait_for_function(subject.revoked)
    else:
        assert "no public call to stop" in (DOCS / f"{name}.md").read_text()
    await page.evaluate("analytics.track('no', {n: 9}); analytics.consent({ads: true}); analytics.track('again', {n: 9}); 0")
    assert await told(page, subject, 6) == ["e1", "e2", "e3", "e4", "in", "again"]
    stored = await shop.arrived(key, 11)  # the server gets all: its connections judge for themselves
    assert set(ids(stored).values()) == {1}


@EACH
@in_page
async def test_a_visitor_who_refuses_never_meets_it(shop: Stand, name: str) -> None:
    subject = SUBJECTS[name]
    key = await shop.new_site(devices={"one": {"type": name, **subject.options}})
    page, asked = await opened(shop, key, subject, consent="wait")
    await page.evaluate(f"{CALLS}; analytics.consent(false); {CALLS}; analytics.ready()")
    assert (asked, await page.evaluate(subject.names), await page.evaluate("analytics.waiting()")) == ([], [], 0)
    assert await page.evaluate("[document.cookie, Object.keys(localStorage).length]") == ["", 0]
    assert await shop.edge.events(key) == []


@EACH
@in_page
async def test_a_blocked_vendor_hurts_nobody_else(shop: Stand, name: str) -> None:
    subject = SUBJECTS[name]
    devices = {
        "one": {"type": name, **subject.options},
        "two": {"type": "tag", "script": "(window.second ??= []).push(event.event)"},
    }
    key = await shop.new_site(devices=devices)
    page, _ = await opened(shop, key, subject, blocked=True)
    await page.evaluate(CALLS)
    second = Subject({}, "window.second ?? []")
    assert await told(page, second, 5) == ["e0", "e1", "e2", "e3", "e4"]
    await shop.arrived(key, 5)
