"""Segment's protocol: what every call becomes, where keys may stand, and that one bad event hurts only itself."""

from __future__ import annotations

import base64
import json
from functools import partial
from typing import Any

import pytest

from ingest.contract import SHOWN_REJECTS, Accepted, Parsed, Refusal, Reject, Reply
from ingest.protocols import segment
from shared.events.frame import Head
from shared.events.outcome import DeadReason
from tests.support import dear_bodies
from tests.unit.ingest.desks import CountingDesk, get, post, project

KEY = {"x-write-key": "web"}


def parsed(route: str, body: bytes | str, desk: CountingDesk | None = None, **request: Any) -> Parsed:
    result = segment.parse(post(route, body, headers=KEY, **request), desk or CountingDesk())
    assert isinstance(result, Parsed), result
    result.bodies = list(map(bytes, result.bodies))
    return result


def refused(route: str, body: bytes | str, desk: CountingDesk | None = None, headers: dict[str, str] | None = None) -> Refusal:
    result = segment.parse(post(route, body, headers=KEY if headers is None else headers), desk or CountingDesk())
    assert isinstance(result, Refusal), result
    return result


def batch(*events: str, **more: str) -> str:
    rest = "".join(f',"{name}":{value}' for name, value in more.items())
    return f'{{"batch":[{",".join(events)}]{rest}}}'


@pytest.mark.parametrize(
    ("path", "event", "head"),
    [
        ("track", {"event": "Sold", "userId": "u"}, Head("new-1", "track", "Sold", "u")),
        ("t", {"event": "Sold", "anonymousId": "a", "userId": None}, Head("new-1", "track", "Sold", None, "a")),
        ("identify", {"userId": "u", "traits": {"a": 1}}, Head("new-1", "identify", None, "u")),
        ("i", {"userId": "u", "messageId": "m"}, Head("m", "identify", None, "u")),
        ("page", {"userId": "u", "name": "Home"}, Head("new-1", "page", None, "u")),
        ("p", {"anonymousId": "a"}, Head("new-1", "page", None, None, "a")),
        ("screen", {"userId": "u"}, Head("new-1", "screen", None, "u")),
        ("s", {"userId": "u"}, Head("new-1", "screen", None, "u")),
        ("group", {"userId": "u", "groupId": "g"}, Head("new-1", "group", None, "u")),
        ("g", {"anonymousId": "a", "groupId": "g"}, Head("new-1", "group", None, None, "a")),
        ("alias", {"userId": "u", "previousId": "p"}, Head("new-1", "alias", None, "u")),
        ("a", {"userId": "u", "previousId": "p"}, Head("new-1", "alias", None, "u")),
    ],
)
def test_every_call_becomes_its_type_and_keeps_the_clients_bytes(path: str, event: dict[str, Any], head: Head) -> None:
    body = json.dumps(event, indent=1)
    result = parsed(f"/v1/{path}", body)
    assert result.heads == [head]
    assert result.bodies == [body.encode()]
    assert not result.rejects


@pytest.mark.parametrize("path", ["batch", "import", "b"])
def test_a_batch_gives_its_events_in_order_with_bytes_untouched(path: str) -> None:
    first = '{ "type":"track", "event":"A", "userId":"u", "messageId":"1", "price":1.10, "x":1.10 }'
    second = '{"type":"page","anonymousId":"a","messageId":"2","properties":{"é":"\\u00e9"}}'
    result = parsed(f"/v1/{path}", batch(first, second, sentAt='"2026-01-01T00:00:00.000Z"'))
    assert result.bodies == [first.encode(), second.encode()]
    assert [head.message_id for head in result.heads] == ["1", "2"]
    assert result.sent_at == "2026-01-01T00:00:00.000Z"
    assert result.admission.site == "shop"


def test_context_and_integrations_of_a_batch_are_kept_as_defaults() -> None:
    event = '{"type":"page","userId":"u"}'
    result = parsed("/v1/batch", batch(event, context='{"ip":"1.2.3.4"}', integrations='{"All":false}'))
    assert json.loads(result.defaults or b"") == {"context": {"ip": "1.2.3.4"}, "integrations": {"All": False}}
    assert parsed("/v1/batch", batch(event, context="5", integrations="{}")).defaults is None


@pytest.mark.parametrize(
    "context", ['{"traits":["a"],"properties":"x","type":5,"userId":7,"groupId":{"a":1}}', '{"event":false,"timestamp":[]}']
)
def test_members_of_a_context_may_be_anything(context: str) -> None:
    assert (
        parsed("/v1/batch", batch('{"type":"page","userId":"u"}', context=context)).defaults
        == f'{{"context":{context}}}'.encode()
    )


