"""What functions that were written for other products find in their world: their names, their modules, their ways of exporting."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest

from functions_runtime.sandbox import wire
from functions_runtime.sandbox.guest import BrokenError
from tests.support.functions import Recorder, chain_of, outputs, run_one

SHA = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
"""Of `a`, as `sha256sum` says."""
MD5 = "0cc175b9c0f1b6a831c399e269772661"
FORMS = {
    "rudder-names": (
        "export function transformEvent(event, metadata) { log('seen', event.event, {a: 1}); return {...event, said: [getCredential('GREETING'), getCredential('none') ?? null, metadata(event).destinationId, metadata(event).mode]} }",
        ["hello", None, "wh", "cloudMode"],
    ),
    "rudder-first-version": ("function transform(events) { return events.map((each) => ({...each, said: events.length})) }", 1),
    "rudder-hashes": (
        "import { sha256, md5 } from '@rs/hash/v1'; export const transformEvent = (event) => ({...event, said: [sha256('a'), md5('a')]})",
        [SHA, MD5],
    ),
    "segment-arrows": (
        "const onTrack = async (event, settings) => ({...event, said: settings.GREETING});\nconst onPage = () => null;",
        "hello",
    ),
    "segment-hashes": (
        "async function onTrack(event) { return {...event, said: [crypto.createHash('sha256').update('a').digest('hex'), crypto.createHmac('sha1', 'k').update('a').digest().length]} }",
        [SHA, 20],
    ),
    "segment-cache": (
        "let made = 0;\nasync function onTrack(event) { const get = () => cache.load('k', 60000, async () => ++made); const first = [await get(), await get()]; cache.delete('k'); return {...event, said: [...first, await get()]} }",
        [1, 1, 2],
    ),
    "segment-batch-alone": (
        "async function onBatch(events, settings) { return events.map((each) => ({...each, said: settings.GREETING})) }",
        "hello",
    ),
    "jitsu-crypto": (
        "import * as all from 'crypto'; import { createHash, randomUUID } from 'node:crypto'; export default (event) => ({...event, said: [all.createHash('sha256').update('a').digest('hex'), createHash('md5').update('61', 'hex').digest('base64'), randomUUID().length]})",
        [SHA, base64.b64encode(bytes.fromhex(MD5)).decode(), 36],
    ),
    "jitsu-types": (
        "import type { JitsuFunction } from '@jitsu/protocols/functions';\nconst f: JitsuFunction = async (event, { log, props }) => ({...event, said: props.GREETING});\nexport default f;",
        "hello",
    ),
    "jitsu-types-as-values": (
        "import { JitsuFunction, FullContext } from '@jitsu/protocols/functions';\nconst f: JitsuFunction = async (event, ctx: FullContext) => ({...event, said: ctx.props.GREETING});\nexport default f;",
        "hello",
    ),
    "commonjs": (
        "const { createHash } = require('crypto');\nmodule.exports = async (event) => ({...event, said: createHash('md5').update('a').digest('hex')});",
        MD5,
    ),
    "commonjs-handlers": ("exports.onTrack = async (event, settings) => ({...event, said: settings.GREETING});", "hello"),
    "node-buffer": (
        "export default (event) => ({...event, said: [Buffer.from('hé').toString('base64'), Buffer.from('aMOp', 'base64').toString(), Buffer.from('6869', 'hex').toString('latin1'), Buffer.concat([Buffer.from('a'), Buffer.alloc(1, 98)]).toString(), Buffer.byteLength('é'), Buffer.from('a').equals(Buffer.from('a')), Buffer.from('ÿ').toString('base64url'), typeof global, typeof performance.now()]})",
        ["aMOp", "hé", "hi", "ab", 2, True, "w78", "object", "number"],
    ),
    "library-global": (
        "!function(t,e){'object'==typeof exports&&'undefined'!=typeof module?module.exports=e():'function'==typeof define&&define.amd?define(e):(t='undefined'!=typeof globalThis?globalThis:t||self).lib=e()}(this,(function(){return (x)=>x+1}));\nexport default (event) => ({...event, said: lib(1)});",
        2,
    ),
    "library-this": (
        ";(function ($) {\n  if (typeof define === 'function' && define.amd) { define(lib) } else if (typeof module === 'object' && module.exports) { module.exports = lib } else { $.lib = lib }\n  function lib(x) { return x + 1 }\n})(this)\nasync function onTrack(event) { return {...event, said: lib(1)} }",
        2,
    ),
    "logs": (
        "export default (event) => { console.log(new Map([[1, 2]]), {e: new TypeError('t'), b: 1n}); console.table([1]); console.assert(false, 'no'); return {...event, said: 1} }",
        1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
async def test_functions_of_other_products_find_their_world(name: str) -> None:
    code, said = FORMS[name]
    host = Recorder()
    async with chain_of(code, host=host) as chain:
        fate = await run_one(chain)
    assert not fate.errors
    assert outputs(fate)[0]["said"] == said
    if name == "logs":
        assert [line for _, line in host.lines] == ['[[1,2]] {"e":"TypeError: t","b":"1n"}', "[1]", "assertion failed no"]
    if name == "rudder-names":
        assert host.lines == [("info", 'seen Order {"a":1}')]


def answer(body: str, status: int = 200) -> dict[str, Any]:
    encoded = base64.b64encode(body.encode()).decode()
    return {"status": status, "statusText": "", "headers": [["x-a", "b"]], "base64": encoded, "url": "https://x.example/"}


async def test_requests_of_rudderstack_give_what_the_answer_says() -> None:
    answers = {"https://json.example": '{"a":1}', "https://text.example": "plain"}
    host = Recorder(lambda _op, args: answer(answers[args[0]["url"]]))
    code = """export async function transformEvent(event) {
        const second = await fetchV2("https://json.example", {method: "POST", body: JSON.stringify({b: 2})});
        return {...event, said: [await fetch("https://json.example"), await fetch("https://text.example"), await fetch("https://gone.example"), second]}; }"""
    later = "export default async (event) => ({...event, status: (await fetch('https://json.example')).status})"
    async with chain_of(code, later, host=host) as chain:
        fate = await run_one(chain)
    made = outputs(fate)[0]
    whole = {"url": "https://x.example/", "status": 200, "headers": {"x-a": "b"}, "body": {"a": 1}}
    assert made["said"] == [{"a": 1}, "plain", "ERROR", whole]
    assert made["status"] == 200


async def test_a_request_ends_with_its_signal_and_says_what_its_body_is() -> None:
    host = Recorder(lambda _op, args: answer(json.dumps(dict(args[0]["headers"]))))
    code = """const stopped = async (signal) => { try { await fetch("https://x.example", {signal}) } catch (error) { return error.name } };
      export default async (event, ctx) => {
        const gone = new AbortController(), kind = async (body, headers) => (await (await ctx.fetch("https://x.example", {method: "post", body, headers})).json())["content-type"];
        setTimeout(() => gone.abort(), 1);
        return {...event, said: [await stopped(gone.signal), await stopped(AbortSignal.timeout(1)), await stopped(AbortSignal.abort())],
          kinds: [await kind("x"), await kind(new URLSearchParams({a: 1})), await kind({a: 1}), await kind(Buffer.from("x")) ?? null, await kind("{}", {"Content-Type": "a/b"})]};
      };"""
    slow = Recorder(lambda _op, args: host._answer(_op, args) if args[0].get("method") else never())
    async with chain_of(code, host=slow) as chain:
        made = outputs(await run_one(chain))[0]
    assert made["said"] == ["AbortError", "TimeoutError", "AbortError"]
    form = "application/x-www-form-urlencoded;charset=UTF-8"
    assert made["kinds"] == ["text/plain;charset=UTF-8", form, "application/json", None, "a/b"]


async def never() -> None:
    """Waits for longer than any test."""
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import _ from 'lodash'; export default (e) => e", '"lodash" cannot be imported: a function is one file'),
        ("const _ = require('lodash'); export default (e) => e", '"lodash" cannot be required: a function is one file'),
        ("import { x } from 'myLibrary'; export function transformEvent(e) { return e }", '"myLibrary" cannot be imported'),
        ("import { x } from './other.js'; export default (e) => e", '"./other.js" cannot be imported'),
        ("export default class { handle(e) { return e } }", "the default export is a class"),
    ],
)
async def test_what_a_function_cannot_have_is_said_plainly(code: str, said: str) -> None:
    async with chain_of(code) as chain:
        with pytest.raises(BrokenError) as raised:
            await chain.ready()
    assert said in raised.value.problems[0][1]


async def test_names_that_libraries_leave_are_fixed_when_the_functions_are_loaded() -> None:
    code = """globalThis.lib = { a: 1 };
      export default (event) => { if (event.n) { const done = []; for (const work of [() => { globalThis.lib = 2 }, () => { globalThis.more = 2 }, () => { delete globalThis.lib }]) try { work(); done.push(1) } catch { done.push(0) }
        return {...event, done, a: lib.a} } }"""
    async with chain_of(code) as chain:
        fate = await run_one(chain, n=1)
    assert fate.kind == wire.OUTPUTS
    assert (outputs(fate)[0]["done"], outputs(fate)[0]["a"]) == ([0, 0, 0], 1)
