"""Layout `snowplow`: trackers' parameters, through the edge's parser, as rows of the table `events`."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ingest.protocols import snowplow
from loader.contract.warehouse import Kind
from shared.events.frame import RequestContext, pack
from shared.snowplow.addresses import of_page, of_referrer
from shared.snowplow.columns import COLUMNS
from tests.unit.ingest.snowplows import EVENT_ID, PAGE_VIEW, coded, described, entities, parsed, payload, post
from tests.unit.loader.shaping import RECEIVED, STAMP, Desk, Row, capabilities

ORDER = "iglu:com.acme/order_placed/jsonschema/2-0-1"
WEB_PAGE = "iglu:com.snowplowanalytics.snowplow/web_page/jsonschema/1-0-0"
BASE = {"e": "pv", "eid": EVENT_ID, "p": "srv", "tv": "t", "nuid": "n"}


def new_desk(**more: Any) -> Desk:
    return Desk({"layout": "snowplow", "deduplicate": True}, **more)


def load(*events: dict[str, Any], desk: Desk | None = None, **request: Any) -> tuple[Desk, list[Row]]:
    """Sends events to the edge's parser and loads what it accepts."""
    taken = parsed(post(payload(*events)))
    assert taken.rejects == []
    context = RequestContext(int(RECEIVED.timestamp()) * 1_000_000, snowplow.NAME, "web", sent_at=taken.sent_at, **request)
    desk = desk or new_desk()
    loaded = desk.load_frame(pack("shop", [context], taken.heads, [bytes(each) for each in taken.bodies]))
    assert not loaded.dead
    return desk, loaded.rows("events")


def row(event: dict[str, Any], **request: Any) -> Row:
    (found,) = load(event, **request)[1]
    return found


def computed(**more: Any) -> Row:
    """The columns that every row has, and more."""
    return {
        "event_id": EVENT_ID, "collector_tstamp": RECEIVED, "etl_tstamp": RECEIVED, "derived_tstamp": RECEIVED,
        "v_collector": "penstock", "v_etl": "penstock", "load_tstamp": STAMP.loaded_at, "network_userid": "n", "platform": "srv",
        "v_tracker": "t", "event": "page_view", "event_name": "page_view", "event_vendor": "com.snowplowanalytics.snowplow",
        "event_format": "jsonschema", "event_version": "1-0-0", **more,
    }  # fmt: skip


def test_the_table_has_the_131_columns_of_snowplow_in_their_order_and_types() -> None:
    assert len(COLUMNS) == 131
    assert list(COLUMNS)[52] == "contexts"
    assert list(COLUMNS)[58] == "unstruct_event"
    assert [list(COLUMNS)[place] for place in (0, 83, 104, 122, 130)] == [
        "app_id", "br_lang", "dvce_screenheight", "derived_contexts", "true_tstamp",
    ]  # fmt: skip
    live = load(BASE)[0].live["events"]
    assert live is not None
    assert list(live.columns)[:131] == list(COLUMNS)
    assert list(live.columns)[131:] == ["load_tstamp"]
    assert {name: column.kind for name, column in live.columns.items() if name in COLUMNS} == COLUMNS
    assert live.primary_key == ("event_id",)


def test_a_destination_without_a_kind_has_text_for_it() -> None:
    desk = new_desk(capabilities=capabilities(kinds=frozenset(Kind) - {Kind.JSON}))
    live = load(BASE, desk=desk)[0].live["events"]
    assert live is not None
    assert live.columns["contexts"].kind is Kind.TEXT


