"""Whose work runs: lines, requests and timers are their event's, also when others run meanwhile and after its end."""

from __future__ import annotations

import asyncio
import json

import psutil
import pytest

from functions_runtime.sandbox import wire
from functions_runtime.sandbox.batch import Given, batch_of, fates_of
from tests.support.functions import EVENTS, REQUESTS, Recorder, chain_of, event, events, outputs

SAY = {
    "name": "console.info(text)",
    "global": "globalThis['con' + 'sole'].info(text)",
    "escaped": r"\u0063onsole.info(text)",
    "target": "new AbortController().signal.constructor && globalThis.console.info(text)",
}


@pytest.mark.parametrize("name", SAY)
async def test_lines_after_an_events_end_are_not_charged_to_the_next(name: str) -> None:
    """An event has 100 lines: those that the first leaves behind would use up those of the others."""
    code = f"""const say = (text) => {SAY[name]};
        const later = async (n) => {{ for (let i = 0; i < 150; i++) {{ await null; say("left by " + n); }} }};
        export default async (event) => {{
            if (event.n === 0) {{ later(0); return event; }}
            for (let i = 0; i < 60; i++) {{ await null; say("of " + event.n); }}
            return event; }}"""
    host = Recorder()
    async with chain_of(code, host=host) as chain:
        await chain.run(REQUESTS, events(4))
    lines = [text for _, text in host.lines]
    assert [lines.count(f"of {number}") for number in range(4)] == [0, 60, 60, 60]
    assert lines.count("left by 0") <= 100


@pytest.mark.parametrize("imported", ['import { hash } from "penstock";', ""])
async def test_events_wait_beside_each_other_also_where_the_code_names_nothing_global(imported: str) -> None:
    code = f"""{imported} export default async (event, ctx) => {{
            if (event.n % 3 === 0) await ctx.store.get("k" + event.n);
            if (event.n % 4 === 0) await crypto.subtle.digest("SHA-256", new Uint8Array(8));
            ctx.log.info(event.n);
            return {{...event, seen: await event.n}}; }}"""
    host = Recorder()
    async with chain_of(code, host=host) as chain:
        for _ in range(3):
            fates = await chain.run(REQUESTS, events())
            assert [outputs(fate)[0]["seen"] for fate in fates] == list(range(EVENTS))
    assert len(host.lines) == 3 * EVENTS


async def test_texts_in_all_alphabets_and_empty_results_keep_their_places() -> None:
    texts = ["plain", "größe", "日本", "\U0001f600", "a\nb\r\n", "\u2028", "x" * 70_000, "", "ü" * 70_000]
    given = [Given(json.dumps(event(n, t=text), ensure_ascii=False).encode(), 0, n) for n, text in enumerate(texts * 3)]
    code = "export default (e) => e.n % 5 === 1 ? null : e.n % 5 === 2 ? undefined : e.n % 5 === 3 ? [e, e] : e"
    async with chain_of(code) as chain:
        fates = await chain.run(REQUESTS, given)
    for number, fate in enumerate(fates):
        assert len(fate.outputs) == [1, 0, 0, 2, 1][number % 5]
        assert all(made == event(number, t=(texts * 3)[number]) for made in outputs(fate))


def test_a_batch_keeps_bodies_in_ascii_together() -> None:
    given = [Given(b'"a"'), Given('"ä"'.encode(), 1, 2, 3, exact=False), Given(b'"bb"')]
    header, bodies = batch_of(7, [{}, {}], given, careful=False)
    assert bodies == [b'"a"', b'"bb"', '"ä"'.encode()]
    assert (header.sizes, header.wide, header.of, header.users, header.exact) == ([3, -4, 4], 7, [0, 1, 0], [0, 2, 0], [0, 2])
    assert header.retries == [0, 3, 0]


@pytest.mark.parametrize(
    ("results", "rest", "why"),
    [
        ([0, 1], b"{}", "promised more"),
        ([0], b"{}\n{}", "more events than it promised"),
        ([~0], b"{}", "more events than it promised"),
        ([wire.Made(0, wire.OUTPUTS, -1, "", "", [], None)], b"", "promised more"),
        ([wire.Made(0, 9, 1, "", "", [], None)], b"{}", "the fate 9"),
    ],
)
def test_results_that_no_guest_gives_are_refused(results: list[int | wire.Made], rest: bytes, why: str) -> None:
    with pytest.raises(wire.Malformed, match=why):
        list(fates_of(results, rest, "f"))


async def test_a_sandbox_that_hangs_gives_way_to_all_others_and_so_does_the_next_for_a_while() -> None:
    async with chain_of("export default (event) => { while (event.bad) {} }", cpu_seconds=1.5) as chain:
        await chain.ready()
        assert chain._guest is not None
        process = psutil.Process(chain._guest.pid)
        before = process.nice()
        running = asyncio.create_task(chain.run(REQUESTS, events(2, bad=0)))
        while process.nice() == before:
            await asyncio.sleep(0.02)
        fates = await running
        assert [fate.kind for fate in fates] == [wire.DEAD, wire.SAME]
        assert chain._guest.gave_way
        assert psutil.Process(chain._guest.pid).nice() > before
        chain._calm_at = 0.0  # as if no event had hung for a while
        await chain.run(REQUESTS, events(1))
        await chain.ready()
        assert psutil.Process(chain._guest.pid).nice() == before
