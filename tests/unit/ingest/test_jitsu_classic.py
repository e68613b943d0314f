"""Classic Jitsu's paths: golden cases of what its SDK sends, and what a request is answered."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

import pytest

from ingest.contract import Accepted, Admission, Credential, HttpRequest, Parsed, Refusal, Reply
from ingest.protocols import jitsu_classic
from shared.events.classic import as_classic
from shared.events.event import facts_of, materialise
from shared.events.frame import RequestContext
from tests.unit.ingest.desks import CountingDesk, get, post, project

FLAT = {
    "event_id": "e1",
    "user": {"anonymous_id": "a1", "id": "u1", "email": "a@x", "plan": "pro"},
    "ids": {"ga": "GA1.2"},
    "user_agent": "Mozilla/5.0",
    "utc_time": "2026-09-01T11:59:00.000000Z",
    "local_tz_offset": 120,
    "referer": "https://from.example.com/",
    "url": "https://shop.example.com/a?b=1",
    "page_title": "A",
    "doc_path": "/a",
    "doc_host": "shop.example.com",
    "doc_search": "?b=1",
    "screen_resolution": "1920x1080",
    "vp_size": "800x600",
    "user_language": "de-DE",
    "doc_encoding": "UTF-8",
    "utm": {"campaign": "c", "source": "s"},
    "click_id": {"gclid": "g"},
    "api_key": "web",
    "src": "jitsu",
    "event_type": "order",
    "total": 9.50,
    "items": [{"sku": "x"}],
}
CONTEXT = {
    "userAgent": "Mozilla/5.0",
    "locale": "de-DE",
    "page": {
        "url": "https://shop.example.com/a?b=1",
        "title": "A",
        "path": "/a",
        "host": "shop.example.com",
        "search": "?b=1",
        "referrer": "https://from.example.com/",
        "encoding": "UTF-8",
        "timezoneOffset": 120,
    },
    "screen": {"width": 1920, "height": 1080, "innerWidth": 800, "innerHeight": 600},
    "campaign": {"name": "c", "source": "s"},
    "clientIds": {"ga": "GA1.2"},
    "clickIds": {"gclid": "g"},
    "library": {"name": "jitsu"},
    "traits": {"email": "a@x", "plan": "pro"},
}
TOKEN = {"token": "web"}


def parsed(route: str, body: object, desk: CountingDesk | None = None, query: dict[str, str] | None = None) -> Parsed:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    result = jitsu_classic.parse(post(route, data, query=TOKEN if query is None else query), desk or CountingDesk())
    assert isinstance(result, Parsed), result
    return result


def only(result: Parsed) -> dict[str, Any]:
    assert result.rejects == []
    event: dict[str, Any] = json.loads(bytes(result.bodies[0]))
    return event


def test_a_flat_event_is_a_canonical_one() -> None:
    assert only(parsed("/api/v1/event", FLAT)) == {
        "type": "track",
        "event": "order",
        "messageId": "e1",
        "userId": "u1",
        "anonymousId": "a1",
        "timestamp": "2026-09-01T11:59:00.000000Z",
        "context": CONTEXT,
        "properties": {"total": 9.5, "items": [{"sku": "x"}]},
    }


def test_an_event_of_compatibility_mode_is_the_same_event() -> None:
    top = {"api_key", "src", "event_type", "total", "items"}
    nested = {name: value for name, value in FLAT.items() if name in top}
    nested["eventn_ctx"] = {name: value for name, value in FLAT.items() if name not in top} | {"custom": 1}
    event = only(parsed("/api/v1/event", nested))
    assert event["context"].pop("custom") == 1
    assert event == only(parsed("/api/v1/event", FLAT))


def test_members_in_another_form_than_sdks_write_are_kept_and_come_back_under_their_names() -> None:
    odd = {
        "user": "bob", "utm": ["a"], "ids": 5, "click_id": True, "screen_resolution": "wide", "vp_size": 7, "src": {"a": 1}, "eventn_ctx": "c"
    }  # fmt: skip
    result = parsed(
        "/api/v1/event", {"event_type": "a", "event_id": "e", "eventn_ctx_event_id": "x", **odd}, query={"token": "other"}
    )
    event = only(result)
    assert event == {"type": "track", "event": "a", "messageId": "e", "context": {"jitsu": odd}}
    row = as_classic(event)
    assert {name: row[name] for name in odd} == odd
    assert row["context"] == {}


def test_two_ids_of_a_user_are_kept_both() -> None:
    event = only(parsed("/api/v1/event", {"event_type": "a", "user": {"internal_id": "i", "id": "u", "anonymous_id": ""}}))
    assert (event["userId"], event["context"]["traits"], "anonymousId" in event) == ("i", {"internal_id": "i", "id": "u"}, False)
    assert as_classic(event)["user"] == {"internal_id": "i", "id": "u"}
    assert as_classic({"userId": "i", "context": {"traits": {"internal_id": "i"}}})["user"] == {"internal_id": "i", "id": "i"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [("pageview", "page"), ("page", "page"), ("user_identify", "identify"), ("identify", "identify"), ("x", "track")],
)
def test_the_name_of_an_event_gives_its_type_and_is_kept(name: str, kind: str) -> None:
    event = only(parsed("/api/v1/event", {"event_type": name, "user": {"id": "u", "email": "e"}}))
    assert event["type"] == kind
    assert (event.get("event") or event["context"]["jitsu"]["event_type"]) == name
    assert (event["traits"] if kind == "identify" else event["context"]["traits"]) == {"email": "e"}


@pytest.mark.parametrize(
    ("given", "kept"), [({}, None), ({"event_type": None}, None), ({"event_type": 5}, 5), ({"event_type": " "}, " ")]
)
def test_an_event_without_a_name_is_a_track_without_one(given: dict[str, Any], kept: object) -> None:
    event = only(parsed("/api/v1/s2s/event", {"total": 9.5, **given}))
    assert event == {
        "type": "track",
        "event": "unnamed",
        "context": {"jitsu": {"event_type": kept}, "library": {"name": "api"}},
        "properties": {"total": 9.5},
    }


def test_an_array_is_judged_one_by_one_and_a_reject_keeps_the_clients_bytes() -> None:
    body = b'[{"event_type":"a","user":{"id":"u"}}, {"event_type":"%s"} ,{},5,{"event_type":"c","user":{"email":7.0}}]' % (
        b"b" * 1025
    )
    result = parsed("/api/v1/s2s/event", body)
    assert [head.event for head in result.heads] == ["a", "c"]
    assert [head.user_id for head in result.heads] == ["u", "7"]
    assert [(each.position, str(each.reason), each.body) for each in result.rejects] == [
        (1, "too_large", b'{"event_type":"%s"}' % (b"b" * 1025)),
        (2, "missing_type", b"{}"),
        (3, "not_an_object", b"5"),
    ]
    answer = json.loads(jitsu_classic.reply(post("/api/v1/s2s/event", b""), Accepted(2, result.rejects)).body)
    assert (answer["status"], answer["accepted"], answer["rejected"]) == ("ok", 2, 3)


def test_a_dead_letter_is_judged_again_by_the_same_rules() -> None:
    result = parsed("/api/v1/event", {"event_type": "b" * 1025})
    admission = CountingDesk(project()).admit([Credential("query", "other")])
    assert isinstance(admission, Admission)
    again = Parsed(admission, form=result.form)
    mended = result.rejects[0].body.replace(b"b" * 1025, b"b")
    jitsu_classic.judge_again(again, mended, result.form, lambda: "new")
    assert [(head.message_id, head.event) for head in again.heads] == [("new", "b")]
    assert json.loads(jitsu_classic.as_event(mended, result.form)) == {
        "type": "track",
        "event": "b",
        "context": {},
    }


@pytest.mark.parametrize(
    ("query", "headers", "body"),
    [
        ({"token": "web"}, {}, {}),
        ({"p_x1": "web"}, {}, {}),
        ({"api_key": "web"}, {}, {}),
        ({}, {"x-auth-token": "web"}, {}),
        ({}, {"api_key": "web"}, {}),
        ({}, {"authorization": "Basic d2ViOg=="}, {}),
        ({}, {}, {"api_key": "web"}),
    ],
)
def test_the_key_stands_where_classic_clients_put_it(
    query: dict[str, str], headers: dict[str, str], body: dict[str, str]
) -> None:
    data = json.dumps({"event_type": "a", "user": {"id": "u"}, **body}).encode()
    result = jitsu_classic.parse(post("/api/v1/event", data, query=query, headers=headers), CountingDesk())
    assert isinstance(result, Parsed), result
    assert result.admission.site == "shop"


def test_the_key_outside_the_body_decides() -> None:
    data = json.dumps({"event_type": "a", "user": {"id": "u"}, "api_key": "nobody"}).encode()
    assert isinstance(jitsu_classic.parse(post("/api/v1/event", data, query=TOKEN), CountingDesk()), Parsed)
    refused = jitsu_classic.parse(post("/api/v1/event", data), CountingDesk())
    assert isinstance(refused, Refusal)
    answer = json.loads(jitsu_classic.reply(post("/api/v1/event", b""), refused).body)
    assert (answer["status"], answer["code"]) == ("error", "unknown_key")


def test_a_wish_about_the_address_and_the_cookie_is_honoured() -> None:
    query = {**TOKEN, "ip_policy": "strict", "cookie_policy": "strict"}
    assert parsed("/api/v1/event", FLAT, query=query).ip_policy == "stripLastOctet"
    assert json.loads(jitsu_classic.reply(post("/api/v1/event", b"", query=query), Accepted(1)).body) == {
        "status": "ok",
        "delete_cookie": True,
    }


def test_a_pixel_has_an_event_in_base64_or_in_parameters() -> None:
    data = base64.urlsafe_b64encode(json.dumps(FLAT).encode()).decode()
    first = jitsu_classic.parse(get("/api/v1/p.gif", query={**TOKEN, "data": data}), CountingDesk())
    second = jitsu_classic.parse(get("/api/v1/p.gif", query={"p_": "web", "event_type": "a", "user.id": "u"}), CountingDesk())
    broken = jitsu_classic.parse(get("/api/v1/p.gif", query={**TOKEN, "data": "!"}), CountingDesk())
    assert isinstance(first, Parsed)
    assert only(first)["event"] == "order"
    assert isinstance(second, Parsed)
    assert only(second) == {"type": "track", "event": "a", "userId": "u", "context": {"library": {"name": "jitsu_gif"}}}
    assert isinstance(broken, Parsed)
    assert [str(each.reason) for each in broken.rejects] == ["malformed_json"]


PAGE = {"referer": "https://jitsu.com:8443/docs?search=true", "cookie": "a=1; __eventn_id=dan3; b=2"}


def pixel(data: object, headers: dict[str, str] | None = None, **query: str) -> dict[str, Any]:
    text = base64.b64encode(json.dumps(data).encode()).decode()
    request = get("/api/v1/p.gif", query={**TOKEN, "data": text, **query})._replace(headers=PAGE if headers is None else headers)
    result = jitsu_classic.parse(request, CountingDesk())
    assert isinstance(result, Parsed), result
    return only(result)


@pytest.mark.parametrize("data", [{"event_type": "mail"}, {"event_type": "mail", "eventn_ctx": {"event_id": "e"}}])
def test_an_image_knows_its_page_and_the_visitor_of_the_scripts_cookie(data: dict[str, Any]) -> None:
    event = pixel(data)
    assert event["anonymousId"] == "dan3"
    assert event["context"] == {
        "page": {"url": PAGE["referer"], "host": "jitsu.com:8443", "path": "/docs", "search": "search=true"},
        "library": {"name": "jitsu_gif"},
    }


@pytest.mark.parametrize(
    ("data", "headers", "query", "anonymous", "context"),
    [
        ({"user": {"anonymous_id": "own"}, "url": "https://a/", "src": "x"}, PAGE, {}, "own", {"page": {"url": "https://a/"}, "library": {"name": "x"}}),
        ({"url": "https://a/"}, PAGE, {"cookie_policy": "strict"}, None, {"page": {"url": "https://a/"}, "library": {"name": "jitsu_gif"}}),
        ({"user": "bob"}, {"referer": "https://[", "cookie": '__eventn_id="<x>"'}, {}, None, {"jitsu": {"user": "bob"}, "library": {"name": "jitsu_gif"}}),
        ({}, PAGE | {"referer": "about:blank"}, {"user.plan": "pro"}, "dan3", {"traits": {"plan": "pro"}, "library": {"name": "jitsu_gif"}}),
        ({"a": 1}, {}, {"user": "bob"}, None, {"jitsu": {"user": "bob"}, "library": {"name": "jitsu_gif"}}),
    ],
)  # fmt: skip
def test_what_the_event_of_an_image_says_wins(
    data: dict[str, Any], headers: dict[str, str], query: dict[str, str], anonymous: str | None, context: dict[str, Any]
) -> None:
    event = pixel({"event_type": "mail", **data}, headers, **query)
    assert (event.get("anonymousId"), event["context"]) == (anonymous, context)


def test_a_classic_event_on_a_path_of_segment_is_one() -> None:
    event = only(
        parsed("/api/v1/segment", {"event_type": "page", "user": {"internal_id": "i"}, "url": "https://a/", "title": "T"})
    )
    assert (event["type"], event["userId"], event["properties"]) == ("page", "i", {"title": "T"})
    assert only(parsed("/api/v1/segment", {"type": "page", "userId": "u", "event_type": "mine"}))["event_type"] == "mine"


LINES = b'{"event_type":"a","user":{"id":"u"}}\n\n{"event_type":"a","user":{"id":"u"}}\r\n{"broken\n[]\n{"event_id":"own","event_type":"b","user":{"id":"u"}}'


def form(file: bytes) -> tuple[bytes, dict[str, str]]:
    head = b'--xyz\r\nContent-Disposition: form-data; name="kind"\r\n\r\na\r\n--xyz\r\nContent-Disposition: form-data; name="file"; filename="e.ndjson"\r\n\r\n'
    return head + file + b"\r\n--xyz--\r\n", {"content-type": "multipart/form-data; boundary=xyz"}


def upload(body: bytes, headers: dict[str, str] | None = None, **query: str) -> HttpRequest:
    return post("/api/v1/events/bulk", body, headers=headers or {}, query={**TOKEN, **query})


@pytest.mark.parametrize("file", [LINES, gzip.compress(LINES)])
@pytest.mark.parametrize("in_form", [False, True])
def test_each_line_of_a_file_is_an_event_or_a_reject_with_its_number(file: bytes, in_form: bool) -> None:
    body, headers = form(file) if in_form else (file, {})
    result = jitsu_classic.parse(upload(body, headers), CountingDesk())
    assert isinstance(result, Parsed), result
    assert [head.message_id for head in result.heads] == ["new-1", "new-2", "own"]
    assert [(each.position, str(each.reason)) for each in result.rejects] == [(4, "malformed_json"), (5, "not_an_object")]
    answer = json.loads(jitsu_classic.reply(upload(b""), Accepted(3, result.rejects)).body)
    assert (answer["accepted"], answer["rejected"], answer["rejected_lines"]) == (3, 2, [[4, 5]])
    assert [each["line"] for each in answer["rejects"]] == [4, 5]


def test_a_file_sent_again_under_its_token_whole_or_in_pieces_has_the_same_ids() -> None:
    def ids(body: bytes, **query: Any) -> list[str]:
        result = jitsu_classic.parse(upload(body, **query), CountingDesk())
        assert isinstance(result, Parsed)
        return [head.message_id for head in result.heads]

    whole = ids(LINES, idempotency_key="t")
    assert len(set(whole)) == 3
    assert ids(gzip.compress(LINES), idempotency_key="t") == whole
    head, rest = LINES.split(b"\n", 1)
    assert ids(head, idempotency_key="t") + ids(rest, idempotency_key="t", offset="1") == whole
    assert ids(LINES, idempotency_key="other")[:2] != whole[:2]


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (upload(gzip.compress(LINES)[:-9]), "bad_encoding"),
        (upload(form(LINES)[0][:-20], form(LINES)[1]), "broken_form"),
        (upload(LINES, {"content-type": "multipart/form-data"}), "broken_form"),
        (upload(b" \n\n"), "empty_body"),
        (upload(LINES, offset="x"), "invalid_offset"),
        (upload(gzip.compress(b"\n" * 9_000_000)), "request_too_large"),
        (upload(b"\n" * 50_000), "too_many_events"),
        (post("/api/v1/events/bulk", LINES), "missing_key"),
    ],
)
def test_a_broken_upload_is_refused_whole(request_: HttpRequest, code: str) -> None:
    result = jitsu_classic.parse(request_, CountingDesk())
    assert isinstance(result, Refusal), result
    assert result.code == code


def test_a_dry_run_shows_the_fields_and_stores_nothing() -> None:
    reply = jitsu_classic.parse(post("/api/v1/events/dry-run", json.dumps([FLAT, {}]), query=TOKEN), CountingDesk())
    assert isinstance(reply, Reply)
    answer = json.loads(reply.body)
    assert (answer["accepted"], answer["rejected"], answer["stored"]) == (1, 1, 0)
    fields = {each["field"]: (each["type"], each["value"]) for each in answer["events"][0]["fields"]}
    assert fields["eventn_ctx_event_id"] == ("text", "e1")
    assert fields["total"] == ("double", 9.5)
    assert fields["items"] == ("json", [{"sku": "x"}])
    assert fields["utm_campaign"] == ("text", "c")
    assert fields["utc_time"][0] == "timestamp"
    timeless = {key: value for key, value in FLAT.items() if key != "utc_time"}
    again = jitsu_classic.parse(post("/api/v1/events/dry-run", json.dumps(timeless), query=TOKEN), CountingDesk())
    assert isinstance(again, Reply)
    assert "utc_time" not in {each["field"] for each in json.loads(again.body)["events"][0]["fields"]}, (
        "the request has a time, 1970 is none"
    )


def test_segments_batches_are_read_on_their_classic_paths() -> None:
    call = {"type": "track", "event": "Sold", "userId": "u"}
    for route, body in (
        ("/api/v1/segment/v1/batch", {"batch": [call]}),
        ("/api/v1/segment", call),
        ("/api/v1/segment/compat", {"batch": [call]}),
    ):
        assert only(parsed(route, body)) == call


def test_a_number_keeps_its_digits() -> None:
    body = b'{"event_type":"a","user":{"id":"u"},"price":0.10000000000000000001,"big":123456789012345678901234567890}'
    event = bytes(parsed("/api/v1/event", body).bodies[0])
    assert b'"price":0.10000000000000000001,"big":123456789012345678901234567890' in event
    assert (
        materialise(event, parsed("/api/v1/event", body).heads[0], facts_of(RequestContext(0, "jitsu_classic", "web")))["type"]
        == "track"
    )