def test_a_page_view_fills_every_column_that_it_says_something_about() -> None:
    found = row(
        {**PAGE_VIEW, "uid": "u", "fp": "f", "f_pdf": "1", "f_java": "0", "ip": "192.0.2.1", "ua": "phone", "tid": "77",
         "nuid": "n", "refr": "https://www.google.de:8443/search?q=red+shoes#a"}
    )  # fmt: skip
    del found["event_fingerprint"]
    created = datetime(2026, 1, 1, 0, 0, 0, 123_000, UTC)
    sent = datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC)
    assert found == computed(
        app_id="shop", platform="web", name_tracker="sp", v_tracker="js-4.10.1", user_id="u", user_fingerprint="f",
        domain_userid="d-1", domain_sessionid="s-1", domain_sessionidx=3, txn_id=77, user_ipaddress="192.0.2.1", useragent="phone",
        page_url=PAGE_VIEW["url"], page_title="Shop", page_urlscheme="https", page_urlhost="shop.example.com", page_urlport=443,
        page_urlpath="/a/b", page_urlquery="x=1&utm_source=news", page_urlfragment="top", mkt_source="news",
        page_referrer="https://www.google.de:8443/search?q=red+shoes#a", refr_urlscheme="https", refr_urlhost="www.google.de",
        refr_urlport=8443, refr_urlpath="/search", refr_urlquery="q=red+shoes", refr_urlfragment="a", refr_medium="search",
        refr_source="Google", refr_term="red shoes", br_lang="de-DE", os_timezone="Europe/Berlin", dvce_screenwidth=1920,
        dvce_screenheight=1080, br_viewwidth=900, br_viewheight=700, doc_width=900, doc_height=3000, doc_charset="UTF-8",
        br_cookies=True, br_colordepth="24", br_features_pdf=True, br_features_java=False, dvce_created_tstamp=created,
        dvce_sent_tstamp=sent, derived_tstamp=RECEIVED - (sent - created),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("event", "columns"),
    [
        (
            {"e": "se", "se_ca": "c", "se_ac": "a", "se_la": "l", "se_pr": "p", "se_va": "1.5"},
            {"event": "struct", "event_name": "event", "event_vendor": "com.google.analytics", "se_category": "c", "se_action": "a",
             "se_label": "l", "se_property": "p", "se_value": 1.5},
        ),
        (
            {"e": "pp", "pp_mix": "0", "pp_max": "1", "pp_miy": "2", "pp_may": "3"},
            {"event": "page_ping", "event_name": "page_ping", "pp_xoffset_min": 0, "pp_xoffset_max": 1, "pp_yoffset_min": 2,
             "pp_yoffset_max": 3},
        ),
        (
            {"e": "tr", "tr_id": "o", "tr_af": "a", "tr_tt": "20.10", "tr_tx": "1", "tr_sh": "2.5", "tr_ci": "ci", "tr_st": "st",
             "tr_co": "DE", "tr_cu": "EUR"},
            {"event": "transaction", "event_name": "transaction", "tr_orderid": "o", "tr_affiliation": "a", "tr_total": 20.1,
             "tr_tax": 1.0, "tr_shipping": 2.5, "tr_city": "ci", "tr_state": "st", "tr_country": "DE", "tr_currency": "EUR"},
        ),
        (
            {"e": "ti", "ti_id": "o", "ti_sk": "s", "ti_na": "n", "ti_ca": "c", "ti_pr": "3.5", "ti_qu": "2", "ti_cu": "EUR"},
            {"event": "transaction_item", "event_name": "transaction_item", "ti_orderid": "o", "ti_sku": "s", "ti_name": "n",
             "ti_category": "c", "ti_price": 3.5, "ti_quantity": 2, "ti_currency": "EUR"},
        ),
        ({"e": "ad", "ad_ba": "b"}, {"event": "ad_impression", "event_name": "ad_impression"}),
    ],
)  # fmt: skip
def test_events_of_other_kinds_fill_theirs(event: dict[str, str], columns: Row) -> None:
    found = row({**BASE, **event})
    del found["event_fingerprint"]
    assert found == computed(**columns)


def test_a_schema_of_an_event_and_of_entities_has_a_column_of_json() -> None:
    many = entities((WEB_PAGE, {"id": "p"}), ("iglu:com.acme/user-x/jsonschema/1-0-3", {"a": {"b": 1}}), (WEB_PAGE, {"id": "q"}))
    order = coded(described(ORDER, {"total": 3, "deep": {"a": [1]}}))
    desk, rows = load({**BASE, "e": "ue", "ue_px": order, "cx": coded(many)})
    live = desk.live["events"]
    assert live is not None
    own = (
        "unstruct_event_com_acme_order_placed_2",
        "contexts_com_snowplowanalytics_snowplow_web_page_1",
        "contexts_com_acme_user_x_1",
    )
    assert [live.columns[name].kind for name in own] == [Kind.JSON] * 3
    (found,) = rows
    assert [json.loads(found[name]) for name in own] == [
        {"total": 3, "deep": {"a": [1]}},
        [{"_schema_version": "1-0-0", "id": "p"}, {"_schema_version": "1-0-0", "id": "q"}],
        [{"_schema_version": "1-0-3", "a": {"b": 1}}],
    ]
    assert json.loads(found["unstruct_event"])["schema"] == ORDER
    assert len(json.loads(found["contexts"])) == 3
    names = ("event", "event_vendor", "event_name", "event_format", "event_version")
    assert [found[name] for name in names] == ["unstruct", "com.acme", "order_placed", "jsonschema", "2-0-1"]


def test_a_value_that_does_not_fit_its_column_costs_nothing_else() -> None:
    found = row({**BASE, "vid": "many", "f_pdf": "maybe", "dtm": "yesterday", "res": "big", "se_va": "x"})
    assert json.loads(found["_unmapped_data"]) == {
        "domain_sessionidx": "many", "br_features_pdf": "maybe", "dvce_created_tstamp": "yesterday", "se_value": "x",
    }  # fmt: skip
    assert found["event_name"] == "page_view"


