"""Code of users that looks for ways out of its event, its sandbox and its time."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import psutil
import pytest

from functions_runtime.connection import ConnectionFunctions
from functions_runtime.sandbox import guest as guests
from functions_runtime.sandbox import wire
from functions_runtime.sandbox.batch import Given
from functions_runtime.sandbox.chain import CallError
from functions_runtime.settings import FunctionsSettings
from shared.errors import SetupError
from shared.events.outcome import DeadReason
from tests.support.functions import BAD, EVENTS, REQUESTS, Recorder, chain_of, event, events, outputs, run_one, spec_of
from tests.unit.functions_runtime.test_attacks import neighbours_ran_once, only_when_bad

MODULES = sorted(path.name for path in guests.JS.glob("*.js"))
CLAIMS = {
    "batch.js": "batches",
    "wire.js": "wire",
    "timers.js": "timers",
    "functions.js": "loader",
    "node.js": "node",
    "gather.js": "gather",
}
HOSTILE = {
    "name-throws": "const e = new Error('x'); Object.defineProperty(e, 'name', {get() { throw 2 }}); throw e",
    "message-throws": "const e = new Error('x'); Object.defineProperty(e, 'message', {get() { throw 2 }}); throw e",
    "stack-throws": "const e = new Error('x'); Object.defineProperty(e, 'stack', {get() { throw 2 }}); throw e",
    "drop-throws": "const e = new RetryError('x'); Object.defineProperty(e, 'drop', {get() { throw 2 }}); throw e",
    "name-is-odd": "const e = new Error('x'); Object.defineProperty(e, 'name', {value: {toString() { throw 2 }}}); throw e",
    "thrown-proxy": "throw new Proxy(new Error('x'), {get() { throw 2 }, getPrototypeOf() { throw 3 }})",
    "revoked-proxy": "const {proxy, revoke} = Proxy.revocable([event], {}); revoke(); return proxy",
    "then-throws": "return {get then() { throw new Error('then') }}",
    "then-twice": "return {then(yes, no) { no(new Error('no')); yes(event); throw 4 }}",
    "length-throws": "return new Proxy([event, event], {get(a, k) { if (k === 'length') throw new Error('length'); return a[k] }})",
    "sparse": "const a = []; a.length = 3; return a",
}
AFTERWARDS = {
    "timer": "setTimeout(() => { while (true) {} }, 20); return event;",
    "interval": "setInterval(() => { while (true) {} }, 20); return event;",
    "signal": "AbortSignal.timeout(20).addEventListener('abort', () => { while (true) {} }); return event;",
    "answer": "ctx.store.get('x').then(() => { while (true) {} }); return event;",
}


@pytest.mark.parametrize("name", MODULES)
async def test_modules_of_the_sandbox_give_nothing_to_code_of_users(name: str) -> None:
    """The engine lets code import what it has loaded, under several spellings of its place."""
    claim = CLAIMS.get(name, "nothing")
    code = f"""export default async (event) => {{
        const module = await import({json.dumps(guests.JS.as_uri() + "//" + name)});
        let got = null;
        try {{ got = Object.keys(module.{claim}()) }} catch {{ }}
        return {{...event, keys: Object.keys(module), got}}; }}"""
    host, ended = Recorder(), list[str]()
    async with chain_of(code, host=host, ended=ended) as chain:
        said = outputs(await run_one(chain))[0]
    assert said["got"] is None
    assert not {"send", "exit", "frames"} & set(said["keys"])


async def test_no_module_of_node_is_reached_by_any_name() -> None:
    process = await asyncio.create_subprocess_exec(
        guests.find_deno(), "eval", "import {builtinModules} from 'node:module'; console.log(JSON.stringify(builtinModules))",
        stdout=asyncio.subprocess.PIPE, env={"NO_COLOR": "1", "PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")},
    )  # fmt: skip
    names = json.loads((await process.communicate())[0])
    assert len(names) > 40
    spellings = [f"node:{name.removeprefix('node:')}" for name in names] + [
        "NODE:fs",
        " node:fs",
        "node:f\ts",
        "node:fs?x",
        "node:%66s",
        "fs",
    ]
    code = f"""export default async (event) => {{
        const got = [];
        for (const name of {json.dumps(spellings)}) try {{ await import(name); got.push(name) }} catch {{ }}
        const ours = [(await import("crypto")).default === require("crypto"), (await import("node:buffer")).Buffer === Buffer, Object.getPrototypeOf(Buffer) === Uint8Array];
        return {{...event, got, ours}}; }}"""
    async with chain_of(code) as chain:
        said = outputs(await run_one(chain))[0]
    assert sorted(said["got"]) == ["node:buffer", "node:crypto"]  # under these names stands what we made
    assert said["ours"] == [True] * 3


async def test_no_object_that_events_share_can_be_changed() -> None:
    code = """export default async (event, ctx) => {
        const loose = [];
        const given = [new Response("x"), new Headers([["a", "b"]]), new Headers().entries(), new URLSearchParams("a=b").entries(),
          [1].values().map(String), Iterator.from({next: String}), new Intl.Segmenter().segment("x"), new Intl.Segmenter().segment("x")[Symbol.iterator](),
          new AbortController().signal, new Event("x"), new DOMException("x"), ctx, crypto.createHash("md5"), crypto.createHmac("sha1", "k"), Buffer.from("x"), crypto.randomBytes(2), crypto.subtle, "a".matchAll(/a/g), new Map().entries()];
        for (const each of given) for (let p = Object.getPrototypeOf(each); p; p = Object.getPrototypeOf(p)) {
          if (!Object.isFrozen(p)) loose.push(String(p[Symbol.toStringTag] ?? p.constructor.name));
        }
        for (const name of Reflect.ownKeys(globalThis)) if (name !== "globalThis" && Object(globalThis[name]) === globalThis[name] && !Object.isFrozen(globalThis[name])) loose.push(String(name));
        return {...event, loose, streams: [typeof ReadableStream, typeof new Response("x").body, typeof Blob]};
      }"""
    async with chain_of(code) as chain:
        said = outputs(await run_one(chain))[0]
    assert said["loose"] == []
    assert said["streams"] == ["undefined"] * 3


@pytest.mark.parametrize("name", HOSTILE)
async def test_what_is_thrown_or_returned_may_run_code_and_harms_its_event_only(name: str) -> None:
    host, ended = Recorder(), list[str]()
    async with chain_of(only_when_bad(HOSTILE[name]), host=host, ended=ended) as chain:
        fates = await asyncio.wait_for(chain.run(REQUESTS, events()), 60)
        again = await asyncio.wait_for(chain.run(REQUESTS, events(3)), 60)
    assert [fate.kind for fate in fates] == [wire.SAME if number == BAD else wire.OUTPUTS for number in range(EVENTS)]
    assert [fate.kind for fate in again] == [wire.OUTPUTS] * 3
    assert fates[BAD].errors
    assert not ended
    del host.calls[EVENTS - 1 :]
    neighbours_ran_once(host)


async def test_a_list_is_read_by_its_places_whatever_its_methods_say() -> None:
    code = """class Odd extends Array { map() { return 5 } *[Symbol.iterator]() { throw new Error("mine") } static get [Symbol.species]() { return Map } }
      export default (event) => Odd.of({...event, part: 1}, {...event, part: 2});"""
    async with chain_of(code) as chain:
        fate = await asyncio.wait_for(run_one(chain), 60)
    assert [each["part"] for each in outputs(fate)] == [1, 2]


async def test_half_a_character_in_lines_errors_and_calls_harms_nothing() -> None:
    code = r"""export default async (event, ctx) => {
        ctx.log.info("x".repeat(999) + "\u{1F600}"); ctx.log.info("\ud83d", "\\ud83d", "\\\\\udc00");
        await ctx.store.set("k\ud800", {"\udfff": "\ud800"});
        throw new Error("y".repeat(492) + "\u{1F600}"); }"""
    host, ended = Recorder(), list[str]()
    async with chain_of(code, host=host, ended=ended) as chain:
        fate = await run_one(chain)
    assert (fate.kind, ended) == (wire.SAME, [])
    assert [line for _, line in host.lines] == ["x" * 999 + "\ufffd", "\ufffd \\ud83d \\\\\ufffd"]
    assert host.calls[0][1][:2] == ["k\ufffd", {"\ufffd": "\ufffd"}]


async def test_traces_tell_of_the_functions_own_code_only() -> None:
    """In TypeScript with the lines of the file; what an error says may be code of users."""
    code = """type Deep = { a: number };

