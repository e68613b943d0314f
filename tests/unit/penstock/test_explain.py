"""`penstock explain`: what each connection would do with an event, without a stack; and the trial of functions on many events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from functions_runtime.definition import Definition
from functions_runtime.sandbox.guest import Code
from penstock.command.cli import run
from penstock.control.explain.explain import explain
from penstock.control.functions.passage import Passage
from penstock.terminal import exits
from shared.events.frame import Head, RequestContext, pack
from shared.events.shards import part_of
from shared.project.functions import PrivacyRule
from shared.project.model import Connection, Key, Project, Site
from shared.project.shards import shard_name

PROJECT = """\
sites:
  shop: {keys: [{id: web}]}
  other: {keys: [{id: other}]}
destinations:
  wh: {type: duckdb, path: wh.duckdb}
  hook: {type: webhook, url: "https://example.com/x", headers: {X-Key: a-secret-of-the-hook}}
  chat: {type: slack, url: "https://hooks.slack.com/services/T0/B0/abcdefgh"}
  files: {type: local, path: out}
functions:
  mark:
    code: >-
      export default async (event, ctx) => { ctx.log.info("plan", ctx.props.PLAN); await ctx.store.set("n", 1);
      try { await fetch("https://example.com") } catch (e) { ctx.log.warn(e.message) }
      event.properties.seen = true; return event }
  double: {code: 'export default async (event, ctx) => [event, {...event, event: "copy", n: await ctx.store.get("n")}]'}
  throws: {code: 'export default () => { throw new Error("no luck") }'}
  drops: {code: 'export default () => null'}
  later: {code: 'export default () => { throw new RetryError("busy", {drop: true}) }'}
"""
NEITHER = (
    'where.all[0] {"any":[{"field":"type","eq":"page"},{"field":"event","eq":"X"}]} fails; '
    'where.all[1] {"not":{"field":"userId","eq":"u"}} fails'
)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def explained(
    capsys: pytest.CaptureFixture[str], *options: str, connections: str, event: str | None = None, code: int = exits.OK
) -> Any:
    Path("penstock.yaml").write_text(PROJECT + "connections:\n" + connections)
    Path("event.json").write_text(event or ORDER)
    assert run(["explain", "event.json", "--site", "shop", "--json", *options]) == code
    return json.loads(capsys.readouterr().out)


ORDER = json.dumps(
    {
        "type": "track",
        "event": "Order",
        "userId": "u",
        "messageId": "m1",
        "properties": {"total": 6, "card": "4242"},
        "traits": {"email": "a@b.c"},
        "context": {"consent": {"categoryPreferences": {"ads": False}}},
        "integrations": {"wh": False},
    }
)


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ('{"type":"identify"}', "missing_id"),
        ('{"userId":"u"}', "missing_type"),
        ("[1", "malformed_json"),
    ],
)
def test_the_edge_says_why_it_rejects_an_event(capsys: pytest.CaptureFixture[str], event: str, reason: str) -> None:
    found = explained(capsys, connections="  a: {site: shop, destination: wh}\n", event=event, code=exits.NO)
    assert found["edge"]["accepted"] is False
    assert found["edge"]["reason"] == reason
    assert found["connections"] == []


@pytest.mark.parametrize(
    ("rule", "reason", "detail"),
    [
        ("enabled: false", "", ""),
        ("sample: 0.0001", "sampled", "sample is 0.0001, and the user's place is 0.947"),
        ("consent: [ads, mail]", "consent", "no consent to ads, mail"),
        ("integrations: true", "integrations", "its `integrations` say false for wh"),
        (
            "where: [{field: type, eq: track}, {field: properties.total, gt: 9}]",
            "filtered",
            'where[1] {"field":"properties.total","gt":9} fails; the event has 6',
        ),
        (
            "where: {all: [{any: [{field: type, eq: page}, {field: event, eq: X}]}, {not: {field: userId, eq: u}}]}",
            "filtered",
            NEITHER,
        ),
    ],
)
def test_a_connection_that_leaves_it_out_says_by_which_rule(
    capsys: pytest.CaptureFixture[str], rule: str, reason: str, detail: str
) -> None:
    found = explained(
        capsys, connections=f"  a: {{site: shop, destination: wh, {rule}}}\n  o: {{site: other, destination: wh}}\n"
    )
    assert len(found["connections"]) == 1
    way = found["connections"][0]
    assert way["result"] == ("dropped" if reason else "disabled")
    assert (way["reason"], way["detail"]) == (reason, detail)


def test_the_questions_of_the_router_are_shown_in_their_order_up_to_the_one_that_drops_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.PROJECT", PROJECT.replace("shop: {", "shop: {where: {field: event, eq: Order}, "))
    rules = "consent: [mail], integrations: true, where: {field: type, eq: track}, sample: 0.5"
    way = explained(capsys, connections=f"  a: {{site: shop, destination: wh, {rules}}}\n")["connections"][0]
    assert [(step["step"], step["verdict"]) for step in way["route"]] == [
        ("suppressed", "unasked"),
        ("site where", "passes"),
        ("consent", "drops"),
        ("integrations", "unasked"),
        ("where", "unasked"),
        ("sample", "unasked"),
    ]


def test_rules_functions_and_tables_are_shown_step_by_step(capsys: pytest.CaptureFixture[str]) -> None:
    connection = """\
  a:
    site: shop
    destination: wh
    layout: single_table
    integrations: false
    functions: [mark, double]
    functions_env: {PLAN: gold-of-the-shop}
    privacy:
      - {field: traits.email, do: hash, secret: s}
      - {field: properties.card, do: drop}
      - {field: properties.phone, do: drop}
