"""The layout `snowplow` in real destinations: all of its columns are made at once, and every value comes back from its column."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest

from ingest.protocols import snowplow
from loader.contract.warehouse import Kind
from loader.fitting.fit import fit_batch
from loader.rows.shape import Shaper
from shared.events.frame import Frame, RequestContext, pack
from shared.project.model import Connection
from shared.snowplow.columns import COLUMNS
from tests.support.destinations.opened import Open, plan
from tests.unit.ingest.snowplows import EVENT_ID, PAGE_VIEW, coded, described, entities, parsed, payload, post
from tests.unit.loader.shaping import RECEIVED, STAMP

ORDER = "iglu:com.acme/order_placed/jsonschema/2-0-1"
OTHER_ID = "d6ef3124-b53a-4b13-a233-0088f79dcbcc"
OWN = {
    "unstruct_event_com_acme_order_placed_2": Kind.JSON,
    "contexts_com_acme_user_1": Kind.JSON,
    "load_tstamp": Kind.TIMESTAMP,
}


def frame(*events: dict[str, Any]) -> Frame:
    taken = parsed(post(payload(*events)))
    assert taken.rejects == []
    request = RequestContext(int(RECEIVED.timestamp()) * 1_000_000, snowplow.NAME, "web", ip="192.0.2.1", geo={"latitude": 48.5})
    return pack("shop", [request], taken.heads, [bytes(each) for each in taken.bodies])


@pytest.mark.only("duckdb", "postgres", "clickhouse", "mysql", "local-parquet")
async def test_a_batch_of_snowplow_events_comes_back_column_by_column(wh: Open) -> None:
    connection = Connection(site="shop", destination="wh", layout="snowplow")
    shaper = Shaper("shop-wh", connection, wh.capabilities, "shop")
    order = coded(described(ORDER, {"total": 3.5, "lines": [{"sku": "é"}]}))
    user = coded(entities(("iglu:com.acme/user/jsonschema/1-0-0", {"level": 2}), ("iglu:com.acme/user/jsonschema/1-0-2", {})))
    struct = {
        "e": "se",
        "eid": OTHER_ID,
        "p": "app",
        "tv": "t",
        "se_ca": "c",
        "se_ac": "a",
        "se_va": "1.25",
        "f_pdf": "1",
        "cx": user,
    }
    ordered = {"e": "ue", "eid": OTHER_ID.replace("d6", "e6"), "ue_px": order, "p": "srv", "tv": "t", "tr_tt": "20.10"}
    shaper.add(frame({**PAGE_VIEW, "ttm": "1767225600456"}, struct, ordered), 1)
    session = await wh.session()
    batch = shaper.take()
    fitted = fit_batch(batch, await session.describe([*batch.tables]), shaper.rules, STAMP)
    live = {patch.table: await session.patch(patch) for patch in fitted.patches}
    done = fitted.finish(live)
    assert not done.dead
    assert not done.unmapped
    await session.load(plan(1), [ready.load for ready in done.ready])
    shape = {**{name: Kind(kind) for name, kind in COLUMNS.items()}, **OWN}
    found = {row["event_id"]: row for row in await wh.rows("events", shape, order="event_id")}
    assert set(found) == {EVENT_ID, OTHER_ID, OTHER_ID.replace("d6", "e6")}
    view, structured, placed = (found[each] for each in (EVENT_ID, OTHER_ID, OTHER_ID.replace("d6", "e6")))
    expected = {
        "page_urlport": 443, "domain_sessionidx": 3, "br_viewwidth": 900, "geo_latitude": 48.5, "user_ipaddress": "192.0.2.1",
        "mkt_source": "news", "refr_medium": "search", "event_name": "page_view", "domain_userid": "d-1", "se_value": None,
    }  # fmt: skip
    assert {name: view[name] for name in expected} == expected
    assert bool(view["br_cookies"]) is True
    assert bool(structured["br_features_pdf"]) is True
    assert moment(view["true_tstamp"]) == moment(view["derived_tstamp"]) == "2026-01-01 00:00:00.456"
    assert (structured["se_value"], placed["tr_total"], placed["event_version"]) == (1.25, 20.1, "2-0-1")
    assert read(placed["unstruct_event_com_acme_order_placed_2"]) == {"total": 3.5, "lines": [{"sku": "é"}]}
    assert read(structured["contexts_com_acme_user_1"]) == [
        {"_schema_version": "1-0-0", "level": 2},
        {"_schema_version": "1-0-2"},
    ]
    # the second batch finds a table that needs nothing
    shaper.add(frame(PAGE_VIEW), 2)
    again = shaper.take()
    now = await session.describe([*again.tables]) if wh.capabilities.evolve else {}
    if wh.capabilities.evolve:
        assert fit_batch(again, now, shaper.rules, STAMP).patches == []


def read(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def moment(value: Any) -> str:
    assert isinstance(value, datetime), value
    return value.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
