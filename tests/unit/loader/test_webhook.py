"""The webhook's two pure functions: which calls carry which events, and what an answer means."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import msgspec
import pytest

from loader import registry
from loader.cloud.webhook import Options, Webhook
from loader.contract.events import Response
from penstock.control.project.projects import check_document
from shared.errors import ConfigError
from shared.events import exact
from shared.events.outcome import Dead, DeadReason, Drop, DropReason, Ok, Retry

AT = 1_800_000_000.25


def webhook(**options: Any) -> Webhook:
    _, parsed = registry.parse_options("crm", {"type": "webhook", "url": "https://x.test/in", **options})
    assert isinstance(parsed, Options)
    return Webhook(parsed)


def event(number: int = 0, **more: Any) -> dict[str, Any]:
    return {"messageId": f"m{number}", "type": "track", "receivedAt": datetime(2026, 3, 1, tzinfo=UTC), **more}


def answer(status: int, headers: dict[str, str] | None = None, body: bytes = b"", **options: Any) -> Any:
    hook = webhook(**options)
    call = hook.calls([event()], AT).calls[0]
    (outcome,) = hook.answer(call, Response(status, headers or {}, body, AT))
    return outcome


def test_an_event_is_sent_as_it_is() -> None:
    (call,) = webhook(headers={"X-A": "b"}).calls([event(properties={"a": 1.5})], AT).calls
    assert (call.method, call.url) == ("POST", "https://x.test/in")
    assert call.headers == {"X-A": "b", "Content-Type": "application/json"}
    assert json.loads(call.body) == {
        "messageId": "m0",
        "type": "track",
        "receivedAt": "2026-03-01T00:00:00Z",
        "properties": {"a": 1.5},
    }


def test_url_headers_and_body_see_the_event() -> None:
    hook = webhook(
        url="https://x.test/{{ event.type | urlencode }}",
        headers={"X-User": "{{ event.userId }}", "content-type": "text/plain"},
        body="{{ event.messageId | tojson }} {{ event.receivedAt }} {{ event.properties.items }}",
    )
    (call,) = hook.calls([event(type="a/b?", userId="u1", properties={"items": "é"})], AT).calls
    assert call.url == "https://x.test/a/b%3F"
    assert call.headers == {"X-User": "u1", "content-type": "text/plain"}
    assert call.body.decode() == '"m0" 2026-03-01T00:00:00Z é'


def test_a_batch_is_an_array_within_its_bounds() -> None:
    events = [event(number, properties={"x": "y" * 50}) for number in range(7)]
    calls = webhook(batch_events=3).calls(events, AT).calls
    assert [list(call.events) for call in calls] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [each["messageId"] for each in json.loads(calls[1].body)] == ["m3", "m4", "m5"]
    small = webhook(batch_events=1000, batch_bytes=400).calls(events, AT).calls
    assert [index for call in small for index in call.events] == list(range(7))
    assert all(len(call.body) <= 400 for call in small)
    assert len(small) > 1


def test_a_template_of_a_batch_gives_its_elements_or_the_whole() -> None:
    events = [event(0), event(1, skip=True), event(2)]
    elements = webhook(batch_events=9, body="{% if not event.skip %}{{ event.messageId | tojson }}{% endif %}").calls(events, AT)
    assert elements.calls[0].body == b'["m0","m2"]'
    assert elements.ended == {1: Drop(DropReason.TEMPLATE_EMPTY)}
    whole = webhook(batch_events=9, body="{% for each in events %}{{ each.messageId }};{% endfor %}").calls(events, AT)
    assert whole.calls[0].body == b"m0;m1;m2;"


@pytest.mark.parametrize(
    "options",
    [
        {"body": "{{ 1 / event.n }}"},
        {"headers": {"X": "{{ event.n.x.y }}"}},
        {"headers": {"X": "{{ event.text }}"}},
        {"url": "https://x.test/{{ event.text }}"},
        {"body": "{{ 'x' * 9999999 }}"},
    ],
)
def test_a_template_that_fails_costs_its_event_alone(options: dict[str, Any]) -> None:
    made = webhook(**options).calls([event(n=0, text="a\r\nX-Evil: 1")], AT)
    assert not made.calls
    assert isinstance(made.ended[0], Dead)
    assert made.ended[0].reason == DeadReason.TEMPLATE_FAILED


def test_one_event_on_which_the_template_of_a_batch_fails_is_found() -> None:
    events = [event(number, n=0 if number == 3 else 1) for number in range(8)]
    made = webhook(batch_events=8, body="{% for each in events %}{{ 1 / each.n }}{% endfor %}").calls(events, AT)
    assert list(made.ended) == [3]
    assert sorted(index for call in made.calls for index in call.events) == [0, 1, 2, 4, 5, 6, 7]


def test_a_call_is_signed_over_its_time_and_its_body() -> None:
    (call,) = webhook(secret="s").calls([event()], AT).calls
    expected = hmac.new(b"s", b"1800000000." + call.body, hashlib.sha256).hexdigest()
    assert call.headers["X-Penstock-Signature"] == f"t=1800000000,v1={expected}"


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_what_the_destination_took_is_delivered(status: int) -> None:
    assert answer(status) == Ok()


@pytest.mark.parametrize("status", [408, 425, 500, 502, 503, 504, 599])
def test_what_may_pass_is_tried_again(status: int) -> None:
    outcome = answer(status)
    assert isinstance(outcome, Retry)
    assert not outcome.everyone


@pytest.mark.parametrize(
    ("status", "headers", "after"),
    [
        (429, {}, None),
        (429, {"retry-after": "7"}, 7.0),
        (503, {"retry-after": "0"}, 0.0),
        (429, {"retry-after": "soon"}, None),
        (429, {"retry-after": "-1"}, None),
        (503, {"retry-after": format_datetime(datetime.fromtimestamp(AT, UTC) + timedelta(seconds=60), usegmt=True)}, 59.75),
    ],
)
def test_a_pause_that_is_asked_for_is_for_all_calls(status: int, headers: dict[str, str], after: float | None) -> None:
    outcome = answer(status, headers)
    assert isinstance(outcome, Retry)
    assert outcome.everyone
    assert outcome.after == (None if after is None else pytest.approx(after))


def test_a_date_is_compared_with_the_clock_of_who_sent_it() -> None:
    wrong = datetime(1999, 1, 1, tzinfo=UTC)
    dates = {
        "date": format_datetime(wrong, usegmt=True),
        "retry-after": format_datetime(wrong + timedelta(minutes=2), usegmt=True),
    }
    assert answer(503, dates).after == 120.0


@pytest.mark.parametrize("status", [301, 302, 307, 400, 404, 410, 413, 422])
def test_what_is_refused_is_a_dead_letter_with_the_words_of_the_answer(status: int) -> None:
    outcome = answer(status, {"location": "https://elsewhere.test/"}, b"no\nsuch \x1b[31m field")
    assert isinstance(outcome, Dead)
    assert str(status) in outcome.detail
    assert outcome.detail.isprintable()
    assert ("elsewhere" if status < 400 else "no such") in outcome.detail


@pytest.mark.parametrize("status", [401, 403, 407])
def test_what_is_not_let_in_comes_again_because_a_token_may_have_expired(status: int) -> None:
    outcome = answer(status, {}, b"who are you")
    assert isinstance(outcome, Retry)
    assert outcome.denied
    assert "who are you" in outcome.reason


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"url": "ftp://x.test/"}, "http"),
        ({"url": "https://{{ event.host }}/in"}, "host"),
        ({"url": "https://x.test{{ event.host }}/in"}, "host"),
        ({"url": "https://x.test/{{ event.a"}, "url: not a Jinja template"),
        ({"url": "https://x.test/{{ evnt.a }}"}, "evnt"),
        ({"url": "https://x.test/{{ event.a }}", "batch_events": 5}, "events"),
        ({"headers": {"a b": "c"}}, "header"),
        ({"headers": {"Content-Length": "3"}}, "header"),
        ({"headers": {"X": "a\nb"}}, "headers.X"),
        ({"batch_events": 0}, "batch_events"),
        ({"rate": 0}, "rate"),
        ({"timeout": 0}, "timeout"),
        ({"method": "TRACE"}, "method"),
        ({"body": "{{ event }}{{ events }}", "batch_events": 2}, "not both"),
    ],
)
def test_wrong_options_say_so(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        webhook(**options)
    assert refused.value.problems[0].path.startswith("destinations.crm")
    assert words in str(refused.value)


def test_options_that_mean_nothing_without_tables_are_refused_with_their_path() -> None:
    document: dict[str, Any] = {
        "sites": {"shop": {"keys": [{"id": "k"}]}},
        "destinations": {"crm": {"type": "webhook", "url": "https://x.test/"}},
        "connections": {"c": {"site": "shop", "destination": "crm", "mode": "stream"}},
    }
    check_document(document, {})
    document["connections"]["c"] |= {"layout": "segment", "deduplicate": True, "column_types": {"a": "text"}}
    with pytest.raises(ConfigError) as refused:
        check_document(document, {})
    assert {problem.path for problem in refused.value.problems} == {
        "connections.c.layout",
        "connections.c.deduplicate",
        "connections.c.column_types",
    }


@pytest.mark.parametrize("path", ["../../admin", "..", ".", "a/./b", "..%2F..%2Fadmin", "%2e%2e/x", ".%2E/x", "a\\..\\b"])
@pytest.mark.parametrize("template", ["https://x.test/in/{{ event.text }}", "https://x.test/in/{{ event.text }}?q=1"])
def test_a_client_cannot_climb_out_of_the_path(template: str, path: str) -> None:
    made = webhook(url=template).calls([event(text=path)], AT)
    assert not made.calls
    assert isinstance(made.ended[0], Dead)


def test_dots_that_are_no_folder_may_stand_in_a_path() -> None:
    (call,) = webhook(url="https://x.test/in/{{ event.text }}?up={{ event.text }}").calls([event(text="a..b/v1.2/...")], AT).calls
    assert call.url == "https://x.test/in/a..b/v1.2/...?up=a..b/v1.2/..."


@pytest.mark.parametrize("where", ["headers", "url"])
def test_a_secret_beside_what_a_template_gives_is_in_no_dead_letter(where: str) -> None:
    text = "https://x.test/in?token=s3cret&id={{ event.text }}"
    options: dict[str, Any] = {"url": text} if where == "url" else {"headers": {"X": text}}
    made = webhook(**options).calls([event(text="a\nb")], AT)
    assert isinstance(made.ended[0], Dead)
    assert "U+000A" in made.ended[0].detail
    assert "s3cret" not in made.ended[0].detail


@pytest.mark.parametrize(
    "url", ["https://u:s3cret@x.test/", "https://[::1/x", "https://x.test:99999/{{ event.type }}", "https://x:y/"]
)
def test_an_address_that_is_none_or_shows_a_password_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="url: ") as refused:
        webhook(url=url)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    "options", [{}, {"body": "{{ event | tojson }}"}, {"body": "{{ events[0] | tojson }}", "batch_events": 5}]
)
def test_numbers_arrive_with_all_their_digits(options: dict[str, Any]) -> None:
    sent = b'{"n":1e400,"deep":[{"x":0.1234567890123456789}],"time":1.5}'
    (call,) = webhook(**options).calls([event(**exact.decode(sent))], AT).calls
    numbers = msgspec.json.decode(call.body.strip(b"[]"), type=dict[str, msgspec.Raw])
    assert bytes(numbers["n"]) == b"1E+400"
    assert bytes(numbers["deep"]) == b'[{"x":0.1234567890123456789}]'
    assert b'"receivedAt":"2026-03-01T00:00:00Z"' in call.body
