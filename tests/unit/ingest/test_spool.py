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
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.journal import Contents, Record, encode_record, read_records
from ingest.spool import Spool, SpoolFull, open_spool
from shared.errors import ConfigError, NotConnected, Permanent
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


async def until_empty(spool: Spool) -> None:
    while spool.backlog:
        await asyncio.sleep(0.005)


@given(
    records=st.lists(st.builds(Record, st.text(max_size=5), st.text(max_size=5), st.integers(0, 9), st.binary(max_size=40))),
    cut=st.integers(0, 400),
)
def test_a_journal_cut_anywhere_gives_the_records_that_were_whole(records: list[Record], cut: int) -> None:
    pieces = [encode_record(each) for each in records]
    data = b"".join(pieces)
    assert read_records(data) == Contents(records, 0)
    kept, size = 0, 0
    while kept < len(pieces) and size + len(pieces[kept]) <= min(cut, len(data)):
        size += len(pieces[kept])
        kept += 1
    assert read_records(data[:cut]) == Contents(records[:kept], 0)


@given(position=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_damage_costs_the_record_it_hits_and_is_told_from_a_record_that_is_cut_off(position: int, bit: int) -> None:
    pieces = [encode_record(record(n)) for n in range(6)]
    data = bytearray(b"".join(pieces))
    position %= len(data)
    data[position] ^= 1 << bit
    hit = position // len(pieces[0])
    contents = read_records(bytes(data))
    assert contents.records == [record(n) for n in range(6) if n != hit]
    # only a length that has become larger looks like a record that is cut off
    grown = 4 <= position % len(pieces[0]) < 8 and data[position] & 1 << bit
    assert contents.damaged == (0 if hit == 5 and grown else len(pieces[0]))


async def test_what_is_stored_is_on_disk_when_store_returns_and_is_emptied_in_order(tmp_path: Path) -> None:
    sink = Sink()
    async with open_spool(tmp_path / "s", 10 * MIB) as spool:
        for n in range(30):
            assert await spool.store(record(n))
            on_disk = b"".join(path.read_bytes() for path in sorted((tmp_path / "s").glob("*.journal")))
            assert read_records(on_disk).records == [record(each) for each in range(n + 1)]
        async with emptying(spool, sink):
            await until_empty(spool)
        assert spool.stored_bytes == 0
    assert sink.taken == [record(n) for n in range(30)]
    assert not list((tmp_path / "s").glob("*.journal"))


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
        assert spool.stored_bytes == sum(len(encode_record(record(n))) for n in range(5))
        await spool.store(record(5))
        async with emptying(spool, sink):
            await until_empty(spool)
    assert sink.ids() == [f"id-{n}" for n in range(6)]


async def test_a_torn_tail_is_left_out_and_what_comes_after_the_crash_is_kept(tmp_path: Path) -> None:
    whole = encode_record(record(1))
    (tmp_path / "00000007.journal").write_bytes(encode_record(record(0)) + whole[:-3])
    sink = Sink()
    async with open_spool(tmp_path, 10 * MIB) as spool:
        await spool.store(record(2))
        async with emptying(spool, sink):
            await until_empty(spool)
    assert sink.ids() == ["id-0", "id-2"]
    assert not list(tmp_path.glob("*.damaged"))


async def test_a_damaged_file_is_emptied_as_far_as_it_can_be_read_and_kept_for_a_look(tmp_path: Path) -> None:
    pieces = [encode_record(record(n)) for n in range(4)]
    pieces[1] = pieces[1][:-1] + b"?"
    (tmp_path / "00000001.journal").write_bytes(b"".join(pieces))
    sink = Sink()
    async with open_spool(tmp_path, 10 * MIB) as spool, emptying(spool, sink):
        await until_empty(spool)
    assert sink.ids() == ["id-0", "id-2", "id-3"]
    assert (tmp_path / "00000001.damaged").read_bytes() == b"".join(pieces)


@pytest.mark.parametrize("tail", [encode_record(record(1))[:-1] + b"?", b"\0" * 500, b"PSJ"[::-1]])
async def test_a_last_record_that_is_damaged_is_not_taken_for_one_that_is_cut_off(tmp_path: Path, tail: bytes) -> None:
    (tmp_path / "00000001.journal").write_bytes(encode_record(record(0)) + tail)
    sink = Sink()
    async with open_spool(tmp_path, 10 * MIB) as spool, emptying(spool, sink):
        await until_empty(spool)
    assert sink.ids() == ["id-0"]
    assert (tmp_path / "00000001.damaged").exists()


async def test_a_file_that_somebody_removed_does_not_hold_up_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for n in range(3):
        (tmp_path / f"0000000{n + 1}.journal").write_bytes(encode_record(record(n)))
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
            assert len(list(tmp_path.glob("*.journal"))) >= 1
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


@pytest.mark.parametrize("failing", ["write", "fsync", "open"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
async def test_a_disk_that_fails_is_told_to_the_caller_and_harms_neither_earlier_nor_later_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, number: int
) -> None:
    sink = Sink()
    async with open_spool(tmp_path, 10 * MIB) as spool:
        await spool.store(record(0))
        if failing == "open":
            await spool.close()
            spool._end_file(keep=True)
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
from ingest.journal import Record
from ingest.spool import open_spool

async def main():
    async with open_spool(Path(sys.argv[1]), 1 << 30) as spool:
        async def one(lane):
            for number in range(100_000):
                await spool.store(Record("s", f"{lane}-{number}", 1, b"x" * 3000))
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
