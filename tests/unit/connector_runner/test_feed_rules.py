"""Records of feeds become events: wrapped, or as the events they are already; every fault of a value is told."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from connector_runner.feeds.contract import FeedRules, Record
from connector_runner.feeds.registry import parse_feed
from connector_runner.feeds.rules.letters import letter_of, shape_again
from connector_runner.feeds.rules.shape import Shaper
from connector_runner.feeds.rules.template import Template
from shared.errors import ConfigError
from shared.events.frame import Head, RequestContext
from shared.events.outcome import Dead, DeadReason
from shared.project.model import SiteLimits

AT = 1_700_000_000_123


def shaper(**rules: Any) -> Shaper:
    return Shaper("orders", FeedRules(site="shop", **rules), SiteLimits(), 1_000_000)


def record(value: bytes | None, **more: Any) -> Record:
    return Record(topic="t", partition=3, offset=17, value=value, **more)


def shaped(value: bytes | None, of: Shaper | None = None, **more: Any) -> tuple[Head, dict[str, Any]]:
    found = (of or shaper()).shape(record(value, **more))
    assert not isinstance(found, Dead), found
    return found[0], msgspec.json.decode(found[1])


def test_an_object_becomes_the_properties_and_its_position_the_id() -> None:
    head, event = shaped(b' {"total": 1.10} ', key=b"k1", headers=[("trace", b"x"), ("raw", b"\xff")], timestamp_ms=AT)
    assert head == Head("orders:t:3:17@1700000000123", "track", "t")
    assert event == {
        "type": "track",
        "event": "t",
        "timestamp": "2023-11-14T22:13:20.123+00:00",
        "properties": {"total": 1.1},
        "context": {
            "feed": {
                "name": "orders", "topic": "t", "partition": 3, "offset": 17, "timestamp": "2023-11-14T22:13:20.123+00:00",
                "key": "k1", "headers": {"trace": "x"}, "headers_base64": {"raw": "/w=="},
            }
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("format_", "value", "properties"),
    [
        ("json", b"[1,2]", {"value": [1, 2]}),
        ("json", b"null", {"value": None}),
        ("json", b'{"type":"track","id":5}', {"type": "track", "id": 5}),  # a track of music has no user
        ("json", b'{"type":7}', {"type": 7}),
        ("text", "grüß".encode(), {"value": "grüß"}),
        ("raw", b"\xff\x00", {"value": "/wA="}),
        ("json", None, {}),
    ],
)
def test_other_values_are_wrapped(format_: str, value: bytes | None, properties: dict[str, Any]) -> None:
    _, event = shaped(value, shaper(format=format_))
    assert event["properties"] == properties
    assert event["context"]["feed"].get("tombstone", False) == (value is None)


def test_an_event_stays_one_and_learns_where_it_came_from() -> None:
    value = b'{"type":"track","event":"Sold","userId":"u","messageId":"m","properties":{"n":1.50},"context":{"ip":"1.2.3.4"}}'
    head, event = shaped(value)
    assert head == Head("m", "track", "Sold", "u")
    assert event["context"]["ip"] == "1.2.3.4"
    assert event["context"]["feed"]["offset"] == 17
    found = shaper().shape(record(value))
    assert not isinstance(found, Dead)
    assert b'"n":1.50' in found[1], "numbers keep their digits"
    without_id, _ = shaped(b'{"type":"identify","userId":"u","traits":{}}')
    assert without_id.message_id == "orders:t:3:17"
    wrapped, event = shaped(value, shaper(events=False))
    assert (wrapped.event, event["properties"]["event"]) == ("t", "Sold")


def test_names_and_ids_come_from_where_the_options_say() -> None:
    rules = shaper(
        event_type="{header.kind}", event="{topic}.{value.status.code}", user_id="{value.customer}", message_id="{value.id}"
    )
    value = b'{"status":{"code":7},"customer":"c1","id":"i1"}'
    head, event = shaped(value, rules, headers=[("kind", b"order")])
    assert head == Head("i1", "order", "t.7", "c1")
    assert event["userId"] == "c1"
    head, event = shaped(b"{}", rules)
    assert head == Head("orders:t:3:17", "track", "t.")
    assert "userId" not in event


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b'{"a": 1', DeadReason.MALFORMED_JSON),
        (b"", DeadReason.MALFORMED_JSON),
        (b'{"a": "\xff"}', DeadReason.MALFORMED_JSON),
        (b'{"a": "\\ud800"}', DeadReason.MALFORMED_JSON),
        (b'{"a": NaN}', DeadReason.MALFORMED_JSON),
        (b"[" * 5000 + b"]" * 5000, DeadReason.TOO_DEEP),
        (b"[" * 100 + b"]" * 100, DeadReason.TOO_DEEP),
        (b"{" + b",".join(b'"k%d":1' % n for n in range(6000)) + b"}", DeadReason.TOO_MANY_KEYS),
        (b'"%b"' % (b"x" * 300_000), DeadReason.TOO_LARGE),
    ],
)
def test_values_that_are_no_events_say_why(value: bytes, reason: DeadReason) -> None:
    found = shaper().shape(record(value))
    assert isinstance(found, Dead)
    assert found.reason == reason
    assert found.detail


def test_a_letter_is_shaped_again_by_the_rules_of_today() -> None:
    rules = FeedRules(site="shop")
    poison = record(b"plain \xe2\x82\xac", key=b"k", headers=[("h", b"v")], timestamp_ms=AT)
    of = Shaper("orders", rules, SiteLimits(), 1_000_000)
    dead = of.shape(poison)
    assert isinstance(dead, Dead)
    request = RequestContext(1, "kafka", "orders", kind="server")
    letter = letter_of(record=poison, dead=dead, site="shop", position=of.position(poison), request=request, at=1.0, most=1000)
    assert letter.detail.startswith("t, partition 3, offset 17: ")
    assert isinstance(shape_again(letter, rules, SiteLimits(), 1_000_000), Dead)
    found = shape_again(letter, FeedRules(site="shop", format="text"), SiteLimits(), 1_000_000)
    assert not isinstance(found, Dead)
    assert found[0].message_id == "orders:t:3:17@1700000000123"
    assert msgspec.json.decode(found[1])["context"]["feed"]["key"] == "k"


@pytest.mark.parametrize("text", ["{", "a}", "{topics}", "{header}", "{key.x}", "{}"])
def test_places_that_nothing_fills_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="places are"):
        Template(text)


def test_every_fault_of_a_feed_is_told_with_its_path() -> None:
    with pytest.raises(ConfigError) as refused:
        parse_feed("orders", {"type": "nats", "site": "shop", "formt": "json", "event": "{vlue.x}", "servers": 7})
    assert {problem.path for problem in refused.value.problems} == {
        "feeds.orders.formt",
        "feeds.orders.event",
        "feeds.orders.servers",
    }
    with pytest.raises(ConfigError, match="expected one of"):
        parse_feed("orders", {"type": "kafak", "site": "shop"})
