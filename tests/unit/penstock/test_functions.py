"""`penstock fn`, and what plan and apply say of functions that cannot be loaded: without a stack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from penstock.command.cli import run
from penstock.control.functions.compiled import compile_functions
from penstock.control.project.projects import check_document
from penstock.terminal import exits
from shared.errors import ConfigError


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, text: str) -> str:
    file = Path(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return name


def said(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_a_new_function_holds_its_cases_and_is_not_written_over(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fn", "new", "clean"]) == exits.OK
    assert {file.name for file in Path("functions").iterdir()} == {"clean.ts", "clean.cases.json", "penstock.d.ts"}
    capsys.readouterr()
    assert run(["fn", "test", "--json"]) == exits.OK
    assert [verdict["ok"] for verdict in said(capsys)] == [True, True]
    assert run(["fn", "new", "clean"]) == exits.SETUP
    assert "is there already" in capsys.readouterr().err


def test_a_case_that_does_not_hold_says_what_is_different(capsys: pytest.CaptureFixture[str]) -> None:
    write(
        "f.js",
        "export default async (event, ctx) => { if (event.n > 2) throw new Error('large'); await ctx.store.set('n', event.n); return {n: event.n + 1} }",
    )
    cases = [
        {"event": {"n": 1}, "expect": {"n": 2}, "keeps": {"n": 1}},
        {"event": {"n": 1}, "expect": {"n": 3}},
        {"event": {"n": 5}, "expect": "unchanged", "error": "large"},
        {"event": {"n": 5}, "expect": "unchanged"},
        {"event": {"n": 1}, "expect": {"n": 2}, "keeps": {}},
    ]
    write("f.cases.json", json.dumps(cases))
    assert run(["fn", "test", "f.js", "--json"]) == exits.NO
    verdicts = said(capsys)
    assert [verdict["ok"] for verdict in verdicts] == [True, False, True, False, False]
    assert verdicts[1]["difference"] == 'expected [{"n":3}], got [{"n":2}]'
    assert "large" in verdicts[3]["difference"]
    assert "keep" in verdicts[4]["difference"]


def test_an_event_is_run_through_functions_with_what_they_log_ask_and_keep(capsys: pytest.CaptureFixture[str]) -> None:
    one = write(
        "one.js",
        "export default async (event, ctx) => { ctx.log.info('seen', ctx.props.A); await ctx.store.set('k', 5); return {...event, a: 1} }",
    )
    two = write(
        "two.ts",
        "export default async (event: any) => { try { await fetch('https://example.com') } catch (e) { return [event, {...event, said: e.message}] } }",
    )
    event = write("event.json", '{"type":"track"}')
    assert run(["fn", "run", one, two, "--event", event, "--env", "A=b", "--json"]) == exits.OK
    tried = said(capsys)
    assert tried["result"] == "changed"
    assert tried["events"][0] == {"type": "track", "a": 1}
    assert "allow it with --fetch" in tried["events"][1]["said"]
    assert tried["store"] == {"k": 5}
    assert tried["logs"] == ["info  seen b"]
    assert tried["calls"] == ["set k", "fetch https://example.com"]


BATCH = """let calls = 0;
export async function transformBatch(events, metadata) {
    calls++;
    return events.filter((e) => e.type === "track").map((e) => ({...e, of: events.length, calls, big: e.big}));
}"""


def test_events_go_through_a_function_as_one_batch(capsys: pytest.CaptureFixture[str]) -> None:
    code = write("batch.js", BATCH)
    sent = '[{"type":"track","messageId":"1"}, {"type":"page","messageId":"2"}, {"type":"track","messageId":"3","big":1.000000000000000000001}]'
    assert run(["fn", "run", code, "--event", write("events.json", sent), "--json"]) == exits.OK
    made = said(capsys)
    assert [[each["messageId"] for each in tried["events"]] for tried in made["events"]] == [["1"], [], ["3"]]
    assert [tried["result"] for tried in made["events"]] == ["changed", "dropped", "changed"]
    assert made["events"][2]["events"][0] | {"big": 0} == {"type": "track", "messageId": "3", "of": 3, "calls": 1, "big": 0}
    assert run(["fn", "run", code, "--event", "events.json"]) == exits.OK
    assert "dropped by batch.js, 0 events go on, event 2 of 3" in capsys.readouterr().out


def test_cases_may_hold_a_batch(capsys: pytest.CaptureFixture[str]) -> None:
    write("batch.js", BATCH)
    one, two = {"type": "track", "messageId": "1"}, {"type": "page", "messageId": "2"}
    cases = [
        {"events": [one, two, one], "expect": [one | {"of": 3, "calls": 1}, one | {"of": 3, "calls": 1}]},
        {"events": [one, two], "expect": [one]},
        {"event": one, "expect": one | {"of": 1, "calls": 3}},
    ]
    write("batch.cases.json", json.dumps(cases))
    assert run(["fn", "test", "batch.js", "--json"]) == exits.NO
    verdicts = said(capsys)
    assert [verdict["ok"] for verdict in verdicts] == [True, False, True]
    assert verdicts[1]["difference"].endswith('got [{"type":"track","messageId":"1","of":2,"calls":2}]')
    write("batch.cases.json", json.dumps([{"event": one, "events": [one], "expect": one}]))
    assert run(["fn", "test", "batch.js"]) == exits.WRONG_INPUT
    assert "one `event`, or several `events`" in capsys.readouterr().err


def test_the_store_here_keeps_to_the_rules_of_the_real_one(capsys: pytest.CaptureFixture[str]) -> None:
    code = """const tried = async (work) => { try { return await work() } catch (error) { return error.message } };
        export default async (event, { store }) => {
            await store.set("k", 1, { ttl: "1d" });
            const add = () => store.update("n", async (was) => { await 0; return (was ?? 0) + 1 });
            await Promise.all([add(), add(), add()]);
            return { said: [await store.ttl("k"), await tried(() => store.get("")), await tried(() => store.set("k", "x".repeat(70000))),
                await tried(() => store.set("k", 1, "soon")), await store.get("n"), await store.del("k"), await store.get("k")] };
        }"""
    assert run(["fn", "run", write("f.js", code), "--event", write("event.json", "{}"), "--json"]) == exits.OK
    tried = said(capsys)
    left, key, large, soon, *rest = tried["events"][0]["said"]
    assert left == 86_400
    assert "a key is a text" in key
    assert "larger than 64 KiB" in large
    assert "expected a duration" in soon
    assert rest == [3, None, None]
    assert tried["store"] == {"n": 3}


@pytest.mark.parametrize("name", ["my fn", "clean.ts", "a/b", "Clean"])
def test_a_new_function_has_a_name_that_a_project_takes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fn", "new", name]) == exits.WRONG_INPUT
    assert f"starts with a letter or digit; got {name!r}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "event", "env", "message"),
    [
        ("export default (e) => { retrn e }", "{}", "A=b", "f.js: SyntaxError"),
        ("export default (e) => e", "[1]", "A=b", "expected one event as a JSON object"),
        ("export default (e) => e", "[]", "A=b", "the list has no event"),
        ("export default (e) => e", "{}", "A", "expected NAME=VALUE"),
    ],
)
def test_what_cannot_be_run_says_why(code: str, event: str, env: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    write("f.js", code)
    assert run(["fn", "run", "f.js", "--event", write("event.json", event), "--env", env]) == exits.WRONG_INPUT
    assert message in capsys.readouterr().err


def test_a_project_with_code_that_cannot_be_loaded_is_refused_whole() -> None:
    write("functions/bad.ts", "export default (event) => {\n  return event.\n}\n")
    document = {
        "sites": {"shop": {}},
        "destinations": {"wh": {"type": "duckdb", "path": "x"}},
        "functions": {"bad": {"file": "functions/bad.ts"}, "good": {"code": "export default (event) => event"}},
        "connections": {"c": {"site": "shop", "destination": "wh", "functions": ["good", "bad"]}},
    }
    with pytest.raises(ConfigError) as raised:
        check_document(document, {}, Path())
    (problem,) = raised.value.problems
    assert problem.path == "functions.bad"
    assert problem.message.startswith("functions/bad.ts, line 3, column 1: SyntaxError")


def test_one_function_that_hangs_hides_no_other() -> None:
    problems = compile_functions(
        {"loop": {"code": "while (true) {}"}, "bad": {"code": "const ="}, "good": {"code": "export default (e) => e"}}
    )
    assert {problem.path for problem in problems} == {"functions.loop", "functions.bad"}
    assert compile_functions({"good": {"code": "export default (e) => e"}}) == []
    assert compile_functions({}) == []