@pytest.mark.parametrize("context", ["null", '"x"', "[1]", "7", "{}"])
def test_a_context_that_is_no_object_is_left_out(context: str) -> None:
    assert parsed("/v1/batch", batch('{"type":"page","userId":"u"}', context=context)).defaults is None


@pytest.mark.parametrize(
    ("events", "context", "status", "words"),
    [
        (1, '{"a":"' + "x" * 3000 + '"}', 413, "`context` of 3008 bytes cannot be merged"),
        (1, '{"a":' * 70 + "1" + "}" * 70, 400, "nests 70 levels"),
        (30, '{"a":"' + "x" * 1500 + '"}', 413, "under each of 30 events"),
    ],
)
def test_a_context_that_cannot_be_merged_under_every_event_is_refused(events: int, context: str, status: int, words: str) -> None:
    desk = CountingDesk(project(event_bytes=2000, request_bytes=10_000))
    refusal = refused("/v1/batch", batch(*['{"type":"page","userId":"u"}'] * events, context=context), desk)
    assert refusal.status == status
    assert words in refusal.message


def test_one_event_from_a_path_takes_the_type_of_the_path() -> None:
    assert parsed("/v1/page", '{"type":"track","userId":"u"}').heads[0].type == "page"
    assert parsed("/v1/page", '{"type":7,"userId":"u"}').bodies == [b'{"type":"page","userId":"u"}']


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ('{"userId":"u"}', DeadReason.MISSING_TYPE),
        ('{"type":"","userId":"u"}', DeadReason.MISSING_TYPE),
        ('{"type":"buy","userId":"u"}', DeadReason.UNKNOWN_TYPE),
        ('{"type":{"a":1},"userId":"u"}', DeadReason.WRONG_TYPE),
        ('{"type":"page"}', DeadReason.MISSING_ID),
        ('{"type":"page","userId":"","anonymousId":null}', DeadReason.MISSING_ID),
        ('{"type":"track","userId":"u"}', DeadReason.MISSING_ID),
        ('{"type":"track","userId":"u","event":null}', DeadReason.MISSING_ID),
        ('{"type":"track","userId":"u","event":5}', DeadReason.WRONG_TYPE),
        ('{"type":"group","userId":"u"}', DeadReason.MISSING_ID),
        ('{"type":"alias","userId":"u"}', DeadReason.MISSING_ID),
        ('{"type":"alias","anonymousId":"a","previousId":"p"}', DeadReason.MISSING_ID),
        ('{"type":"page","userId":["u"]}', DeadReason.WRONG_TYPE),
        ('{"type":"page","userId":true}', DeadReason.WRONG_TYPE),
        ('{"type":"page","userId":"u","properties":[1]}', DeadReason.WRONG_TYPE),
        ('{"type":"identify","userId":"u","traits":"x"}', DeadReason.WRONG_TYPE),
        ("7", DeadReason.NOT_AN_OBJECT),
        ("null", DeadReason.NOT_AN_OBJECT),
        ('"text"', DeadReason.NOT_AN_OBJECT),
        ("[1,2]", DeadReason.NOT_AN_OBJECT),
        ('{"type":"page","userId":"u","properties":' + "[" * 80 + "]" * 80 + "}", DeadReason.WRONG_TYPE),
        ('{"type":"page","userId":"u","properties":{"a":' + "[" * 80 + "]" * 80 + "}}", DeadReason.TOO_DEEP),
        (
            '{"type":"page","userId":"u","properties":{' + ",".join(f'"k{n}":1' for n in range(10_000)) + "}}",
            DeadReason.TOO_MANY_KEYS,
        ),
        ('{"type":"page","userId":"u","text":"' + "x" * 300_000 + '"}', DeadReason.TOO_LARGE),
        ('{"type":"page","userId":"' + "u" * 2000 + '"}', DeadReason.TOO_LARGE),
    ],
)
def test_a_bad_event_is_rejected_with_its_reason_and_its_neighbours_are_accepted(event: str, reason: DeadReason) -> None:
    good = '{"type":"page","userId":"u","messageId":"%s"}'
    result = parsed("/v1/batch", batch(good % "1", event, good % "2"))
    assert [head.message_id for head in result.heads] == ["1", "2"]
    if reason is DeadReason.WRONG_TYPE and event.count("[") == 80:
        reason = DeadReason.TOO_DEEP  # depth is judged before types
    assert [(reject.position, reject.reason, reject.body) for reject in result.rejects] == [(1, reason, event.encode())]
    assert result.rejects[0].detail


