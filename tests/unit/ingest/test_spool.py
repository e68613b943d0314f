"""The journal: synced before it acknowledges, emptied in order, bounded, and never in the way of what comes."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from ingest.journal.records import read_records
from ingest.journal.spool import Spool, SpoolFull, open_spool
from shared.threads import ThreadGate
from tests.unit.ingest.spools import MIB, Sink, emptying, journal, record, until_empty


async def test_what_is_stored_is_on_disk_when_store_returns_and_is_emptied_in_order(tmp_path: Path) -> None:
    sink = Sink()
    async with open_spool(tmp_path / "s", 10 * MIB) as spool:
        for n in range(30):
            assert await spool.store(record(n))
            (path,) = (tmp_path / "s").glob("*.journal")
            assert read_records(path.read_bytes()).records == [record(each) for each in range(n + 1)]
        async with emptying(spool, sink):
            await until_empty(spool)
        assert spool.stored_bytes == 0
    assert sink.taken == [record(n) for n in range(30)]
    assert not [path for path in (tmp_path / "s").iterdir() if path.name != "lock"]


async def test_records_that_come_together_share_a_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs = 0
    real = os.fsync

    def counted(descriptor: int) -> None:
        nonlocal syncs
        syncs += 1
        real(descriptor)

    async with open_spool(tmp_path, 10 * MIB) as spool:
        monkeypatch.setattr(os, "fsync", counted)
        assert all(await asyncio.gather(*(spool.store(record(n)) for n in range(200))))
        assert syncs < 20
    (path,) = tmp_path.glob("*.journal")
    assert {each.msg_id for each in read_records(path.read_bytes()).records} == {f"id-{n}" for n in range(200)}


async def test_a_next_start_sends_what_an_earlier_one_left_before_anything_new(tmp_path: Path) -> None:
    async with open_spool(tmp_path, 10 * MIB) as spool:
        for n in range(5):
            await spool.store(record(n))
    sink = Sink()
    async with open_spool(tmp_path, 10 * MIB) as spool:
        assert spool.backlog
        assert spool.stored_bytes == len(journal(*map(record, range(5))))
        await spool.store(record(5))
        async with emptying(spool, sink):
            await until_empty(spool)
    assert sink.ids() == [f"id-{n}" for n in range(6)]


async def test_a_file_stays_until_every_record_in_it_is_acknowledged(tmp_path: Path) -> None:
    sink = Sink()
    sink.away = True
    async with open_spool(tmp_path, 10 * MIB) as spool:
        for n in range(10):
            await spool.store(record(n))
        async with emptying(spool, sink):
            for n in range(10, 20):
                assert await spool.store(record(n))  # goes behind, also while emptying fails
            assert list(tmp_path.glob("*.journal"))
            sink.away = False
            await until_empty(spool)
    assert list(dict.fromkeys(sink.ids())) == [f"id-{n}" for n in range(20)]
    assert not list(tmp_path.glob("*.journal"))


async def test_at_the_end_of_the_backlog_callers_are_sent_to_the_broker_instead_of_feeding_it_for_ever(tmp_path: Path) -> None:
    sink = Sink()
    direct: list[int] = []
    async with open_spool(tmp_path, 10 * MIB) as spool:
        for n in range(50):
            await spool.store(record(n))

        async def steady() -> None:
            number = 50
            while len(direct) < 20:
                if not spool.backlog or not await spool.store(record(number)):
                    direct.append(number)
                number += 1
                await asyncio.sleep(0)

        async with emptying(spool, sink):
            await steady()
    stored = [int(name.removeprefix("id-")) for name in sink.ids()]
    assert stored == sorted(stored)
    assert set(stored) | set(direct) == set(range(max(direct) + 1))
    assert not set(stored) & set(direct)
    assert min(direct) > 49


async def test_the_bound_of_bytes_holds_and_room_comes_back(tmp_path: Path) -> None:
    sink = Sink()
    async with open_spool(tmp_path, 10_000) as spool:
        stored = 0
        with pytest.raises(SpoolFull, match="10000"):
            while True:
                await spool.store(record(stored, 900))
                stored += 1
        assert stored == 10
        async with emptying(spool, sink):
            await until_empty(spool)
        assert await spool.store(record(99, 900))
    assert sink.ids() == [f"id-{n}" for n in range(stored)]


async def test_large_backlogs_are_kept_in_several_files(tmp_path: Path) -> None:
    gate = ThreadGate(1)
    spool = Spool(tmp_path, 10 * MIB, gate, segment_bytes=4_000)
    for n in range(20):
        await spool.store(record(n, 900))
    assert len(list(tmp_path.glob("*.journal"))) == 4
    sink = Sink()
    async with emptying(spool, sink):
        await until_empty(spool)
    await spool.close()
    gate.close()
    assert sink.ids() == [f"id-{n}" for n in range(20)]
