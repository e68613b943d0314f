"""The journal: synced before it acknowledges, emptied in order, and right after crashes, damage and full disks."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ingest.journal import files as journal_files
from ingest.journal import spool as spool_module
from ingest.journal.files import JournalFiles
from ingest.journal.records import Record, encode_head, encode_record, read_records
from ingest.journal.spool import Spool, SpoolFull, open_spool
from shared.errors import ConfigError, NotConnected, Permanent, Transient
from shared.threads import ThreadGate

MIB = 1024 * 1024


def record(number: int, size: int = 20) -> Record:
    return Record("events.shop.0", f"id-{number}", 1, f"{number}".encode().ljust(size, b"."))


class Sink:
    """Takes records, or fails while `away`."""

    def __init__(self) -> None:
        self.taken: list[Record] = []
        self.away = False
        self.refused: set[str] = set()

    async def publish(self, each: Record) -> None:
        await asyncio.sleep(0)
        if self.away:
            raise NotConnected("away")
        if each.msg_id in self.refused:
            raise Permanent("too large")
        self.taken.append(each)

    def ids(self) -> list[str]:
        return [each.msg_id for each in self.taken]


@contextlib.asynccontextmanager
async def emptying(spool: Spool, sink: Sink) -> AsyncIterator[None]:
    task = asyncio.create_task(spool.empty(sink.publish))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


SALT = b"0123456789abcdef"


def journal(*records: Record) -> bytes:
    data = encode_head(SALT)
    for each in records:
        data += encode_record(each, SALT, len(data))
    return data


async def until_empty(spool: Spool) -> None:
    while spool.backlog:
        await asyncio.sleep(0.005)


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


async def test_a_torn_tail_is_left_out_and_what_comes_after_the_crash_is_kept(tmp_path: Path) -> None:
    (tmp_path / "00000007.journal").write_bytes(journal(record(0), record(1))[:-3])
    sink = Sink()
    async with open_spool(tmp_path, 10 * MIB) as spool:
        await spool.store(record(2))
        async with emptying(spool, sink):
            await until_empty(spool)
    assert sink.ids() == ["id-0", "id-2"]
    assert not list(tmp_path.glob("*.damaged"))


async def test_a_damaged_file_is_emptied_as_far_as_it_can_be_read_and_kept_for_a_look(tmp_path: Path) -> None:
    data = bytearray(journal(*map(record, range(4))))
    data[len(journal(record(0), record(1))) - 1] ^= 1
    (tmp_path / "00000001.journal").write_bytes(data)
    sink = Sink()
    async with open_spool(tmp_path, 10 * MIB) as spool, emptying(spool, sink):
        await until_empty(spool)
    assert sink.ids() == ["id-0", "id-2", "id-3"]
    assert (tmp_path / "00000001.damaged").read_bytes() == data


async def test_a_file_that_somebody_removed_does_not_hold_up_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for n in range(3):
        (tmp_path / f"0000000{n + 1}.journal").write_bytes(journal(record(n)))
    sink = Sink()
    async with open_spool(tmp_path, 10 * MIB) as spool:
        (tmp_path / "00000001.journal").unlink()
        (tmp_path / "00000003.journal").unlink()
        async with emptying(spool, sink), asyncio.timeout(5):
            await until_empty(spool)
        assert spool.stored_bytes == 0
    assert sink.ids() == ["id-1"]
    assert caplog.text.count("journal file is gone") == 2


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


@pytest.mark.parametrize("failing", ["write", "fsync"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
async def test_a_disk_that_fails_is_told_to_the_caller_and_harms_neither_earlier_nor_later_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, number: int
) -> None:
    sink = Sink()
    async with open_spool(tmp_path, 10 * MIB) as spool:
        await spool.store(record(0))
        real = getattr(os, failing)

        def broken(*arguments: object, **options: object) -> object:
            if failing == "write":
                real(arguments[0], bytes(arguments[1])[:7])  # type: ignore[call-overload]  # half of it reaches the disk
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(os, failing, broken)
            with pytest.raises(SpoolFull, match=os.strerror(number)):
                await spool.store(record(1))
        assert await spool.store(record(2))
        async with emptying(spool, sink):
            await until_empty(spool)
    assert [name for name in sink.ids() if name != "id-1"] == ["id-0", "id-2"]
    assert not list(tmp_path.glob("*.damaged"))


async def test_a_really_full_disk_is_survived(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a small disk: {mounted.stderr.decode().strip()}")
    sink = Sink()
    try:
        async with open_spool(disk / "s", 10 * MIB) as spool:
            stored = []
            for n in range(100):
                try:
                    await spool.store(record(n, 9_000))
                    stored.append(f"id-{n}")
                except SpoolFull:
                    break
            assert 5 < len(stored) < 60
            async with emptying(spool, sink):
                await until_empty(spool)
            await spool.store(record(1000, 9_000))
            async with emptying(spool, sink):
                await until_empty(spool)
        assert sink.ids() == [*stored, "id-1000"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


async def test_a_disk_without_room_for_a_note_is_emptied_all_the_same_and_sends_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = journal_files._append

    def full(path: Path, data: bytes) -> None:
        if path.suffix == ".published":
            raise OSError(errno.ENOSPC, "No space left on device")
        append(path, data)

    monkeypatch.setattr(journal_files, "_append", full)
    sent: list[str] = []

    async def publish(each: Record) -> None:
        if len(sent) == 20 and not failed:
            failed.append(1)
            raise NotConnected("away again")
        sent.append(each.msg_id)

    failed: list[int] = []
    monkeypatch.setattr(spool_module, "PAUSE_SECONDS", 0.01)
    async with open_spool(tmp_path, 10**6) as spool:
        for number in range(40):
            await spool.store(record(number))
        await spool.empty(publish, once=True)
        assert not spool.backlog
    assert sent == [record(number).msg_id for number in range(40)]


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


async def test_a_record_that_is_stored_after_a_disk_failed_twice_is_sent_without_another_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = Sink()
    async with open_spool(tmp_path, 10 * MIB) as spool, emptying(spool, sink):
        real, failures = JournalFiles.append, iter([True, True])
        second: list[asyncio.Task[bool]] = []

        def failing(files: JournalFiles, contents: list[bytes]) -> None:
            if next(failures, False):
                # another record comes while this one fails
                loop.call_soon_threadsafe(lambda: second.append(loop.create_task(spool.store(record(len(second) + 1)))))
                time.sleep(0.05)
                raise OSError(errno.EIO, "broken")
            real(files, contents)

        loop = asyncio.get_running_loop()
        monkeypatch.setattr(JournalFiles, "append", failing)
        with pytest.raises(SpoolFull):
            await spool.store(record(0))
        results: list[bool | BaseException] = []
        while len(results) < len(second):
            results += await asyncio.gather(*second[len(results) :], return_exceptions=True)
        assert results[-1] is True
        async with asyncio.timeout(5):
            await until_empty(spool)
    assert sink.ids() == ["id-2"]


async def test_a_record_whose_subject_is_none_of_the_edges_is_never_published(tmp_path: Path) -> None:
    sink = Sink()
    forged = Record("$KV.config.project", "id-1", 1, b"a project")
    (tmp_path / "00000001.journal").write_bytes(journal(record(0), forged, record(2)))
    async with open_spool(tmp_path, 10 * MIB) as spool, emptying(spool, sink):
        await until_empty(spool)
    assert sink.ids() == ["id-0", "id-2"]
    assert read_records((tmp_path / "00000001.refused").read_bytes()).records == [forged]


async def test_the_journal_takes_records_when_no_descriptor_is_left_and_is_emptied_when_some_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = Sink()
    monkeypatch.setattr("ingest.journal.spool.PAUSE_AFTER_FAILURE_SECONDS", 0.01)
    async with open_spool(tmp_path, 100 * MIB) as spool:
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", _no_descriptor)
            for n in range(20):
                assert await spool.store(record(n, 900_000))
            async with emptying(spool, sink):
                assert await spool.store(record(20))
            assert sink.ids() == []
        async with emptying(spool, sink):
            await until_empty(spool)
    assert sink.ids() == [f"id-{n}" for n in range(21)]


def _no_descriptor(*_: object, **__: object) -> int:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


async def test_the_folders_above_the_journal_are_synced_when_it_makes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def note(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    monkeypatch.setattr(os, "fsync", note)
    async with open_spool(tmp_path / "a" / "b", MIB):
        pass
    assert {str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a" / "b")} <= set(synced)


async def test_one_folder_has_one_owner(tmp_path: Path) -> None:
    async with open_spool(tmp_path, MIB):
        with pytest.raises(ConfigError, match="in use by another process"):
            async with open_spool(tmp_path, MIB):
                pass
    async with open_spool(tmp_path, MIB):
        pass


WRITER = """
import asyncio, sys
from pathlib import Path
from ingest.journal.records import Record
from ingest.journal.spool import open_spool

