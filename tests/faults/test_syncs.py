"""Rows of syncs are each in their table once, whatever ends the loader, and failures of one stream leave the others alone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from loader.contract.warehouse import Kind
from shared.jetstream.broker import Broker
from shared.settings import ServiceSettings
from shared.syncs.frames import Over, State
from shared.telemetry.metrics import Telemetry
from shared.threads import ThreadGate
from tests.support.clickhouse import Place
from tests.support.destinations.clickhouse import ClickHouseSubject
from tests.support.destinations.duckdb import DuckDBSubject
from tests.support.destinations.postgres import PostgresSubject
from tests.support.lives import Step
from tests.support.nats import NatsServer
from tests.support.syncs import Loaders, Queue, stream

SHAPE = {"id": Kind.BIGINT, "text": Kind.TEXT}
Warehouse = PostgresSubject | DuckDBSubject | ClickHouseSubject


@pytest.fixture(scope="module")
def telemetry() -> Telemetry:
    return Telemetry("test", ServiceSettings())


@pytest.fixture(scope="module")
def gate() -> Iterator[ThreadGate]:
    gate = ThreadGate(4, "test")
    yield gate
    gate.close()


@pytest.fixture
async def wh(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Warehouse]:
    kind = getattr(request, "param", "postgres")
    subject: Warehouse
    if kind == "duckdb":
        yield DuckDBSubject(tmp_path)
        return
    if kind == "clickhouse":
        place: Place = request.getfixturevalue("clickhouse")
        subject = ClickHouseSubject(place)
    else:
        subject = PostgresSubject(request.getfixturevalue("postgres_dsn"))
    yield subject
    await subject.drop()


@pytest.fixture
def loaders(nats: NatsServer, telemetry: Telemetry, gate: ThreadGate, wh: Warehouse) -> Loaders:
    return Loaders(nats.url, telemetry, gate, wh.document)


@pytest.fixture
def queue(broker: Broker) -> Queue:
    return Queue(broker)


def rows(*ids: int, text: str = "a") -> list[dict[str, Any]]:
    return [{"id": each, "text": text} for each in ids]


def arrow(*ids: int, text: str = "a") -> pa.Table:
    return pa.table({"id": pa.array(ids, pa.int64()), "text": pa.array([text] * len(ids), pa.string())})


async def ids(wh: Warehouse, table: str = "orders") -> Counter[int]:
    return Counter(row["id"] for row in await wh.rows(table, SHAPE))


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


async def _ended(step: Step, queue: Queue) -> None:
    """Waits until a loader is at its last step, or has nothing left to do."""
    empty, reached = asyncio.create_task(queue.is_empty()), asyncio.create_task(step.reached.wait())
    done, waiting = await asyncio.wait({empty, reached}, return_when=asyncio.FIRST_COMPLETED)
    for task in (*done, *waiting):
        task.cancel()
