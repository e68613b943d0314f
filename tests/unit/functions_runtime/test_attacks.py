"""Functions that attack: each harms its own event only, for the right reason, and its neighbours run once."""

from __future__ import annotations

import pytest

from functions_runtime.sandbox import wire
from functions_runtime.sandbox.guest import BrokenError
from shared.events.outcome import DeadReason
from tests.support.functions import BAD, EVENTS, REQUESTS, Recorder, chain_of, events, outputs

LOOPS = {
    "endless-loop": "while (true) {}",
    "endless-microtasks": "while (true) await null;",
    "regular-expression": "/^(a+)+$/.test('a'.repeat(40) + 'b');",
    "endless-getter": "Object.defineProperty(event, 'g', {enumerable: true, get() { while (true) {} }}); return event;",
    "thenable": "return {then(yes) { yes({then: this.then}) }}",
    "to-json": "event.x = {toJSON() { while (true) {} }}; return event;",
}
MEMORY = {
    "one-text": "event.x = 'x'.repeat(2 ** 29 - 30); return event",
    "heap": "const a = []; while (true) a.push(new Array(1e5).fill(Math.random()));",
    "buffers": "const a = []; while (true) a.push(new Uint8Array(1e7).fill(1));",
    "text": "let a = 'x'.repeat(1e6); while (true) a = JSON.parse(JSON.stringify([a, a, a])).join('');",
}
HARMLESS = {
    "deno": ("Deno.exit(1)", "Deno is not defined"),
    "process": ("process.exit(1)", "is not a function"),
    "worker": ("new Worker('data:text/javascript,1', {type: 'module'})", "Worker is not defined"),
    "import-node": ("(await import('node:process')).stdout.write('xx')", "modules of Node"),
    "import-file": ("await import('file:///etc/passwd')", "read access"),
    "import-https": ("await import('https://example.com/x.js')", ""),
    "eval": ("eval('1')", "Code generation from strings"),
    "function": ("(() => {}).constructor('return 1')()", "Code generation from strings"),
    "async-function": ("(async () => {}).constructor('return 1')()", "Code generation from strings"),
    "generator": ("(function* () {}).constructor('yield 1')()", "Code generation from strings"),
    "async-generator": ("(async function* () {}).constructor('yield 1')().next()", "Code generation from strings"),
    "shared-memory": ("Atomics.wait(new Int32Array(new SharedArrayBuffer(8)), 0, 0, 1e6)", "Atomics is not defined"),
    "wasm": ("new WebAssembly.Memory({initial: 1})", "WebAssembly is not defined"),
    "finalizer": ("new FinalizationRegistry(() => { while (true) {} }).register({}, 1)", "FinalizationRegistry is not defined"),
    "import-text": ("await import('file:///etc/hostname', {with: {type: 'text'}})", "read access"),
    "import-blob": ("await import('blob:null/1-2-3-4-5')", "not found"),
    "traces": ("Error.prepareStackTrace = (error, frames) => frames", "read only"),
    "iterator": ("Object.getPrototypeOf([][Symbol.iterator]()).next = 1", "read only"),
    "buffer": ("Buffer.prototype.toString = 1", "read only"),
    "cache": ("cache.load = 1", "read only"),
    "timers": ("for (let i = 0; i < 1e5; i++) setTimeout(() => {}, 1e9)", "more than 1000 timers"),
    "object-prototype": ("Object.prototype.evil = 1", "not extensible"),
    "array-prototype": ("Array.prototype.map = () => 1", "read only"),
    "json": ("JSON.stringify = () => '{}'", "read only"),
    "promise": ("Promise.prototype.then = () => {}", "read only"),
    "global": ("globalThis.leak = 1", "not extensible"),
    "context": ("Object.getPrototypeOf(ctx).retries = 5; ctx.site.id = 'other'", ""),
    "request": ("ctx.geo.country = 'XX'", "read only"),
    "cycle": ("event.self = event; return event", "circular"),
    "bigint": ("event.b = 10n; return event", "BigInt"),
    "getter": ("Object.defineProperty(event, 'g', {enumerable: true, get() { throw new Error('mine') }}); return event", "mine"),
    "proxy": ("return new Proxy(event, {ownKeys() { throw new Error('proxied') }})", "proxied"),
    "number": ("return 5", "returned number"),
    "text": ("return 'text'", "returned string"),
    "date": ("return new Date(0)", "no JSON object"),
    "function-result": ("return () => 1", "returned function"),
    "dead-array": ("return [event, 5]", "returned number"),
    "stack": ("const f = () => f(); f()", "call stack"),
    "close": ("close(); self.close()", "is not defined"),
    "thrown-null": ("throw null", "null"),
    "thrown-odd": ("throw {toString() { throw 1 }, get name() { throw 2 }}", ""),
}  # fmt: skip


