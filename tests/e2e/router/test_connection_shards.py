"""Connections that several loaders share, at the router: each event in one queue, once, and every user's in order, while numbers change."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from penstock.control.letters.letters import Filter, find
from penstock.control.status.audit import _as_sent
from penstock.control.status.status import read_status
from router.replay.run import replay
from router.rules.arrival import Arrival
from router.rules.compiled import compile_project
from router.rules.match import match
from router.shards.summed import read_site_state
from shared.events.dead import DeadLetter, bury
from shared.events.outcome import DeadReason, DropReason
from shared.jetstream.broker import Broker
from shared.project.snapshot import current_snapshot
from shared.streams.reports import read_reports
from tests.support.nats import NatsServer
from tests.support.router import Queue, apply, frame, project, put, reading, router_process, until, waiting
from tests.support.shards import by_user, drained, users

pytestmark = pytest.mark.timeout(240)


def document(connection: int, site: int = 1) -> dict[str, Any]:
    made = project({"all": {"shards": connection}}, shards=site)
    made["destinations"][made["connections"]["all"]["destination"]] = {"type": "postgres", "dsn": "postgres://x"}
    return made


async def test_the_numbers_of_a_site_and_its_connection_change_under_load(
    broker: Broker, nats: NatsServer, tmp_path: Path
) -> None:
    await apply(broker, document(3))
    names = list((await current_snapshot(broker)).project.connections)
    assert names == ["all", "all=2", "all=3"]
    await apply(broker, document(1))
    taken: list[str] = []
    with router_process(nats.url, tmp_path / "router.log"):
        async with reading(broker, *(Queue(name, ids=taken) for name in names)) as queues:
            async with users(broker) as sending:
                await until(lambda: len(taken) > 50)
                for connection, site in ((3, 1), (2, 3), (1, 2)):
                    await sending.change(document(connection, site))
                    if site > 1:
                        await drained(broker, site)
                    reached = len(taken) + 80
                    await until(lambda: len(taken) > reached)  # noqa: B023
            await until(lambda: len(taken) >= len(sending.ids))
    assert sorted(taken) == sorted(sending.ids)
    assert by_user(taken) == by_user(sending.ids)
    assert all(queue.seqs for queue in queues)


async def test_a_change_that_waits_says_so_and_for_whom(broker: Broker, nats: NatsServer, tmp_path: Path) -> None:
    async def told(*, waits: bool) -> list[str]:
        async with asyncio.timeout(60):
            while True:
                reports = [each.report for each in await read_reports(broker, time.time()) if each.service == "router"]
                found = [why for each in reports for part, why in each.warnings.items() if part == "connection all=2: shards"]
                if reports and bool(found) is waits:
                    return found
                await asyncio.sleep(0.05)

    ids = [[f"m{number}-{part}" for number in range(20)] for part in range(3)]
    await apply(broker, document(1))
    with router_process(nats.url, tmp_path / "router.log"):
        await put(broker, ids[0])
        async with asyncio.timeout(60):
            while await waiting(broker, "all") < 1:
                await asyncio.sleep(0.01)
        await apply(broker, document(2))
        await until_split(broker, 2)
        for part in (1, 2):
            for id_ in ids[part]:
                await put(broker, [id_], userId=id_)
        assert await told(waits=True) == ["its number of shards changes; it waits for all, which has earlier frames in its queue"]
        status = await read_status(broker, (await current_snapshot(broker)).project, 2, [], time.time())
        lines = {each.connection: each.why for each in status.connections}
        assert all("its number of shards changes; it waits for all, which" in why for why in lines.values()), lines
        taken: list[str] = []
        async with reading(broker, Queue("all", ids=taken), Queue("all=2", ids=taken)):
            await until(lambda: len(taken) >= 60)
        assert await told(waits=False) == []
    assert sorted(taken) == sorted(id_ for each in ids for id_ in each)


async def until_split(broker: Broker, splits: int) -> None:
    """Waits until the connection `all` has so many splits."""
    async with asyncio.timeout(60):
        while len((await read_site_state(broker, "shop")).lives["all"].splits) < splits:
            await asyncio.sleep(0.01)


async def test_what_is_routed_again_goes_to_the_shards_that_had_it(broker: Broker, nats: NatsServer, tmp_path: Path) -> None:
    await apply(broker, document(1))
    with router_process(nats.url, tmp_path / "router.log"):
        async with reading(broker, "all") as (queue,), users(broker) as sending:
            await until(lambda: len(queue.ids) > 20)
            await sending.change(document(2))
            async with reading(broker, "all=2") as (other,):
                await until(lambda: len(other.ids) > 20)
    snapshot = await current_snapshot(broker)
    state = await read_site_state(broker, "shop")
    rules = _as_sent(compile_project(snapshot)["shop"], state)
    assert [split.of for split in rules.connections["all"].spread.splits] == [1, 2]  # type: ignore[union-attr]
    begins = state.lives["all"].splits[1].since
    payload = frame([{"messageId": f"m{number}", "userId": f"u{number}"} for number in range(20)])
    before, after = (
        [match(rules.connections[name], Arrival(seq, 0.0, payload, with_heads=True)).indexes for name in ("all", "all=2")]
        for seq in (begins - 1, begins)
    )
    assert before == [None, []]
    assert sorted([*(after[0] or ()), *(after[1] or ())]) == list(range(20))
    # a replay of the connection is one of all its shards
    report = await replay(broker, snapshot, "shop", 1, begins, replay_id="r1", connection="all", dry_run=True)
    assert list(report.connections) == ["all", "all=2"]
    found = report.connections.values()
    assert sum(each.events + each.dropped.get(DropReason.DUPLICATE, 0) for each in found) == report.events


async def test_dead_letters_of_a_connection_are_those_of_all_its_shards(broker: Broker) -> None:
    for number, name in enumerate(("wh", "wh=2", "other")):
        letter = DeadLetter(
            stage="loader",
            site="shop",
            connection=name,
            reason=DeadReason.TYPE_CONFLICT,
            detail="x",
            body=b"{}",
            at=1.0,
            origin=f"x:{number}",
        )
        await bury(publisher=broker.publisher, stage="loader", name=name, letters=[letter], msg_id=f"m{number}")
    for wanted, names in (("wh", ["wh", "wh=2"]), ("wh=2", ["wh=2"]), ("other", ["other"])):
        found = [stored.letters[0].connection async for stored in find(broker, Filter(connection=wanted))]
        assert found == names
