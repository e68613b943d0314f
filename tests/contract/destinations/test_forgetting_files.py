"""A person is forgotten in files: rows by every id column go, their neighbours keep theirs, and a holder that dies or is late loses none."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import IO, Any, cast

import pytest

from loader.contract.forgets import Changed, ForgetsPeopleInObjects, ObjectRows
from loader.contract.warehouse import Kind
from loader.objects import forgetting, people
from loader.objects.destination import FilesDestination
from shared.errors import Fenced, PenstockError, Transient
from shared.stores.contract import Area
from tests.contract.destinations.test_forgetting import GONE, NAMES, PEOPLE
from tests.support.delivery import Delivery
from tests.support.destinations.files import FilesSubject
from tests.support.destinations.opened import Open
from tests.support.destinations.s3 import S3Subject

ALL_FORMATS = pytest.mark.only("local", "s3")
ONE_FORMAT = pytest.mark.only("local-parquet", "s3-parquet")


async def ids(wh: Open, table: str, column: str = "message_id") -> Counter[str]:
    kinds: Any = Shaped()
    return Counter(row[column] for row in await wh.subject.rows(table, kinds))


class Shaped(dict[str, Kind]):
    """Every column is text, except times."""

    def __missing__(self, name: str) -> Kind:
        return Kind.TEXT


async def forget(wh: Open, names: list[str], *, delete: bool, epoch: int = 1, columns: tuple[str, ...] = (), changed: Changed | None = None) -> list[ObjectRows]:  # fmt: skip
    assert isinstance(wh.destination, ForgetsPeopleInObjects)
    found = wh.destination.forget_in_objects(names, columns=columns, epoch=epoch, delete=delete, changed=changed)
    return [each async for each in found]


def subject_of(wh: Open) -> FilesSubject:
    return cast("FilesSubject", wh.subject)


def contents(wh: Open) -> dict[str, bytes]:
    subject = subject_of(wh)
    return {name: subject.content(name) for name in subject.files()}


@ALL_FORMATS
async def test_rows_of_a_person_go_and_their_neighbours_stay(wh: Open) -> None:
    assert await forget(wh, NAMES, delete=True) == []
    delivery = Delivery(wh, await wh.session(), layout="single_table", deduplicate=False)
    odd = 'two\nlines, "quoted", and ""'
    neighbours = [{"type": "track", "event": odd, "userId": "joe", "properties": {"text": odd}}]
    assert await delivery.send(*PEOPLE, *neighbours) == {}
    assert await delivery.send({"type": "track", "event": "Order", "userId": "joe"}) == {}
    everyone = Counter(f"m{number}" for number in range(len(PEOPLE) + 2))
    before = contents(wh)
    told = await forget(wh, NAMES, delete=False)
    assert [rows for _, rows, _ in told] == [len(GONE)]
    assert contents(wh) == before
    told = await forget(wh, NAMES, delete=True)
    assert [rows for _, rows, _ in told] == [len(GONE), 0]
    after = contents(wh)
    assert set(after) == set(before)
    assert [key for key in after if after[key] != before[key]] == [told[0].key]
    assert set(await ids(wh, "events")) == set(everyone) - GONE
    assert sum((await ids(wh, "events")).values()) == len(everyone) - len(GONE)
    assert await forget(wh, NAMES, delete=True) == []
    # the session goes on as before
    assert await delivery.send({"type": "track", "event": "Order", "userId": "joe"}) == {}
    assert sum((await ids(wh, "events")).values()) == len(everyone) - len(GONE) + 1


@ALL_FORMATS
async def test_an_object_without_rows_goes_profiles_go_by_their_id_and_columns_by_name(wh: Open) -> None:
    delivery = Delivery(wh, await wh.session(), layout="segment", deduplicate=False)
    traits = {"email": "joe@example.com", "group_id": "g"}
    assert await delivery.send(
        {"type": "identify", "userId": "jane", "traits": {"group_id": "g"}},
        {"type": "identify", "userId": "joe", "traits": traits},
        {"type": "track", "event": "Only Hers", "userId": "jane"},
    ) == {}  # fmt: skip
    assert any("only_hers" in key for key in contents(wh))
    await forget(wh, ["jane"], delete=True)
    assert not any("only_hers" in key for key in contents(wh))
    assert set(await ids(wh, "users", "id")) == {"joe"}
    await forget(wh, ["joe@example.com"], delete=True)
    assert set(await ids(wh, "users", "id")) == {"joe"}
    await forget(wh, ["joe@example.com"], delete=True, columns=("email",))
    assert await ids(wh, "users", "id") == Counter()


@ALL_FORMATS
async def test_only_objects_of_penstock_are_rewritten_and_damaged_ones_are_named(wh: Open) -> None:
    delivery = Delivery(wh, await wh.session(), layout="single_table", deduplicate=False)
    assert await delivery.send(*PEOPLE) == {}
    (key,) = contents(wh)
    assert isinstance(wh.destination, FilesDestination)
    store = wh.destination._store
    strange = {"events/other.csv": b"user_id\njane\n", "notes.txt": b"jane"}
    damaged = key.replace("-0.", "-1.")
    for name, data in {**strange, damaged: b"no such format"}.items():
        await store.put(name, data)
    told = await forget(wh, NAMES, delete=True)
    assert [each.note.split(",")[0] for each in told if each.key == damaged] == ["not searched"]
    assert {name: contents(wh)[name] for name in strange} == strange
    assert contents(wh)[damaged] == b"no such format"
    assert not set(await ids_of(wh, key)) & GONE


async def ids_of(wh: Open, key: str) -> list[str]:
    subject = subject_of(wh)
    kinds: Any = Shaped()
    return [row["message_id"] for row in subject._read(subject.content(key), kinds)]


@ONE_FORMAT
async def test_a_second_look_reads_only_objects_that_changed_or_held_the_person(wh: Open) -> None:
    delivery = Delivery(wh, await wh.session(), layout="single_table", deduplicate=False)
    assert await delivery.send(*PEOPLE) == {}
    (key,) = contents(wh)
    assert await forget(wh, NAMES, delete=True, changed=Changed(4e9, ())) == []
    assert [each.rows for each in await forget(wh, NAMES, delete=False, changed=Changed(4e9, {key}))] == [len(GONE)]
    assert [each.rows for each in await forget(wh, NAMES, delete=True, changed=Changed(0.0, ()))] == [len(GONE), 0]


@ONE_FORMAT
async def test_a_worker_that_dies_at_any_step_leaves_objects_whole_and_its_successor_ends_it(
    wh: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = Delivery(wh, await wh.session(), layout="single_table", deduplicate=False)
    assert await delivery.send(*PEOPLE) == {}
    assert await delivery.send(*PEOPLE) == {}
    total = await ids(wh, "events")
    gone = {mid: times for mid, times in total.items() if int(mid[1:]) % len(PEOPLE) in {int(each[1:]) for each in GONE}}
    staying = total - Counter(gone)
    assert isinstance(wh.destination, FilesDestination)
    store = wh.destination._store
    claim, epoch = store.claim, 1

    class _DiedError(PenstockError):
        """Stands for a kill: nothing of the process runs afterwards."""

    for step in ("stage", "staged", "publish", "published"):
        dead = Dying(step, _DiedError())

        async def claim_dying(owner: str, epoch: int, dead: Dying = dead) -> Area:
            return dead.take(await claim(owner, epoch))

        monkeypatch.setattr(store, "claim", claim_dying)
        with pytest.raises(_DiedError):
            await forget(wh, NAMES, delete=True, epoch=epoch)
        now = await ids(wh, "events")
        assert staying <= now
        assert now <= total
        epoch += 1
    monkeypatch.setattr(store, "claim", claim)
    await forget(wh, NAMES, delete=True, epoch=epoch)
    assert await ids(wh, "events") == staying
    if isinstance(wh.subject, S3Subject):
        assert wh.subject.uploads() == []


class Dying:
    """An area whose holder dies before or after a step."""

    def __init__(self, step: str, error: PenstockError) -> None:
        self._step, self._error = step, error
        self._area: Area

    def take(self, area: Area) -> Area:
        self._area = area
        return cast("Area", self)

    async def stage(self, key: str, write: Callable[[IO[bytes]], object]) -> int:
        self._die("stage")
        size = await self._area.stage(key, write)
        self._die("staged")
        return size

    async def publish(self) -> None:
        self._die("publish")
        await self._area.publish()
        self._die("published")

    async def discard(self) -> None:
        """Discards nothing: the holder is dead."""

    def _die(self, step: str) -> None:
        if step == self._step:
            raise self._error


@ONE_FORMAT
async def test_an_object_that_changes_while_it_is_read_is_left_alone_until_it_is_read_again(
    wh: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = Delivery(wh, await wh.session(), layout="single_table", deduplicate=False)
    assert await delivery.send(*PEOPLE) == {}
    (key,) = contents(wh)
    original = contents(wh)[key]
    assert isinstance(wh.destination, FilesDestination)
    store = wh.destination._store
    run = people.without

    def meanwhile(*args: Any, **more: Any) -> None:
        run(*args, **more)
        asyncio.run_coroutine_threadsafe(store.put(key, b"by another program"), loop).result()

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(forgetting, "without", meanwhile)
    with pytest.raises(Transient, match="read again"):
        await forget(wh, NAMES, delete=True)
    assert contents(wh)[key] == b"by another program"
    monkeypatch.undo()
    await store.put(key, original)
    assert [each.rows for each in await forget(wh, NAMES, delete=True)] == [len(GONE), 0]


@ONE_FORMAT
async def test_a_frozen_worker_that_wakes_publishes_nothing(wh: Open) -> None:
    delivery = Delivery(wh, await wh.session(), layout="single_table", deduplicate=False)
    assert await delivery.send(*PEOPLE) == {}
    assert isinstance(wh.destination, FilesDestination)
    (key,) = contents(wh)
    frozen = await wh.destination._store.claim(forgetting.OWNER, 1)
    await frozen.stage(key, lambda output: output.write(b"late"))
    await forget(wh, NAMES, delete=True, epoch=2)
    with pytest.raises(Fenced):
        await frozen.publish()
    assert not set(await ids(wh, "events")) & GONE
    # a broker that was restored counts epochs from below
    assert await forget(wh, ["joe"], delete=True, epoch=1) != []


@pytest.mark.only("s3-parquet")
async def test_a_bucket_with_versions_is_told_with_the_remedy(wh: Open) -> None:
    subject = wh.subject
    assert isinstance(subject, S3Subject)
    assert isinstance(wh.destination, ForgetsPeopleInObjects)
    assert await wh.destination.remains() == ""
    subject.client.put_bucket_versioning(Bucket=subject.bucket, VersioningConfiguration={"Status": "Enabled"})
    note = await wh.destination.remains()
    assert "old versions" in note
    assert "list-object-versions" in note
