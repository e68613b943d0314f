"""Runs of syncs end, go on and are told of, while runners end, queues are emptied and loaders stay away."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from pathlib import Path

import pytest

from connector_runner.syncs import queue as queues
from connector_runner.syncs import run as runs
from connector_runner.syncs.logbook import Logbook
from loader.contract.warehouse import Kind
from shared.errors import Fenced
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.syncs.progress import next_number
from shared.syncs.records import RunRecord, ask_key, encode, log_of, pending_ask, run_key
from shared.telemetry.metrics import Telemetry
from tests.support.destinations.duckdb import DuckDBSubject
from tests.support.lives import Step
from tests.support.nats import NatsServer
from tests.support.sync_runs import Desk, Runners
from tests.support.syncs import SYNC, Loaders, Queue


@pytest.fixture
def wh(tmp_path: Path) -> DuckDBSubject:
    return DuckDBSubject(tmp_path)


@pytest.fixture
async def runners(nats: NatsServer, telemetry: Telemetry, tmp_path: Path, broker: Broker) -> Runners:  # its streams
    made = Runners(nats.url, telemetry, tmp_path)
    await made.shop.add(0, 100)
    return made


@pytest.fixture
def desk(broker: Broker) -> Desk:
    return Desk(broker)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(runs, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(runs, "WRITE_SECONDS", 0.05)


async def ids(wh: DuckDBSubject, table: str = "users", column: str = "id") -> Counter[int]:
    return Counter(row[column] for row in await wh.rows(table, {column: Kind.BIGINT}))


async def test_a_runner_that_dies_between_two_steps_loses_and_doubles_nothing(
    wh: DuckDBSubject, runners: Runners, loaders: Loaders, desk: Desk
) -> None:
    async with loaders.life():
        number, rows, over = 0, 100, False
        while not over:
            number += 1
            step = Step(number, "before" if number % 2 else "behind")
            asked = await desk.ask()
            async with runners.life(step):
                ending = asyncio.create_task(desk.ended(asked))
                await asyncio.wait({ending, asyncio.create_task(step.reached.wait())}, return_when=asyncio.FIRST_COMPLETED)
                over = not step.reached.is_set()
                ending.cancel()
            async with runners.life():
                record = await desk.ended(asked)
            assert (record.status, record.error) == ("succeeded", ""), f"step {number}: {step.made}"
            expected = Counter(range(rows))
            assert (await ids(wh), await ids(wh, "tags", "tag")) == (expected, expected), f"step {number}: {step.made}"
            await runners.shop.add(rows, rows + 10)
            rows += 10
    assert number > 6
    assert {each.status for each in await desk.earlier()} == {"succeeded", "interrupted"}


async def test_a_backfill_that_is_cut_off_goes_on_as_it_was_asked_for(
    wh: DuckDBSubject, runners: Runners, loaders: Loaders, desk: Desk
) -> None:
    async with loaders.life(), runners.life():
        await desk.ended(await desk.ask())
    asked = await desk.ask(streams=("users",), afresh=True)
    async with runners.life():  # while the loader is away
        await desk.told(lambda record: record.asked == asked and bool(record.waits))
    async with loaders.life(), runners.life():
        record = await desk.ended(asked)
    assert {name: of.rows for name, of in record.streams.items()} == {"users": 100}
    cut_off = (await desk.earlier())[0]
    assert (cut_off.status, cut_off.asked, "run 3 went on" in cut_off.error) == ("interrupted", asked, True)
    assert await ids(wh) == Counter(range(100))


async def test_a_reset_stays_asked_for_until_it_is_done(runners: Runners, loaders: Loaders, desk: Desk, queue: Queue) -> None:
    async with loaders.life(), runners.life():
        await desk.ended(await desk.ask())
    assert (await queue.progress()).states
    await desk.ask("reset")
    async with runners.life():  # while the loader is away
        async with asyncio.timeout(60):
            while not await queue.waiting():
                await asyncio.sleep(0.02)
        assert (await pending_ask(desk.bucket, ask_key(SYNC)))[1]
    async with loaders.life(), runners.life():
        await queue.told(lambda progress: not progress.states)
        async with asyncio.timeout(60):
            while (await pending_ask(desk.bucket, ask_key(SYNC)))[1]:
                await asyncio.sleep(0.02)


async def test_a_run_ends_when_it_is_cancelled_while_the_loader_is_away(runners: Runners, loaders: Loaders, desk: Desk) -> None:
    asked = await desk.ask()
    async with runners.life():
        waiting = await desk.told(lambda record: record.asked == asked and bool(record.waits))
        await desk.ask("cancel", number=waiting.number)
        assert (await desk.ended(asked)).status == "cancelled"
        # one that nobody is at is cancelled when a runner is back
        asked = await desk.ask()
        cut_off = await desk.told(lambda record: record.asked == asked and bool(record.waits))
    await desk.ask("cancel", number=cut_off.number)
    async with loaders.life(), runners.life():
        assert (await desk.ended(asked)).number == cut_off.number


async def test_rows_that_a_person_takes_out_of_the_queue_are_read_again(
    wh: DuckDBSubject, runners: Runners, loaders: Loaders, desk: Desk, queue: Queue, broker: Broker
) -> None:
    asked = await desk.ask()
    async with runners.life():
        await desk.told(lambda record: record.asked == asked and bool(record.waits))
        await broker.js.purge_stream(topology.DELIVER)
        await desk.told(lambda record: record.attempts > 1)
        async with loaders.life():
            record = await desk.ended(asked)
    assert record.status == "succeeded"
    assert await ids(wh) == Counter(range(100))
    # only a part of a batch
    runners.options |= {"max_bytes": "1KiB"}
    await runners.shop.add(100, 3000)
    asked = await desk.ask()
    async with runners.life():
        async with loaders.life():
            await queue.told(lambda progress: progress.batch == 1 and not progress.last)
        await broker.js.delete_msg(topology.DELIVER, await queue.first_behind(await queue.progress()))
        async with loaders.life():
            record = await desk.ended(asked)
    assert (record.status, record.attempts > 1) == ("succeeded", True)
    assert await ids(wh) == Counter(range(3000))


async def test_a_runner_that_was_frozen_writes_over_no_record_of_its_successor(desk: Desk) -> None:
    frozen, successor = Logbook(desk.bucket, SYNC), Logbook(desk.bucket, SYNC)

    def record(number: int) -> RunRecord:
        return RunRecord(number=number, sync=SYNC, connector="shop", destination="wh", began=0.0)

    first, second = record(1), record(2)
    await frozen.begin(first)
    await desk.bucket.put(run_key(SYNC), encode(first))  # a write of its own that was cut off, and arrived
    first.attempts = 2
    await frozen.write(first)
    await successor.begin(second)
    first.close("failed")
    with pytest.raises(Fenced):
        await frozen.finish(first)
    second.close("succeeded")
    await successor.finish(second)
    assert (await desk.told(lambda _: True)).number == 2


async def test_no_number_of_a_run_is_given_twice_where_clocks_went_back(desk: Desk) -> None:
    ahead = 4_000_000_000_000
    given = [await next_number(desk.bucket, SYNC, ahead) for _ in range(3)]
    assert given == [ahead + 1, ahead + 2, ahead + 3]


async def test_rows_that_an_older_copy_lacks_are_read_again(
    wh: DuckDBSubject, runners: Runners, loaders: Loaders, desk: Desk, queue: Queue, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.duckdb"
    async with loaders.life(), runners.life():
        await desk.ended(await desk.ask())
        shutil.copyfile(wh.path, copy)
        await runners.shop.add(100, 200)
        await desk.ended(await desk.ask())
        shutil.copyfile(copy, wh.path)
        record = await desk.ended(await desk.ask())
        assert (record.status, record.streams["users"].rows) == ("succeeded", 200)
        log = await log_of(desk.bucket, SYNC, record.number)
        assert log is not None
        assert any("older copy" in line.text for line in log.lines)
        assert await ids(wh) == Counter(range(200))
        assert (await queue.progress()).again == {}


async def test_rows_of_a_table_that_is_dropped_are_read_again_and_the_others_are_not(
    wh: DuckDBSubject, runners: Runners, loaders: Loaders, desk: Desk
) -> None:
    await runners.shop.run(
        "CREATE TABLE more (id BIGINT PRIMARY KEY, n BIGINT)", "INSERT INTO more SELECT i, i FROM range(50) t(i)"
    )
    runners.options["streams"] = {"users": {"cursor": "n", "write": "append"}, "more": {"cursor": "n"}}
    async with loaders.life(), runners.life():
        await desk.ended(await desk.ask())
        await wh.run("DROP TABLE users")
        await runners.shop.add(100, 110)
        record = await desk.ended(await desk.ask())
        assert {name: of.rows for name, of in record.streams.items() if name == "users"} == {"users": 110}
        assert record.streams["more"].rows <= 1, "its table is there"
        assert (await ids(wh), await ids(wh, "more")) == (Counter(range(110)), Counter(range(50)))


async def test_a_stream_that_gets_another_table_or_key_is_read_again(
    wh: DuckDBSubject, runners: Runners, loaders: Loaders, desk: Desk
) -> None:
    async with loaders.life():
        async with runners.life():
            await desk.ended(await desk.ask())
        runners.options["table_prefix"] = "shop_"
        asked, step = await desk.ask(), Step(4, "behind")  # cut off in the middle
        async with runners.life(step):
            await step.reached.wait()
        async with runners.life():
            await desk.ended(asked)
        assert await ids(wh, "shop_users") == Counter(range(100))
        runners.options["streams"]["users"]["primary_key"] = ["n"]
        async with runners.life():
            record = await desk.ended(await desk.ask())
            assert record.streams["users"].rows == 100
            assert (await desk.ended(await desk.ask())).streams["users"].rows <= 1


async def test_a_record_that_was_written_and_not_answered_is_no_other_runner(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = Bucket(broker, topology.STATE_BUCKET)
    book, other = Logbook(bucket, SYNC), Logbook(bucket, SYNC)
    record = RunRecord(number=1, sync=SYNC, connector="c", destination="wh", began=1.0)
    await book.begin(record)
    put = bucket.put

    async def unanswered(key: str, value: bytes, **more: int) -> int:
        await put(key, value, **more)
        raise asyncio.CancelledError

    record.waits = "the loader"
    monkeypatch.setattr(bucket, "put", unanswered)
    with pytest.raises(asyncio.CancelledError):
        await book.write(record)
    monkeypatch.setattr(bucket, "put", put)
    record.close("succeeded")
    await book.finish(record)
    found = await other.newest()
    assert found is not None
    assert found.status == "succeeded"
    await other.begin(RunRecord(number=2, sync=SYNC, connector="c", destination="wh", began=2.0))
    record.error = "late"
    with pytest.raises(Fenced):
        await book.finish(record)