def only_when_bad(body: str) -> str:
    return f"export default async function (event, ctx) {{ if (event.bad) {{ {body} }} event.ok = 1; await ctx.store.set(event.n, 1); return event; }}"


def neighbours_ran_once(host: Recorder) -> None:
    numbers = [args[0] for _, args in host.calls]
    assert sorted(number for number in numbers if number != BAD) == [number for number in range(EVENTS) if number != BAD]


@pytest.mark.parametrize("name", LOOPS)
async def test_an_endless_loop_ends_with_its_event(name: str) -> None:
    host = Recorder()
    async with chain_of(only_when_bad(LOOPS[name]), host=host, cpu_seconds=0.3) as chain:
        fates = await chain.run(REQUESTS, events())
        again = await chain.run(REQUESTS, events(3))
    assert [fate.kind for fate in fates] == [wire.DEAD if number == BAD else wire.OUTPUTS for number in range(EVENTS)]
    assert fates[BAD].reason == DeadReason.FUNCTION_TIMEOUT
    assert [fate.kind for fate in again] == [wire.OUTPUTS] * 3
    del host.calls[EVENTS - 1 :]
    neighbours_ran_once(host)


@pytest.mark.parametrize("name", MEMORY)
async def test_memory_that_runs_out_ends_its_event(name: str) -> None:
    host = Recorder()
    async with chain_of(
        only_when_bad(MEMORY[name]), host=host, cpu_seconds=20, heap_bytes=64 << 20, process_bytes=256 << 20
    ) as chain:
        fates = await chain.run(REQUESTS, events())
    assert [fate.kind for fate in fates] == [wire.DEAD if number == BAD else wire.OUTPUTS for number in range(EVENTS)]
    assert fates[BAD].reason == DeadReason.FUNCTION_MEMORY
    neighbours_ran_once(host)


async def test_a_promise_that_never_comes_ends_with_its_event_alone() -> None:
    host, ended = Recorder(), list[str]()
    async with chain_of(only_when_bad("await new Promise(() => {})"), host=host, ended=ended, wall_seconds=0.5) as chain:
        fates = await chain.run(REQUESTS, events())
    assert (fates[BAD].kind, fates[BAD].reason) == (wire.DEAD, DeadReason.FUNCTION_TIMEOUT)
    assert not ended
    neighbours_ran_once(host)


@pytest.mark.parametrize("name", HARMLESS)
async def test_what_a_function_may_not_do_is_an_error_of_its_own(name: str) -> None:
    body, said = HARMLESS[name]
    host, ended = Recorder(), list[str]()
    async with chain_of(only_when_bad(body), host=host, ended=ended) as chain:
        fates = await chain.run(REQUESTS, events())
    assert [fate.kind for fate in fates] == [wire.SAME if number == BAD else wire.OUTPUTS for number in range(EVENTS)]
    assert said in fates[BAD].errors[0][1]
    assert not ended
    neighbours_ran_once(host)


@pytest.mark.parametrize(
    "result",
    ["Array(1e6).fill(event)", "{...event, a: 'x'.repeat(3e7)}", "Array(1001).fill({a: 1})"],
)
async def test_a_result_that_is_too_large_is_a_dead_letter(result: str) -> None:
    async with chain_of(f"export default (event) => event.bad ? {result} : event") as chain:
        fates = await chain.run(REQUESTS, events())
    assert [fate.kind for fate in fates] == [wire.DEAD if number == BAD else wire.OUTPUTS for number in range(EVENTS)]
    assert fates[BAD].reason == DeadReason.FUNCTION_RESULT


async def test_keys_like_those_of_prototypes_are_keys() -> None:
    code = """export default (event) => JSON.parse('{"__proto__":{"x":1},"constructor":{"prototype":{"y":1}},"n":1}')"""
    async with chain_of(code) as chain:
        fate = (await chain.run(REQUESTS, events(1)))[0]
    assert fate.outputs == (b'{"__proto__":{"x":1},"constructor":{"prototype":{"y":1}},"n":1}',)