@pytest.mark.parametrize(
    ("event", "clean"),
    [
        ('{"type":"page","userId":"u","n":NaN}', '{"type":"page","userId":"u","n":null}'),
        ('{"type":"page","userId":"u","n":-Infinity}', '{"type":"page","userId":"u","n":null}'),
        ('{"type":"page","userId":"u","t":"\\ud800x"}', '{"type":"page","userId":"u","t":"�x"}'),
        ('{"type":"page","userId":"u","t":"\\ud83d\\ude00"}', '{"type":"page","userId":"u","t":"\\ud83d\\ude00"}'),
        ('{"type":"page","userId":"u","t":"a\nb"}', '{"type":"page","userId":"u","t":"a\\nb"}'),
        ('{"type":"page","userId":"u","t":"a\x00b"}', '{"type":"page","userId":"u","t":"a\\u0000b"}'),
    ],
)
def test_almost_json_is_mended_alone_and_counted(event: str, clean: str) -> None:
    neighbour = '{"type":"page","userId":"u", "price":1.10}'
    result = parsed("/v1/batch", batch(neighbour, event, neighbour))
    assert not result.rejects
    assert result.bodies[0] == result.bodies[2] == neighbour.encode()
    assert result.bodies[1] == clean.encode()
    assert result.repaired == (event != clean)


@pytest.mark.parametrize(
    "broken", ['{"type":"page",}', "{'type':'page'}", "undefined", '{"type":"page" "userId":"u"}', '{"a":01}']
)
def test_an_event_that_is_no_json_at_all_is_cut_out_of_its_batch(broken: str) -> None:
    good = '{"type":"page","userId":"u","messageId":"%s"}'
    result = parsed("/v1/batch", batch(good % "1", broken, good % "2", sentAt='"2026-01-01T00:00:00Z"'))
    assert [head.message_id for head in result.heads] == ["1", "2"]
    assert [(reject.position, reject.reason) for reject in result.rejects] == [(1, DeadReason.MALFORMED_JSON)]
    assert result.sent_at == "2026-01-01T00:00:00Z"


def test_stray_bytes_are_replaced_and_only_their_event_counts_as_repaired() -> None:
    good = b'{"type":"page","userId":"u"}'
    bad = b'{"type":"page","userId":"u","name":"caf\xe9"}'
    result = parsed("/v1/batch", b'{"batch":[' + good + b"," + bad + b"]}")
    assert result.bodies == [good, bad.replace(b"\xe9", "�".encode())]
    assert result.repaired == 1


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"])
def test_a_byte_order_mark_does_not_matter(mark: bytes) -> None:
    text = '{"userId":"ü"}'
    encoding = {b"\xef\xbb\xbf": "utf-8", b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}[mark]
    assert parsed("/v1/page", mark + text.encode(encoding)).bodies == [text.encode()]


def test_numbers_as_ids_become_text_in_the_head_and_in_the_body() -> None:
    result = parsed("/v1/track", '{"event":"A","userId":12345678901234567890123,"messageId":7.0,"properties":{"a":1.10}}')
    assert result.heads == [Head("7", "track", "A", "12345678901234567890123")]
    assert result.bodies == [b'{"event":"A","userId":"12345678901234567890123","messageId":"7","properties":{"a":1.10}}']


def test_duplicate_keys_and_huge_numbers_are_taken_as_they_are() -> None:
    event = '{"userId":"a","userId":"b","n":123456789012345678901234567890,"n":1}'
    result = parsed("/v1/page", event)
    assert result.heads[0].user_id == "b"
    assert result.bodies == [event.encode()]


def test_an_event_without_ids_is_accepted_where_the_site_does_not_ask_for_them() -> None:
    result = segment.parse(post("/v1/page", "{}", headers={"x-write-key": "other"}), CountingDesk())
    assert isinstance(result, Parsed)
    assert result.heads == [Head("new-1", "page")]


