"""What functions may return and throw, in the three forms that are understood, and what becomes of the event."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Sequence

import pytest

from functions_runtime.sandbox import wire
from functions_runtime.sandbox.batch import Given
from functions_runtime.sandbox.chain import CallError
from functions_runtime.sandbox.guest import BrokenError
from shared.events.outcome import DeadReason
from tests.support.functions import EVENTS, REQUESTS, Recorder, chain_of, event, events, outputs, run_one


def function(body: str) -> str:
    return f"export default async function (event, ctx) {{ {body} }}"


@pytest.mark.parametrize(
    ("body", "kind", "made"),
    [
        ("", wire.SAME, []),
        ("event.a = 1;", wire.SAME, []),
        ("event.a = 1; return event;", wire.OUTPUTS, [{"a": 1}]),
        ("return [event];", wire.OUTPUTS, [{}]),
        ("return [event, {...event, n: 5}];", wire.OUTPUTS, [{}, {"n": 5}]),
        ("return null;", wire.DROPPED, []),
        ("return false;", wire.DROPPED, []),
        ("return [];", wire.DROPPED, []),
        ("return 'drop';", wire.DROPPED, []),
        ("throw new DropEvent('no');", wire.DROPPED, []),
        ("throw new NoRetryError('no');", wire.DEAD, []),
    ],
)
async def test_what_a_function_returns_decides_what_becomes_of_the_event(
    body: str, kind: int, made: list[dict[str, object]]
) -> None:
    async with chain_of(function(body)) as chain:
        fate = await run_one(chain)
    assert fate.kind == kind
    assert outputs(fate) == [{**event(), **each} for each in made]
    assert fate.reason == (DeadReason.FUNCTION_FAILED if kind == wire.DEAD else "")


@pytest.mark.parametrize(("on_error", "kind"), [("pass", wire.SAME), ("dead_letter", wire.DEAD), ("drop", wire.DROPPED)])
async def test_an_error_is_named_with_its_place(on_error: str, kind: int) -> None:
    async with chain_of(function("\n throw new Error('boom');"), on_error=on_error) as chain:
        fate = await run_one(chain)
    assert fate.kind == kind
    said = fate.errors[0][1] if fate.errors else fate.detail
    assert "boom (line 2, column 8)" in said
    assert fate.function == ("" if kind == wire.SAME else "f0")


async def test_each_function_sees_what_the_one_before_gave_and_a_failed_one_changes_nothing() -> None:
    async with chain_of(
        function("event.a = 1; return event;"),
        function("event.forgotten = 1;"),
        function("event.lost = 1; throw new Error('no');"),
        function("event.b = event.a + 1; return event;"),
    ) as chain:
        fate = await run_one(chain)
    assert outputs(fate) == [{**event(), "a": 1, "b": 2}]
    assert [name for name, _ in fate.errors] == ["f2"]


async def test_only_the_last_function_may_give_several_events() -> None:
    async with chain_of(function("return [event, event];"), function("return event;")) as chain:
        fate = await run_one(chain)
    assert (fate.kind, fate.reason, fate.function) == (wire.DEAD, DeadReason.FUNCTION_RESULT, "f0")


@pytest.mark.parametrize(("options", "kind", "dropped"), [("", wire.SAME, False), (", {drop: true}", wire.DROPPED, True)])
async def test_a_retry_is_asked_for(options: str, kind: int, dropped: bool) -> None:
    async with chain_of(function(f"throw new RetryError('later'{options});")) as chain:
        fate = await run_one(chain)
    assert fate.kind == kind
    assert fate.retry is not None
    assert (fate.retry[1], fate.retry[2]) == ("f0", dropped)


async def test_the_context_says_what_the_server_knows() -> None:
    told = """return {...event, said: [ctx.geo.country, ctx.ua.browser, ctx.headers.referer, ctx.receivedAt.toISOString(), ctx.retries,
        ctx.site.id, ctx.source.id, ctx.destination.type, ctx.connection.id, ctx.props.GREETING, process.env.GREETING]};"""
    async with chain_of(function(told)) as chain:
        fate = (await chain.run(REQUESTS, [Given(json.dumps(event()).encode(), retries=2)]))[0]
    said = outputs(fate)[0]["said"]
    assert said == [
        "DE",
        "Firefox",
        "https://a.example",
        "2026-01-01T00:00:00.000Z",
        2,
        "shop",
        "shop",
        "duckdb",
        "shop-wh",
        "hello",
        "hello",
    ]


async def test_functions_ask_the_host_and_log() -> None:
    host = Recorder(lambda op, _: {"get": 5, "ttl": 60}.get(op))
    body = """await ctx.store.set("k", {a: 1}, "1d"); const had = await ctx.store.get("k"); const left = await ctx.store.ttl("k");
        await ctx.store.del("k"); ctx.log.info("had", had, {left}); console.warn("careful"); return {...event, had, left};"""
    async with chain_of(function(body), host=host) as chain:
        fate = await run_one(chain)
    assert outputs(fate)[0]["had"] == 5
    assert [op for op, _ in host.calls] == ["set", "get", "ttl", "del"]
    assert host.calls[0][1] == ["k", {"a": 1}, "1d"]
    assert host.lines == [("info", 'had 5 {"left":60}'), ("warn", "careful")]


async def test_a_call_that_fails_throws_in_the_function() -> None:
    host = Recorder(lambda _op, _args: CallError("store: no"))
    async with chain_of(
        function("try { await ctx.store.get('k') } catch (e) { return {...event, said: e.message} }"), host=host
    ) as chain:
        assert outputs(await run_one(chain))[0]["said"] == "store: no"


async def test_fetch_gives_a_response() -> None:
    answer = {
        "status": 201,
        "statusText": "Created",
        "headers": [["x-a", "b"]],
        "base64": "eyJhIjoxfQ==",
        "url": "https://x.example/",
        "redirected": False,
    }
    host = Recorder(lambda _op, _args: answer)
    body = """const r = await fetch("https://x.example", {method: "POST", headers: {A: "b"}, body: {c: 1}});
        return {...event, said: [r.status, r.ok, r.headers.get("x-a"), await r.json(), r.url]};"""
    async with chain_of(function(body), host=host) as chain:
        fate = await run_one(chain)
    assert outputs(fate)[0]["said"] == [201, True, "b", {"a": 1}, "https://x.example/"]
    op, (request,) = host.calls[0]
    assert (op, request["method"], request["headers"], request["body"]) == (
        "fetch",
        "POST",
        [["a", "b"], ["content-type", "application/json"]],
        '{"c":1}',
    )


async def test_events_of_one_user_run_in_order_and_others_meanwhile() -> None:
    host = Recorder()
    body = "await ctx.store.set('start', event.n); await new Promise(r => setTimeout(r, 1)); await ctx.store.set('end', event.n); return event;"
    async with chain_of(function(body), host=host) as chain:
        fates = await chain.run(REQUESTS, events())
    assert [outputs(fate)[0]["n"] for fate in fates] == list(range(EVENTS))
    places = {(str(key), int(number)): place for place, (_, (key, number, *_)) in enumerate(host.calls)}
    assert all(places["start", number + 5] > places["end", number] for number in range(EVENTS - 5))
    assert places["start", 1] < places["end", 0]


async def test_typescript_is_understood() -> None:
    code = "enum Color { Red = 3 }\nexport default (event: { n: number; c?: Color }): object => { event.c = Color.Red; return event; }"
    async with chain_of(code) as chain:
        assert outputs(await run_one(chain))[0]["c"] == 3


async def test_helpers_are_there_as_globals_and_imports() -> None:
    code = """import { toSnakeCase, hash, TableNameParameter } from "@jitsu/functions-lib"; import * as lib from "penstock";
        export default async (event) => ({...event, [TableNameParameter]: toSnakeCase("OrderCompleted Twice"), h: await hash.sha256("a"), same: lib.RetryError === RetryError})"""
    async with chain_of(code) as chain:
        made = outputs(await run_one(chain))[0]
    assert (made["JITSU_TABLE_NAME"], made["same"]) == ("order_completed_twice", True)
    assert made["h"] == "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"


async def test_what_a_function_finds_of_the_platform_works() -> None:
    code = """export default async (event) => {
        const ran = await new Promise((resolve) => queueMicrotask(() => resolve(true)));
        const bytes = new TextEncoder().encode("hällo");
        const key = await crypto.subtle.importKey("raw", bytes, {name: "HMAC", hash: "SHA-256"}, false, ["sign"]);
        const timer = setInterval(() => {}, 1000); clearInterval(timer);
        const aborted = new AbortController(); aborted.abort();
        return {...event, said: [ran, new TextDecoder().decode(bytes), atob(btoa("x")), structuredClone({a: [1]}), new URL("/a?b=c", "https://x.example").href,
            new URLSearchParams({a: "b c"}).toString(), new Headers({A: "b"}).get("a"), await new Response("{}").json(),
            aborted.signal.aborted, crypto.randomUUID().length, (await crypto.subtle.sign("HMAC", key, bytes)).byteLength,
            new Intl.NumberFormat("de").format(1234.5), [..."ab"].map((each) => each.toUpperCase()), Object.entries({a: 1}), new Map([[1, 2]]).size,
            "a-b".replaceAll("-", "+"), /(?<x>b)/.exec("abc").groups.x, typeof Temporal, await Promise.all([1, Promise.resolve(2)])]};
    }"""
    async with chain_of(code) as chain:
        fate = await run_one(chain)
    assert not fate.errors
    assert outputs(fate)[0]["said"] == [
        True, "hällo", "x", {"a": [1]}, "https://x.example/a?b=c", "a=b+c", "b", {}, True, 36, 32, "1.234,5", ["A", "B"], [["a", 1]], 1,
        "a+b", "b", "object", [1, 2],
    ]  # fmt: skip


async def test_transformations_of_rudderstack_run_unchanged() -> None:
    code = """export function transformEvent(event, metadata) {
        if (event.n === 1) return;
        if (event.n === 2) return [event, {...event, copy: true}];
        if (event.n === 3) throw new Error("three");
        const meta = metadata(event);
        return {...event, meta: [meta.sourceId, meta.destinationType, meta.eventName]};
    }"""
    async with chain_of(code) as chain:
        fates = await chain.run(REQUESTS, events(4))
    assert [fate.kind for fate in fates] == [wire.OUTPUTS, wire.DROPPED, wire.OUTPUTS, wire.SAME]
    assert outputs(fates[0])[0]["meta"] == ["shop", "duckdb", "Order"]
    assert len(fates[2].outputs) == 2
    batch = "export function transformBatch(events, metadata) { return events.filter((each) => each.n !== 1).map((each) => ({...each, seen: true})); }"
    async with chain_of(batch) as chain:
        fates = await chain.run(REQUESTS, events(3))
    assert [fate.kind for fate in fates] == [wire.OUTPUTS, wire.DROPPED, wire.OUTPUTS]


async def test_handlers_of_segment_run_unchanged() -> None:
    code = """// no export, as in its editor
