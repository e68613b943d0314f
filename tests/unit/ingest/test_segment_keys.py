"""Where the keys of Segment's clients may stand, its GET requests, and the words of its answers."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from ingest.contract import SHOWN_REJECTS, Accepted, Credential, Parsed, Refusal, Reject, Reply
from ingest.protocols import segment
from shared.events.frame import Head
from shared.events.outcome import DeadReason
from tests.unit.ingest.calls import KEY, batch, refused
from tests.unit.ingest.desks import CountingDesk, get, post


def basic(text: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(text.encode()).decode()}


@pytest.mark.parametrize(
    ("headers", "query", "body_key", "host"),
    [
        (basic("web:"), {}, None, ""),
        (basic("web"), {}, None, ""),
        ({"authorization": "Basic web"}, {}, None, ""),
        (basic("api:s3cret"), {}, None, ""),
        (basic("api:s3cret:"), {}, None, ""),
        ({"authorization": "bearer web"}, {}, None, ""),
        ({"authorization": "Bearer api:s3cret"}, {}, None, ""),
        ({"x-write-key": "web"}, {}, None, ""),
        ({"x-write-key": "api:s3cret"}, {}, None, ""),
        ({}, {"writeKey": "web"}, None, ""),
        ({}, {"writekey": "web"}, None, ""),
        ({}, {"token": "api:s3cret"}, None, ""),
        ({}, {}, "web", ""),
        ({}, {}, "api:s3cret", ""),
        ({}, {}, None, "shop.example.com"),
        ({"authorization": "Bearer an-oauth-token"}, {}, "web", ""),
    ],
)
@pytest.mark.parametrize("route", ["/v1/page", "/v1/batch"])
def test_the_key_is_found_in_every_carrier(
    route: str, headers: dict[str, str], query: dict[str, str], body_key: str | None, host: str
) -> None:
    body: dict[str, Any] = {"userId": "u"} if route == "/v1/page" else {"batch": [{"type": "page", "userId": "u"}]}
    if body_key:
        body["writeKey"] = body_key
    desk = CountingDesk()
    result = segment.parse(post(route, json.dumps(body), headers=headers, query=query, host=host), desk)
    assert isinstance(result, Parsed), result
    assert result.admission.site == "shop"
    assert not desk.disagreements


def test_the_key_of_the_first_event_opens_a_batch_without_any_other() -> None:
    body = batch('{"type":"page","userId":"u","writeKey":"web"}')
    result = segment.parse(post("/v1/batch", body), CountingDesk())
    assert isinstance(result, Parsed)
    assert result.admission.site == "shop"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_key"),
        ({"x-write-key": "nobody"}, "unknown_key"),
        ({"authorization": "Bearer nobody"}, "unknown_key"),
        (basic("api:"), "missing_secret"),
        (basic("api:wrong"), "wrong_secret"),
        ({"x-write-key": "api"}, "missing_secret"),
    ],
)
def test_a_wrong_or_missing_key_is_refused_with_401(headers: dict[str, str], code: str) -> None:
    for host in ("", "elsewhere.example"):
        refusal = segment.parse(post("/v1/page", '{"userId":"u"}', headers=headers, host=host), CountingDesk())
        assert isinstance(refusal, Refusal)
        assert (refusal.status, refusal.code) == (401, code)
        assert "s3cret" not in refusal.message


def test_the_header_wins_when_keys_disagree_and_that_is_counted() -> None:
    desk = CountingDesk()
    result = segment.parse(post("/v1/page", '{"userId":"u","writeKey":"other"}', headers=KEY), desk)
    assert isinstance(result, Parsed)
    assert result.admission.site == "shop"
    assert desk.disagreements == 1


def test_an_unknown_key_in_a_header_is_not_excused_by_a_good_one_in_the_body() -> None:
    assert refused("/v1/page", '{"userId":"u","writeKey":"web"}', headers=basic("nobody:")).code == "unknown_key"


def test_self_metrics_of_the_browser_sdk_are_answered_and_discarded() -> None:
    reply = segment.parse(post("/v1/m", '{"series":[]}'), CountingDesk())
    assert isinstance(reply, Reply)
    assert (reply.status, json.loads(reply.body)) == (200, {"success": True})


@pytest.mark.parametrize("form", ["base64", "base64url", "unpadded", "plain"])
def test_a_pixel_reads_its_data_parameter(form: str) -> None:
    text = '{"writeKey":"web","userId":"ü?>","event":"Seen"}'
    encoded = base64.b64encode(text.encode()).decode()
    data = {
        "base64": encoded,
        "base64url": encoded.replace("+", "-").replace("/", "_"),
        "unpadded": encoded.rstrip("="),
        "plain": text,
    }[form]
    result = segment.parse(get(segment.PIXEL, params={"type": "track"}, query={"data": data}), CountingDesk())
    assert isinstance(result, Parsed), result
    assert result.heads == [Head("new-1", "track", "Seen", "ü?>")]
    assert result.bodies == [text.encode()]


def test_a_pixel_reads_flattened_parameters() -> None:
    query = {"writeKey": "web", "userId": "u", "event": "Seen", "properties.a.b": "1", "properties.c": "x", "event.x": "y"}
    result = segment.parse(get(segment.PIXEL, params={"type": "track"}, query=query), CountingDesk())
    assert isinstance(result, Parsed)
    assert json.loads(result.bodies[0]) == {
        "writeKey": "web",
        "userId": "u",
        "event": "Seen",
        "event.x": "y",
        "properties": {"a": {"b": "1"}, "c": "x"},
    }


def test_a_pixel_answers_a_gif_whatever_happens_and_dead_letters_what_its_key_allows() -> None:
    request = get(segment.PIXEL, params={"type": "page"}, query={"data": "!!!", "writeKey": "web"})
    result = segment.parse(request, CountingDesk())
    assert isinstance(result, Parsed)
    assert [(reject.reason, reject.body) for reject in result.rejects] == [(DeadReason.MALFORMED_JSON, b"!!!")]
    for outcome in (Accepted(0, result.rejects), Refusal(401, "unknown_key", "x"), Refusal(503, "unavailable", "x", 2)):
        reply = segment.reply(request, outcome)
        assert (reply.status, reply.content_type, reply.body[:6]) == (200, "image/gif", b"GIF89a")
        assert "no-store" in reply.headers["Cache-Control"]


def test_the_settings_document_sends_browsers_to_this_server() -> None:
    reply = segment.parse(get(segment.SETTINGS, params={"key": "web"}), CountingDesk())
    assert isinstance(reply, Reply)
    settings = json.loads(reply.body)["integrations"]["Segment.io"]
    assert (settings["apiKey"], settings["apiHost"], settings["protocol"]) == ("web", "in.example.com/v1", "https")
    unknown = segment.parse(get(segment.SETTINGS, params={"key": "nobody"}), CountingDesk())
    assert isinstance(unknown, Refusal)
    assert unknown.status == 401


def test_success_is_exactly_what_old_sdks_compare_with() -> None:
    reply = segment.reply(post("/v1/batch", b""), Accepted(3))
    assert (reply.status, reply.content_type, json.loads(reply.body)) == (200, "application/json", {"success": True})


def test_rejected_events_are_counted_and_explained_in_the_answer() -> None:
    rejects = [Reject(n, DeadReason.MISSING_ID, "no id", b"{}") for n in range(30)]
    answer = json.loads(segment.reply(post("/v1/batch", b""), Accepted(70, rejects)).body)
    assert (answer["success"], answer["accepted"], answer["rejected"]) == (True, 70, 30)
    assert len(answer["rejects"]) == SHOWN_REJECTS
    assert answer["rejects"][0] == {"index": 0, "reason": "missing_id", "detail": "no id"}


def test_refusals_are_json_with_code_and_message_and_say_when_to_come_back() -> None:
    reply = segment.reply(post("/v1/batch", b""), Refusal(503, "unavailable", "later", 7))
    assert json.loads(reply.body) == {"code": "unavailable", "message": "later"}
    assert reply.headers["Retry-After"] == "7"


@pytest.mark.parametrize(("masked", "counted"), [("api:***", 0), ("other:***", 1), ("api:wrong", 1)])
def test_a_key_with_its_secret_hidden_beside_the_whole_key_is_no_disagreement(masked: str, counted: int) -> None:
    """Jitsu's SDK writes its key in this form into every event."""
    desk = CountingDesk()
    admission = desk.admit([Credential("header", "api:s3cret"), Credential("event", masked)])
    assert not isinstance(admission, Refusal)
    assert (admission.site, desk.disagreements) == ("shop", counted)
    assert isinstance(desk.admit([Credential("event", "api:***")]), Refusal)
