"""ClickHouse that pulls large loads from a staging store: killed between any two steps, frozen, store away, objects left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from loader.contract.warehouse import Destination, Kind, TableLoad
from loader.warehouses.clickhouse import ClickHouseDestination
from loader.warehouses.clickhouse import inserts as cutting
from loader.warehouses.clickhouse.connect import Link
from shared.errors import Fenced, NotConnected, PenstockError, RowsRejected, SetupError, Transient
from shared.stores.s3 import S3Store
from tests.support.clickhouse import Place
from tests.support.destinations.clickhouse import ClickHouseSubject
from tests.support.destinations.opened import Open, append, arrow, make, opened, plan
from tests.support.destinations.requests import Requests
from tests.support.destinations.s3 import S3Subject
from tests.support.s3 import S3Server
from tests.support.tcp_proxy import TcpProxy

SHAPE = {"id": Kind.BIGINT, "text": Kind.TEXT}
ROWS = 30
LOADS = [
    TableLoad("a", arrow(SHAPE, [{"id": n, "text": "a"} for n in range(ROWS)])),
    TableLoad("b", arrow(SHAPE, [{"id": n, "text": "b"} for n in range(ROWS)])),
]
PULLS = "from the staging store of"
IDS = {table: list(range(ROWS)) for table in "ab"}


@pytest.fixture
def bucket(s3_server: S3Server) -> S3Subject:
    """A bucket of its own, looked at without the plug-in."""
    return S3Subject(s3_server, "parquet")


@pytest.fixture
async def wh(clickhouse: Place, bucket: S3Subject) -> AsyncIterator[Open]:
    """A database of its own, whose server pulls inserts of ten rows or more from the bucket."""
    subject = ClickHouseSubject(clickhouse, staging=staging_of(bucket), staged_rows=10)
    async with opened(subject) as one:
        yield one
    await subject.drop()


def staging_of(bucket: S3Subject, **options: Any) -> dict[str, Any]:
    return bucket.server.document(bucket.bucket, prefix="stage/", attempts=1, **options)


def left(bucket: S3Subject) -> list[str]:
    """Returns what is staged."""
    return [key for key in bucket.all_keys() if not key.startswith("stage/_penstock/")]


async def found(wh: Open) -> dict[str, list[int]]:
    return {table: [row["id"] for row in await wh.rows(table, SHAPE)] for table in "ab"}


async def tables(wh: Open) -> None:
    session = await wh.session(epoch=1)
    for table in "ab":
        await make(session, table, SHAPE)


def requests_of(destination: Destination, monkeypatch: pytest.MonkeyPatch) -> Requests:
    """Returns what sees each request of a destination, to its store and to its server."""
    assert isinstance(destination, ClickHouseDestination)
    assert destination._staging is not None
    store = destination._staging.store
    assert isinstance(store, S3Store)
    requests = Requests(store)

    def seen(name: str) -> Callable[..., Awaitable[Any]]:
        call = getattr(Link, name)

        async def step(self: Link, *arguments: Any, **named: Any) -> Any:
            if self._name != "other":
                return await call(self, *arguments, **named)
            doing = named["doing"] if "doing" in named else arguments[0]
            return await requests.step(f"{name} {doing}", call, self, *arguments, **named)

        return step

    for name in ("run", "fetch", "insert"):
        monkeypatch.setattr(Link, name, seen(name))
    return requests


async def test_a_loader_killed_between_any_two_steps_leaves_what_the_repeat_completes(
    wh: Open, bucket: S3Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before a step is the same to all others as killed before the answer of the one before it."""
    await tables(wh)
    destination = await wh.another()
    requests = requests_of(destination, monkeypatch)
    number, epoch, whole = 0, 2, False

    async def kill(_: str, position: int) -> None:
        if position == number:
            requests.die()

    requests.before = kill
    while not whole:
        number += 1
        requests.live()
        try:
            session = await wh.session(epoch=epoch, destination=destination)
            await session.load(plan(number), LOADS)
            # a session of a dead process ends without a word to anybody
            whole = not requests.dead
        except NotConnected:
            assert requests.dead
        assert all(ids in ([], IDS[table]) for table, ids in (await found(wh)).items())
        await (await wh.session(epoch=epoch + 1)).load(plan(number), LOADS)
        assert await found(wh) == IDS, f"killed after {requests.made}"
        assert left(bucket) == [], f"killed after {requests.made}"
        assert bucket.uploads() == [], f"killed after {requests.made}"
        for table in "ab":
            await wh.subject.run(f'TRUNCATE TABLE "{{}}".{table}')
        epoch += 2
    assert number > 25, "two staged inserts take more steps than this"


