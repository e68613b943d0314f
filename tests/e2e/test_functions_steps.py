"""A functions' runtime killed, and frozen, between every two of its steps, with functions that decide otherwise each time they are asked;
and its streams full, or lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from nats.js.api import StreamConfig

from functions_runtime import connection
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.settings import ServiceSettings
from shared.telemetry.metrics import Telemetry
from tests.support.lives import Journal, Lives, Side, Step, is_done, put
from tests.support.nats import NatsServer

FICKLE = """
export const config = {retryPolicy: {delays: [0]}};
const asked = new Map();
export default function (event, ctx) {
    const id = event.messageId;
    if (event.n === 5) { // of one mind: goes on now, and again later
        if (ctx.retries < 1) throw new RetryError("again");
        return {...event, messageId: id + "-again"};
    }
    const times = asked.get(id) ?? 0;
    asked.set(id, times + 1);
    switch ((event.n + times) % 5) {
        case 0: return;
        case 1: return null;
        case 2: return [event, {...event, messageId: id + "-copy"}];
        case 3: throw new NoRetryError("no");
        default: if (ctx.retries < 1) throw new RetryError("later", {drop: true});
    }
}
"""


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    opened = Telemetry("functions-test", ServiceSettings())
    yield opened
    opened.shutdown()


@pytest.fixture
async def lives(nats: NatsServer, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lives]:
    monkeypatch.setattr(connection, "WAKE_SECONDS", 0.02)  # a retry is seen as soon as it is due
    made = Lives(nats.url, FICKLE, telemetry)
    yield made
    await made.close()


async def frames_of(broker: Broker, seq: int, name: str) -> list[str]:
    """Puts two frames: one in which everything happens, and one without dead letters, unless its functions are asked again."""
    first, second = ([f"{name}{frame}-{number}" for number in range(size)] for frame, size in (("a", 6), ("b", 3)))
    await put(broker, seq, first)
    await put(broker, seq + 1, second)
    return [*first, *second]


@pytest.mark.parametrize("loads", [False, True], ids=["waits-in-queue", "is-loaded"])
@pytest.mark.parametrize("side", ["before", "behind"])
async def test_a_runtime_killed_between_any_two_steps_leaves_each_event_in_one_place(
    broker: Broker, lives: Lives, side: Side, loads: bool
) -> None:
    journal, sent, number = Journal(), list[str](), 0
    steps: list[str] = []
    while not number or number <= len(steps):
        step = Step(number, side)
        sent += await frames_of(broker, 10 * number + 1, f"e{number}")
        if number:
            async with lives.life(step):
                await step.reached.wait()
            if loads:
                await journal.load(broker)
        last = Step()
        async with lives.life(last):
            await is_done(broker)
        steps = steps or last.made
        number += 1
        await journal.load(broker)
        await journal.read_dead(broker)
        assert journal.problems(sent) == [], f"killed {side} step {number - 1} of {steps}"
    assert {subject.split(".")[0] for subject in steps} == {"deliver", "dead", "retry", "$KV", "$JS"}


async def test_a_runtime_that_sleeps_between_any_two_steps_and_wakes_behind_its_successor_changes_nothing(
    broker: Broker, lives: Lives
) -> None:
    journal, sent, number = Journal(), list[str](), 0
    steps: list[str] = []
    while not number or number <= len(steps):
        step, last = Step(number), Step()
        sent += await frames_of(broker, 10 * number + 1, f"e{number}")
        if number:
            async with lives.life(step) as lease:
                await step.reached.wait()
                async with lives.life(last):
                    await is_done(broker)
                lease.lost.set()
                made = len(step.made)
                step.thaw()
                await put(broker, 10 * number + 3, [f"e{number}-y"])
                sent.append(f"e{number}-y")
                async with lives.life():
                    await is_done(broker)
                    more = [subject for subject in step.made[made:] if not subject.startswith("$JS.ACK.")]
                    assert len(more) <= 1, f"it went on without its lease: {step.made}"
        else:
            async with lives.life(last):
                await is_done(broker)
        steps = steps or last.made
        number += 1
        await journal.load(broker)
        await journal.read_dead(broker)
        assert journal.problems(sent) == [], f"asleep before step {number - 1} of {steps}"


async def limited(broker: Broker, stream: str, more: int) -> None:
    """Lets a stream take so many messages more; -1: as many as come."""
    info = await broker.js.stream_info(stream)
    info.config.max_msgs = -1 if more < 0 else max(1, info.state.messages + more)
    await broker.js.update_stream(info.config)


@pytest.mark.parametrize("stream", [topology.DELIVER, topology.DEAD, topology.RETRY])
async def test_while_a_stream_is_full_events_wait_and_it_is_told_and_then_each_is_in_one_place(
    broker: Broker, lives: Lives, telemetry: Telemetry, stream: str
) -> None:
    journal, part = Journal(), "connection c"
    # one message stands in each before, since a stream cannot be limited to none
    sent = await frames_of(broker, 1, "before")
    async with lives.life():
        await is_done(broker)
    fillers = {"RETRY": "retry.loader.other", "DELIVER": "deliver.other", "DEAD": "dead.loader.other"}
    await broker.publisher.publish(fillers[stream], b"")
    for death in (False, True):  # a successor finds it full as well
        await limited(broker, stream, 0)
        sent += await frames_of(broker, 11 + 10 * death, f"e{death}")
        async with lives.life(), asyncio.timeout(60):
            while "takes no more" not in lives.health.problems.get(part, ""):
                await asyncio.sleep(0.01)
            told = lives.health.problems[part]
            assert "functions gave cannot be stored yet" in told
            assert "events wait" in told
            if death:
                continue
            await limited(broker, stream, -1)
            await is_done(broker)
            assert part not in lives.health.problems
    await limited(broker, stream, -1)
    async with lives.life():
        await is_done(broker)
    await broker.js.purge_stream(stream, subject=fillers[stream])
    await journal.load(broker)
    await journal.read_dead(broker)
    assert journal.problems(sent) == []
    assert telemetry.value("functions_events_total", connection="c") >= 9
    assert telemetry.value("functions_events_out_total", connection="c") >= 5
    assert telemetry.value("functions_events_dropped_total") >= 2
    assert telemetry.value("functions_errors_total") >= 2
    assert telemetry.value("functions_events_dead_total") >= 2


async def test_retried_events_are_no_repeats_although_the_bucket_that_numbers_them_is_lost(broker: Broker, lives: Lives) -> None:
    journal, sent = Journal(), list[str]()
    for number in range(3):
        sent += await frames_of(broker, 10 * number + 1, f"e{number}")
        async with lives.life():
            await is_done(broker)
        await broker.js.purge_stream(f"KV_{topology.STATE_BUCKET}")
        await journal.load(broker)
    await journal.read_dead(broker)
    assert journal.problems(sent) == []
    assert {f"e{number}a-5-again" for number in range(3)} <= journal.ids.keys()


async def test_a_queue_before_functions_that_is_made_again_is_read_from_its_first_frame(broker: Broker, lives: Lives) -> None:
    journal, sent = Journal(), list[str]()
    made = next(stream for stream in topology.streams(topology.TopologySettings()) if stream.name == topology.FUNCTIONS)
    async with lives.life():
        sent += await frames_of(broker, 1, "before")
        await is_done(broker)
        await broker.js.delete_stream(topology.FUNCTIONS)
        await broker.js.add_stream(StreamConfig(**vars(made)))
        # the router reads EVENTS again, also what went on already
        await frames_of(broker, 1, "before")
        sent += await frames_of(broker, 11, "behind")
        await is_done(broker)
    await journal.load(broker)
    await journal.read_dead(broker)
    assert journal.problems(sent) == []
