"""RudderStack's own paths: what their SDKs send there and what they are answered."""

from __future__ import annotations

import json

import pytest

from ingest.contract import Accepted, HttpRequest, Parsed, Refusal, Reply
from ingest.protocols import rudder
from tests.unit.ingest.desks import CountingDesk


def asked(
    method: str, route: str, query: dict[str, str], body: bytes = b"", headers: dict[str, str] | None = None
) -> HttpRequest:
    return HttpRequest(method, route, {}, query, headers or {}, body, "events.example.com", "https://events.example.com")


def test_a_beacon_is_a_batch_with_the_key_in_its_address() -> None:
    events = [{"type": "page", "anonymousId": "a", "messageId": "m1"}, {"type": "track", "anonymousId": "a"}]
    body = json.dumps({"batch": events, "sentAt": "2026-03-01T12:00:00.000Z"}).encode()
    request = asked("POST", "/beacon/v1/batch", {"writeKey": "web"}, body, {"content-type": "text/plain;charset=UTF-8"})
    parsed = rudder.parse(request, CountingDesk())
    assert isinstance(parsed, Parsed)
    assert [head.message_id for head in parsed.heads] == ["m1"]
    assert [reject.reason.value for reject in parsed.rejects] == ["missing_id"]
    assert json.loads(rudder.reply(request, Accepted(1, parsed.rejects)).body)["rejected"] == 1


def test_the_header_of_the_visitor_names_no_event() -> None:
    """RudderStack chooses a worker by it; an event has its ids in its body."""
    body = json.dumps({"batch": [{"type": "page", "anonymousId": "a"}, {"type": "page"}]}).encode()
    request = asked("POST", "/beacon/v1/batch", {"writeKey": "web"}, body, {"anonymousid": "Yg=="})
    parsed = rudder.parse(request, CountingDesk())
    assert isinstance(parsed, Parsed)
    assert [head.anonymous_id for head in parsed.heads] == ["a"]
    assert [reject.reason.value for reject in parsed.rejects] == ["missing_id"]


@pytest.mark.parametrize("kind", ["track", "page"])
def test_a_pixel_is_one_event_and_answers_an_image_whatever_happens(kind: str) -> None:
    query = {"writeKey": "web", "anonymousId": "a", "event": "Opened", "properties.mail": "m1"}
    request = asked("GET", "/pixel/v1/{type}", query)._replace(params={"type": kind})
    parsed = rudder.parse(request, CountingDesk())
    assert isinstance(parsed, Parsed)
    assert [head.type for head in parsed.heads] == [kind]
    assert json.loads(bytes(parsed.bodies[0]))["properties"] == {"mail": "m1"}
    for result in (Accepted(1), Refusal(401, "unknown_key", "the write key is unknown")):
        answer = rudder.reply(request, result)
        assert (answer.status, answer.content_type) == (200, "image/gif")


def test_the_settings_of_a_browser_send_all_events_here() -> None:
    request = asked("GET", "/sourceConfig", {"writeKey": "other", "v": "3.34.1"}, headers={"authorization": "Basic d2ViOg=="})
    answer = rudder.parse(request, CountingDesk())
    assert isinstance(answer, Reply)
    source = json.loads(answer.body)["source"]
    assert (source["writeKey"], source["enabled"], source["destinations"]) == ("web", True, [])
    assert source["config"]["statsCollection"]["metrics"] == {"enabled": False}


def test_the_settings_are_for_keys_that_open_a_site() -> None:
    answer = rudder.parse(asked("GET", "/sourceConfig", {"writeKey": "nobody"}), CountingDesk())
    assert isinstance(answer, Refusal)
    assert answer.status == 401