const fail = (deep: Deep): never => { throw new RangeError(String(deep.a)) };
export default async (event: any, ctx: any) => {
  const odd = new Error("x"); Object.defineProperty(odd, "name", {get() { throw 1 }});
  const seen = [new Error("sync").stack, String(odd.stack), await ctx.store.get("x").catch((error: Error) => error.stack)];
  try { fail({a: 1}) } catch (error) { seen.push((error as Error).stack!) }
  class Coded extends Error { constructor() { super("coded"); Error.captureStackTrace(this, Coded) } }
  return {...event, seen: [...seen, new Coded().stack]};
}"""
    async with chain_of(code, host=Recorder(lambda _op, _args: CallError("no"))) as chain:
        seen = outputs(await run_one(chain))[0]["seen"]
    assert not [each for each in seen if "/js/" in each or "file:" in each or "ext:" in each]
    assert ["RangeError: 1" in seen[3], ":3:45" in seen[3], ":7:9" in seen[3]] == [True] * 3
    assert "coded" in seen[4]


@pytest.mark.parametrize("name", AFTERWARDS)
async def test_what_an_event_leaves_behind_is_not_charged_to_another(name: str) -> None:
    """The events after it wait long enough to meet it; also where the sandbox is careful already."""
    code = only_when_bad(AFTERWARDS[name]).replace(
        "event.ok = 1;", "event.ok = 1; await new Promise((go) => setTimeout(go, 40));"
    )
    async with chain_of(code, cpu_seconds=0.3) as chain:
        fates = await asyncio.wait_for(chain.run(REQUESTS, events(10, bad=2)), 60)
        again = await asyncio.wait_for(chain.run(REQUESTS, events(3)), 60)
    assert [fate.kind for fate in [*fates, *again]] == [wire.OUTPUTS] * 13


async def test_an_event_cannot_stop_the_timers_of_another_nor_ours() -> None:
    code = only_when_bad("for (let i = 0; i < 10000; i++) { clearTimeout(i); clearInterval(i) } return event;")
    code = code.replace("event.ok = 1;", "event.ok = 1; await new Promise((go) => setTimeout(go, 600));")
    ended = list[str]()
    async with chain_of(code, ended=ended, wall_seconds=50) as chain:
        fates = await asyncio.wait_for(chain.run(REQUESTS, events()), 60)
    assert [fate.kind for fate in fates] == [wire.OUTPUTS] * EVENTS
    assert not ended


@pytest.mark.parametrize("call", ["ctx.store.get('x')", "(ctx.log.info('x'), ctx.store.get('x'))"])
async def test_calls_in_a_loop_give_an_event_no_more_time(call: str) -> None:
    body = f"for (let i = 0; i < 900; i++) {{ const end = Date.now() + 200; while (Date.now() < end) {{ }} {call}; }}"
    async with chain_of(only_when_bad(body), cpu_seconds=0.5) as chain:
        fates = await asyncio.wait_for(chain.run(REQUESTS, events()), 60)
    assert fates[BAD].reason == DeadReason.FUNCTION_TIMEOUT
    assert sum(fate.kind == wire.OUTPUTS for fate in fates) == EVENTS - 1


async def test_a_sandbox_that_reads_nothing_more_is_ended_and_its_events_run() -> None:
    """A large batch does not fit into the pipe of a guest that hangs."""
    code = "let first = true; setTimeout(() => { if (first) while (true) {} }, 300); export default (event) => ({n: event.n});"
    large = [Given(json.dumps(event(number, filler="x" * 60_000)).encode(), 0, number) for number in range(20)]
    starts = 0

    async def start(spec: guests.Spec) -> guests.Guest:
        nonlocal starts
        starts += 1
        if starts == 2:  # the first one hangs before the batch; the next is healthy
            spec = spec._replace(functions=(guests.Code("f0", "export default (event) => ({n: event.n});"),))
        return await guests.Guest.start(spec)

    async with chain_of(code, start=start, cpu_seconds=0.3) as chain:
        await chain.ready()
        pid = chain._guest.pid if chain._guest else 0
        while psutil.Process(pid).cpu_times().user < 0.5:
            await asyncio.sleep(0.05)
        fates = await asyncio.wait_for(chain.run(REQUESTS, large), 60)
    assert [outputs(fate)[0]["n"] for fate in fates] == list(range(20))


async def test_what_a_function_began_and_did_not_await_is_done() -> None:
    done = list[Any]()

    async def later(args: Any) -> None:
        await asyncio.sleep(0.05)
        done.append(args[0])

    host = Recorder(lambda _op, args: later(args))
    async with chain_of("export default (event, ctx) => { ctx.store.set('k' + event.n, 1); }", host=host) as chain:
        await chain.run(REQUESTS, events(3))
    assert sorted(done) == ["k0", "k1", "k2"]


async def test_a_call_that_fails_for_a_reason_of_ours_is_an_error_of_the_function() -> None:
    def broken(_op: str, _args: Any) -> Any:
        raise ZeroDivisionError

    async with chain_of("export default async (event, ctx) => { await ctx.store.get('x') }", host=Recorder(broken)) as chain:
        fate = await asyncio.wait_for(run_one(chain), 60)
    assert "ZeroDivisionError" in fate.errors[0][1]


def test_a_sandbox_ends_with_its_runtime_also_in_an_endless_loop() -> None:
    program = """
