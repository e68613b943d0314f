"""Functions for many events at once, RudderStack's `transformBatch` and Segment's `onBatch`: each event has its own end, whatever they do."""

from __future__ import annotations

import asyncio
import json

import pytest

from functions_runtime.sandbox import wire
from functions_runtime.sandbox.chain import Given
from shared.events.outcome import DeadReason
from tests.support.functions import BAD, EVENTS, REQUESTS, Recorder, chain_of, event, events, outputs, run_one

ALL = list(range(EVENTS))


def rudder(body: str) -> str:
    return f"export async function transformBatch(events, metadata) {{ {body} }}"


def segment(body: str) -> str:
    return f"async function onBatch(events, settings) {{ {body} }}"


async def test_a_function_gets_the_events_of_a_batch_together_also_those_of_one_user() -> None:
    code = rudder(
        "const seen = {}; for (const e of events) (seen[e.userId] ??= []).push(e.n); return events.map((e) => ({...e, of: events.length, seen: seen[e.userId], id: metadata(e).messageId}))"
    )
    async with chain_of(code) as chain:
        fates = await chain.run(REQUESTS, events())
        assert outputs(await run_one(chain))[0]["of"] == 1
    made = [outputs(fate)[0] for fate in fates]
    assert [each["n"] for each in made] == ALL
    assert {each["of"] for each in made} == {EVENTS}
    assert all(each["seen"] == [number for number in ALL if number % 5 == each["n"] % 5] for each in made)
    assert [each["id"] for each in made] == [f"m{number}" for number in ALL]


