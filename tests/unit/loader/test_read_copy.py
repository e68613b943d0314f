"""The copy of a DuckDB file for readers: whole, at a period, and after what changed last."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import duckdb
import pytest

from loader.warehouses.duckdb.read_copy import ReadCopy
from shared.tasks import timeout
from shared.telemetry.counts import Uncounted
from shared.threads import ThreadGate
from tests.support.counted import Counted


def write(path: Path, value: int) -> None:
    with duckdb.connect(str(path)) as database:
        database.execute(f"CREATE OR REPLACE TABLE t AS SELECT {value} AS n")


def read(path: Path) -> int:
    with duckdb.connect(str(path), read_only=True) as database:
        return int(database.sql("SELECT n FROM t").fetchall()[0][0])


@pytest.fixture
async def gate() -> AsyncIterator[ThreadGate]:
    opened = ThreadGate(1, "test")
    yield opened
    opened.close()


async def test_the_first_change_is_copied_at_once_and_later_ones_when_it_is_time(tmp_path: Path, gate: ThreadGate) -> None:
    path, target, lock = tmp_path / "a.duckdb", tmp_path / "copy.duckdb", asyncio.Lock()
    copies = ReadCopy(path=path, target=target, gate=gate, lock=lock, every_seconds=0.2, telemetry=Uncounted())
    write(path, 1)
    async with lock:
        await copies.file_closed()
    held = duckdb.connect(str(target), read_only=True)  # a reader keeps the copy it opened, and hinders nobody
    write(path, 2)
    async with lock:
        await copies.file_closed()
    async with timeout(60):
        while read_other(target) != 2:
            await asyncio.sleep(0.02)
    assert held.sql("SELECT n FROM t").fetchall() == [(1,)]
    held.close()
    await copies.close()


def read_other(path: Path) -> int:
    """Reads a file under another name: one process takes two paths of one database for one."""
    link = path.with_name(f"look-{path.stat().st_ino}.duckdb")
    if not link.exists():
        link.hardlink_to(path)
    return read(link)


async def test_what_changed_last_is_copied_when_the_file_is_given_up(tmp_path: Path, gate: ThreadGate) -> None:
    path, target, lock = tmp_path / "a.duckdb", tmp_path / "copy.duckdb", asyncio.Lock()
    copies = ReadCopy(path=path, target=target, gate=gate, lock=lock, every_seconds=3600, telemetry=Uncounted())
    for value in (1, 2):
        write(path, value)
        async with lock:
            await copies.file_closed()
    await copies.close()
    assert read(target) == 2


async def test_a_copy_that_cannot_be_written_fails_no_load(tmp_path: Path, gate: ThreadGate) -> None:
    path, blocked = tmp_path / "a.duckdb", tmp_path / "file"
    blocked.write_text("no directory")
    write(path, 1)
    counted = Counted()
    copies = ReadCopy(
        path=path, target=blocked / "copy.duckdb", gate=gate, lock=asyncio.Lock(), every_seconds=0, telemetry=counted
    )
    await copies.file_closed()
    await copies.close()
    assert blocked.read_text() == "no directory"
    assert counted.of("destination_retries_total", plugin="duckdb", reason="read_copy") == 2