@pytest.mark.parametrize(
    ("times", "derived"),
    [
        ({}, RECEIVED),
        ({"dtm": "1767225600000"}, RECEIVED),
        ({"dtm": "1767225600000", "stm": "1767225605500"}, RECEIVED - timedelta(seconds=5.5)),
        ({"dtm": "1767225600000", "stm": "1767225600000"}, RECEIVED),
        ({"dtm": "1767225600000", "stm": "1767225599000"}, RECEIVED),
        ({"dtm": "1764547199000", "stm": "1767225600000"}, RECEIVED - timedelta(days=31, seconds=1)),
        ({"dtm": "1", "stm": "2", "ttm": "1767225600000"}, datetime(2026, 1, 1, tzinfo=UTC)),
    ],
)
def test_the_derived_time_is_the_true_one_or_that_of_receipt_less_the_delay(times: dict[str, str], derived: datetime) -> None:
    assert row({**BASE, **times})["derived_tstamp"] == derived


def test_what_the_edge_knows_fills_place_browser_and_a_derived_entity() -> None:
    agent = {"browser": "Chrome", "browserVersion": "120.0.1", "os": "Android", "osVersion": "14", "device": "Pixel"}
    place = {"country": "DE", "region": "BW", "city": "Ulm", "postalCode": "89073", "latitude": 48.4, "longitude": 10.0}
    found = row(BASE, agent=agent, geo=place, ip="192.0.2.9", user_agent="Mozilla")
    assert [found[name] for name in ("user_ipaddress", "useragent", "br_family", "br_version", "os_name", "dvce_ismobile")] == [
        "192.0.2.9", "Mozilla", "Chrome", "120.0.1", "Android", True,
    ]  # fmt: skip
    assert [found[name] for name in ("geo_country", "geo_region", "geo_city", "geo_zipcode", "geo_latitude")] == [
        "DE", "BW", "Ulm", "89073", 48.4,
    ]  # fmt: skip
    (derived,) = json.loads(found["derived_contexts"])
    assert derived["data"]["useragentVersion"] == "Chrome 120.0.1"
    assert derived["data"]["osMajor"] == "14"
    assert "contexts_com_snowplowanalytics_snowplow_ua_parser_context_1" in found
    assert "br_family" not in row({**BASE, "ua": "phone"}, agent=agent)


def test_an_event_whose_sender_asked_for_no_address_says_so() -> None:
    assert row({**BASE, "nuid": "00000000-0000-0000-0000-000000000000"})["user_ipaddress"] == "unknown"


def test_the_fingerprint_is_of_what_the_tracker_said_and_not_of_when() -> None:
    first = row({**BASE, "stm": "1767225600000"})
    assert row({**BASE, "stm": "1767225700000", "eid": "other"})["event_fingerprint"] == first["event_fingerprint"]
    assert row({**BASE, "page": "x"})["event_fingerprint"] != first["event_fingerprint"]


def test_an_event_of_another_protocol_fills_what_it_has_values_for() -> None:
    page = {"url": "https://example.com/a", "title": "A"}
    loaded = new_desk().load(
        {
            "type": "track",
            "event": "Signed Up",
            "userId": "u",
            "anonymousId": "a",
            "properties": {"plan": "pro"},
            "context": {"page": page},
        }
    )
    (found,) = loaded.rows("events")
    names = ("event", "event_name", "user_id", "domain_userid", "page_urlhost", "page_title", "event_id")
    assert [found[name] for name in names] == ["unstruct", "Signed Up", "u", "a", "example.com", "A", "m0"]
    kept = json.loads(found["unstruct_event"])
    assert (kept["data"], kept["type"]) == ({"plan": "pro"}, "track")


def test_addresses_that_are_none_fill_nothing_and_cross_domain_links_are_read() -> None:
    for text in ("", "nonsense", "http://[", "http://a:99999999/", "x" * 10_000, "javascript:1"):
        assert "page_urlhost" not in of_page(text)
        assert "refr_medium" not in of_referrer(text, None)
    crossed = of_page("http://a.com/?_sp=d-9.1767225600000&gclid=x")
    assert (crossed["refr_domain_userid"], crossed["refr_dvce_tstamp"]) == ("d-9", datetime(2026, 1, 1, tzinfo=UTC))
    assert (crossed["mkt_clickid"], crossed["mkt_network"], crossed["page_urlport"]) == ("x", "Google", 80)
    assert of_referrer("https://a.com/x", "a.com")["refr_medium"] == "internal"
    assert of_referrer("https://notgoogle.example/x", "a.com")["refr_medium"] == "unknown"
    assert of_referrer("https://chatgpt.com/", "a.com")["refr_medium"] == "chatbot"
