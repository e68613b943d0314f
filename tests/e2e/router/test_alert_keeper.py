"""The evaluation over a real broker: a router that takes over forgets nothing, and a former one sends nothing; a silence and the end of a storm;
what leaves the project."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from router.alerts.judge.volume import History
from router.alerts.store import (
    ALL,
    HISTORIES,
    MEMORY_KEY,
    Silence,
    is_silent,
    read_ledgers,
    read_silences,
    remove_others,
    write_silence,
)
from shared.errors import Fenced
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.settings import ServiceSettings
from shared.streams.reports import Told, keep_report, key_of, read_reports
from shared.telemetry.health import Health
from shared.telemetry.metrics import Telemetry
from tests.e2e.router.alert_support import Evaluation


@pytest.fixture
async def evaluation(broker: Broker) -> AsyncIterator[Evaluation]:
    telemetry = Telemetry("test", ServiceSettings())
    made = Evaluation(broker, telemetry)
    await made.say()
    yield made
    telemetry.shutdown()


async def test_a_router_that_takes_over_neither_repeats_nor_forgets(evaluation: Evaluation) -> None:
    await evaluation.say(a="refused")
    await evaluation.look()
    await evaluation.look()
    evaluation.keeper = evaluation.another()
    await evaluation.look()
    await evaluation.say()
    await evaluation.look()
    evaluation.keeper = evaluation.another()
    await evaluation.look()
    await evaluation.look()
    assert evaluation.sent.told == [("connection a", "failing"), ("connection a", "recovered")]


async def test_a_silence_is_about_names_of_a_fault_and_one_ends_without_the_others(evaluation: Evaluation) -> None:
    async def held_back(key: str, *names: str) -> bool:
        silences = await read_silences(evaluation.broker, evaluation.now)
        return is_silent(silences, "ops", key, names, now=evaluation.now)

    async def silence(about: str, seconds: float) -> None:
        await write_silence(evaluation.broker, "ops", Silence(until=evaluation.now + seconds, about=about), evaluation.now)

    await silence("wh", 8 * 3600)
    assert await held_back("connection a", "a", "shop", "wh"), "a destination holds back its connections"
    assert not await held_back("service x")
    await silence("a", 3600)
    assert await held_back("dead loader a", "a")
    await silence("", 600)
    assert await held_back("service x")
    evaluation.now += 700
    assert not await held_back("service x")
    assert await held_back("connection a", "a", "shop", "wh"), "a short silence about everything took no longer one away"
    await silence("a", 0)
    assert not await held_back("dead loader a", "a")
    await silence("", 0)
    assert not await held_back("connection a", "a", "shop", "wh")


async def test_what_leaves_the_project_is_not_called_recovered_and_an_alert_that_comes_back_begins_anew(
    evaluation: Evaluation,
) -> None:
    await evaluation.say(a="refused", b="refused")
    await evaluation.look()
    connections = dict(evaluation.document["connections"])
    evaluation.use(connections={"b": connections["b"]})
    await evaluation.look()
    await evaluation.look()
    assert evaluation.sent.told[2:] == [("connection a", "recovered")]
    assert evaluation.sent.messages[-1].items[0].note == "it left the project"
    await remove_others(evaluation.broker, {}, {})
    ledgers = await read_ledgers(evaluation.broker, ["ops"])
    assert ledgers["ops"].faults == {}
    evaluation.keeper = evaluation.another()
    await evaluation.look()
    assert evaluation.sent.told[3:] == [("connection b", "failing")]


async def test_another_address_of_an_alert_is_told_what_lasts(evaluation: Evaluation) -> None:
    await evaluation.say(a="refused")
    await evaluation.look()
    evaluation.use(type="webhook", url="http://127.0.0.1:9/other")
    await evaluation.look()
    await evaluation.look()
    assert evaluation.sent.told == [("connection a", "failing")] * 2


async def test_a_service_of_which_no_process_is_left_is_told_and_a_pause_of_the_routers_is_none(evaluation: Evaluation) -> None:
    evaluation.use(type="webhook", when=["service"])
    await evaluation.look()
    await evaluation.look(3600.0)
    assert evaluation.sent.told == [], "no router looked for an hour"
    await Bucket(evaluation.broker, topology.LEASE_BUCKET).delete(key_of("l"))
    for _ in range(15):
        await evaluation.look(30.0)
    assert evaluation.sent.told == [("service loader: processes", "failing")]
    await evaluation.say()
    await evaluation.look()
    await evaluation.look()
    assert evaluation.sent.told[1:] == [("service loader: processes", "recovered")]


async def test_many_sites_with_whole_histories_are_kept(evaluation: Evaluation) -> None:
    sites: dict[str, Any] = {f"site-{number}": {} for number in range(20)}
    evaluation.use(type="webhook", sites={**sites, "shop": {}})
    await evaluation.look()
    counts = [100_000_000] * 672
    bucket = Bucket(evaluation.broker, topology.STATE_BUCKET)
    for name in sites:
        long = History(hour=int(evaluation.now // 3600), began_at=evaluation.now, accepted=0, counts=counts)
        await bucket.put(HISTORIES + name, msgspec.json.encode(long))
    evaluation.keeper = evaluation.another()
    await evaluation.look(3600.0)
    info = await evaluation.broker.js.get_last_msg(f"KV_{topology.STATE_BUCKET}", f"$KV.{topology.STATE_BUCKET}.{MEMORY_KEY}")
    assert len(info.data or b"") < 1000, "one value for all sites would be too large for the broker"
    kept = await bucket.get(HISTORIES + "site-7")
    assert kept is not None
    assert kept.value is not None
    assert msgspec.json.decode(kept.value, type=History).counts[1] == 100_000_000


async def test_a_former_router_sends_nothing(evaluation: Evaluation) -> None:
    former = evaluation.keeper
    await evaluation.look()
    await evaluation.say(a="refused")
    evaluation.keeper = evaluation.another()
    await evaluation.look()
    assert len(evaluation.sent.messages) == 1
    evaluation.keeper = former
    with pytest.raises(Fenced):
        await evaluation.look()
    assert len(evaluation.sent.messages) == 1


async def test_faults_of_one_look_are_one_message_and_a_silence_about_one_holds_it_back(evaluation: Evaluation) -> None:
    await evaluation.say(a="refused", b="refused")
    await write_silence(evaluation.broker, ALL, Silence(until=evaluation.now + 60, about="b"), evaluation.now)
    await evaluation.look()
    assert evaluation.sent.told == [("connection a", "failing")]
    await evaluation.look(100.0)
    assert evaluation.sent.told[1:] == [("connection b", "failing")]
    await evaluation.say()
    await evaluation.look()
    await evaluation.look()
    assert [len(message.items) for message in evaluation.sent.messages] == [1, 1, 2]


async def test_what_did_not_change_is_not_written_again(evaluation: Evaluation) -> None:
    await evaluation.say(a="refused")
    for _ in range(3):
        await evaluation.look()
    info = await evaluation.broker.js.stream_info(f"KV_{topology.STATE_BUCKET}")
    for _ in range(10):
        await evaluation.look(1.0)
    again = await evaluation.broker.js.stream_info(f"KV_{topology.STATE_BUCKET}")
    assert again.state.last_seq == info.state.last_seq


async def test_a_process_says_its_health_and_takes_it_back_when_it_ends(broker: Broker) -> None:
    health = Health()
    health.good("service")
    health.bad("connection a", "w" * 10_000)
    task: asyncio.Task[Any] = asyncio.create_task(keep_report(broker, health, "loader", "loader-host.example-1"))

    async def reports(count: int) -> list[Told]:
        async with asyncio.timeout(60):
            while len(found := await read_reports(broker, time.time())) != count:
                await asyncio.sleep(0.05)
        return found

    (told,) = await reports(1)
    assert (told.service, told.instance) == ("loader", "loader-host.example-1")
    assert len(told.report.problems["connection a"]) == 600
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await reports(0)