async def main():
    async with open_spool(Path(sys.argv[1]), 1 << 30) as spool:
        async def one(lane):
            for number in range(100_000):
                await spool.store(Record("events.s.0", f"{lane}-{number}", 1, b"x" * 3000))
                print(f"{lane}-{number}", flush=True)
        await asyncio.gather(*(one(lane) for lane in range(8)))

asyncio.run(main())
"""


@pytest.mark.parametrize("seed", range(3))
async def test_a_writer_killed_at_any_moment_loses_nothing_it_acknowledged(tmp_path: Path, seed: int) -> None:
    root = Path(__file__).parents[3]
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, cwd=root) as writer:
        assert writer.stdout is not None
        said = [writer.stdout.readline()]
        await asyncio.sleep(random.Random(seed).random() * 0.5)
        writer.send_signal(signal.SIGKILL)
        said += writer.stdout.readlines()
    acknowledged = {line.decode().strip() for line in said if line.endswith(b"\n")}
    sink = Sink()
    async with open_spool(tmp_path, 1 << 30) as spool, emptying(spool, sink):
        await until_empty(spool)
    assert acknowledged <= set(sink.ids())
    assert len(sink.ids()) == len(set(sink.ids()))
    for lane in range(8):
        numbers = [int(name.split("-")[1]) for name in sink.ids() if name.startswith(f"{lane}-")]
        assert numbers == list(range(len(numbers)))
