"""Snowplow's tracker protocol: what a request becomes, event by event."""

from __future__ import annotations

import json

import pytest

from ingest.contract import Accepted, Parsed, Refusal
from ingest.protocols import snowplow
from shared.project.model import SiteLimits
from tests.unit.ingest.desks import CountingDesk
from tests.unit.ingest.snowplows import (
    EVENT_ID,
    PAGE_VIEW,
    bodies,
    coded,
    described,
    desk,
    entities,
    get,
    one,
    parsed,
    payload,
    post,
    refused,
)

CLICK = "iglu:com.snowplowanalytics.snowplow/link_click/jsonschema/1-0-1"
WEB_PAGE = "iglu:com.snowplowanalytics.snowplow/web_page/jsonschema/1-0-0"


def test_a_page_view_is_a_page_and_keeps_every_parameter() -> None:
    result = parsed(post(payload(PAGE_VIEW)))
    (head,), (event,) = result.heads, bodies(result)
    assert (head.message_id, head.type, head.event, head.anonymous_id) == (EVENT_ID, "page", None, "d-1")
    assert event == {
        "name": "Shop",
        "anonymousId": "d-1",
        "timestamp": "2026-01-01T00:00:00.123Z",
        "properties": event["context"]["page"],
        "context": {
            "page": {
                "title": "Shop",
                "url": PAGE_VIEW["url"],
                "referrer": PAGE_VIEW["refr"],
                "path": "/a/b",
                "search": "?x=1&utm_source=news",
            },
            "locale": "de-DE",
            "timezone": "Europe/Berlin",
            "screen": {"width": 1920, "height": 1080},
            "library": {"name": "snowplow", "version": "js-4.10.1"},
            "snowplow": {**PAGE_VIEW, "nuid": "new-1"},
        },
    }
    assert result.sent_at == "1767225601000"


@pytest.mark.parametrize("how", ["get", "plain", "packed", "object"])
def test_self_describing_events_and_entities_are_decoded_however_they_come(how: str) -> None:
    event, contexts = described(CLICK, {"targetUrl": "é"}), entities((WEB_PAGE, {"id": "p-1"}))
    base = {"e": "ue", "p": "web", "tv": "t", "uid": "u"}
    if how in ("get", "packed"):
        both = {"ue_px": coded(event), "cx": coded(contexts)}
    else:
        both = {"ue_pr": json.dumps(event), "co": json.dumps(contexts)}
    if how == "object":
        found = one(post(payload({**base, "ue_pr": event, "co": contexts})))
    else:
        found = one(get({**base, **both}) if how == "get" else post(payload({**base, **both})))
    assert (found["event"], found["properties"], found["userId"]) == ("link_click", {"targetUrl": "é"}, "u")
    kept = found["context"]["snowplow"]
    assert kept["schema"] == CLICK
    assert kept["contexts"] == [{"schema": WEB_PAGE, "data": {"id": "p-1"}}]
    assert not {"ue_pr", "ue_px", "co", "cx"} & set(kept)


@pytest.mark.parametrize(
    ("parameters", "name", "properties"),
    [
        ({"e": "pp", "pp_mix": "0", "pp_may": "12"}, "page_ping", {"x_offset_min": 0, "y_offset_max": 12}),
        (
            {"e": "se", "se_ca": "c", "se_ac": "a", "se_la": "l", "se_pr": "p", "se_va": "1.5"},
            "struct",
            {"category": "c", "action": "a", "label": "l", "property": "p", "value": 1.5},
        ),
        ({"e": "ev", "ev_ca": "c", "ev_ac": "a", "ev_va": "x"}, "struct", {"category": "c", "action": "a", "value": "x"}),
        (
            {"e": "tr", "tr_id": "o", "tr_tt": "20.10", "tr_cu": "EUR"},
            "transaction",
            {"order_id": "o", "total": 20.1, "currency": "EUR"},
        ),
        (
            {"e": "ti", "ti_id": "o", "ti_sk": "s", "ti_nm": "n", "ti_pr": "3", "ti_qu": "2"},
            "transaction_item",
            {"order_id": "o", "sku": "s", "name": "n", "price": 3, "quantity": 2},
        ),
        ({"e": "ad", "ad_ba": "b"}, "ad_impression", {"banner_id": "b"}),
    ],
)
def test_other_events_are_track_with_snowplows_name(parameters: dict[str, str], name: str, properties: dict[str, object]) -> None:
    event = one(post(payload({**parameters, "p": "web", "tv": "t"})))
    assert (event["event"], event["properties"]) == (name, properties)


