"""The `local` destination on a disk that is full, read-only or gone: each row arrives once, and messages say what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from loader import registry
from loader.contract.events import EventDestination
from loader.contract.warehouse import Destination, Environment, LoadPlan, Session, TableLoad
from shared.errors import Fenced, NotConnected, SetupError
from shared.stores.contract import Store
from shared.stores.local import LocalStore
from shared.stores.s3 import S3Store
from shared.threads import ThreadGate
from tests.contract.stores.test_stores import bytes_of, store
from tests.support.s3 import s3_server

__all__ = ["s3_server", "store"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)


class Lake:
    def __init__(self, destination: Destination, root: Path) -> None:
        self.destination = destination
        self.root = root

    async def open(self, epoch: int = 1) -> Session:
        return await self.destination.open_session("c", epoch)

    def ids(self, table: str, format_: str) -> Counter[str]:
        """Returns the ids that readers find."""
        files = f"{self.root}/{table}/**/*.{format_}*"
        read = {"parquet": "read_parquet", "ndjson": "read_json", "csv": "read_csv"}[format_]
        with duckdb.connect() as link:
            return Counter(row[0] for row in link.sql(f"select id from {read}('{files}')").fetchall())


@pytest.fixture
async def opened() -> AsyncIterator[Callable[..., Awaitable[Lake]]]:
    gate = ThreadGate(2)

    async def open_lake(root: Path, format_: str = "parquet") -> Lake:
        plugin, options = registry.parse_options("lake", {"type": "local", "path": str(root), "format": format_})
        destination = await plugin.open_destination("lake", options, Environment(gate))
        assert not isinstance(destination, EventDestination)
        return Lake(destination, root)

    yield open_lake
    gate.close()


def loads(number: int) -> tuple[LoadPlan, list[TableLoad]]:
    """A load of two tables, which no compression makes small."""
    ids = [f"{number}-{row}" for row in range(1000)]
    return LoadPlan("c", "live", number, number), [
        TableLoad(table, pa.table({"id": ids, "noise": [os.urandom(100).hex() for _ in ids]})) for table in ("a", "b")
    ]


@pytest.mark.parametrize("format_", ["parquet", "ndjson", "csv"])
async def test_a_full_disk_holds_loads_up_and_none_of_them_is_lost_or_doubled(
    disk: Path, opened: Callable[..., Awaitable[Lake]], format_: str
) -> None:
    lake = await opened(disk / "lake", format_)
    session, said = await lake.open(), dict[int, str]()
    for number in range(6):
        try:
            await session.load(*loads(number))
        except SetupError as error:
            said[number] = str(error)
    failed = list(said)
    assert failed[-1] == 5
    assert all("No space left on device" in why and "the space on its disk" in why for why in said.values())
    assert list(disk.rglob("*.part")) == [], "what was written in vain takes no room"
    remount(disk, "size=16m")
    for number in failed:
        await session.load(*loads(number))
    expected = Counter(f"{number}-{row}" for number in range(6) for row in range(1000))
    assert lake.ids("a", format_) == lake.ids("b", format_) == expected


async def test_a_disk_that_becomes_read_only_says_so_and_loading_goes_on_when_it_is_not(
    disk: Path, opened: Callable[..., Awaitable[Lake]]
) -> None:
    lake = await opened(disk / "lake")
    session = await lake.open()
    await session.load(*loads(0))
    remount(disk, "ro")
    try:
        for call in (session.load(*loads(1)), session.probe(loads(1)[1]), lake.open(2)):
            with pytest.raises(SetupError, match=r"Read-only file system.*its permissions"):
                await call
        (result,) = await lake.destination.check()
        assert not result.ok
        assert "Read-only file system" in result.message
    finally:
        remount(disk, "rw,size=16m")
    await session.load(*loads(1))
    assert len(lake.ids("a", "parquet")) == 2000


async def test_a_directory_that_is_removed_while_it_is_open_is_no_other_loader(
    tmp_path: Path, opened: Callable[..., Awaitable[Lake]]
) -> None:
    lake = await opened(tmp_path / "lake")
    session = await lake.open()
    await session.load(*loads(0))
    shutil.rmtree(lake.root)
    with pytest.raises(NotConnected, match="a directory was removed while files were written"):
        await session.load(*loads(1))
    session = await lake.open()  # as a loader does, under the epoch that it has
    await session.load(*loads(1))
    assert lake.ids("a", "parquet") == Counter(f"1-{row}" for row in range(1000))


async def test_a_table_that_is_removed_before_its_files_are_in_place_is_loaded_again(tmp_path: Path) -> None:
    gate = ThreadGate(1)
    place = LocalStore(tmp_path, gate, "the store")
    area = await place.claim("c", 1)
    await area.stage("a/1", bytes_of(b"one"))
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(NotConnected, match=f"the store: .*{tmp_path}/a/1"):
        await area.publish()
    await area.discard()
    await area.stage("a/1", bytes_of(b"one"))
    await area.publish()
    assert await place.get("a/1") == b"one"
    await place.claim("c", 2)
    with pytest.raises(Fenced):
        await area.stage("a/2", bytes_of(b"two"))
    gate.close()


async def test_a_damaged_note_of_a_holder_is_named_with_the_remedy(store: Store) -> None:
    await store.claim("c", 7)
    note = "_penstock/c/epoch" if not isinstance(store, S3Store) else f"_penstock/c/{7:020d}"
    await store.put(note, b"\xff{")
    for epoch in (7, 8):
        with pytest.raises(SetupError, match=rf"{note} is damaged.*; remove it if no other loader writes here"):
            await store.claim("c", epoch)
    await store.delete([note])
    await store.claim("c", 8)
