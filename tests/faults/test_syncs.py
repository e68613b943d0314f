"""Rows of syncs are each in their table once, whatever ends the loader, and failures of one stream leave the others alone."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, cast

import pytest

from loader.delivery.leftovers import _leftovers
from loader.syncs.removed import sweep
from shared.jetstream.broker import Broker
from shared.project.snapshot import StoredProject, apply_project, current_snapshot
from shared.service import ServiceContext
from shared.settings import ServiceSettings
from shared.syncs.frames import Over, State
from shared.syncs.progress import SyncProgress, write_progress
from shared.telemetry.health import Health
from shared.telemetry.metrics import Telemetry
from shared.threads import ThreadGate
from tests.support.destinations.postgres import PostgresSubject
from tests.support.lives import Step
from tests.support.nats import NatsServer
from tests.support.syncs import SHAPE, SYNC, Loaders, Queue, Warehouse, arrow, ids, rows, stream

ALL = pytest.mark.parametrize("wh", ["postgres", "duckdb", "clickhouse"], indirect=True)


@ALL
async def test_each_way_of_writing_does_what_it_says_and_states_follow_the_rows(
    wh: Warehouse, queue: Queue, loaders: Loaders
) -> None:
    merged, fresh = stream("people", "merge", key=["id"], cursor="n"), stream("prices", "replace")
    await queue.put(1, 1)
    await queue.put(
        1,
        2,
        [(stream(), arrow(1, 2)), (merged, [{"id": 1, "n": 5, "text": "new"}, {"id": 2, "n": 1, "text": "a"}]), (fresh, rows(1))],
        states=[State(b"s1", "orders")],
        frames=3,
    )
    async with loaders.life():
        await queue.is_empty()
        assert await ids(wh, "prices") == {}
        await queue.put(1, 3, [(stream(), rows(3)), (merged, [{"id": 1, "n": 4, "text": "old"}]), (fresh, arrow(2))])
        over = [Over(each, complete=True) for each in (stream(), merged, fresh, stream("nothing", "replace"))]
        await queue.put(1, 4, over=over, states=[State(b"s2", "orders"), State(b"p", "people")], last=True)
        await queue.is_empty()
    assert await ids(wh) == Counter((1, 2, 3))
    assert {(row["id"], row["text"]) for row in await wh.rows("people", SHAPE)} == {(1, "new"), (2, "a")}
    assert await ids(wh, "prices") == Counter((1, 2))
    progress = await queue.progress()
    assert (progress.run, progress.batch, progress.last, progress.failed) == (1, 4, True, "")
    assert progress.states == (State(b"s2", "orders"), State(b"p", "people"))
    assert {name: (each.loaded, each.over) for name, each in progress.streams.items()} == {
        "orders": (3, True), "people": (3, True), "prices": (2, True), "nothing": (0, True),
    }  # fmt: skip


@ALL
async def test_a_loader_that_dies_between_two_steps_loses_and_doubles_nothing(
    wh: Warehouse, queue: Queue, loaders: Loaders
) -> None:
    fresh, run, number, expected, over = stream("prices", "replace"), 0, 0, Counter[int](), False
    while not over:
        number += 1
        for side in ("before", "behind"):
            run += 1
            step, first = Step(number, side), run * 10
            await queue.put(run, 1)
            await queue.put(run, 2, [(stream(), rows(first, first + 1)), (fresh, arrow(first))], frames=2)
            await queue.put(run, 3, [(stream(), arrow(first + 2)), (fresh, [*rows(first + 1), b"no row"])])
            end = [Over(stream(), complete=True), Over(fresh, complete=True)]
            await queue.put(run, 4, [(stream(), rows(first + 3))], over=end, states=[State(b"%d" % run, "orders")], last=True)
            async with loaders.life(step):
                await _ended(step, queue)
            over = not step.reached.is_set()
            async with loaders.life():
                await queue.is_empty()
            expected.update(range(first, first + 4))
            assert await ids(wh) == expected, f"{side} step {number}: {step.made}"
            assert await ids(wh, "prices") == Counter((first, first + 1))
            progress = await queue.progress()
            assert progress.states == (State(b"%d" % run, "orders"),)
            found = {name: (each.loaded, each.dead) for name, each in progress.streams.items()}
            assert found == {"orders": (4, 0), "prices": (2, 1)}, f"{side} step {number}: {step.made}"
            letters = Counter(letter.origin for letter in await queue.letters())
            assert len(letters) == run
            assert set(letters.values()) == {1}
    assert number > 8


async def test_a_frozen_loader_that_wakes_up_writes_nothing_over_its_successor(
    wh: Warehouse, queue: Queue, loaders: Loaders
) -> None:
    await queue.put(1, 1, [(stream(), rows(1, 2))])
    frozen = Step(1)
    async with loaders.life(frozen) as former:
        await frozen.reached.wait()
        assert frozen.made == ["deliver.committed"]
        async with loaders.life():
            await queue.is_empty()
            await queue.put(1, 2, [(stream(), rows(3))], last=True)
            await queue.is_empty()
            frozen.thaw()
            await asyncio.wait_for(former, 60)
    assert await ids(wh) == Counter((1, 2, 3))
    assert (await queue.progress()).streams["orders"].loaded == 3


async def test_versions_and_rows_that_are_inserted_once_and_deleted(wh: Warehouse, queue: Queue, loaders: Loaders) -> None:
    kept, once = stream("versions", "history", key=["id"], cursor="n"), stream("once", "insert_only", key=["id"])
    gone = stream("gone", "merge", key=["id"], cursor="n", deleted="deleted")
    first = [{"id": 1, "n": 1, "text": "a", "deleted": None}, {"id": 2, "n": 1, "text": "a", "deleted": None}]
    later = [{"id": 1, "n": 2, "text": "b", "deleted": "2026-01-01T00:00:00Z"}]
    await queue.put(1, 1, [(each, first) for each in (kept, once, gone)])
    await queue.put(1, 2, [(each, later) for each in (kept, once, gone)], last=True)
    async with loaders.life():
        await queue.is_empty()
    assert await ids(wh, "versions") == Counter((1, 1, 2))
    assert {(row["id"], row["text"]) for row in await wh.rows("once", SHAPE)} == {(1, "a"), (2, "a")}
    assert await ids(wh, "gone") == Counter((2,))


async def test_a_refresh_shows_the_old_rows_until_it_ends_and_for_good_if_it_is_given_up(
    wh: Warehouse, queue: Queue, loaders: Loaders
) -> None:
    fresh = stream("prices", "replace")
    await queue.put(1, 1, [(fresh, rows(1, 2))], over=[Over(fresh, complete=True)], last=True)
    async with loaders.life():
        await queue.is_empty()
        await queue.put(2, 1)
        await queue.put(2, 2, [(fresh, rows(3))])
        await queue.is_empty()
        assert await ids(wh, "prices") == Counter((1, 2))
        await queue.put(2, 3, [(fresh, rows(4))], over=[Over(fresh, complete=False)], states=[State(b"p", "prices")], last=True)
        await queue.is_empty()
        assert await ids(wh, "prices") == Counter((1, 2))
        assert (await queue.progress()).states == ()
        # a run that nobody ends is overtaken by the next
        await queue.put(3, 1)
        await queue.put(3, 2, [(fresh, rows(5))])
        await queue.put(4, 1)
        await queue.put(4, 2, [(fresh, rows(6))], over=[Over(fresh, complete=True)], last=True)
        await queue.is_empty()
        assert await ids(wh, "prices") == Counter((6,))
        await queue.put(5, 1, over=[Over(fresh, complete=True)], last=True)
        await queue.is_empty()
    assert await ids(wh, "prices") == Counter()
    assert isinstance(wh, PostgresSubject)
    assert not [name for name in await wh.tables() if name.startswith("_penstock_run")]


async def test_what_is_not_for_this_run_or_destination_is_left_out_and_acknowledged(
    wh: Warehouse, queue: Queue, loaders: Loaders, telemetry: Telemetry
) -> None:
    await queue.put(1, 1, [(stream(), rows(1))], states=[State(b"1", "orders")])
    await queue.put(1, 2, [(stream(), rows(2))], destination="other")
    await queue.put(1, 2, [(stream(), rows(3, 4))], frames=2, end=False)  # its runner died
    await queue.put(2, 1, [(stream(), rows(3))], states=[State(b"2", "orders")])
    await queue.put(1, 3, [(stream(), rows(9))], states=[State(b"9", "orders")])  # a runner that was frozen
    await queue.put(2, 2, [(stream(), rows(4))], states=[State(b"3", "orders")], last=True)
    await queue.put(2, 1, [(stream(), rows(3))], states=[State(b"2", "orders")])
    async with loaders.life():
        await queue.is_empty()
    assert await ids(wh) == Counter((1, 3, 4))
    progress = await queue.progress()
    assert (progress.run, progress.batch, progress.states) == (2, 2, (State(b"3", "orders"),))
    # a frame that is looked at again while the queue is busy counts again
    assert telemetry.value("loader_sync_frames_left_out_total") >= 4


async def test_a_batch_without_all_its_frames_is_never_loaded_in_part(wh: Warehouse, queue: Queue, loaders: Loaders) -> None:
    await queue.put(1, 1, [(stream(), rows(1))], states=[State(b"1", "orders")])
    await queue.put(1, 2, [(stream(), rows(2, 3, 4))], frames=3, lost=[1], states=[State(b"2", "orders")])
    await queue.put(1, 3, [(stream(), rows(5))], states=[State(b"3", "orders")], last=True)
    async with loaders.life():
        await queue.is_empty()
        progress = await queue.progress()
        assert "batch 2 has 3 frames, and 2 are in the queue" in progress.failed
        assert (progress.batch, progress.last, progress.states) == (3, True, (State(b"1", "orders"),))
        await queue.put(2, 1, [(stream(), rows(2, 3, 4, 5))], states=[State(b"4", "orders")], last=True)
        await queue.is_empty()
    assert await ids(wh) == Counter((1, 2, 3, 4, 5))
    assert (await queue.progress()).failed == ""


async def test_while_the_destination_is_away_rows_wait_and_the_note_says_why(
    wh: Warehouse, queue: Queue, loaders: Loaders, nats: NatsServer, telemetry: Telemetry, gate: ThreadGate
) -> None:
    await queue.put(1, 1, [(stream(), rows(1))], last=True)
    away = Loaders(nats.url, telemetry, gate, {**wh.document, "dsn": "postgresql://u:p@127.0.0.1:1/none"})
    async with away.life():
        progress = await queue.told(lambda progress: bool(progress.waits))
        assert "sync orders" in away.health.problems
    assert (progress.run, await queue.waiting(), await queue.letters()) == (0, 1, [])
    async with loaders.life():
        await queue.is_empty()
        assert "sync orders" not in loaders.health.problems
    assert await ids(wh) == Counter((1,))
    assert (await queue.progress()).waits == ""


async def test_what_waits_for_a_removed_sync_is_taken_away_and_for_others_it_stays(
    broker: Broker, queue: Queue, telemetry: Telemetry
) -> None:
    document: dict[str, Any] = {
        "destinations": {"wh": {"type": "duckdb", "path": "x"}},
        "connectors": {"source": {"type": "postgres"}},
        "syncs": {SYNC: {"connector": "source", "destination": "wh"}},
    }
    await queue.put(1, 1, [(stream(), rows(1))])
    await write_progress(queue.bucket, SYNC, SyncProgress(run=1), 0)
    context = ServiceContext("loader", "here", ServiceSettings(), broker, cast("Any", None), telemetry, Health())
    for syncs, left in ((document["syncs"], 1), ({}, 0)):
        revision = await apply_project(broker, StoredProject(document | {"syncs": syncs}, document | {"syncs": syncs}))
        assert await _leftovers(broker, await current_snapshot(broker)) == []
        assert revision
        await sweep(context, 2)
        assert (await queue.waiting(), (await queue.progress()).run) == (left, left)
    # one that is added again under the name begins from nothing
    assert await write_progress(queue.bucket, SYNC, SyncProgress(run=2), 0)


async def _ended(step: Step, queue: Queue) -> None:
    """Waits until a loader is at its last step, or has nothing left to do."""
    empty, reached = asyncio.create_task(queue.is_empty()), asyncio.create_task(step.reached.wait())
    done, waiting = await asyncio.wait({empty, reached}, return_when=asyncio.FIRST_COMPLETED)
    for task in (*done, *waiting):
        task.cancel()
