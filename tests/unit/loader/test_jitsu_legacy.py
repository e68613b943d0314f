"""Golden cases of the layout `jitsu_legacy`: classic events come back as they were sent, others get classic names."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from ingest.contract import Parsed
from ingest.protocols import jitsu_classic
from shared.events.classic import as_classic
from tests.unit.ingest.desks import CountingDesk, post
from tests.unit.ingest.test_jitsu_classic import FLAT
from tests.unit.loader.shaping import RECEIVED, Desk, Row


def rows(*events: dict[str, Any], **options: Any) -> list[Row]:
    loaded = Desk({"layout": "jitsu_legacy", **options}).load(*events)
    assert not loaded.dead
    assert len(loaded.tables) == 1
    return loaded.rows(next(iter(loaded.tables)))


def through_the_edge(event: dict[str, Any]) -> dict[str, Any]:
    parsed = jitsu_classic.parse(post("/api/v1/event", json.dumps(event), query={"token": "web"}), CountingDesk())
    assert isinstance(parsed, Parsed)
    canonical: dict[str, Any] = json.loads(bytes(parsed.bodies[0]))
    return canonical


def test_a_classic_event_is_the_row_that_it_was() -> None:
    assert rows(through_the_edge({**FLAT, "source_ip": "203.0.113.7"})) == [
        {
            "eventn_ctx_event_id": "e1",
            "event_type": "order",
            "_timestamp": RECEIVED,
            "utc_time": datetime(2026, 9, 1, 11, 59, tzinfo=UTC),
            "src": "jitsu",
            "source_ip": "203.0.113.7",
            "anon_ip": "203.0.113.0",
            "user_id": "u1",
            "user_anonymous_id": "a1",
            "user_email": "a@x",
            "user_plan": "pro",
            "ids_ga": "GA1.2",
            "user_agent": "Mozilla/5.0",
            "user_language": "de-DE",
            "local_tz_offset": 120,
            "referer": "https://from.example.com/",
            "url": "https://shop.example.com/a?b=1",
            "page_title": "A",
            "doc_path": "/a",
            "doc_host": "shop.example.com",
            "doc_search": "?b=1",
            "doc_encoding": "UTF-8",
            "screen_resolution": "1920x1080",
            "vp_size": "800x600",
            "utm_campaign": "c",
            "utm_source": "s",
            "click_id_gclid": "g",
            "total": 9.5,
            "items": '[{"sku":"x"}]',
        }
    ]


def test_names_of_pages_and_identifies_come_back() -> None:
    found = rows(*(through_the_edge({"event_type": name, "user": {"id": "u"}}) for name in ("pageview", "user_identify", "sold")))
    assert [row["event_type"] for row in found] == ["pageview", "user_identify", "sold"]


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"eventn_ctx": {"event_id": "m0"}, "key1": {"inner_key_2": "test"}, "key2": 5}, {"key1_inner_key_2": "test", "key2": 5}),
        ({"email": "a@x", "key": 1}, {"email": "a@x", "key": 1}),
        ({"event_type": None, "user": {"id": 123}, "event_id": "m0"}, {"user_id": "123"}),
        ({"event_type": 7, "user": {"id": "u"}}, {"event_type": "7", "user_id": "u"}),
    ],
)
def test_an_event_that_has_no_name_or_no_user_is_a_row_without_them(sent: dict[str, Any], expected: dict[str, Any]) -> None:
    [row] = rows(through_the_edge(sent))
    assert {name: value for name, value in row.items() if value is not None and name not in ("utc_time", "_timestamp")} == {
        "eventn_ctx_event_id": "m0",
        **expected,
    }


def test_an_event_of_another_protocol_has_classic_names_and_loses_nothing() -> None:
    event = {
        "type": "identify",
        "userId": "u1",
        "traits": {"email": "a@x"},
        "groupId": "g1",
        "context": {
            "ip": "2001:db8::7",
            "page": {"path": "/a", "tab": 1},
            "screen": {"width": 1, "density": 2},
            "campaign": {"name": "c"},
            "geo": {"country": "DE", "postalCode": "89073"},
            "agent": {"browser": "Firefox", "osVersion": "1"},
            "bot": True,
            "library": {"name": "@jitsu/js", "version": "1.11.0"},
            "consent": {"categoryPreferences": {"ads": False}},
        },
        "sentAt": "2026-09-01T12:00:00Z",
        "event_type": "mine",
    }
    assert rows(event) == [
        {
            "eventn_ctx_event_id": "m0",
            "event_type": "identify",
            "_timestamp": RECEIVED,
            "utc_time": RECEIVED,
            "src": "@jitsu/js",
            "source_ip": "2001:db8::7",
            "anon_ip": "2001:db8::0",
            "user_email": "a@x",
            "user_id": "u1",
            "doc_path": "/a",
            "utm_campaign": "c",
            "location_country": "DE",
            "location_zip": "89073",
            "parsed_ua_ua_family": "Firefox",
            "parsed_ua_os_version": "1",
            "parsed_ua_bot": True,
            "context_library_version": "1.11.0",
            "context_consent_category_preferences_ads": False,
            "context_page_tab": 1,
            "context_screen_width": 1,
            "context_screen_density": 2,
            "group_id": "g1",
            "sent_at": datetime(2026, 9, 1, 12, tzinfo=UTC),
            "event_event_type": "mine",
        }
    ]


@pytest.mark.parametrize(
    ("page", "host", "path", "search"),
    [
        ({"host": "localhost:3088", "path": "/a.html", "search": "?b=1"}, "localhost", "/a.html", "?b=1"),
        ({"url": "https://shop.example.com:8443/a?b=1#c"}, "shop.example.com", "/a", "?b=1"),
        ({"url": "https://shop.example.com", "path": "/x", "search": ""}, "shop.example.com", "/x", ""),
        ({"host": "[::1]:80", "url": "https://[::1/a"}, "[::1]", None, None),
        ({"host": "[::1]"}, "[::1]", None, None),
        ({"host": "2001:db8::1"}, "2001:db8::1", None, None),
        ({"host": 5, "url": 7}, 5, None, None),
    ],
)
def test_the_host_has_no_port_and_parts_of_an_address_that_are_missing_come_from_it(
    page: dict[str, Any], host: object, path: object, search: object
) -> None:
    row = as_classic({"type": "page", "context": {"page": page}})
    assert (row.get("doc_host"), row.get("doc_path"), row.get("doc_search")) == (host, path, search)


def test_an_event_whose_name_stands_beside_members_of_taken_names_is_a_row() -> None:
    row = rows({"type": "page", "event": "Home", "userId": "u", "location": "here", "src": "mine"})[0]
    assert (row["event_type"], row["event_event"], row["event_location"]) == ("page", "Home", "here")
    assert row["src"] == "mine"


def test_a_property_does_not_take_the_place_of_a_column_of_the_layout() -> None:
    row = rows({"type": "track", "event": "Sold", "userId": "u", "properties": {"event_type": "mine", "user": {"id": "mine"}}})[0]
    assert (row["event_type"], row["user_id"]) == ("Sold", "u")
    assert [name for name, value in row.items() if value == "mine" and name not in ("event_type", "user_id")]


def test_an_event_of_jitsus_present_sdk_has_the_columns_of_its_single_table() -> None:
    event = {
        "type": "track",
        "event": "Sold",
        "anonymousId": "a1",
        "userId": "u1",
        "properties": {"orderId": "o1", "total": 9.5},
        "context": {"page": {"url": "https://a/", "referringDomain": "b"}, "traits": {"plan": "pro"}, "groupId": "g1"},
    }
    loaded = Desk({"layout": "single_table"}).load(event)
    [row] = loaded.rows()
    assert (
        row.items()
        >= {
            "message_id": "m0",
            "type": "track",
            "event": "Sold",
            "anonymous_id": "a1",
            "user_id": "u1",
            "order_id": "o1",
            "total": 9.5,
            "context_page_url": "https://a/",
            "context_page_referring_domain": "b",
            "context_traits_plan": "pro",
            "context_group_id": "g1",
        }.items()
    )