@pytest.mark.parametrize(
    ("route", "body", "code"),
    [
        ("/v1/track", b"", "empty_body"),
        ("/v1/batch", b"  ", "empty_body"),
        ("/v1/track", b"nonsense", "invalid_json"),
        ("/v1/track", b"[1]", "invalid_json"),
        ("/v1/track", b"5", "invalid_json"),
        ("/v1/track", b'{"a":', "invalid_json"),
        ("/v1/track", b'{"a":' + b"[" * 100_000, "invalid_json"),
        ("/v1/track", b"\xff\x00\xfe", "invalid_json"),
        ("/v1/batch", b"{}", "invalid_batch"),
        ("/v1/batch", b'{"batch":{}}', "invalid_batch"),
        ("/v1/batch", b'{"batch":null}', "invalid_batch"),
        ("/v1/batch", b'{"batch":[{"type":"page"', "invalid_json"),
        ("/v1/batch", b'{"batch":[{"type":"page]}', "invalid_json"),
        ("/v1/batch", b'{"batch":[' + b"[" * 100_000, "invalid_json"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_with_400_and_a_code(route: str, body: bytes, code: str) -> None:
    refusal = refused(route, body)
    assert (refusal.status, refusal.code) == (400, code)
    assert refusal.message


def test_a_broken_body_is_refused_with_the_place_where_it_breaks() -> None:
    assert "line 2, column 5" in refused("/v1/track", '{"a":1,\n"b" 2}').message


def test_an_event_nested_a_thousand_levels_deep_does_not_cost_its_neighbours() -> None:
    deep = '{"type":"page","userId":"u","a":' + "[" * 5000 + "]" * 5000 + "}"
    result = parsed("/v1/batch", batch('{"type":"page","userId":"u"}', deep))
    assert len(result.heads) == 1
    assert [reject.reason for reject in result.rejects] == [DeadReason.TOO_DEEP]


@pytest.mark.parametrize("inner", ["[%s]", '{"a":%s}', '{"a":[%s]}'])
def test_objects_and_arrays_are_both_levels(inner: str) -> None:
    levels = 2 if "[" in inner and "{" in inner else 1

    def event(depth: int) -> str:
        text = "1"
        for _ in range((depth - 1) // levels):
            text = inner % text
        return f'{{"type":"page","userId":"u","context":{text}}}'

    result = parsed("/v1/batch", batch(event(63), event(65)))
    assert len(result.heads) == 1
    assert [reject.reason for reject in result.rejects] == [DeadReason.TOO_DEEP]


@pytest.mark.parametrize("name", dear_bodies.DEAREST)
def test_no_body_within_the_limit_holds_up_the_neighbours_for_long(name: str) -> None:
    body = dear_bodies.JSON[name]()
    assert len(body) <= dear_bodies.BODY_BYTES
    for headers in (KEY, {}):
        asked = post("/v1/batch", body, headers=headers)
        dear_bodies.check_cost(partial(segment.parse, asked, CountingDesk()))


def test_an_almost_json_body_too_large_to_be_mended_is_told_where_it_breaks() -> None:
    refusal = refused("/v1/page", '{"userId":"u","a":NaN,"text":"' + "x" * 2**20 + '"}')
    assert (refusal.status, refusal.code) == (400, "invalid_json")
    assert "byte 18" in refusal.message
    assert "524288 bytes" in refusal.message


def test_an_event_that_grows_beyond_the_limit_when_mended_is_rejected_with_its_own_bytes() -> None:
    event = '{"type":"page","userId":"u","a":"' + "\x01" * 200 + '"}'
    result = parsed("/v1/batch", batch(event, '{"type":"page","userId":"u"}'), CountingDesk(project(event_bytes=500)))
    assert len(result.heads) == 1
    assert [(reject.reason, reject.body) for reject in result.rejects] == [(DeadReason.TOO_LARGE, event.encode())]


def test_a_mended_event_that_is_rejected_all_the_same_keeps_its_own_bytes() -> None:
    event = '{"type":"track","userId":5,"a":NaN}'
    assert parsed("/v1/batch", batch(event)).rejects[0].body == event.encode()


def test_a_single_event_beyond_the_limit_is_refused_with_413_and_its_size() -> None:
    refusal = refused("/v1/page", '{"userId":"u","t":"' + "x" * 1000 + '"}', CountingDesk(project(event_bytes=500)))
    assert refusal.status == 413
    assert "1021 bytes" in refusal.message
    assert "500" in refusal.message


def test_more_events_than_the_site_allows_are_refused_with_413() -> None:
    refusal = refused("/v1/batch", batch(*["{}"] * 5), CountingDesk(project(events_per_request=4)))
    assert (refusal.status, refusal.code) == (413, "too_many_events")


def test_an_empty_batch_and_a_bare_array_are_accepted() -> None:
    assert parsed("/v1/batch", batch()).heads == []
    assert len(parsed("/v1/batch", '[{"type":"page","userId":"u"}]').heads) == 1


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