async def test_a_repeat_sends_nothing_that_is_there_already(wh: Open, bucket: S3Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    await tables(wh)
    destination = await wh.another()
    requests = requests_of(destination, monkeypatch)

    async def lose(name: str, _: int) -> None:
        if PULLS in name and '"b"' in name:
            requests.die()

    requests.after = lose
    with pytest.raises(NotConnected):
        await (await wh.session(epoch=2, destination=destination)).load(plan(1), LOADS)
    assert requests.made.count("upload_part") == 2
    assert len(left(bucket)) == 2
    requests.after = requests._nothing
    requests.live()
    await (await wh.session(epoch=3, destination=destination)).load(plan(1), LOADS)
    assert requests.made.count("upload_part") == 0
    assert await found(wh) == IDS
    assert left(bucket) == []


async def test_a_repeat_of_rows_that_changed_meanwhile_brings_the_new_ones(
    wh: Open, bucket: S3Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    await tables(wh)
    destination = await wh.another()
    requests = requests_of(destination, monkeypatch)

    async def kill(name: str, _: int) -> None:
        if PULLS in name:
            requests.die()

    requests.before = kill
    with pytest.raises(NotConnected):
        await (await wh.session(epoch=2, destination=destination)).load(plan(1), LOADS[:1])
    other = arrow(SHAPE, [{"id": n, "text": "of another shape"} for n in range(ROWS)])
    await (await wh.session(epoch=3)).load(plan(1), [TableLoad("a", other)])
    assert {row["text"] for row in await wh.rows("a", SHAPE)} == {"of another shape"}
    assert left(bucket) == []


async def test_a_frozen_loader_that_wakes_after_another_took_over_loads_nothing(
    wh: Open, bucket: S3Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    await tables(wh)
    for number, point in enumerate(("complete_multipart_upload", "put_object", PULLS), 1):
        frozen, woken = asyncio.Event(), asyncio.Event()
        destination = await wh.another()
        with monkeypatch.context() as patches:
            requests = requests_of(destination, patches)
            older = await wh.session(epoch=number * 10, destination=destination)

            async def freeze(name: str, _: int, point: str = point, frozen: Any = frozen, woken: Any = woken) -> None:
                if point in name:
                    frozen.set()
                    await woken.wait()

            requests.before = freeze
            load = asyncio.ensure_future(older.load(plan(number), LOADS))
            await frozen.wait()
            newer = await wh.session(epoch=number * 10 + 1)
            await newer.load(plan(number), LOADS)
            woken.set()
            with pytest.raises((Fenced, NotConnected)):
                await load
        assert {table: len(ids) for table, ids in (await found(wh)).items()} == {"a": number * ROWS, "b": number * ROWS}
    assert bucket.uploads() == []


async def test_small_loads_go_straight_and_large_ones_are_one_block(
    wh: Open, bucket: S3Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loader.warehouses.clickhouse.staged.ROW_GROUP_ROWS", 7)
    monkeypatch.setattr(cutting, "BLOCK_ROWS", 1000)
    await tables(wh)
    destination = await wh.another()
    requests = requests_of(destination, monkeypatch)
    session = await wh.session(epoch=2, destination=destination)
    await append(session, 1, "a", SHAPE, *[{"id": n} for n in range(9)])
    assert "upload_part" not in requests.made
    many = [{"id": n, "text": "x" * 100} for n in range(1500)]
    for _ in range(2):
        await append(session, 2, "b", SHAPE, *many)
    query = "SELECT rows FROM system.parts WHERE database = '{}' AND table = 'b' AND active ORDER BY rows"
    assert isinstance(wh.subject, ClickHouseSubject)
    assert (await wh.subject.ask(query)).split() == ["500", "1000"]
    assert left(bucket) == []


async def test_refused_rows_leave_no_object(wh: Open, bucket: S3Subject) -> None:
    session = await wh.session()
    await wh.subject.run(
        'CREATE TABLE "{}".a (id bigint, text varchar, CONSTRAINT positive CHECK id >= 0) ENGINE = MergeTree ORDER BY tuple()'
    )
    with pytest.raises(RowsRejected):
        await append(session, 1, "a", SHAPE, *[{"id": n} for n in range(-5, 20)])
    assert left(bucket) == []


async def test_leftovers_of_every_connection_are_swept_once_they_are_old(
    wh: Open, bucket: S3Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("stage/removed-wh/live-1/t-0.parquet", "stage/shop-wh/live-2/t-0.parquet"):
        bucket.client.put_object(Bucket=bucket.bucket, Key=key, Body=b"left")
    bucket.client.put_object(Bucket=bucket.bucket, Key="other/t.parquet", Body=b"not ours")
    await wh.session(destination=await wh.another())
    assert len(left(bucket)) == 3
    destination = await wh.another(staging=staging_of(bucket, keep="1h"))
    assert isinstance(destination, ClickHouseDestination)
    assert destination._staging is not None
    monkeypatch.setattr(destination._staging, "_keep", -60.0)
    await wh.session(epoch=2, destination=destination)
    assert left(bucket) == ["other/t.parquet"]


async def test_a_store_that_is_away_holds_the_load_up_and_loses_nothing(wh: Open, bucket: S3Subject) -> None:
    await tables(wh)
    async with TcpProxy(bucket.server.port) as proxy:
        away = staging_of(bucket) | {"endpoint_url": f"http://127.0.0.1:{proxy.port}", "timeout": "500ms"}
        session = await wh.session(epoch=2, destination=await wh.another(staging=away))
        proxy.vanish()
        with pytest.raises(NotConnected, match="staging of clickhouse destination"):
            await session.load(plan(1), LOADS)
        proxy.flow()
    assert await found(wh) == {"a": [], "b": []}
    await (await wh.session(epoch=3)).load(plan(1), LOADS)
    assert await found(wh) == IDS
    assert left(bucket) == []


async def test_objects_that_vanish_before_the_server_reads_them_are_sent_again(
    wh: Open, bucket: S3Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    await tables(wh)
    destination = await wh.another()
    requests = requests_of(destination, monkeypatch)

    async def remove(name: str, _: int) -> None:
        if PULLS in name:
            for key in left(bucket):
                bucket.client.delete_object(Bucket=bucket.bucket, Key=key)

    requests.before = remove
    session = await wh.session(epoch=2, destination=destination)
    with pytest.raises(Transient, match="sent again"):
        await session.load(plan(1), LOADS)
    requests.before = requests._nothing
    await session.load(plan(1), LOADS)
    assert await found(wh) == IDS


async def test_a_check_says_what_is_wrong_with_the_store_and_shows_no_secret(wh: Open, bucket: S3Subject) -> None:
    wrong = await wh.another(staging=staging_of(bucket) | {"bucket": "never-made"})
    (result,) = await wrong.check()
    assert (result.step, result.ok) == ("reach", False)
    assert "create it" in result.message
    assert bucket.server.secret not in result.message
    *_, last = await wh.destination.check()
    assert (last.step, last.ok) == ("stage", True)
    assert bucket.all_keys() == []


async def test_errors_of_the_server_show_no_lent_key(wh: Open, bucket: S3Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    await tables(wh)
    session = await wh.session(epoch=2)
    run = Link.run

    async def echoes(self: Link, doing: str, statement: str, *arguments: Any, **named: Any) -> None:
        if "s3(" in statement:
            raise SetupError(f"cannot read {statement.partition(' WHERE ')[0]}")
        await run(self, doing, statement, *arguments, **named)

    monkeypatch.setattr(Link, "run", echoes)
    with pytest.raises(PenstockError) as refused:
        await session.load(plan(1), LOADS)
    assert "s3(" in str(refused.value)
    assert bucket.server.secret not in str(refused.value)


async def test_a_directory_that_both_see_does_as_well(clickhouse: Place, tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    subject = ClickHouseSubject(clickhouse, staging={"type": "local", "path": str(folder)}, staged_rows=10)
    async with opened(subject) as wh:
        await tables(wh)
        session = await wh.session(epoch=2)
        for _ in range(2):
            await session.load(plan(1), LOADS)
        assert await found(wh) == IDS
        assert all(step.ok for step in await wh.destination.check())
    assert list(folder.rglob("*.parquet")) == []
    await subject.drop()