async def test_batches_are_bounded_and_follow_one_another() -> None:
    host = Recorder()
    code = segment(
        "await fetch('https://x.example', {method: 'POST', body: JSON.stringify(events.map((e) => e.n))}).catch(() => {}); return events"
    )
    given = [Given(json.dumps(event(number)).encode(), 0, number % 5) for number in range(450)]
    async with chain_of(code, host=host) as chain:
        fates = await asyncio.wait_for(chain.run(REQUESTS, given), 60)
    assert [outputs(fate)[0]["n"] for fate in fates] == list(range(450))
    sent = [json.loads(args[0]["body"]) for _, args in host.calls]
    assert [number for each in sent for number in each] == list(range(450))
    assert max(map(len, sent)) <= 200
    assert len(sent) < 20


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return events.filter((e) => e.n % 2)", {number: [number] for number in ALL if number % 2}),
        ("return events.reverse()", {number: [number] for number in ALL}),
        ("return events.map((e) => ({n: e.n + 100}))", {number: [number + 100] for number in ALL}),
        ("return events.flatMap((e) => e.n ? [e, {...e, n: e.n + 100}] : [])", {number: [number, number + 100] for number in ALL[1:]}),
        ("return [{type: 'track', messageId: 'sum', n: events.length}]", {0: [EVENTS]}),
        ("return Promise.all([events.slice(0, 2), undefined, events.slice(2)])", {number: [number] for number in ALL}),
        ("", {}),
        ("return null", {}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", [rudder, segment])
async def test_what_it_gives_belongs_to_its_events(form: object, body: str, expected: dict[int, list[int]]) -> None:
    async with chain_of(form(body)) as chain:  # type: ignore[operator]  # one of the two above
        fates = await chain.run(REQUESTS, events())
    assert {number: [each["n"] for each in outputs(fate)] for number, fate in enumerate(fates) if fate.outputs} == expected
    assert all(fate.kind == wire.DROPPED for number, fate in enumerate(fates) if number not in expected)


HARM = {
    "throws": ("throw new TypeError('bad')", wire.SAME, ""),
    "no-events": ("return 5", wire.SAME, ""),
    "a-number-beside": ("return [...events.filter((e) => !e.bad), 5]", wire.SAME, ""),
    "never": ("await new Promise(() => {})", wire.DEAD, DeadReason.FUNCTION_TIMEOUT),
    "loop": ("while (true) {}", wire.DEAD, DeadReason.FUNCTION_TIMEOUT),
    "memory": ("const a = []; while (true) a.push(new Array(1e5).fill(1))", wire.DEAD, DeadReason.FUNCTION_MEMORY),
    "mutates-first": ("for (const e of events) e.n = -1; throw new Error('half done')", wire.SAME, ""),
}


@pytest.mark.parametrize("name", HARM)
async def test_an_event_that_breaks_its_batch_is_the_only_one_charged(name: str) -> None:
    body, kind, reason = HARM[name]
    code = rudder(f"if (events.some((e) => e.bad)) {{ {body} }} return events.map((e) => ({{...e, ok: 1}}))")
    async with chain_of(code, cpu_seconds=1, wall_seconds=0.7, heap_bytes=64 << 20) as chain:
        fates = await asyncio.wait_for(chain.run(REQUESTS, events()), 60)
        again = await chain.run(REQUESTS, events(3))
    assert [fate.kind for fate in fates] == [kind if number == BAD else wire.OUTPUTS for number in ALL]
    assert fates[BAD].reason == reason
    assert bool(fates[BAD].errors) == (kind == wire.SAME)
    assert [outputs(fate)[0]["n"] for fate in fates if fate.outputs] == [number for number in ALL if number != BAD]
    assert [fate.kind for fate in again] == [wire.OUTPUTS] * 3


@pytest.mark.parametrize(
    ("thrown", "kind", "retried"),
    [
        ("new RetryError('503')", wire.SAME, (False,)),
        ("new RetryError('503', {drop: true})", wire.DROPPED, (True,)),
        ("new ValidationError('no')", wire.DEAD, ()),
        ("new EventNotSupported('no')", wire.DROPPED, ()),
    ],
)
async def test_an_error_with_a_meaning_is_meant_for_the_whole_batch(thrown: str, kind: int, retried: tuple[bool, ...]) -> None:
    host = Recorder()
    async with chain_of(segment(f"await fetch('https://x.example').catch(() => 0); throw {thrown}"), host=host) as chain:
        fates = await chain.run(REQUESTS, events())
    assert [fate.kind for fate in fates] == [kind] * EVENTS
    assert [(fate.retry[2],) if fate.retry else () for fate in fates] == [retried] * EVENTS
    assert len(host.calls) == 1


async def test_statuses_of_segment_say_what_became_of_each_event() -> None:
    code = segment(
        "return events.map((e) => [{status: 200}, {status: 400, errormessage: 'Bad Request'}, {status: 500}, {status: 429}][e.n % 4])"
    )
    async with chain_of(code) as chain:
        fates = await chain.run(REQUESTS, events(8))
    assert [fate.kind for fate in fates] == [wire.DROPPED, wire.DEAD, wire.DROPPED, wire.DROPPED] * 2
    assert [fate.retry is not None for fate in fates] == [False, False, True, True] * 2
    assert "status 400: Bad Request" in fates[1].detail


async def test_a_batch_may_stand_in_the_middle_of_a_chain() -> None:
    before = "export default async (event, ctx) => { await ctx.store.get(event.messageId); return {...event, before: 1} }"
    after = "export default (event) => ({...event, after: event.before + 1})"
    async with chain_of(before, rudder("return events.map((e) => ({...e, of: events.length}))"), after) as chain:
        fates = await asyncio.wait_for(chain.run(REQUESTS, events()), 60)
    made = [outputs(fate)[0] for fate in fates]
    assert [(each["n"], each["after"]) for each in made] == [(number, 2) for number in ALL]
    assert all(each["of"] >= 1 for each in made)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (rudder("return events.map(async (e) => ({...e, made: 1}))"), "returned a promise inside of its list"),
        (segment("return events.length > 1 ? [{status: 200}] : events"), ""),
    ],
)
async def test_a_list_that_holds_no_events_takes_no_events_place(code: str, said: str) -> None:
    async with chain_of(code) as chain:
        fates = await chain.run(REQUESTS, events(4))
    assert [said in fate.errors[0][1] if said else [each["n"] for each in outputs(fate)] for fate in fates] == (
        [True] * 4 if said else [[number] for number in range(4)]
    )


async def test_events_that_run_alone_ask_each_for_itself() -> None:
    late = asyncio.Event()

    async def answer(number: int) -> dict[str, object]:
        if number != BAD:
            await late.wait()  # the first event is at its end by then
        asyncio.get_running_loop().call_later(0.05, late.set)
        return {"status": 200, "statusText": "", "headers": [], "base64": "NQ==", "url": "", "redirected": False}

    host = Recorder(lambda _, args: answer(json.loads(args[0]["body"])))
    code = rudder(
        "if (events.length > 1) throw new Error('not together'); const [e] = events; return [{...e, said: await fetch('https://x.example', {method: 'POST', body: e.n})}]"
    )
    given = events()
    given.insert(0, given.pop(BAD))
    async with chain_of(code, host=host, wall_seconds=2.0) as chain:
        fates = await chain.run(REQUESTS, given)
    assert [outputs(fate)[0]["said"] if fate.outputs else fate.detail for fate in fates] == [5] * EVENTS
