"""The S3 destination when things go wrong: killed between any two requests, frozen, overtaken, without server, bucket or rights."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest

from loader.contract.warehouse import Destination, Kind, TableLoad
from loader.objects.destination import FilesDestination
from shared.errors import Fenced, NotConnected, PenstockError, SetupError, Transient
from shared.stores.s3 import S3Store
from shared.stores.s3.upload import PART_BYTES
from tests.support.destinations.opened import Open, arrow, opened, plan
from tests.support.destinations.requests import Requests
from tests.support.destinations.s3 import S3Subject
from tests.support.s3 import S3Server, moto_server
from tests.support.tcp_proxy import TcpProxy

SHAPE = {"id": Kind.BIGINT, "text": Kind.TEXT}
LOADS = [
    TableLoad("a", arrow(SHAPE, [{"id": n, "text": "a"} for n in range(5)])),
    TableLoad("b", arrow(SHAPE, [{"id": n, "text": "b"} for n in range(7)])),
]
IDS = {"a": list(range(5)), "b": list(range(7))}


@pytest.fixture
async def wh(s3_server: S3Server) -> AsyncIterator[Open]:
    """A bucket of its own, open."""
    async with opened(S3Subject(s3_server, "parquet")) as one:
        yield one


def subject(wh: Open) -> S3Subject:
    assert isinstance(wh.subject, S3Subject)
    return wh.subject


def store_of(destination: Destination) -> S3Store:
    assert isinstance(destination, FilesDestination)
    store = destination._store
    assert isinstance(store, S3Store)
    return store


async def found(wh: Open) -> dict[str, list[int]]:
    return {table: [row["id"] for row in await wh.rows(table, SHAPE)] for table in ("a", "b")}


@pytest.mark.parametrize("answered", [False, True])
async def test_a_loader_killed_between_any_two_requests_leaves_what_the_repeat_completes(wh: Open, answered: bool) -> None:
    number, epoch, whole = 0, 1, False
    destination = await wh.another()
    requests = Requests(store_of(destination))

    async def kill(_: str, position: int) -> None:
        if position == number:
            requests.die()

    if answered:
        requests.after = kill
    else:
        requests.before = kill
    while not whole:
        number += 1
        requests.live()
        try:
            session = await destination.open_session("shop-wh", epoch)
            await session.load(plan(number), LOADS)
            whole = True
        except NotConnected:
            visible = await found(wh)
            assert all(ids in ([], IDS[table]) for table, ids in visible.items())
        await (await wh.session(epoch=epoch + 1)).load(plan(number), LOADS)
        assert await found(wh) == IDS
        assert subject(wh).uploads() == [], f"killed after {requests.made}"
        assert len([key for key in subject(wh).all_keys() if key.startswith("_penstock/")]) == 1
        for key in subject(wh).files():
            subject(wh).client.delete_object(Bucket=subject(wh).bucket, Key=key)
        epoch += 2
    assert number > 10, "a load of two objects takes more requests than this"


@pytest.mark.parametrize("point", ["put_object", "list_objects_v2", "complete_multipart_upload"])
@pytest.mark.parametrize("answered", [False, True])
async def test_a_frozen_loader_that_wakes_after_another_took_over_makes_nothing_new_visible(
    wh: Open, point: str, answered: bool
) -> None:
    frozen, woken = asyncio.Event(), asyncio.Event()
    destination = await wh.another(attempts=1)
    older = await destination.open_session("shop-wh", 1)
    requests = Requests(store_of(destination))

    async def freeze(operation: str, _: int) -> None:
        if operation == point:
            frozen.set()
            await woken.wait()

    if answered:
        requests.after = freeze
    else:
        requests.before = freeze
    load = asyncio.ensure_future(older.load(plan(1), LOADS))
    await frozen.wait()
    newer = await wh.session(epoch=2)
    seen = subject(wh).files()
    woken.set()
    outcome = (await asyncio.gather(load, return_exceptions=True))[0]
    assert isinstance(outcome, Fenced) or (answered and point == "complete_multipart_upload")
    assert subject(wh).files() == seen
    await newer.load(plan(1), LOADS)
    assert await found(wh) == IDS
    assert subject(wh).uploads() == []


async def test_a_loader_that_is_overtaken_while_it_sends_parts_is_told_so(wh: Open) -> None:
    destination = await wh.another(compression="none", format="csv", attempts=1)
    older = await destination.open_session("shop-wh", 1)
    requests = Requests(store_of(destination))
    overtaken = False

    async def overtake(operation: str, _: int) -> None:
        nonlocal overtaken
        if operation == "upload_part" and not overtaken:
            overtaken = True
            await wh.session(epoch=2)
            # the note may not be written yet: then it is the repeat of the plan that ends the upload
            for key, upload_id in subject(wh).upload_ids():
                subject(wh).client.abort_multipart_upload(Bucket=subject(wh).bucket, Key=key, UploadId=upload_id)

    requests.after = overtake
    with pytest.raises(Fenced):
        await older.load(plan(1), [large(2 * PART_BYTES)])
    assert subject(wh).files() == []
    assert subject(wh).uploads() == []


async def test_a_large_object_goes_in_parts_and_a_failed_one_leaves_none(wh: Open) -> None:
    destination = await wh.another(compression="none", format="csv")
    session = await wh.session(destination=destination)
    requests = Requests(store_of(destination))
    await session.load(plan(1), [large(3 * PART_BYTES)])
    assert requests.made.count("upload_part") >= 3
    (name,) = subject(wh).files()
    assert subject(wh).content(name).count(b"\n") == large(3 * PART_BYTES).rows.num_rows + 1
    sent = 0

    async def fail(operation: str, _: int) -> None:
        nonlocal sent
        sent += operation == "upload_part"
        if operation == "upload_part" and sent == 2:
            raise NotConnected("the network is gone")

    requests.before = fail
    with pytest.raises(NotConnected):
        await session.load(plan(2), [large(3 * PART_BYTES)])
    assert subject(wh).uploads() == []
    assert subject(wh).files() == [name]


def large(size: int) -> TableLoad:
    """Returns rows whose CSV has about so many bytes."""
    return TableLoad("t", arrow(SHAPE, [{"id": n, "text": "x" * 10_000} for n in range(size // 10_000 + 1)]))


async def test_everything_stays_below_the_plain_head_of_the_prefix(wh: Open) -> None:
    destination = await wh.another(prefix="raw/shop/{table}/{date}/")
    session = await wh.session(destination=destination)
    await session.load(plan(1), LOADS)
    assert all(step.ok for step in await destination.check())
    keys = subject(wh).all_keys()
    assert [key.split("/")[2] for key in keys] == ["_penstock", "a", "b"]
    assert all(key.startswith("raw/shop/") for key in keys)


async def test_a_check_passes_and_leaves_nothing(wh: Open) -> None:
    for format_ in ("parquet", "ndjson", "csv"):
        results = await (await wh.another(format=format_)).check()
        assert [(each.step, each.ok) for each in results] == [
            (step, True) for step in ("reach", "create", "write", "read", "drop")
        ]
    assert subject(wh).all_keys() == []
    assert subject(wh).uploads() == []


async def test_objects_are_encrypted_and_stored_as_the_options_say(wh: Open) -> None:
    session = await wh.session(destination=await wh.another(sse="AES256", storage_class="STANDARD_IA"))
    await session.load(plan(1), LOADS)
    for name in subject(wh).files():
        head = subject(wh).client.head_object(Bucket=subject(wh).bucket, Key=name)
        assert (head["ServerSideEncryption"], head["StorageClass"]) == ("AES256", "STANDARD_IA")


async def test_without_checksums_nothing_else_changes(wh: Open) -> None:
    session = await wh.session(destination=await wh.another(checksums=False))
    await session.load(plan(1), LOADS)
    assert await found(wh) == IDS


async def test_duckdb_and_pyarrow_read_the_objects_as_the_page_says(wh: Open) -> None:
    import duckdb
    from pyarrow import dataset, fs

    session = await wh.session()
    shape = {"id": Kind.BIGINT, "received_at": Kind.TIMESTAMP}
    days = [datetime(2026, 1, 1 + n % 3, tzinfo=UTC) for n in range(30)]
    rows = arrow(shape, [{"id": n, "received_at": day} for n, day in enumerate(days)])
    await session.load(plan(1), [TableLoad("tracks", rows)])
    server = subject(wh).server
    bucket = fs.S3FileSystem(
        access_key=server.key, secret_key=server.secret, endpoint_override=server.url.removeprefix("http://"), scheme="http"
    )
    tracks = dataset.dataset(f"{subject(wh).bucket}/tracks", format="parquet", partitioning="hive", filesystem=bucket)
    assert tracks.count_rows() == 30
    found = duckdb.execute("SELECT CAST(dt AS text), count(*) FROM tracks GROUP BY ALL ORDER BY 1").fetchall()
    assert found == [("2026-01-01", 10), ("2026-01-02", 10), ("2026-01-03", 10)]


# -- the server away


async def test_a_server_that_is_away_and_comes_back(wh: Open) -> None:
    async with TcpProxy(subject(wh).server.port) as proxy:
        destination = await wh.another(endpoint_url=f"http://127.0.0.1:{proxy.port}", timeout="500ms", attempts=1)
        session = await wh.session(destination=destination)
        await session.load(plan(1), LOADS)
        proxy.after(1, proxy.vanish)
        with pytest.raises(NotConnected, match="no answer within"):
            await session.load(plan(2, lane="live-2"), LOADS)
        proxy.flow()
        proxy.cut()
        again = await wh.session(epoch=2, destination=destination)
        await again.load(plan(2, lane="live-2"), LOADS)
        assert {table: len(await wh.rows(table, SHAPE)) for table in IDS} == {"a": 10, "b": 14}
    with pytest.raises(NotConnected, match=r"endpoint_url"):
        await again.load(plan(3), LOADS)
    assert {table: len(await wh.rows(table, SHAPE)) for table in IDS} == {"a": 10, "b": 14}


async def test_connections_that_break_now_and_then_are_nothing_but_slower(wh: Open) -> None:
    async with TcpProxy(subject(wh).server.port) as proxy:
        destination = await wh.another(endpoint_url=f"http://127.0.0.1:{proxy.port}")
        session = await wh.session(destination=destination)
        for number in (1, 2, 3):
            proxy.after(number * 700, proxy.cut)
            try:
                await session.load(plan(1), LOADS)
            except Transient:
                # moto takes half a part for a whole one
                session = await wh.session(epoch=number + 1, destination=destination)
                await session.load(plan(1), LOADS)
        assert await found(wh) == IDS


# -- what a person must mend


async def refusal(wh: Open, **options: Any) -> str:
    with pytest.raises(SetupError) as refused:
        await (await wh.another(attempts=1, **options)).open_session("shop-wh", 1)
    words = str(refused.value)
    assert "secret-of-the-tests" not in words
    return words


async def test_a_missing_bucket_is_named(wh: Open) -> None:
    words = await refusal(wh, bucket="never-made")
    assert "never-made" in words
    assert "create it" in words
    (result,) = await (await wh.another(bucket="never-made")).check()
    assert (result.step, result.ok) == ("reach", False)


async def test_a_bucket_that_is_removed_while_loading_stops_and_can_be_made_again(wh: Open) -> None:
    session = await wh.session()
    subject(wh).client.delete_object(Bucket=subject(wh).bucket, Key=subject(wh).all_keys()[0])
    subject(wh).client.delete_bucket(Bucket=subject(wh).bucket)
    with pytest.raises(SetupError, match="create it"):
        await session.load(plan(1), LOADS)
    subject(wh).client.create_bucket(Bucket=subject(wh).bucket)
    await (await wh.session(epoch=2)).load(plan(1), LOADS)
    assert await found(wh) == IDS


async def test_a_web_server_at_the_address_is_no_s3(wh: Open) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 12\r\nConnection: close\r\n\r\n<html></body")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        destination = await wh.another(endpoint_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", attempts=1)
        with pytest.raises(PenstockError, match="the answer is not S3's"):
            await destination.open_session("shop-wh", 1)


async def test_without_any_keys_the_message_says_where_to_put_them(
    wh: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    assert "access_key_id" in await refusal(wh, access_key_id=None, secret_access_key=None)
    with pytest.raises(SetupError, match="nobody"):
        await wh.another(profile="nobody", access_key_id=None, secret_access_key=None)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", subject(wh).server.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", subject(wh).server.secret)
    session = await wh.session(destination=await wh.another(access_key_id=None, secret_access_key=None))
    await session.load(plan(1), LOADS)
    assert await found(wh) == IDS


@pytest.fixture(scope="module")
def strict() -> Iterator[tuple[S3Server, S3Server]]:
    """A server that checks keys and rights: the same one as its owner, and as a user who may only read."""
    with moto_server(INITIAL_NO_AUTH_ACTION_COUNT="6") as server:
        iam = boto3.client(
            "iam", endpoint_url=server.url, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
        )
        keys = []
        for name, actions in (("owner", "*"), ("reader", ["s3:GetObject", "s3:ListBucket"])):
            rights = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}]}
            iam.create_user(UserName=name)
            iam.put_user_policy(UserName=name, PolicyName="rights", PolicyDocument=json.dumps(rights))
            keys.append(iam.create_access_key(UserName=name)["AccessKey"])
        owner, reader = (S3Server(server.url, key["AccessKeyId"], key["SecretAccessKey"]) for key in keys)
        yield owner, reader


async def test_wrong_keys_and_missing_rights_are_told_apart(strict: tuple[S3Server, S3Server]) -> None:
    owner, reader = strict
    async with opened(S3Subject(owner, "parquet")) as one:
        await (await one.session()).load(plan(1), LOADS)
        assert await found(one) == IDS
        wrong = "another-secret-of-somebody"
        assert "`access_key_id`" in await refusal(one, access_key_id="nobody", secret_access_key=wrong)
        words = await refusal(one, secret_access_key=wrong)
        assert "`secret_access_key`" in words
        assert wrong not in words
        words = await refusal(one, access_key_id=reader.key, secret_access_key=reader.secret)
        assert "s3:PutObject" in words
