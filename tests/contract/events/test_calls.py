"""The two functions of services that take events: golden cases, limits, and that nothing a client or a service sends makes them fail."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from loader import registry
from loader.contract.events import Call, HTTPDestination, Response
from loader.contract.warehouse import Environment
from shared.errors import ConfigError
from shared.events import exact
from shared.events.event import facts_of, materialise
from shared.events.frame import Head, RequestContext
from shared.events.outcome import Dead, DeadReason, Drop, Retry
from shared.threads import ThreadGate
from tests.support.services import SECRET, SERVICES, event

pytestmark = pytest.mark.parametrize("type_name", sorted(SERVICES))
GOLDEN = Path(__file__).parent / "golden"
AT = 1_790_000_000.0


def document(type_name: str, **more: Any) -> dict[str, Any]:
    return {"type": type_name, **SERVICES[type_name].document, **more}


def opened(type_name: str, **more: Any) -> HTTPDestination:
    plugin, options = registry.parse_options("crm", document(type_name, **more))
    gate = ThreadGate(1, "test")
    try:
        return cast("HTTPDestination", asyncio.run(plugin.open_destination("crm", options, Environment(gate))))
    finally:
        gate.close()


def full(body: dict[str, Any], at: float | None = None) -> dict[str, Any]:
    """Returns an event as the core gives it to a destination."""
    request = RequestContext(
        received_at=int((time.time() if at is None else at) * 1e6), protocol="segment", key="k", kind="server"
    )
    head = Head(str(body.get("messageId", "m")), str(body.get("type", "track")))
    return materialise(msgspec.json.encode(body), head, facts_of(request), exact.decode)


def test_calls_keep_the_limits_and_hold_each_event_once(type_name: str) -> None:
    rules, destination = SERVICES[type_name], opened(type_name)
    most = destination.limits.events_per_call
    events = [
        full(
            event(number, rules, most) | {"context": {"traits": {"email": f"u{number % 5}@example.com"}, "x": "y" * (number % 9)}}
        )
        for number in range(most)
    ]
    made = destination.calls(events, time.time())
    assert sorted([*(index for call in made.calls for index in call.events), *made.ended]) == list(range(most))
    assert len(made.calls[0].events) > 1 or rules.most == 1
    for call in made.calls:
        assert len(call.events) <= rules.most
        assert len(call.body) <= rules.most_bytes
        (again,) = destination.calls([events[index] for index in call.events], time.time()).calls
        assert (again.url, list(again.events)) == (call.url, list(range(len(call.events)))), "a part makes another call"


def test_an_event_that_is_too_large_is_a_letter(type_name: str) -> None:
    rules, destination = SERVICES[type_name], opened(type_name)
    large = event(1, rules)
    for key in ("properties", "traits", "context"):
        if key in large:
            large[key] = large[key] | {"large": "x" * 25_000_000}
    made = destination.calls([full(event(0, rules)), full(large)], time.time())
    outcome = made.ended.get(1)
    if outcome is None:  # the service takes only known fields
        assert all(len(call.body) <= rules.most_bytes for call in made.calls)
    else:
        assert isinstance(outcome, Dead)
        assert outcome.reason is DeadReason.TOO_LARGE


ODD: list[dict[str, Any]] = [
    {},
    {"type": "track"},
    {"type": "track", "event": 5, "userId": 7, "properties": [1], "context": "x"},
    {
        "type": "track",
        "event": "a",
        "userId": "u",
        "properties": {"products": [1, None, {"price": "x"}], "total": "free", "revenue": []},
    },
    {
        "type": "track",
        "event": "Order Completed",
        "userId": "u",
        "properties": {"products": {}, "total": {}, "currency": 3, "email": []},
    },
    {"type": "identify", "userId": {"a": 1}, "anonymousId": ["x"], "traits": "none"},
    {"type": "identify", "userId": "u\ud800", "traits": {"email": 5, "phone": {}, "name": None, "a" * 300: "b" * 3_000}},
    {"type": "page", "name": {"x": 1}, "category": 3, "anonymousId": "a", "context": {"page": "p", "geo": "x", "device": 5}},
    {"type": "group", "groupId": 12, "traits": {"a": [[[]]]}},
    {"type": "group", "userId": "u"},
    {"type": "alias", "previousId": 1.5, "userId": "u"},
    {"type": "screen", "userId": "u", "properties": None, "context": {"app": [], "traits": [], "clientIds": 4, "groupId": {}}},
    {"type": "track", "event": "x" * 5_000, "anonymousId": 'é\n\t"', "properties": {"total": 10**30, "\u0000": True}},
    {"type": "nonsense", "userId": "u"},
]


def test_no_event_of_a_client_makes_it_fail(type_name: str) -> None:
    destination = opened(type_name)
    for odd in ODD:
        text = json.dumps({"messageId": "mid-1", **odd}).replace("\\ud800", "?")
        decoded = full(json.loads(text))
        decoded["properties"] = decoded.get("properties", {"n": Decimal("1e400")})
        made = destination.calls([decoded], AT)
        assert sorted([*(index for call in made.calls for index in call.events), *made.ended]) == [0]
        for call in made.calls:
            assert call.url.isprintable()
            assert all(value.isprintable() and value.isascii() for value in call.headers.values())


BODIES = [
    b"",
    b"ok",
    b"[]",
    b"null",
    b"{",
    b"<html>",
    b"\xff\xfe",
    b'{"errors":5,"error":[],"code":"x","failed_records":{}}',
    b"[" * 5_000,
]
STATUSES = (200, 202, 207, 302, 400, 401, 403, 404, 409, 413, 422, 429, 500, 503)


def test_no_answer_makes_it_fail(type_name: str) -> None:
    rules, destination = SERVICES[type_name], opened(type_name)
    first = destination.calls([full(event(number, rules)) for number in range(2)], time.time()).calls[0]
    call = getattr(first, "then", first)
    for status, body in itertools.product(STATUSES, BODIES):
        outcomes = destination.answer(call, Response(status, {"retry-after": "soon"}, body, AT))
        if isinstance(outcomes, Call):
            assert (status, list(outcomes.events)) == (401, list(call.events)), "it asks for another call"
            continue
        assert len(outcomes) == len(call.events)
        if status in (401, 429) or status >= 500:
            assert all(isinstance(outcome, Retry) for outcome in outcomes)
        elif status in (413, 422):
            assert all(isinstance(outcome, Dead) for outcome in outcomes)
        elif status == 302:
            assert all(isinstance(outcome, Retry) and outcome.denied for outcome in outcomes)
        elif status == 200 and body == b"<html>":
            assert all(isinstance(outcome, Retry) for outcome in outcomes), "a page of a proxy counts as delivered"


def test_the_same_events_give_the_same_calls(type_name: str) -> None:
    rules = SERVICES[type_name]
    events = [full(event(number, rules), AT) for number in range(9)]
    before = repr(events)
    destination = opened(type_name)
    one, two = destination.calls(events, AT), destination.calls(events, AT)
    assert one == two
    assert repr(events) == before, "it changed the events that it was given"


def test_the_secret_is_marked_and_an_odd_endpoint_is_refused(type_name: str) -> None:
    held = {key for key, value in SERVICES[type_name].document.items() if SECRET in str(value)}
    assert held <= registry.secrets_of(type_name)
    for wrong in ("ftp://x", "x", "https://", "https://u:p@x.test", "https://x.test/?a=1", "https://[::1"):
        with pytest.raises(ConfigError):
            opened(type_name, endpoint=wrong)
    assert destination_hosts(type_name) <= {"https"}


def destination_hosts(type_name: str) -> set[str]:
    rules = SERVICES[type_name]
    calls = opened(type_name).calls([full(event(number, rules)) for number in range(4)], time.time()).calls
    return {call.url.partition("://")[0] for call in calls}


def test_what_is_sent_for_an_event_stands_in_the_golden_cases(type_name: str) -> None:
    everything = json.loads((GOLDEN / "events.json").read_text(encoding="utf-8"))
    cases = json.loads((GOLDEN / f"{type_name}.json").read_text(encoding="utf-8"))
    for case in cases:
        destination = opened(type_name, **case["options"])
        made = destination.calls([full(everything[index], AT) for index in case["of"]], AT)
        assert shown(made) == case["made"], case["case"]


def shown(made: Any) -> dict[str, Any]:
    """Returns calls as the golden cases hold them."""
    calls = []
    for first in made.calls:
        call = getattr(first, "then", first)
        text = call.body.decode()
        body = json.loads(text) if text.startswith(("{", "[")) else text
        calls.append(
            {"call": f"{call.method} {call.url}", "headers": dict(call.headers), "body": body, "events": list(call.events)}
        )
    ended = {str(index): each.reason.value if isinstance(each, Drop | Dead) else "" for index, each in made.ended.items()}
    return {"calls": calls, "ended": ended}
