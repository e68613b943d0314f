"""The device `tag`: HTML and scripts with values of the event in them, which can never become markup."""

from __future__ import annotations

import pytest

from shared.devices.registry import parse_device
from shared.errors import ConfigError
from tests.e2e.browser.stand import Stand

in_page = pytest.mark.asyncio(loop_scope="module")

HTML = """<div class="it" title="{{ event.properties.bad }}">{{ event.event }}: {{event.properties.bad}}</div>
<a class="it" href="{{ event.properties.link }}">whole</a><a class="it" href="/p?q={{ event.properties.bad }}&e={{ event.event }}">part</a>
<script class="code">(window.ran ??= []).push({{ event.properties }})</script>
<script class="theirs" src="{{ event.properties.code }}"></script>
<noscript><img class="twice" src="/twice.gif?{{ event.event }}"></noscript>"""
BAD = """"'><script>window.hacked=1</script>&</script><img src=x onerror=window.hacked=1>\u2028"""


@in_page
async def test_values_of_the_event_are_text_in_markup_json_in_scripts_and_percent_encoded_in_addresses(shop: Stand) -> None:
    tag = {
        "type": "tag",
        "html": HTML,
        "load": "<noscript><i class=twice></i></noscript><i id=once></i><script>window.loads = (window.loads || 0) + 1</script>",
    }
    key = await shop.new_site(devices={"tag": tag})
    page = await shop.opened(shop.put("/tag", shop.script(key, page="off")))
    await page.evaluate(
        """(bad) => { for (const link of ["https://ok.example/?a=1&b", "javascript:window.hacked=1"])
        analytics.track("T", {bad, link, code: "https://evil.example/x.js"}) }""",
        BAD,
    )
    await page.wait_for_function("window.ran?.length === 2")
    assert await page.evaluate("[window.hacked, window.loads, document.querySelectorAll('#once').length]") == [None, 1, 1]
    assert await page.evaluate("window.ran.map(({bad}) => bad)") == [BAD, BAD]
    assert await page.evaluate("document.querySelectorAll('.theirs[src], .twice').length") == 0
    first, link, part = await page.evaluate("[...document.querySelectorAll('.it')].slice(0, 3).map((each) => each.outerHTML)")
    assert await page.evaluate("document.querySelector('div.it').textContent") == f"T: {BAD}"
    assert await page.evaluate("document.querySelector('div.it').title") == BAD
    assert "<script" not in first.replace("&lt;script", "")
    assert 'href="https://ok.example/?a=1&amp;b"' in link
    assert 'href="/p?q=%22%27' in part.replace("'", "%27")
    assert await page.evaluate("[...document.querySelectorAll('.it')].slice(3).map((each) => each.getAttribute('href'))") == [
        None,
        None,
        await page.evaluate("document.querySelectorAll('.it')[2].getAttribute('href')"),
    ]


@in_page
async def test_a_script_that_fails_on_one_event_gets_the_next_one(shop: Stand) -> None:
    key = await shop.new_site(
        devices={"tag": {"type": "tag", "script": "if (event.properties.n === 1) throw 1; told.push(event)"}}
    )
    page = await shop.opened(shop.put("/fails", "<script>window.told = []</script>" + shop.script(key, page="off")))
    await page.evaluate("for (let n = 0; n < 3; n++) analytics.track('a', {n})")
    await page.wait_for_function("told.length === 2")
    assert await page.evaluate("told.map((event) => event.properties.n)") == [0, 2]
    shop.problems.clear()  # the tag's own error, which the page sees as its own


def test_a_tag_needs_something_to_do_and_takes_no_event_where_it_would_become_markup() -> None:
    for options, words in (
        ({}, "expected `html` or `script`"),
        ({"html": "<iframe srcdoc='{{ event.name }}'></iframe>"}, "srcdoc"),
        ({"script": "1", "load": "{{ event }}"}, "before any event"),
        ({"script": "x" * 70_000}, "the limit is 65536"),
    ):
        with pytest.raises(ConfigError, match=words):
            parse_device("t", {"type": "tag", **options})
