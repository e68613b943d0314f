"""The journal on a disk that fills, fails, tears files, and under a process that is killed."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ingest.journal import files as journal_files
from ingest.journal import spool as spool_module
from ingest.journal.files import JournalFiles
from ingest.journal.records import Record
from ingest.journal.spool import SpoolFull, open_spool
from shared.errors import ConfigError, NotConnected
from tests.unit.ingest.spools import MIB, Sink, emptying, journal, record, until_empty


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
        async with emptying(spool, sink), asyncio.timeout(60):
            await until_empty(spool)
        assert spool.stored_bytes == 0
    assert sink.ids() == ["id-1"]
    assert caplog.text.count("journal file is gone") == 2


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
        async with asyncio.timeout(60):
            await until_empty(spool)
    assert sink.ids() == ["id-2"]


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