async function onTrack(event, settings) {
    if (event.n === 1) throw new EventNotSupported("one");
    if (event.n === 2) throw new ValidationError("two");
    event.greeting = settings.GREETING;
    return event;
}
async function onIdentify(event, settings) { return event; }"""
    async with chain_of(code) as chain:
        fates = await chain.run(REQUESTS, events(3))
        page = await run_one(chain, type="page")
    assert [fate.kind for fate in fates] == [wire.OUTPUTS, wire.DROPPED, wire.DEAD]
    assert outputs(fates[0])[0]["greeting"] == "hello"
    assert page.kind == wire.DROPPED


@pytest.mark.parametrize(
    ("code", "said", "line"),
    [
        ("export default (e) => {\n return e. }", "SyntaxError", 2),
        ("const x = 1", "no function is exported", 0),
        ("export default 5", "no function is exported", 0),
        ("throw new Error('at once')", "at once", 1),
        ("import fs from 'node:fs'; export default () => fs", "node:fs", 1),
        ("import x from 'https://example.com/x.js'; export default x", "", 0),
        ("import x from 'npm:lodash'; export default x", "npm", 0),
        ("export const config = {retryPolicy: {retries: -1}}; export default (e) => e", "retries", 0),
    ],
)
async def test_code_that_cannot_be_loaded_says_where(code: str, said: str, line: int) -> None:
    async with chain_of("export default (e) => e", code) as chain:
        with pytest.raises(BrokenError) as raised:
            await chain.ready()
    name, message, at, _ = raised.value.problems[0]
    assert name == "f1"
    assert said in message
    assert line in (0, at)


async def test_numbers_keep_all_their_digits() -> None:
    body = b'{"type":"track","messageId":"m","big":12345678901234567890,"fine":0.1234567890123456789,"small":1e-400,"n":1}'
    async with chain_of(function("event.n += 1; return {...event};")) as chain:
        fate = (await chain.run(REQUESTS, [Given(body)]))[0]
    assert fate.outputs == (body.replace(b'"n":1', b'"n":2'),)


async def test_numbers_keep_their_digits_in_lists_and_behind_blanks_and_ids_are_no_numbers() -> None:
    body = b'{"id": "1e5-12345678901234567890", "list": [ -98765432109876543210, 1.25e2,12345678.123456789012], "k": 1E400}'
    async with chain_of(function("return {...event};")) as chain:
        fate = (await chain.run(REQUESTS, [Given(body)]))[0]
    assert fate.outputs == (body.replace(b" ", b""),)


async def test_a_sandbox_that_is_killed_costs_no_event_and_repeats_no_effect() -> None:
    host, killed = Recorder(), asyncio.Event()

    async def answer() -> None:
        if not killed.is_set():
            killed.set()
            os.kill(chain._guest.pid, signal.SIGKILL)  # type: ignore[union-attr]  # it runs

    host._answer = lambda _op, args: answer() if args[0] == "k5" else None
    async with chain_of(function("await ctx.store.set('k' + event.n, 1); return event;"), host=host) as chain:
        fates = await chain.run(REQUESTS, events())
    assert [fate.kind for fate in fates] == [wire.OUTPUTS] * EVENTS
    assert sorted(args[0] for _, args in host.calls) == sorted(f"k{number}" for number in range(EVENTS))


async def test_ctx_is_a_plain_object_to_be_taken_apart_spread_and_added_to() -> None:
    code = """export default async function (event, { log, ...rest }) {
        log.info(Object.keys(rest).length);
        return second({ ...event, rest: Object.keys(rest) }, { ...rest, log, mine: 1 });
    }
    const second = (event, ctx) => {
        ctx.log = console;
        ctx.log.warn(ctx.mine);
        try { ctx.geo.country = "X" } catch { event.kept = ctx.geo.country }
        return { ...event, greeting: ctx.props.GREETING, at: ctx.receivedAt };
    };"""
    host = Recorder()
    async with chain_of(code, host=host) as chain:
        (made,) = outputs(await run_one(chain))
    assert set(made["rest"]) == {"store", "fetch", "geo", "ua", "headers", "receivedAt", "retries", "site", "source", "destination", "connection", "props"}  # fmt: skip
    assert (made["greeting"], made["kept"], made["at"]) == ("hello", "DE", "2026-01-01T00:00:00.000Z")
    assert host.lines == [("info", "12"), ("warn", "1")]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("export default function* (event) { yield event }", "returned an iterator, not an event"),
        ("export default (event) => new Map(Object.entries(event))", "returned a Map, not an event"),
        ("export default (event) => [event, Promise.resolve(event)]", "returned a promise inside of a list (await it"),
        ("export default () => ({})", "returned an object without keys, not an event"),
    ],
)
async def test_what_is_nothing_in_json_takes_no_events_place(code: str, said: str) -> None:
    async with chain_of(code) as chain:
        fate = await run_one(chain)
    assert fate.kind == wire.SAME
    assert said in fate.errors[0][1]


async def test_update_asks_again_when_another_event_was_faster() -> None:
    kept = {"value": 1, "revision": 7}
    asked: list[tuple[str, list[object]]] = []

    def answer(op: str, args: Sequence[object]) -> object:
        asked.append((op, list(args)))
        if op == "read":
            return dict(kept)
        if kept["revision"] == 7:  # another event writes before this one does
            kept.update(value=5, revision=8)
            return False
        return True

    body = "return {...event, n: await ctx.store.update('k', (was) => was + 1, '1d'), same: await ctx.store.update('k', () => undefined)}"
    async with chain_of(function(body), host=Recorder(answer)) as chain:
        (made,) = outputs(await run_one(chain))
    assert (made["n"], made["same"]) == (6, 5)
    assert asked == [
        ("read", ["k"]), ("swap", ["k", 2, "1d", 7]), ("read", ["k"]), ("swap", ["k", 6, "1d", 8]), ("read", ["k"])
    ]  # fmt: skip
