"""Snowplow's other ways in: the webhook of Iglu, and redirects that count a click."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ingest.contract import Accepted
from ingest.protocols import snowplow
from tests.unit.ingest.snowplows import PAGE_VIEW, bodies, coded, entities, get, one, parsed, payload, post, refused, snow

ORDER = "iglu:com.acme/order/jsonschema/1-0-0"
FORM = "application/x-www-form-urlencoded"
ALLOWED = {"redirect_hosts": ["shop.example.com", "*.acme.com"]}


def webhook(body: Any = b"", query: dict[str, str] | None = None, content_type: str = "application/json") -> Any:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return post(text, route=snowplow.IGLU, query=query, content_type=content_type)


def redirect(u: str, **more: str) -> Any:
    return get({"u": u, **more}, route=snowplow.REDIRECT)


@pytest.mark.parametrize(
    ("request_", "properties"),
    [
        (webhook({"schema": ORDER, "data": {"a": 1}}), [{"a": 1}]),
        (webhook({"a": 1}, {"schema": ORDER}), [{"a": 1}]),
        (webhook([{"a": 1}, {"a": 2}], {"schema": ORDER}), [{"a": 1}, {"a": 2}]),
        (webhook({"schema": ORDER, "data": [1, {"b": 2}]}), [{"value": 1}, {"b": 2}]),
        (webhook(b"a=1&b=x+y", {"schema": ORDER}, FORM), [{"a": "1", "b": "x y"}]),
        (get({"schema": ORDER, "a": "1", "aid": "shop"}, route=snowplow.IGLU), [{"a": "1"}]),
    ],
)
def test_the_webhook_takes_data_from_body_form_and_query(request_: Any, properties: list[Any]) -> None:
    found = bodies(parsed(request_))
    assert [event["properties"] for event in found] == properties
    assert {event["event"] for event in found} == {"order"}
    platform = "srv" if request_.headers.get("content-type") == FORM else "app"
    assert {event["context"]["snowplow"]["p"] for event in found} == {platform}
    assert {event["context"]["snowplow"]["schema"] for event in found} == {ORDER}


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (webhook({"a": 1}), "invalid_batch"),
        (webhook({"a": 1}, {"schema": "order"}), "invalid_batch"),
        (webhook(b"{", {"schema": ORDER}), "invalid_json"),
        (webhook(), "invalid_batch"),
    ],
)
def test_a_webhook_without_schema_or_json_is_refused(request_: Any, code: str) -> None:
    assert refused(request_).code == code


def test_a_redirect_is_off_until_the_site_allows_hosts() -> None:
    assert (refused(redirect("https://shop.example.com/")).status, refused(redirect("https://shop.example.com/")).code) == (
        404,
        "unknown_path",
    )


def test_a_redirect_counts_the_click_and_sends_the_browser_on() -> None:
    request = redirect("https://a.acme.com/x?y=1#z")
    event = one(request, snow(**ALLOWED))
    assert (event["event"], event["properties"]) == ("uri_redirect", {"uri": "https://a.acme.com/x?y=1#z"})
    assert event["context"]["snowplow"]["tv"] == "r-tp2"
    answer = snowplow.reply(request, Accepted(1))
    assert (answer.status, answer.headers["Location"]) == (302, "https://a.acme.com/x?y=1#z")


def test_a_redirect_with_an_event_adds_an_entity_to_it() -> None:
    page = entities(("iglu:com.acme/user/jsonschema/1-0-0", {"level": 1}))
    query = {name: value for name, value in PAGE_VIEW.items() if name != "u"}
    event = one(redirect("https://shop.example.com/", **query, cx=coded(page)), snow(**ALLOWED))
    assert event["name"] == "Shop"
    assert [each["data"] for each in event["context"]["snowplow"]["contexts"]] == [
        {"level": 1},
        {"uri": "https://shop.example.com/"},
    ]
    broken = parsed(redirect("https://shop.example.com/", e="pv", cx="!!"), snow(**ALLOWED))
    assert [each.reason.value for each in broken.rejects] == ["malformed_parameter"]


@pytest.mark.parametrize(
    "address",
    [
        "https://evil.example/", "//shop.example.com/", "/x", "", "javascript:alert(1)", "https:shop.example.com",
        "https://evil.example\\@shop.example.com/", "https://shop.example.com\\@evil.example/", "https://a@shop.example.com/",
        "https://shop.example.com\r\nSet-Cookie: x=1", "https://shop.example.com/\t", "https://shop.example.com.evil.example/",
        "https://evilacme.com/", "https://acme.com/", "https://shop.example.com:x/", "https://[::1/", "https://shop.éxample.com/",
        "ftp://shop.example.com/", "https:///shop.example.com/", " https://shop.example.com/", "https://shop.example.com/" + "a" * 9000,
        "https://evil.example%2f.acme.com/", "https://evil.example%5c.acme.com/", "https://evil.example;.acme.com/", "https://evil.example^.acme.com/",
        "https://[::1%.acme.com]/", "https://.acme.com/", "https://a..acme.com/", "https://evil.example,.acme.com/",
    ],
)  # fmt: skip
def test_a_redirect_goes_nowhere_else(address: str) -> None:
    assert refused(redirect(address), snow(**ALLOWED)).status == 400


def test_a_parameter_cannot_smuggle_json_into_an_event() -> None:
    event = one(get({**PAGE_VIEW, "redirect": "}{", "contexts": "x", "schema": "y"}))
    assert event["context"]["snowplow"]["redirect"] == "}{"


@pytest.mark.parametrize(
    "request_",
    [
        webhook([{"a": 1}, {"a": 2}, {"a": 3}], {"schema": ORDER, "eid": "e-1"}),
        post(payload(*[{**PAGE_VIEW, "eid": ""}] * 3), query={"eid": "e-1"}),
    ],
)
def test_several_events_under_the_eid_of_one_query_are_no_repeats_of_each_other(request_: Any) -> None:
    first, again = ([head.message_id for head in parsed(request_).heads] for _ in range(2))
    assert first[0] == "e-1"
    assert len(set(first)) == 3
    assert first == again
