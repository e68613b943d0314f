"""The journal beside a broker that refuses records, leaves them unanswered, or hangs."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from ingest.journal.records import Record, read_records
from ingest.journal.spool import open_spool
from shared.errors import NotConnected, Transient
from tests.unit.ingest.spools import MIB, Sink, emptying, journal, record, until_empty


async def test_a_record_the_broker_can_never_take_is_kept_aside_and_does_not_hold_up_the_others(tmp_path: Path) -> None:
    sink = Sink()
    sink.refused = {"id-1"}
    async with open_spool(tmp_path, 10 * MIB) as spool:
        for n in range(3):
            await spool.store(record(n))
        async with emptying(spool, sink):
            await until_empty(spool)
    assert sink.ids() == ["id-0", "id-2"]
    (kept,) = tmp_path.glob("*.refused")
    assert read_records(kept.read_bytes()).records == [record(1)]


async def test_a_file_that_was_published_in_part_goes_on_where_it_stopped_also_after_a_restart(tmp_path: Path) -> None:
    sink = Sink()
    real = sink.publish

    async def until_away(each: Record) -> None:
        sink.away = len(sink.taken) >= allowed
        await real(each)

    sink.publish = until_away  # type: ignore[method-assign]
    allowed = 0
    for allowed in (7, 15, 21, 100):
        async with open_spool(tmp_path, 10 * MIB) as spool:
            if allowed == 7:
                for n in range(40):
                    await spool.store(Record(f"events.site{n % 2}.0", f"id-{n}", 1, b"x"))
            async with emptying(spool, sink):
                while spool.backlog and not sink.away:
                    await asyncio.sleep(0.005)
        sink.away = False
    assert sorted(sink.ids()) == sorted(f"id-{n}" for n in range(40))
    for site in range(2):
        assert [each.msg_id for each in sink.taken if each.subject == f"events.site{site}.0"] == [
            f"id-{n}" for n in range(site, 40, 2)
        ]
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


async def test_records_that_were_sent_without_an_answer_are_asked_for_before_they_are_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.journal.spool.PAUSE_SECONDS", 0.01)
    sink = Sink()
    stored: list[str] = []
    asked: list[set[str]] = []

    async def publish(each: Record) -> None:
        await asyncio.sleep(0)
        stored.append(each.msg_id)
        if each.msg_id == "id-2" or sink.away:
            raise NotConnected("no acknowledgement")

    async def look_up(subject: str, ids: set[str], since: float) -> set[str]:
        assert subject == "events.shop.0"
        assert time.time() - 60 < since <= time.time()
        asked.append(ids)
        return ids & set(stored)

    async with open_spool(tmp_path, 10 * MIB) as spool:
        await spool.store(record(0)._replace(sent_at=time.time()))  # a frame that went to the journal after its first try
        stored.append("id-0")
        for n in range(1, 4):
            await spool.store(record(n))
        await spool.empty(publish, look_up, once=True)
        assert stored == ["id-0", "id-1", "id-2", "id-3"]
        assert asked == [{"id-0"}, {"id-2"}]

        # a process that ends while records are under way leaves the question to the next one
        sink.away = True
        for n in range(4, 8):
            await spool.store(record(n))
        task = asyncio.create_task(spool.empty(publish, once=True))
        while "id-4" not in stored:
            await asyncio.sleep(0.005)
        task.cancel()
    sink.away = False
    async with open_spool(tmp_path, 10 * MIB) as spool:
        await spool.empty(publish, look_up, once=True)
    assert stored == [f"id-{n}" for n in range(8)]


async def test_a_record_that_is_refused_for_now_is_not_overtaken_within_its_subject(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.journal.spool.PAUSE_SECONDS", 0.01)
    sink = Sink()
    tried: list[str] = []

    async def publish(each: Record) -> None:
        tried.append(each.msg_id)
        await asyncio.sleep(0)
        if each.msg_id == "id-1" and tried.count("id-1") < 3:
            raise Transient("no leader yet")
        sink.taken.append(each)

    sink.publish = publish  # type: ignore[method-assign]
    async with open_spool(tmp_path, 10 * MIB) as spool:
        for n in range(6):
            await spool.store(record(n))
        async with emptying(spool, sink):
            await until_empty(spool)
    assert sink.ids() == [f"id-{n}" for n in range(6)]


async def test_callers_do_not_wait_for_the_end_of_the_journal_before_the_broker_has_taken_anything(tmp_path: Path) -> None:
    hung = asyncio.Event()

    async def never(_: Record) -> None:
        hung.set()
        await asyncio.Event().wait()

    async with open_spool(tmp_path, 10 * MIB) as spool:
        await spool.store(record(0))
        task = asyncio.create_task(spool.empty(never))
        await hung.wait()
        assert spool._ending is None
        assert await spool.store(record(1))
        task.cancel()


async def test_callers_that_wait_for_the_end_of_the_journal_wait_no_longer_than_their_patience(tmp_path: Path) -> None:
    sink = Sink()
    hangs = asyncio.Event()

    async def hang_at_the_second(each: Record) -> None:
        if each.msg_id == "id-1":
            hangs.set()
            await asyncio.Event().wait()
        await sink.publish(each)
        await spool.store(record(1))

    async with open_spool(tmp_path, 10 * MIB, patience_seconds=0.01) as spool:
        await spool.store(record(0))
        task = asyncio.create_task(spool.empty(hang_at_the_second))
        await hangs.wait()
        assert spool._ending is not None
        assert await spool.store(record(2))
        task.cancel()


async def test_a_record_whose_subject_is_none_of_the_edges_is_never_published(tmp_path: Path) -> None:
    sink = Sink()
    forged = Record("$KV.config.project", "id-1", 1, b"a project")
    (tmp_path / "00000001.journal").write_bytes(journal(record(0), forged, record(2)))
    async with open_spool(tmp_path, 10 * MIB) as spool, emptying(spool, sink):
        await until_empty(spool)
    assert sink.ids() == ["id-0", "id-2"]
    assert read_records((tmp_path / "00000001.refused").read_bytes()).records == [forged]
