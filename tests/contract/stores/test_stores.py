"""What every object store holds: whole objects, areas that only the newest holder publishes from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO

import pytest

from shared.errors import Fenced, PenstockError
from shared.stores import azure
from shared.stores.azure import AzureStore
from shared.stores.contract import Store
from shared.stores.local import LocalStore
from shared.stores.s3 import S3Options, S3Store, open_store
from shared.threads import ThreadGate
from tests.support.azure import AzureServer
from tests.support.s3 import S3Server

HOSTILE = [
    "a%2F..%2Fb/1", "é/ü 😀", "plus+and space&equals=?#", "'quotes\"", "%00", "..%2e", "a/b/c", "<xml>&amp;",
]  # fmt: skip


@pytest.fixture(params=["local", "s3", "azure"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """A store of its own, empty."""
    gate = ThreadGate(2)
    opened: Store
    if request.param == "local":
        opened = LocalStore(tmp_path / "store", gate, "the store")
    elif request.param == "azure":
        azurite: AzureServer = request.getfixturevalue("azure_server")
        opened = await azure.open_store(azurite.options(), "root/", gate, "the store")
    else:
        server: S3Server = request.getfixturevalue("s3_server")
        options = S3Options(
            bucket=server.new_bucket(),
            endpoint_url=server.url,
            access_key_id=server.key,
            secret_access_key=server.secret,
            attempts=1,
        )
        opened = await open_store(options, "root/", gate, "the store")
    yield opened
    await opened.close()
    gate.close()


def bytes_of(data: bytes) -> Callable[[IO[bytes]], object]:
    return lambda output: output.write(data)


async def keys(store: Store, prefix: str = "") -> list[str]:
    return [entry.key for entry in await store.list(prefix)]


async def test_what_is_put_is_got_and_listed_until_it_is_deleted(store: Store) -> None:
    assert await store.get("a/1") is None
    assert await store.list("") == []
    for key, data in (("a/1", b"one"), ("a/2", b""), ("ab/3", b"three"), ("a/1", b"one again")):
        await store.put(key, data)
    assert await store.get("a/1") == b"one again"
    assert await store.get("a/2") == b""
    assert [entry[:2] for entry in await store.list("")] == [("a/1", 9), ("a/2", 0), ("ab/3", 5)]
    assert await keys(store, "a/") == ["a/1", "a/2"]
    assert await keys(store, "a/2") == ["a/2"]
    await store.delete(["a/1", "a/nothing", "nothing/at/all"])
    assert await keys(store) == ["a/2", "ab/3"]


@pytest.mark.parametrize("key", HOSTILE)
async def test_a_key_is_only_a_name(store: Store, key: str) -> None:
    area = await store.claim("owner", 1)
    await store.put(f"put/{key}", b"put")
    await area.stage(f"staged/{key}", bytes_of(b"staged"))
    await area.publish()
    assert sorted(await keys(store)) == sorted([f"put/{key}", f"staged/{key}"])
    assert await store.get(f"put/{key}") == b"put"
    assert await store.get(f"staged/{key}") == b"staged"


async def test_a_list_has_more_than_one_page(store: Store) -> None:
    if isinstance(store, S3Store):
        store._client.meta.events.register(
            "before-parameter-build.s3.ListObjectsV2", lambda params, **_: params.update(MaxKeys=2)
        )
    if isinstance(store, AzureStore):
        whole = store._client.list_blobs
        store._client.list_blobs = lambda **options: whole(results_per_page=2, **options)
    for number in range(5):
        await store.put(f"n/{number}", b"x")
    assert await keys(store) == [f"n/{number}" for number in range(5)]


async def test_what_is_staged_is_seen_when_it_is_published_and_not_before(store: Store) -> None:
    area = await store.claim("owner", 1)
    assert await area.stage("a/1", bytes_of(b"one")) == 3
    assert await area.stage("b/2", bytes_of(b"two!")) == 4
    assert await keys(store) == []
    await area.publish()
    assert await keys(store) == ["a/1", "b/2"]
    await area.stage("a/1", bytes_of(b"newer"))
    assert await store.get("a/1") == b"one"
    await area.publish()
    assert await store.get("a/1") == b"newer"


async def test_what_is_discarded_is_never_seen(store: Store) -> None:
    area = await store.claim("owner", 1)
    await area.stage("a", bytes_of(b"one"))
    await area.discard()
    await area.stage("b", bytes_of(b"two"))
    await area.publish()
    assert await keys(store) == ["b"]


async def test_a_writer_that_fails_leaves_nothing_and_its_error_is_told(store: Store) -> None:
    area = await store.claim("owner", 1)

    def fail(output: IO[bytes]) -> None:
        output.write(b"half")
        raise LookupError("no more")

    with pytest.raises(LookupError):
        await area.stage("a", fail)
    await area.discard()
    await area.publish()
    assert await keys(store) == []


async def test_an_older_holder_cannot_claim_and_cannot_publish(store: Store) -> None:
    older = await store.claim("owner", 4)
    await older.stage("a", bytes_of(b"older"))
    newer = await store.claim("owner", 5)
    with pytest.raises(Fenced):
        await older.publish()
    await older.discard()
    with pytest.raises(Fenced):
        await store.claim("owner", 4)
    await newer.stage("b", bytes_of(b"newer"))
    await newer.publish()
    assert await keys(store) == ["b"]


async def test_a_holder_that_claims_again_goes_on(store: Store) -> None:
    first = await store.claim("owner", 1)
    await first.stage("a", bytes_of(b"lost"))
    second = await store.claim("owner", 1)
    await second.stage("a", bytes_of(b"kept"))
    await second.publish()
    assert await store.get("a") == b"kept"


async def test_owners_do_not_disturb_each_other(store: Store) -> None:
    shop, shop_wh = await store.claim("shop", 1), await store.claim("shop-wh", 7)
    await shop_wh.stage("b", bytes_of(b"b"))
    await shop.stage("a", bytes_of(b"a"))
    await store.claim("shop", 2)
    await shop_wh.publish()
    with pytest.raises(Fenced):
        await shop.publish()
    assert await keys(store) == ["b"]


async def test_a_forgotten_owner_begins_again(store: Store) -> None:
    await store.claim("owner", 9)
    await store.forget("owner")
    await store.forget("owner")
    await store.claim("owner", 1)


@pytest.mark.parametrize("steps", range(8))
async def test_a_task_cancelled_anywhere_publishes_all_or_nothing(store: Store, steps: int) -> None:
    area = await store.claim("owner", 1)

    async def bring() -> None:
        try:
            await area.stage("a", bytes_of(b"a"))
            await area.stage("b", bytes_of(b"b"))
            await area.publish()
        finally:
            await area.discard()

    task = asyncio.ensure_future(bring())
    for _ in range(steps**3):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    found = await keys(store)
    assert found in ([], ["a", "b"])
    await asyncio.sleep(0)
    assert await keys(store) == found


async def test_a_place_that_cannot_be_reached_says_so(tmp_path: Path) -> None:
    gate = ThreadGate(1)
    file = tmp_path / "file"
    file.write_bytes(b"")
    with pytest.raises(PenstockError, match="the store"):
        await LocalStore(file, gate, "the store").claim("owner", 1)
    options = S3Options(bucket="events", endpoint_url="http://127.0.0.1:9", access_key_id="k", secret_access_key="s", attempts=1)
    store = await open_store(options, "", gate, "the store")
    for call in (store.claim("owner", 1), store.put("a", b""), store.get("a"), store.list(""), store.delete(["a"])):
        with pytest.raises(PenstockError, match="the store"):
            await call
    await store.close()
    gate.close()
