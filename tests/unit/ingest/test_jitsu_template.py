"""Bodies of Jitsu's SDKs for mobile devices, and keys in the data of its images."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from ingest.contract import Parsed, Refusal
from ingest.protocols import jitsu_classic
from tests.unit.ingest.desks import CountingDesk, get, post, project

TEMPLATE = {
    "api_key": "web",
    "src": "jitsu_ios",
    "user": {"anonymous_id": "a1", "email": "a@x"},
    "user_language": "en-GB",
    "parsed_ua": {"os_family": "iOS"},
}
KEY = {"token": "web"}
TAP = {
    "event_id": "e1",
    "event_type": "tap",
    "utc_time": "2026-09-01T11:59:00.000000Z",
    "total": 9.50,
    "user": {"id": "not this"},
}
LOGIN = {"event_id": "e2", "event_type": "login", "utc_time": "2026-09-01T11:59:01.000000Z", "src": "not this"}


def read(body: Any, query: dict[str, str] | None = None, **limits: int) -> Parsed | Refusal:
    request = post("/api/v1/event", json.dumps(body), query=query)
    result = jitsu_classic.parse(request, CountingDesk(project(**limits)))
    assert isinstance(result, Parsed | Refusal)
    return result


def parsed(body: Any, query: dict[str, str] | None = None) -> Parsed:
    result = read(body, query)
    assert isinstance(result, Parsed), result
    return result


@pytest.mark.parametrize("query", [{}, KEY])
def test_each_event_has_all_members_of_the_template_and_these_win(query: dict[str, str]) -> None:
    alone = parsed([{**TAP, **TEMPLATE}, {**LOGIN, **TEMPLATE}], query)
    both = parsed({"template": TEMPLATE, "events": [TAP, LOGIN]}, query)
    assert [json.loads(bytes(each)) for each in both.bodies] == [json.loads(bytes(each)) for each in alone.bodies]
    assert [head.message_id for head in both.heads] == ["e1", "e2"]
    assert [head.anonymous_id for head in both.heads] == ["a1", "a1"]
    assert b"9.5" in bytes(both.bodies[0])


def test_events_are_judged_one_by_one_and_a_reject_has_what_is_missing_to_send_it_again() -> None:
    found = parsed({"template": TEMPLATE, "events": [TAP, "none", {"event_id": "e3" * 600}, LOGIN]})
    assert [head.message_id for head in found.heads] == ["e1", "e2"]
    assert [(each.position, each.reason) for each in found.rejects] == [(1, "not_an_object"), (2, "too_large")]
    assert json.loads(found.rejects[1].body) == {"event_id": "e3" * 600, **TEMPLATE}


@pytest.mark.parametrize(
    "body", [{"events": [1]}, {"template": {}}, {"template": "dark", "events": [1]}, {"template": {}, "events": 2}]
)
def test_an_event_with_properties_of_these_names_is_one_event(body: dict[str, Any]) -> None:
    (event,) = (
        json.loads(bytes(each)) for each in parsed({**body, "api_key": "web", "event_type": "x", "user": {"id": "u"}}).bodies
    )
    assert event["properties"] == body


def test_a_template_is_not_multiplied_without_bound() -> None:
    limits = {"event_bytes": 1000, "request_bytes": 2000}
    many = read({"template": {**TEMPLATE, "more": "x" * 500}, "events": [{}] * 20}, KEY, **limits)
    large = read({"template": {**TEMPLATE, "more": "x" * 1500}, "events": [TAP]}, KEY, **limits)
    for refusal in (many, large):
        assert isinstance(refusal, Refusal)
        assert (refusal.status, refusal.code) == (413, "context_too_large")


def test_no_events_are_no_error() -> None:
    found = parsed({"template": TEMPLATE, "events": []}, KEY)
    assert (found.bodies, found.rejects) == ([], [])


@pytest.mark.parametrize("query", [{}, KEY])
def test_an_image_may_have_its_key_in_its_data(query: dict[str, str]) -> None:
    data = base64.b64encode(b'{"token": "web", "event_type": "open_email", "user": {"anonymous_id": "a1"}}').decode()
    result = jitsu_classic.parse(get("/api/v1/p.gif", query={**query, "data": data}), CountingDesk())
    assert isinstance(result, Parsed), result
    (event,) = (json.loads(bytes(each)) for each in result.bodies)
    assert (event["event"], event["anonymousId"]) == ("open_email", "a1")
    assert "properties" not in event


def test_parameters_beside_the_data_of_an_image_belong_to_its_event() -> None:
    data = (
        b'{"token": "web", "event_type": "open_email", "price": 9.50, "user": {"anonymous_id": "a1", "plan": "free"}, "mail": 5}'
    )
    query = {
        "data": base64.b64encode(data).decode(),
        "user.plan": "pro",
        "user.email": "a@x",
        "mail.id": "7",
        "object.field_1": "v",
        "field2": "w",
        "cookie_policy": "strict",
        "p_1": "web",
        "writeKey": "web",
    }
    result = jitsu_classic.parse(get("/api/v1/p.gif", query=query), CountingDesk())
    assert isinstance(result, Parsed), result
    (body,) = result.bodies
    event = json.loads(bytes(body))
    assert event["properties"] == {"price": 9.5, "mail": {"id": "7"}, "object": {"field_1": "v"}, "field2": "w"}
    assert (event["anonymousId"], event["context"]["traits"]) == ("a1", {"plan": "pro", "email": "a@x"})
    assert b"9.50" in bytes(body)
