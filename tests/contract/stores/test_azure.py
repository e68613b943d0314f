"""Azure Blob Storage against Azurite: ways to log in, conditions, blocks, and a holder that sleeps at the worst moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from shared.errors import Fenced, NotConnected, SetupError
from shared.stores import azure
from shared.stores.azure import AzureOptions, AzureStore, upload
from shared.stores.azure.area import AzureArea
from shared.stores.azure.errors import Unmet
from shared.stores.azure.upload import PART_BYTES
from shared.threads import ThreadGate
from tests.contract.stores.test_stores import bytes_of, keys
from tests.support.azure import ACCOUNT, KEY, AzureServer

HOME = "_penstock/o"


@pytest.fixture
def gate() -> Iterator[ThreadGate]:
    gate = ThreadGate(2)
    yield gate
    gate.close()


@pytest.fixture
async def store(azure_server: AzureServer, gate: ThreadGate) -> AsyncIterator[AzureStore]:
    """A store in a container of its own."""
    opened = await azure.open_store(azure_server.options(), "", gate, "the store")
    yield opened
    await opened.close()


async def write_and_read(options: AzureOptions, gate: ThreadGate) -> bytes | None:
    """Stages, publishes, lists and removes; returns what was read in between."""
    store = await azure.open_store(options, "r/", gate, "the store")
    try:
        area = await store.claim("o", 1)
        await area.stage("a", bytes_of(b"one"))
        await area.publish()
        found = await store.get("a")
        await store.delete(await keys(store))
        await store.forget("o")
        return found
    finally:
        await store.close()


async def test_each_way_to_log_in_works(azure_server: AzureServer, gate: ThreadGate) -> None:
    container = azure_server.new_container()
    signature = azure_server.signature(container)
    ways: list[dict[str, Any]] = [
        {"account_key": KEY},
        {"sas_token": signature},
        {"sas_token": f"?{signature}"},
        {"connection_string": f"AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={azure_server.url};"},
        {"connection_string": f"BlobEndpoint={azure_server.url}/;SharedAccessSignature={signature}"},
    ]
    for way in ways:
        assert await write_and_read(azure_server.options(container, **way), gate) == b"one", way


async def test_what_is_wrong_is_named_with_the_remedy_and_without_secrets(azure_server: AzureServer, gate: ThreadGate) -> None:
    container = azure_server.new_container()
    other = "b3RoZXIta2V5"
    over, weak = azure_server.signature(container, seconds=-60), azure_server.signature(container, "rl")
    for options, words in (
        (azure_server.options("nothing-here"), "create it"),
        (azure_server.options(container, account_key=other), "access denied"),
        (azure_server.options(container, sas_token=over), "access denied"),
        (azure_server.options(container, sas_token=weak), "rcwdl"),
        (azure_server.options(container, account_key="no base64"), "base64"),
        (azure_server.options(container, connection_string="AccountName=a"), "as the portal shows it"),
    ):
        with pytest.raises(SetupError, match=words) as caught:
            await write_and_read(options, gate)
        for secret in (other, over, weak, KEY):
            assert secret not in str(caught.value)
    away = azure_server.options(container, endpoint_url="http://127.0.0.1:9/acme")
    with pytest.raises(NotConnected, match=r"the store: .*check `account` or `endpoint_url`"):
        await write_and_read(away, gate)


async def test_a_write_on_condition_replaces_only_what_it_saw(store: AzureStore) -> None:
    first = await store.write("a", b"1", over="")
    with pytest.raises(Unmet):
        await store.write("a", b"2", over="")
    second = await store.write("a", b"2", over=first)
    with pytest.raises(Unmet):
        await store.write("a", b"3", over=first)
    assert await store.read("a") == (b"2", second)


async def test_one_of_many_that_claim_at_once_is_the_newest(store: AzureStore) -> None:
    outcomes = await asyncio.gather(*(store.claim("o", epoch) for epoch in (3, 1, 2, 5, 4)), return_exceptions=True)
    assert all(isinstance(each, AzureArea | Fenced) for each in outcomes)
    assert await store.get(f"{HOME}/epoch") == b"5"
    with pytest.raises(Fenced):
        await store.claim("o", 4)


async def test_objects_of_many_blocks_come_whole(store: AzureStore) -> None:
    data = bytes(range(256)) * (PART_BYTES // 256 * 2) + b"end"
    area = await store.claim("o", 1)
    assert await area.stage("big", bytes_of(data)) == len(data)
    await area.stage("small", bytes_of(b"x"))
    assert await keys(store) == []
    await area.publish()
    assert await store.get("big") == data
    assert await keys(store) == ["big", "small"]
    assert await keys(store, f"{HOME}/") == [f"{HOME}/epoch"]


async def test_an_object_too_large_to_copy_in_one_step_is_refused(store: AzureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "MOST_BYTES", 2 * PART_BYTES)
    area = await store.claim("o", 1)

    def write(output: Any) -> None:
        for _ in range(3):
            output.write(bytes(PART_BYTES))

    with pytest.raises(SetupError, match=r"16 MiB.*max_rows"):
        await area.stage("big", write)
    await area.discard()
    assert await keys(store, f"{HOME}/") == [f"{HOME}/epoch"]


async def test_a_holder_that_sleeps_behind_its_last_look_publishes_nothing(store: AzureStore) -> None:
    """The moment that locks cannot guard: it has looked, sleeps, another comes and writes the same object, and it wakes."""
    older = await store.claim("o", 1)
    await older.stage("a", bytes_of(b"older"))
    await older.stage("b", bytes_of(b"older"))

    async def sleep_behind_it() -> None:
        newer = await store.claim("o", 2)
        await newer.stage("a", bytes_of(b"newer"))
        await newer.publish()

    look = older._check

    async def check() -> None:
        await look()
        older._check = look  # type: ignore[method-assign]
        await sleep_behind_it()

    older._check = check  # type: ignore[method-assign]
    with pytest.raises(Fenced):
        await older.publish()
    assert (await keys(store), await store.get("a")) == (["a"], b"newer")


async def test_a_copy_of_a_sleeper_that_still_has_its_source_overwrites_nothing(store: AzureStore) -> None:
    await store.put("_penstock/o/staged/x", b"older")
    source, seen = (await store.head("_penstock/o/staged/x")).tag, (await store.head("a")).tag
    await store.put("a", b"newer")
    with pytest.raises(Unmet):
        await store.copy("_penstock/o/staged/x", "a", source=source, over=seen)
    await store.put("_penstock/o/staged/x", b"other")
    with pytest.raises(Unmet):
        await store.copy("_penstock/o/staged/x", "b", source=source, over="")
    assert await keys(store) == ["a"]


async def test_an_answer_that_is_lost_does_not_fail_a_copy_that_was_made(store: AzureStore) -> None:
    area = await store.claim("o", 1)
    await store.put("a", b"before")
    await area.stage("a", bytes_of(b"after"))
    copy = store.copy

    async def twice(*args: Any, **options: Any) -> None:
        await copy(*args, **options)
        await copy(*args, **options)  # as the driver does when it got no answer

    store.copy = twice  # type: ignore[method-assign]
    await area.publish()
    assert await store.get("a") == b"after"


async def test_an_object_that_another_hand_writes_meanwhile_is_kept_and_the_batch_is_made_again(store: AzureStore) -> None:
    area = await store.claim("o", 1)
    await area.stage("a", bytes_of(b"ours"))
    look = area._check

    async def check() -> None:
        await look()
        await store.put("a", b"theirs")

    area._check = check  # type: ignore[method-assign]
    with pytest.raises(NotConnected, match="made again"):
        await area.publish()
    area._check = look  # type: ignore[method-assign]
    await area.discard()
    await area.stage("a", bytes_of(b"ours"))
    await area.publish()
    assert await store.get("a") == b"ours"


async def test_directories_of_an_account_are_no_objects(store: AzureStore) -> None:
    await store._blob("a").upload_blob(b"", metadata={"hdi_isfolder": "true"})
    await store.put("a/1", b"x")
    assert await keys(store) == ["a/1"]