import asyncio, sys
from functions_runtime.sandbox.guest import Guest
from tests.support.functions import spec_of
async def main():
    guest = await Guest.start(spec_of("setTimeout(() => { while (true) {} }, 0); export default (event) => event"))
    print(guest.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    runtime = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])
    assert runtime.stdout is not None
    sandbox = psutil.Process(int(runtime.stdout.readline()))
    runtime.send_signal(signal.SIGKILL)
    runtime.communicate()
    sandbox.wait(60)


async def test_an_engine_that_cannot_run_says_where_it_is_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tmp_path / "deno"
    monkeypatch.setattr("sysconfig.get_path", lambda _name: str(tmp_path))
    engine.write_text("#!/bin/sh\necho \"error: unexpected argument '--no-code-cache'\" >&2\nexit 2\n")
    with pytest.raises(SetupError, match=r"may not be run by this user.*chmod"):
        await guests.Guest.start(spec_of("export default (event) => event"))
    engine.chmod(engine.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(SetupError, match=r"/deno does not run a sandbox.*unexpected argument '--no-code-cache'.*pip install"):
        await guests.Guest.start(spec_of("export default (event) => event"))


async def test_a_sandbox_leaves_no_files_and_needs_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    async with chain_of("export default (event: {n: number}) => ({n: event.n + 1});") as chain:
        assert outputs(await run_one(chain, n=1))[0]["n"] == 2


async def test_a_sandbox_that_works_on_while_it_has_no_event_ends() -> None:
    async with chain_of("export default (event) => { setTimeout(() => {}, 0); return event }", cpu_seconds=0.2) as chain:
        await run_one(chain)
        assert not chain.wastes()
        assert not chain.wastes()
    async with chain_of("setTimeout(() => { while (true) {} }, 300); export default (event) => event", cpu_seconds=0.2) as chain:
        await run_one(chain)
        assert not chain.wastes()
        assert chain._guest is not None
        while chain._guest.cpu_seconds() < 1.5:
            await asyncio.sleep(0.05)
        assert chain.wastes()


@pytest.mark.parametrize("event_of", ["ending", "draining"])
async def test_a_worker_leaves_although_its_functions_cannot_run(event_of: str, monkeypatch: pytest.MonkeyPatch) -> None:
    context: Any = SimpleNamespace(broker=None, draining=asyncio.Event(), health=MagicMock(), telemetry=MagicMock())
    definition: Any = SimpleNamespace(name="c", queue="q", lookups={}, refers=False)
    worker = ConnectionFunctions(
        context, definition=definition, settings=FunctionsSettings(), pool=MagicMock(), fetcher=MagicMock(), tables=MagicMock()
    )
    ending, waiting = asyncio.Event(), asyncio.Event()

    async def ready(_definition: object) -> None:
        waiting.set()
        raise guests.BrokenError([("f", "is broken", 1, 1)])

    async def session(_epoch: int) -> None:
        await worker._run_frame(MagicMock(), 0)

    monkeypatch.setattr(worker, "_ready", ready)
    monkeypatch.setattr(worker, "_session", session)
    working = asyncio.create_task(worker.work(MagicMock(), ending))
    await waiting.wait()
    (ending if event_of == "ending" else context.draining).set()
    await asyncio.wait_for(working, 60)