def test_events_are_judged_one_by_one_and_what_is_wrong_is_named() -> None:
    wrong = [
        {"p": "web"},
        {"e": "zz"},
        {"e": "ue"},
        {"e": "ue", "ue_px": "!!"},
        {"e": "ue", "ue_pr": "{"},
        {"e": "ue", "ue_pr": json.dumps(described("nothing", {}))},
        {"e": "pv", "cx": coded([1])},
        {"e": "pv", "co": json.dumps(entities(("iglu:a/b/c/1", {})))},
        {"e": "pv", "eid": "x" * 2000},
        {"e": "pv", "uid": {"a": 1}},
        7,
    ]
    body = payload(PAGE_VIEW, *wrong, {"e": "pv", "vid": 3, "cookie": True, "uid": None})
    result = parsed(post(body))
    assert [head.message_id for head in result.heads] == [EVENT_ID, "new-2"]
    assert [(each.position, each.reason.value) for each in result.rejects] == [
        (1, "missing_type"), (2, "unknown_type"), (3, "malformed_parameter"), (4, "malformed_parameter"),
        (5, "malformed_parameter"), (6, "malformed_parameter"), (7, "malformed_parameter"), (8, "malformed_parameter"),
        (9, "too_large"), (10, "wrong_type"), (11, "not_an_object"),
    ]  # fmt: skip
    assert bodies(result)[1]["context"]["snowplow"]["vid"] == "3"
    assert bodies(result)[1]["context"]["snowplow"]["cookie"] == "1"
    answer = json.loads(snowplow.reply(post(b""), Accepted(2, result.rejects)).body)
    assert (answer["accepted"], answer["rejected"]) == (2, 11)


def test_a_dead_letter_is_judged_again_as_it_was_and_with_the_visitors_id() -> None:
    result = parsed(post(payload({"e": "zz", "uid": "u"}), query={"p": "web"}))
    (reject,) = result.rejects
    assert json.loads(reject.body) == {"e": "zz", "uid": "u", "p": "web"}
    again = Parsed(result.admission)
    snowplow.judge_again(again, reject.body.replace(b"zz", b"pv"), result.form, lambda: "made")
    assert [head.anonymous_id for head in again.heads] == ["new-1"]
    assert json.loads(snowplow.as_event(reject.body, result.form) or b"")["nuid"] == "new-1"


def test_a_query_beside_a_body_belongs_to_each_event_and_wins() -> None:
    result = parsed(post(payload({"e": "pv", "p": "web"}, {"e": "pv"}), query={"p": "app", "writeKey": "web"}))
    assert [event["context"]["snowplow"]["p"] for event in bodies(result)] == ["app", "app"]
    assert "writeKey" not in bodies(result)[0]["context"]["snowplow"]


@pytest.mark.parametrize(
    "content_type", ["application/json;charset=utf-8", "text/plain", "", "application/x-www-form-urlencoded"]
)
def test_a_body_is_json_whatever_its_type(content_type: str) -> None:
    assert one(post(payload(PAGE_VIEW), content_type=content_type))["name"] == "Shop"


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"", "empty_body"), (b"nonsense", "invalid_json"), (b"{}", "invalid_batch"), (b'{"data":{}}', "invalid_batch")],
)
def test_a_body_that_holds_no_events_is_refused(body: bytes, code: str) -> None:
    refusal = refused(post(body))
    assert (refusal.status, refusal.code) == (400, code)
    assert json.loads(snowplow.reply(post(body), refusal).body)["code"] == code


def test_a_site_is_found_by_key_domain_own_path_and_app_id() -> None:
    stranger = post(payload(PAGE_VIEW))._replace(host="elsewhere")
    assert refused(stranger).code == "missing_key"
    assert refused(stranger._replace(query={"writeKey": "nobody"})).code == "unknown_key"
    assert parsed(stranger._replace(query={"writeKey": "web"})).admission.key == "web"
    assert parsed(stranger._replace(headers={"x-write-key": "web"})).admission.key == "web"
    by_app = stranger._replace(body=payload({**PAGE_VIEW, "aid": "other"}))
    assert parsed(by_app).admission.site == "other"
    assert parsed(get({"e": "pv", "aid": "web"})._replace(host="")).admission.site == "shop"
    assert refused(get({"e": "pv", "aid": "api"})._replace(host="")).code == "missing_secret"


def test_a_large_batch_is_bounded_before_its_events_are_built() -> None:
    of = CountingDesk()
    many = b'{"data":[' + b",".join([b"{}"] * 60_000) + b"]}"
    assert refused(post(many), of).code == "too_many_events"
    assert refused(post(many)._replace(host="")).code == "missing_key"
    query = {"x": "y" * 10_000}
    assert refused(post(payload(*[{"e": "pv"}] * 9_000), query=query)).code == "query_too_large"


def test_limits_of_the_site_hold_inside_base64_too() -> None:
    deep = "[" * 50 + "]" * 50
    small = desk(limits=SiteLimits(depth=20, keys=50))
    value = described(CLICK, {"a": json.loads(deep)})
    many = described(CLICK, {str(number): 1 for number in range(60)})
    result = parsed(post(payload({"e": "ue", "ue_px": coded(value)}, {"e": "ue", "ue_px": coded(many)})), small)
    assert [each.reason.value for each in result.rejects] == ["too_deep", "too_many_keys"]


def test_answers_tell_the_truth_to_both_kinds_of_request() -> None:
    assert snowplow.reply(post(b""), Accepted(1)).body == b"ok"
    assert snowplow.reply(get({}), Accepted(1)).content_type == "image/gif"
    assert snowplow.reply(get({}), Refusal(503, "overloaded", "wait", retry_after=2)).status == 503
