"""A message is told once although routers die or are frozen at any step, and although a channel hangs, breaks or does not say what became of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from router.alerts.contract import TAKEN, Message, Outcome
from router.alerts.keeper import AlertKeeper, keep_alerts
from router.alerts.registry import Alert
from router.alerts.store import (
    Cell,
    read_ledgers,
)
from router.settings import RouterSettings
from shared.errors import Fenced, Transient
from shared.jetstream.broker import Broker
from shared.settings import ServiceSettings
from shared.tasks import timeout
from shared.telemetry.metrics import Telemetry
from tests.e2e.router.alert_support import Evaluation


@pytest.fixture
async def evaluation(broker: Broker) -> AsyncIterator[Evaluation]:
    telemetry = Telemetry("test", ServiceSettings())
    made = Evaluation(broker, telemetry)
    await made.say()
    yield made
    telemetry.shutdown()


@pytest.mark.parametrize("kind", ["slack", "webhook"])
@pytest.mark.parametrize("deaths", [1, 2, 5])
async def test_routers_that_die_after_the_channel_took_a_message_leave_it_to_be_sent_once_more(
    evaluation: Evaluation, kind: str, deaths: int
) -> None:
    evaluation.use(type=kind)
    await evaluation.say(a="refused")
    for _ in range(deaths):
        evaluation.sent.dies = True
        await evaluation.look(1000.0)
        evaluation.keeper = evaluation.another()
        await evaluation.say(a="refused", b="refused")  # more fails meanwhile; it is told in a message of its own
    evaluation.sent.dies = False
    for _ in range(3):
        await evaluation.look(1000.0)
    times = Counter(evaluation.sent.told)
    assert set(times) == {("connection a", "failing"), ("connection b", "failing")}
    # a webhook knows repeats by the id; Slack would show each
    assert times["connection a", "failing"] == (2 if kind == "slack" else deaths + 1)
    assert kind != "slack" or max(times.values()) == 2
    assert len({message.id for message in evaluation.sent.messages}) == 2


async def test_a_channel_that_may_have_taken_a_message_gets_it_again_less_and_less(evaluation: Evaluation) -> None:
    evaluation.use(type="slack")
    evaluation.sent.answer = Outcome("no answer within 15 s", unsure=True)
    await evaluation.say(a="refused")
    for _ in range(360):
        await evaluation.look()
    assert 3 <= len(evaluation.sent.messages) <= 6, "within an hour"
    assert len({message.id for message in evaluation.sent.messages}) == 1
    evaluation.sent.answer = TAKEN
    evaluation.now += 3600.0
    await evaluation.say(a="refused")
    await evaluation.look()
    count = len(evaluation.sent.messages)
    for _ in range(10):
        await evaluation.look()
    assert len(evaluation.sent.messages) == count


async def test_a_router_that_was_frozen_before_it_sent_sends_nothing(
    evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    await evaluation.look()
    await evaluation.say(a="refused")
    former, keep = evaluation.keeper, Cell.keep

    async def frozen_after(self: Cell, value: bytes, *, unless: bool = False) -> None:
        await keep(self, value, unless=unless)
        if b"in_flight" in value:
            former._lease.lost.set()

    monkeypatch.setattr(Cell, "keep", frozen_after)
    with pytest.raises(Fenced):
        await evaluation.look()
    assert evaluation.sent.messages == []
    monkeypatch.undo()
    evaluation.keeper = evaluation.another()
    await evaluation.look()
    assert evaluation.sent.told == [("connection a", "failing")]


async def test_alerts_that_cannot_be_evaluated_are_said_until_they_are(
    evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.alerts.keeper.ERROR_SECONDS", 0.05)
    monkeypatch.setattr("router.alerts.keeper.ASK_SECONDS", 0.05)
    looked, goes_on = asyncio.Event(), asyncio.Event()

    async def run(self: AlertKeeper) -> None:
        if not goes_on.is_set():
            raise Transient("the value is too large")
        await self.look_once(evaluation.snapshot, {})
        looked.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(AlertKeeper, "run", run)
    context = evaluation.context()
    context.config.loaded.set()
    task = asyncio.create_task(keep_alerts(context, RouterSettings()))
    try:
        async with timeout(60):
            while "the value is too large" not in evaluation.health.warnings.get("alerts", ""):
                await asyncio.sleep(0.05)
            goes_on.set()
            await looked.wait()
        assert "alerts" not in evaluation.health.warnings
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_an_alert_with_an_unexpected_error_stops_no_other(evaluation: Evaluation) -> None:
    evaluation.use(type="webhook", others={"bad": {"type": "slack", "url": "http://127.0.0.1:9/"}})
    send = evaluation.sent.send

    async def breaks(alert: Alert, message: Message) -> Outcome:
        if alert.name == "bad":
            raise ValueError("a line break in a header")
        return await send(alert, message)

    evaluation.sent.send = breaks  # type: ignore[method-assign]
    await evaluation.say(a="refused")
    for _ in range(20):
        await evaluation.look(100.0)
    assert evaluation.sent.told == [("connection a", "failing")]
    (fault,) = (await read_ledgers(evaluation.broker, ["bad"]))["bad"].faults.values()
    assert fault.told == 0.0
    assert "unexpected error ValueError" in evaluation.health.warnings["alerts bad"]


async def test_a_channel_that_hangs_holds_up_no_other(evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.alerts.keeper.PATIENCE_SECONDS", 0.05)
    evaluation.use(type="webhook", others={"slow": {"type": "slack", "url": "http://127.0.0.1:9/"}})
    send, answers = evaluation.sent.send, asyncio.Event()

    async def hangs(alert: Alert, message: Message) -> Outcome:
        if alert.name == "slow":
            await answers.wait()
        return await send(alert, message)

    evaluation.sent.send = hangs  # type: ignore[method-assign]

    async def look() -> None:
        await evaluation.look(200.0)
        if task := evaluation.keeper._tasks.get("ops"):  # on a busy machine it takes longer than the look waits
            await asyncio.wait([task])

    await evaluation.say(a="refused")
    await look()
    await look()
    await evaluation.say()
    await look()
    await look()
    assert evaluation.sent.told == [("connection a", "failing"), ("connection a", "recovered")]
    answers.set()
    await evaluation.keeper.close()


async def test_a_channel_that_does_not_work_is_warned_of_and_asked_less_and_less_until_it_works(evaluation: Evaluation) -> None:
    evaluation.sent.answer = Outcome("it answers 500")
    await evaluation.say(a="refused")
    for _ in range(100):
        await evaluation.look()
    assert 5 <= len(evaluation.sent.messages) <= 9
    assert "cannot be sent since" in evaluation.health.warnings["alerts ops"]
    assert evaluation.telemetry.value("alerts_failing", alert="ops") == 1
    assert evaluation.telemetry.value("alerts_firing", alert="ops") == 1
    failed = evaluation.telemetry.value("alerts_messages_total", alert="ops", outcome="failed")
    assert failed == len(evaluation.sent.messages)
    evaluation.keeper = evaluation.another()
    before = len(evaluation.sent.messages)
    await evaluation.look()
    assert len(evaluation.sent.messages) == before, "a router that takes over knows when the next attempt is due"
    await evaluation.say()
    evaluation.sent.answer = TAKEN
    await evaluation.look()
    await evaluation.look(700.0)
    assert evaluation.sent.told[before:] == [("connection a", "recovered")]
    assert "alerts ops" not in evaluation.health.warnings
    assert evaluation.telemetry.value("alerts_firing", alert="ops") == 0
    assert evaluation.telemetry.value("alerts_messages_total", alert="ops", outcome="taken") == 1
    ledgers = await read_ledgers(evaluation.broker, ["ops"])
    assert (ledgers["ops"].faults, ledgers["ops"].trouble) == ({}, "")