"""
    way = explained(capsys, connections=connection)["connections"][0]
    assert way["result"] == "loaded"
    hashed, dropped, missed = way["rules"]
    assert (hashed["changed"][0]["before"], len(hashed["changed"][0]["after"])) == ("a@b.c", 64)
    assert dropped["changed"] == [{"field": "properties.card", "before": "4242"}]
    assert (missed["missed"], missed["changed"]) == (True, [])
    mark, double = (step["tried"] for step in way["functions"])
    assert (mark["result"], mark["store"]) == ("changed", {"n": 1})
    assert mark["logs"] == ["info  plan •••", "warn  fetch: nothing is sent here; allow it with --fetch"]
    assert mark["calls"] == ["set n", "fetch https://example.com"]
    assert [event.get("n") for event in double["events"]] == [None, 1]
    table = way["tables"][0]
    columns = {column["column"]: (column["type"], column["values"]) for column in table["columns"]}
    assert table["rows"] == 2
    assert columns["total"] == ("bigint", [6, 6])
    assert columns["seen"] == ("boolean", [True, True])
    assert columns["message_id"] == ("text", ["m1", "m1_1"])
    assert "card" not in columns
    assert not Path("wh.duckdb").exists()


def test_calls_are_shown_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    found = explained(capsys, connections="  a: {site: shop, destination: hook}\n  b: {site: shop, destination: chat}\n")
    hook, chat = found["connections"]
    assert (hook["result"], hook["calls"][0]["headers"]["X-Key"]) == ("sent", "•••")
    assert hook["calls"][0]["body"]["messageId"] == "m1"
    assert (chat["result"], chat["calls"][0]["url"]) == ("sent", "•••")


@pytest.mark.parametrize(
    ("functions", "options", "result", "reason"),
    [
        ("drops, mark", "", "dropped", "function"),
        ("throws", "", "loaded", ""),
        ("throws", ", on_error: dead_letter", "dead_letter", "function_failed"),
        ("double, mark", "", "dead_letter", "function_result"),
        ("later", "", "again_later", ""),
    ],
)
def test_a_function_can_end_it(
    capsys: pytest.CaptureFixture[str], functions: str, options: str, result: str, reason: str
) -> None:
    connection = f"  a: {{site: shop, destination: files, integrations: false, functions: [{functions}]{options}}}\n"
    found = explained(capsys, connections=connection, code=exits.NO if result == "dead_letter" else exits.OK)
    way = found["connections"][0]
    assert (way["result"], way["reason"]) == (result, reason)
    assert len(way["functions"]) == 1


@pytest.mark.parametrize(
    ("ids", "does", "words"),
    [
        ({"anonymousId": "d"}, "keeps", "identity: gets the user of d if one is known, else is kept for 7 days"),
        ({"anonymousId": "d", "userId": "jane"}, "learns", "identity: tells that d is jane"),
        ({"userId": "jane"}, "none", "identity: nothing to do, it has no anonymousId"),
    ],
)
def test_it_says_what_stitching_does(capsys: pytest.CaptureFixture[str], ids: dict[str, str], does: str, words: str) -> None:
    event = json.dumps({"type": "page", "messageId": "m1", **ids})
    found = explained(capsys, connections="  a: {site: shop, destination: wh, identity: {}}\n", event=event)
    assert [step["does"] for step in found["connections"][0]["identity"]] == [does]
    assert run(["explain", "event.json", "--site", "shop"]) == exits.OK
    assert words in capsys.readouterr().out


def test_people_get_a_tree(capsys: pytest.CaptureFixture[str]) -> None:
    explained(capsys, connections="  a: {site: shop, destination: wh, integrations: false, functions: [double]}\n")
    assert run(["explain", "event.json", "--site", "shop"]) == exits.OK
    said = capsys.readouterr().out
    assert "accepts track 'Order', messageId m1" in said
    assert "a → wh (duckdb) loads it" in said
    assert "function double: changed, 2 events go on" in said
    assert "table tracks: 2 rows" in said


def test_a_wrong_site_or_key_names_those_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    Path("penstock.yaml").write_text(PROJECT)
    Path("event.json").write_text(ORDER)
    for options, words in (
        ([], "say which site gets the event: other, shop"),
        (["--site", "x"], "no site is named 'x'; known: other, shop"),
        (["--site", "shop", "--key", "x"], "site 'shop' has no key 'x'; known: web"),
    ):
        assert run(["explain", "event.json", *options]) == exits.WRONG_INPUT
        assert words in capsys.readouterr().err


async def test_many_events_pass_as_in_the_service_and_are_counted() -> None:
    code = (
        "export default async (event) => { if (event.n === 0) return null; if (event.n === 1) throw new NoRetryError('x');"
        "if (event.n === 2) throw new Error('y'); await fetch('https://example.com').catch(() => 0); return [event, {...event}] }"
    )
    connection = Connection(site="shop", destination="wh", functions=["f"], privacy=[PrivacyRule(field="card", do="drop")])
    definition = Definition(name="a", queue="a", connection=connection, functions=(Code("f", code),), destination_type="duckdb")
    bodies = [json.dumps({"type": "track", "event": "E", "userId": "u", "n": n, "card": 1}).encode() for n in range(4)]
    frame = pack("shop", [RequestContext(0, "segment", "web")], [Head(f"m{n}", "track", "E", "u") for n in range(4)], bodies)
    async with Passage(definition) as passage:
        passed = await passage.through(frame)
    assert passed is not None
    assert [head.message_id for head in passed.heads] == ["m2", "m3", "m3_1"]
    assert all(b"card" not in body for body in passed.bodies())
    assert (dict(passage.dropped), dict(passage.dead), dict(passage.errors)) == (
        {"function": 1},
        {"function_failed": 1},
        {"f": 1},
    )
    assert any("`fetch` 1 time" in doubt for doubt in passage.doubts())


async def test_functions_that_cannot_run_are_a_doubt_and_let_nothing_pass() -> None:
    connection = Connection(site="shop", destination="wh", functions=["f"])
    definition = Definition(
        name="a", queue="a", connection=connection, functions=(Code("f", "export default ("),), destination_type="duckdb"
    )
    frame = pack("shop", [RequestContext(0, "segment", "web")], [Head("m", "track", "E", "u")], [b'{"type":"track","event":"E"}'])
    async with Passage(definition) as passage:
        assert await passage.through(frame) is None
    assert "its functions cannot run here" in passage.doubts()[0]


@pytest.mark.parametrize("packed", [False, True])
async def test_an_event_of_a_snowplow_tracker_is_explained_as_the_edge_takes_it(packed: bool) -> None:
    event: dict[str, Any] = {"e": "se", "p": "web", "tv": "t", "se_ca": "c", "se_ac": "a", "eid": "e-1"}
    schema = "iglu:com.snowplowanalytics.snowplow/payload_data/jsonschema/1-0-4"
    body = json.dumps({"schema": schema, "data": [event]} if packed else event).encode()
    project = Project(sites={"shop": Site(keys=[Key(id="web")])})
    found = await explain(body, project, "shop")
    assert (found.edge.accepted, found.edge.type, found.edge.event, found.edge.message_id) == (True, "track", "struct", "e-1")
    refused = await explain(body.replace(b'"se"', b'"zz"'), project, "shop")
    assert refused.edge.reason == "unknown_type"


def test_a_connection_with_shards_says_which_of_them_gets_the_event(capsys: pytest.CaptureFixture[str]) -> None:
    connections = "  shop-pg: {site: shop, destination: pg, shards: 3}\n"
    project = PROJECT.replace("destinations:\n", "destinations:\n  pg: {type: postgres, dsn: postgres://x}\n")
    Path("penstock.yaml").write_text(project + "connections:\n" + connections)
    Path("event.json").write_text(ORDER)
    assert run(["explain", "event.json", "--site", "shop"]) == exits.OK
    number = part_of("u", 3) + 1
    assert f"shard: passes: {shard_name('shop-pg', number - 1)}, shard {number} of 3" in capsys.readouterr().out
