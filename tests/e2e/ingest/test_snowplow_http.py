"""Snowplow's protocol over HTTP: own paths, cookies and CORS as pages need them, and the interface of Micro for test suites."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from ingest.settings import IngestSettings
from shared.jetstream.broker import Broker
from tests.e2e.ingest.edge import edge_here
from tests.support.nats import NatsServer
from tests.unit.ingest.snowplows import EVENT_ID, PAGE_VIEW, coded, described, entities, payload

ORDER = "iglu:com.acme/order/jsonschema/1-0-0"
USER = "iglu:com.acme/user/jsonschema/1-0-0"
PAGE = {"Origin": "https://shop.example.com"}
PROJECT: dict[str, Any] = {
    "sites": {
        "shop": {"keys": [{"id": "web"}], "snowplow": {"paths": {"/t/x": "tp2", "/go": "redirect"}, "redirect_hosts": ["a.org"]}},
        "strict": {"keys": [{"id": "strict"}], "origins": ["https://strict.example"]},
    }
}


async def test_pages_send_with_cookies_to_own_paths_and_are_sent_on(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker, PROJECT) as edge, aiohttp.ClientSession(edge.url, auto_decompress=False) as client:
        ask = {**PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,sp-anonymous"}
        for path in ("/com.snowplowanalytics.snowplow/tp2", "/t/x", "/i"):
            async with client.options(path, headers=ask) as answer:
                assert answer.headers["Access-Control-Allow-Origin"] == PAGE["Origin"]
                assert answer.headers["Access-Control-Allow-Credentials"] == "true"
                assert "sp-anonymous" in answer.headers["Access-Control-Allow-Headers"]
        async with client.options("/v1/track", headers=ask) as answer:
            assert "Access-Control-Allow-Credentials" not in answer.headers
        async with client.post("/t/x", data=payload(PAGE_VIEW), headers={**PAGE, "Cookie": "sp=abc"}) as answer:
            assert (answer.status, await answer.text()) == (200, "ok")
            assert answer.headers["Access-Control-Allow-Credentials"] == "true"
            assert answer.headers["Vary"] == "Origin"
            assert answer.headers["Set-Cookie"].startswith("sp=abc; Max-Age=31536000; ")
        async with client.get("/go?u=https://a.org/x", allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (302, "https://a.org/x")
        async with client.get("/go?u=https://b.org/x", allow_redirects=False) as answer:
            assert answer.status == 400
        async with client.get("/t/x?e=pv&aid=shop", headers=PAGE) as answer:
            assert (answer.status, answer.content_type) == (200, "image/gif")
        async with client.post("/t/x", data=b"{") as answer:
            assert (answer.status, "Set-Cookie" in answer.headers) == (400, False)
        stranger = {"Origin": "https://evil.example", "X-Write-Key": "strict"}
        async with client.post("/com.acme/track", data=payload(PAGE_VIEW), headers=stranger) as answer:
            assert answer.status == 403
            assert "Access-Control-Allow-Credentials" not in answer.headers
        for path in ("/v1/track", "/t/y", "/micro/all"):
            async with client.get(path) as answer:
                assert answer.status in (404, 405)
        assert len(await edge.events()) == 3


async def test_a_suite_for_micro_finds_good_and_bad_events_and_resets(nats: NatsServer, broker: Broker) -> None:
    order = {
        "e": "ue",
        "p": "web",
        "tv": "t",
        "ttm": "1477401868000",
        "ue_px": coded(described(ORDER, {"total": 3})),
        "cx": coded(entities((USER, {"a": 1}))),
    }
    async with edge_here(nats, broker, PROJECT, micro=True) as edge, aiohttp.ClientSession(edge.url) as client:

        async def ask(what: str, filters: Any = None) -> Any:
            async with client.request("GET" if filters is None else "POST", f"/micro/{what}", json=filters) as answer:
                assert answer.status == 200
                return await answer.json()

        assert await ask("all") == {"total": 0, "good": 0, "bad": 0}
        for body in (payload({"e": "zz"}, PAGE_VIEW, order), b"{"):
            async with client.post("/t/x?aid=own", data=body, headers={"Content-Language": "de"}):
                pass
        assert await ask("all") == {"total": 4, "good": 2, "bad": 2}
        (view,) = await ask("good", {"event_type": "page_view"})
        assert (view["event"]["event_id"], view["event"]["page_urlhost"], view["event"]["tr_total"]) == (
            EVENT_ID,
            "shop.example.com",
            None,
        )
        assert len(view["event"]) == 131
        (found,) = await ask("good", {"schema": ORDER, "contexts": [USER]})
        assert (found["eventType"], found["schema"], found["contexts"]) == ("unstruct", ORDER, [USER])
        assert found["event"]["unstruct_event"]["data"] == {"schema": ORDER, "data": {"total": 3}}
        assert found["event"]["contexts"]["data"] == [{"schema": USER, "data": {"a": 1}}]
        assert found["event"]["true_tstamp"] == "2016-10-25T13:24:28Z"
        assert found["rawEvent"]["parameters"] == {**order, "aid": "own"}
        assert "content-language: de" in map(str.lower, found["rawEvent"]["context"]["headers"])
        assert found["event"]["useragent"] == found["rawEvent"]["context"]["useragent"]
        assert await ask("good", {"schema": ORDER, "contexts": ["iglu:no/one/jsonschema/1-0-0"]}) == []
        assert len(await ask("good", {"limit": 1})) == 1
        refused, rejected = await ask("bad")
        assert refused["errors"][0].startswith("invalid_json: ")
        assert rejected["errors"][0].startswith("unknown_type: ")
        assert await ask("reset") == {"total": 0, "good": 0, "bad": 0}
        assert await ask("good") == []


def test_micro_needs_one_process() -> None:
    with pytest.raises(ValueError, match="micro: it shows the events of one process"):
        IngestSettings(micro=True, processes=2)


async def test_schemas_of_a_folder_are_counted_and_what_does_not_fit_is_a_dead_letter(
    nats: NatsServer, broker: Broker, tmp_path: Path
) -> None:
    place = tmp_path / "com.acme/order/jsonschema"
    place.mkdir(parents=True)
    (place / "1-0-0").write_text('{"properties": {"total": {"type": "number"}}}')
    snowplow = {"schemas": str(tmp_path), "on_invalid": "dead_letter"}
    project = {
        "sites": {
            "shop": {"keys": [{"id": "web"}], "snowplow": snowplow},
            "mild": {"keys": [{"id": "mild"}], "snowplow": {**snowplow, "on_invalid": "warn"}},
        }
    }

    def order(total: Any, schema: str = ORDER) -> dict[str, str]:
        return {"e": "ue", "p": "web", "tv": "t", "ue_px": coded(described(schema, {"total": total}))}

    body = payload(order(1), order("x"), order(1, USER))
    async with edge_here(nats, broker, project) as edge, aiohttp.ClientSession(edge.url) as client:
        for key in ("web", "mild"):
            async with client.post("/com.acme/track", data=body, headers={"X-Write-Key": key}) as answer:
                assert answer.status == 200
        assert len(await edge.events()) == 2
        (letter,) = await edge.dead()
        assert letter.reason == "schema_violation"
        assert edge.count("ingest_schemas_unknown_total", site="shop") == 1
        assert len(await edge.events("mild")) == 3
        assert edge.count("ingest_schemas_violated_total", site="mild") == 1
