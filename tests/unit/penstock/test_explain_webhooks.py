"""`penstock explain --webhook`: a delivery of another system, judged by the rules of its webhook."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from penstock.command.cli import run
from penstock.command.explained import _lines as lines_of
from penstock.control.explain.explain import explain
from penstock.terminal import exits
from shared.project.read import load_project
from shared.reading.document import parse_document

PROJECT = """\
sites: {shop: {keys: [{id: web}]}, other: {}}
destinations: {wh: {type: duckdb, path: wh.duckdb}}
connections: {load: {site: shop, destination: wh}}
webhooks:
  pay: {site: shop, type: stripe, secret: "${file:/run/secrets/pay}"}
  plain: {site: other, type: open}
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("penstock.yaml").write_text(PROJECT)


@pytest.mark.parametrize("many", [False, True])
def test_a_delivery_is_judged_by_its_webhook_without_its_secret(capsys: pytest.CaptureFixture[str], many: bool) -> None:
    delivery = {"id": "evt_1", "type": "invoice.paid", "amount": 5}
    Path("paid.json").write_text(json.dumps([delivery, {"id": "evt_2", "type": "x"}] if many else delivery))
    assert run(["explain", "paid.json", "--webhook", "pay", "--json"]) == exits.OK
    found = json.loads(capsys.readouterr().out)
    assert found["site"] == "shop"
    assert {name: found["edge"][name] for name in ("accepted", "type", "event", "message_id")} == {
        "accepted": True,
        "type": "webhook",
        "event": "invoice.paid",
        "message_id": "pay:evt_1",
    }
    assert [way["result"] for way in found["connections"]] == ["loaded"]


def test_a_delivery_without_its_webhook_is_rejected_with_what_to_write(capsys: pytest.CaptureFixture[str]) -> None:
    Path("paid.json").write_text('{"id": "evt_1", "object": "event"}')
    assert run(["explain", "paid.json", "--site", "shop"]) == exits.NO
    assert "--webhook NAME" in "".join(capsys.readouterr())


def test_a_webhook_of_another_site_or_none_names_those_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    Path("paid.json").write_text("{}")
    for name in ("plain", "nobody"):
        assert run(["explain", "paid.json", "--site", "shop", "--webhook", name]) != exits.OK
        assert "known: pay" in "".join(capsys.readouterr())


def test_a_form_is_read_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    for text, column in (("MessageStatus=sent&To=%2B1", "message_status"), ("a text with a=b in it", "data")):
        Path("form.txt").write_text(text)
        assert run(["explain", "form.txt", "--webhook", "pay", "--json"]) == exits.OK
        assert f'"{column}"' in capsys.readouterr().out


async def _sold(_: web.Request) -> web.Response:
    return web.json_response({"total": 9.5})


@pytest.mark.parametrize("fetch", [False, True])
async def test_hydration_is_shown_and_sent_only_when_asked_for(fetch: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    application = web.Application()
    application.router.add_get("/orders/{id}", _sold)
    monkeypatch.setenv("PENSTOCK_FUNCTIONS_EGRESS", "127.0.0.1")
    async with TestServer(application) as server:
        address = f"{server.make_url('/orders/')}{{id}}?key=hidden"
        hydrate = {"url": address, "into": "properties.order", "headers": {} if fetch else {"X": "${file:/run/secrets/none}"}}
        project = load_project(
            json.dumps({**parse_document(PROJECT), "webhooks": {"hook": {"site": "shop", "type": "open", "hydrate": hydrate}}})
        )
        found = await explain(b'{"id": "a/7"}', project, "shop", webhook="hook", fetch=fetch)
    (way,) = found.connections
    (step,) = way.hydration
    assert step.address == address.replace("{id}?key=hidden", "a%2F7")
    assert step.result == ("ok" if fetch else "unasked")
    assert [change.field for change in step.changed] == (["context.webhook.hydration", "properties.order"] if fetch else [])
    assert (way.result, "order_total" in [column.column for column in way.tables[0].columns]) == ("loaded", fetch)
    lines = "\n".join(lines_of(way))
    assert "hydration of hook: GET " in lines
    assert "hidden" not in lines


async def test_a_request_that_may_not_be_sent_says_what_allows_it() -> None:
    hydrate = {"url": "http://127.0.0.1:1/{id}"}
    project = load_project(
        json.dumps({**parse_document(PROJECT), "webhooks": {"hook": {"site": "shop", "type": "open", "hydrate": hydrate}}})
    )
    (way,) = (await explain(b'{"id": 7}', project, "shop", webhook="hook", fetch=True)).connections
    assert way.hydration[0].detail.endswith("an operator allows networks with PENSTOCK_FUNCTIONS_EGRESS")