async def test_a_flood_of_log_is_cut() -> None:
    host = Recorder()
    async with chain_of(
        "export default (event, ctx) => { for (let i = 0; i < 1e5; i++) ctx.log.info('x'.repeat(5000)) }", host=host
    ) as chain:
        await chain.run(REQUESTS, events(2))
    assert len(host.lines) == 200
    assert max(len(message) for _, message in host.lines) == 1000


async def test_what_an_event_leaves_behind_does_nothing_more() -> None:
    host, ended = Recorder(), list[str]()
    body = "setTimeout(() => { throw new Error('late') }, 1); Promise.reject(new Error('late')); setTimeout(() => ctx.store.set('late', 1), 5); return event;"
    async with chain_of(only_when_bad(body), host=host, ended=ended) as chain:
        await chain.run(REQUESTS, events())
        fates = await chain.run(REQUESTS, events())
    assert [fate.kind for fate in fates] == [wire.OUTPUTS] * EVENTS
    assert "late" not in [args[0] for _, args in host.calls]
    assert not ended


async def test_assigning_what_the_language_has_under_the_same_name_works() -> None:
    code = """class Shape extends Error { constructor() { super('s'); this.name = 'Shape'; this.message = 'mine'; } }
        export default (event) => { const o = {}; o.toString = () => 'mine'; o.constructor = 5; return {...event, said: [String(o), o.constructor, String(new Shape())]}; }"""
    async with chain_of(code) as chain:
        fate = (await chain.run(REQUESTS, events(1)))[0]
    assert outputs(fate)[0]["said"] == ["mine", 5, "Shape: mine"]


async def test_every_name_that_the_language_lets_an_object_have_can_be_its_own() -> None:
    """As in a world whose prototypes are not frozen: of each object of the language, an heir gets each writable name."""
    code = """const made = [{}, [], () => 1, async () => 1, function* () {}, async function* () {}, new Error("x"), new TypeError("x"), new AggregateError([]), new Map(), new Set(),
        new WeakMap(), new WeakSet(), Promise.resolve(), /a/, new Date(), Object(""), Object(1), Object(true), Object(1n), Object(Symbol()), new Uint8Array(1), new ArrayBuffer(1),
        new DataView(new ArrayBuffer(1)), [].values(), new Map().entries(), new Set().values(), ""[Symbol.iterator](), "".matchAll(/a/g), (function* () {})(), new URL("https://a.example"),
        new URLSearchParams(), new Headers(), new Event("x"), new AbortController(), new TextEncoder(), new Response(), new Intl.NumberFormat(), Promise, Map, Array, Error, Object, Date];
      export default (event) => {
        const lost = [];
        let tried = 0;
        for (const each of made) for (let proto = typeof each === "function" && each.prototype ? each : Object.getPrototypeOf(each); proto; proto = Object.getPrototypeOf(proto))
          for (const name of Reflect.ownKeys(proto)) {
            const held = Object.getOwnPropertyDescriptor(proto, name);
            if (!held.writable && !String(held.set).includes("read only")) continue; // what is an error, or another setter, also where nothing is frozen
            const heir = Object.create(proto), mine = () => "mine";
            try { heir[name] = mine; tried++; if (Object.getOwnPropertyDescriptor(heir, name)?.value !== mine && name !== "__proto__") throw new Error("not its own") } catch (error) { lost.push(`${proto.constructor?.name} ${String(name)}: ${error.message}`) }
            if (proto[name] === mine) lost.push(`${String(name)} of the language was changed`);
          }
        function Foo() {} Foo.prototype = Object.create(Map.prototype); Foo.prototype.constructor = Foo; Foo.prototype.get = () => "mine";
        class Later extends Promise {} Later.resolve = () => "mine";
        class Named extends Error { name = "Named"; }
        const list = [1]; list.map = () => "mine";
        return {...event, lost, tried, said: [new Foo().get(), Later.resolve(), String(new Named("x")), list.map()]};
      };"""
    async with chain_of(code) as chain:
        fate = (await chain.run(REQUESTS, events(1)))[0]
    assert not fate.errors
    said = outputs(fate)[0]
    assert said["lost"] == []
    assert said["tried"] > 600
    assert said["said"] == ["mine", "mine", "Named: x", "mine"]


@pytest.mark.parametrize("code", ["while (true) {}", "const a = []; while (true) a.push(new Array(1e5).fill(1));"])
async def test_code_that_hangs_while_it_is_loaded_is_broken(code: str) -> None:
    async with chain_of(f"{code} export default (e) => e", cpu_seconds=0.3, heap_bytes=64 << 20) as chain:
        with pytest.raises(BrokenError, match="ended its sandbox"):
            await chain.ready()
