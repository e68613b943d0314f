"""What a payload becomes: one event or many, names and ids, forms, texts and what cannot be read."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ingest.contract import Accepted, Admission, Credential, Parsed
from ingest.protocols import webhook
from shared.events.outcome import DeadReason
from shared.project.model import SiteLimits
from shared.reading.units import ByteSize
from tests.unit.ingest.webhooks.deliveries import delivery, desk, events, parsed

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
TEXT = {"Content-Type": "text/plain"}


def test_the_bytes_of_an_object_stay_as_they_came() -> None:
    body = b'{"total": 1.10, "id":12345678901234567890, "a":{"b":[1]}}'
    result = parsed(webhook.parse(delivery(body), desk(type="open")))
    assert body in bytes(result.bodies[0])
    assert events(result)[0]["context"] == {"webhook": {"name": "hook", "type": "open", "index": 0}}
    assert result.heads[0].event == "hook"
    assert result.made_ids == 1


def test_packed_keeps_the_payload_in_one_piece() -> None:
    (event,) = events(webhook.parse(delivery({"a": {"b": 1}}), desk(type="open", format="packed")))
    assert event["properties"] == {"data": {"a": {"b": 1}}}
    assert event["context"]["webhook"]["packed"] is True


def test_an_array_is_an_event_for_each_item_and_a_bad_one_hurts_only_itself() -> None:
    body = b'[{"id":"a"}, 5, {"id":"b","deep":' + b"[" * 70 + b"]" * 70 + b'}, {"id":"c"}, "text"]'
    result = parsed(webhook.parse(delivery(body), desk(type="open", message_id=["id"])))
    assert [json.loads(bytes(each))["properties"] for each in result.bodies] == [
        {"id": "a"},
        {"data": 5},
        {"id": "c"},
        {"data": "text"},
    ]
    assert [head.message_id for head in result.heads] == ["hook:a", "new-1", "hook:c", "new-2"]
    assert [(each.position, each.reason.value) for each in result.rejects] == [(2, "too_deep")]
    assert json.loads(webhook.reply(delivery(), Accepted(4, result.rejects)).body)["rejected"] == 1


def test_items_of_one_delivery_share_its_id_and_differ_by_their_place() -> None:
    here = desk(type="open", message_id=["header:X-Delivery"])
    result = parsed(webhook.parse(delivery("[{},{}]", {"X-Delivery": "d1"}), here))
    assert [head.message_id for head in result.heads] == ["hook:d1:0", "hook:d1:1"]
    assert [head.message_id for head in parsed(webhook.parse(delivery("[{}]", {"X-Delivery": "d1"}), here)).heads] == ["hook:d1"]


def test_a_content_id_is_the_same_for_the_same_bytes_only() -> None:
    here = desk(type="open", content_id=True)
    ids = [parsed(webhook.parse(delivery(body), here)).heads[0].message_id for body in (b'{"a":1}', b'{"a":1}', b'{"a": 1}')]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize(
    ("place", "name"),
    [("kind", "sold"), ("data.kind", "inner"), ("data.n", "7"), ("a.b", "dotted"), ("data.x.y", "hook"), ("list.0", "hook")],
)
def test_a_name_is_found_by_its_path(place: str, name: str) -> None:
    body = {"kind": "sold", "data": {"kind": "inner", "n": 7}, "a.b": "dotted", "list": [1]}
    assert parsed(webhook.parse(delivery(body), desk(type="open", event=[place]))).heads[0].event == name


def test_the_first_place_that_is_there_counts_and_a_user_is_one() -> None:
    here = desk(type="open", event=["none", "query:kind", "kind"], user_id=["customer.id"])
    head = parsed(webhook.parse(delivery({"kind": "x", "customer": {"id": 9}}, query="kind=q"), here)).heads[0]
    assert (head.event, head.user_id) == ("q", "9")


def test_a_form_is_an_object_and_its_bytes_are_kept() -> None:
    (event,) = events(webhook.parse(delivery("a=1&b=x+y&a=2&c=", FORM), desk(type="open")))
    assert event["properties"] == {"a": ["1", "2"], "b": "x y", "c": ""}
    assert event["context"]["webhook"]["raw"] == "a=1&b=x+y&a=2&c="


def test_a_get_is_its_query() -> None:
    (event,) = events(webhook.parse(delivery(method="GET", query="order=7&note=a%20b"), desk(type="open")))
    assert event["properties"] == {"order": "7", "note": "a b"}


def test_a_text_is_a_value_and_bytes_that_are_none_are_kept_escaped() -> None:
    (event,) = events(webhook.parse(delivery("hello\nworld", TEXT), desk(type="open")))
    assert event["properties"] == {"data": "hello\nworld"}
    assert "raw" not in event["context"]["webhook"]
    (event,) = events(webhook.parse(delivery(b"caf\xe9", TEXT), desk(type="open")))
    assert event["properties"] == {"data": "caf�"}
    assert event["context"]["webhook"]["raw"] == "caf\\xe9"


def test_what_begins_as_json_is_json_whatever_it_is_called() -> None:
    for headers in (FORM, TEXT, {}, {"Content-Type": "application/vnd.acme+json"}):
        (event,) = events(webhook.parse(delivery('\n {"a":1}', headers), desk(type="open")))
        assert event["properties"] == {"a": 1}
    (event,) = events(
        webhook.parse(
            delivery('{"a":"é"}'.encode("latin-1"), {"Content-Type": "application/json; charset=latin1"}), desk(type="open")
        )
    )
    assert event["properties"] == {"a": "é"}


@pytest.mark.parametrize("body", [b'{"a":', b'[{"a":1},', b'{"a":1}}', b""])
def test_what_cannot_be_read_is_a_dead_letter_and_the_sender_hears_200(body: bytes) -> None:
    result = parsed(webhook.parse(delivery(body, {"Content-Type": "application/json"}), desk(type="open")))
    assert not result.heads
    assert [each.reason.value for each in result.rejects] == ["malformed_json"]
    assert result.rejects[0].body == body
    reply = webhook.reply(delivery(), Accepted(0, result.rejects))
    assert (reply.status, json.loads(reply.body)["rejected"]) == (200, 1)


def test_a_dead_letter_is_read_again_by_the_rules_it_came_under() -> None:
    here = desk(type="github", secret="k", format="packed")
    import hmac

    body = b'{"a":'
    sign = "sha256=" + hmac.new(b"k", body, "sha256").hexdigest()
    dead = parsed(
        webhook.parse(delivery(body, {"X-Hub-Signature-256": sign, "X-GitHub-Event": "push", "X-GitHub-Delivery": "d"}), here)
    )
    again = parsed(webhook.parse(delivery("{}"), desk(type="open")))
    again.heads.clear()
    again.bodies.clear()
    webhook.judge_again(again, b'{"a":1}', dead.form, lambda: "made")
    assert [(head.message_id.rpartition(":")[0], head.event) for head in again.heads] == [("hook:d", "push")]
    assert events(again)[0]["properties"] == {"data": {"a": 1}}
    assert webhook.as_event(b'{"a":1}', dead.form) == b'{"a":1}'
    assert webhook.as_event(b'{"a":', dead.form) is None


@pytest.mark.parametrize("rate", [None, 100])
def test_what_the_limits_of_the_site_do_not_allow_is_kept_and_not_refused(rate: int | None) -> None:
    """A vendor that hears 413 sends the same bytes for days, and some switch the webhook off."""
    small = SiteLimits(event_bytes=ByteSize(200), events_per_request=500 if rate else 2, request_bytes=ByteSize(1000), rate=rate)
    here = desk(small, type="open")
    many = json.dumps(list(range(201 if rate else 3))).encode()
    for body, text in (
        (many, "more than "),
        (b'{"a":"%b"}' % (b"x" * 190), "200"),
        (b'{"a":"%b"}' % (b"x" * 1000), "1008 bytes"),
    ):
        result = parsed(webhook.parse(delivery(body), here))
        (kept,) = result.rejects
        assert (result.heads, kept.reason, kept.body) == ([], DeadReason.TOO_LARGE, body)
        assert text in kept.detail
    admission = here.admit([Credential("webhook", "hook")])
    assert isinstance(admission, Admission)
    again = Parsed(replace(admission, limits=SiteLimits()))
    webhook.judge_again(again, many, parsed(webhook.parse(delivery(many), here)).form, lambda: "made")
    assert len(again.heads) == len(json.loads(many))


def test_a_text_in_an_unknown_charset_is_kept() -> None:
    result = parsed(webhook.parse(delivery(b"\xff\xfe{", {"Content-Type": "text/plain; charset=martian"}), desk(type="open")))
    (kept,) = result.rejects
    assert (kept.reason, kept.body) == (DeadReason.MALFORMED_JSON, b"\xff\xfe{")
    assert "martian" in kept.detail


def test_many_items_beyond_the_limit_are_not_built() -> None:
    result = parsed(webhook.parse(delivery(b"[" + b"1," * 3_000_000 + b"1]"), desk(type="open")))
    assert [kept.reason for kept in result.rejects] == [DeadReason.TOO_LARGE]
    assert result.bodies == []
