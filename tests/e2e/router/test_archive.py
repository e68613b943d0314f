"""The archive of a site beside a real broker: under load, while its store is away, when EVENTS loses frames, and when it is created again."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from router.archive.archiver import Archiver
from router.archive.older import LongReader, Older
from router.forgetting.work import keep_forgetting
from router.replay.run import replay
from shared.archive import layout
from shared.archive.books import Books
from shared.archive.layout import Entry
from shared.archive.lines import Line
from shared.archive.note import ArchiveNote, read_note
from shared.archive.reader import ArchiveReader
from shared.archive.rewrite import rewrite
from shared.forget.requests import ROUTER, Request, ask, read_part
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.identity import identify
from shared.jetstream.lease import hold
from shared.jetstream.reader import PULL_MESSAGES
from shared.project.archive import LocalArchive
from shared.reading.units import Duration
from shared.service import ServiceContext
from shared.settings import ServiceSettings
from shared.stores.local import LocalStore
from shared.telemetry.health import Health
from shared.telemetry.metrics import Telemetry
from shared.threads import ThreadGate
from tests.support.archive import SITE, archive, archived, faults, frame
from tests.support.router import put, reading, snapshot, until


class Archives:
    """Archives of one broker in one directory."""

    def __init__(self, broker: Broker, telemetry: Telemetry, root: Path) -> None:
        self.broker = broker
        self.telemetry = telemetry
        self.health = Health()
        self.gate = ThreadGate(2)
        self.root = root
        self.options = LocalArchive(path=str(root), period=Duration(1))
        self.store = LocalStore(root, self.gate, "the archive")
        self.context = ServiceContext("router", "here", ServiceSettings(), broker, cast("Any", None), telemetry, self.health)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Event]:
        """Archives the site while the context is open, as a router under the lease does."""
        ending = asyncio.Event()

        async def work() -> None:
            while not ending.is_set():
                async with hold(self.broker, f"archive.{SITE}", "test") as lease:
                    await Archiver(self.context, self.gate, SITE, self.options).work(lease, ending)
                await asyncio.sleep(0.6)

        task = self.task = asyncio.create_task(work())
        try:
            yield ending
        finally:
            ending.set()
            await asyncio.wait([task])
        await task

    async def note(self, holds: Callable[[ArchiveNote], bool]) -> ArchiveNote:
        """Waits for a note."""
        async with asyncio.timeout(60):
            while (note := await read_note(self.broker, SITE)) is None or not holds(note):
                assert not self.task.done(), self.task
                await asyncio.sleep(0.05)
        return note

    async def seqs(self, number: int = 1) -> list[int]:
        """Returns the sequences that a reader finds."""
        assert await faults(self.store, self.gate) == []
        return [seq for seq, _ in await archived(self.store, self.gate, number)]


@pytest.fixture
def archives(broker: Broker, telemetry: Telemetry, tmp_path: Path) -> Archives:
    return Archives(broker, telemetry, tmp_path / "archive")


async def test_all_frames_are_archived_once_over_several_lives(archives: Archives) -> None:
    broker = archives.broker
    accepted = [await put(broker, [f"a{n}", f"b{n}"]) for n in range(20)]
    await put(broker, ["other"], site="quiet")
    async with archives.running():
        accepted += [await put(broker, [f"c{n}"]) for n in range(20)]
        await archives.note(lambda note: note.position == accepted[-1] and not note.waiting_frames)
    accepted.append(await put(broker, ["last"]))
    async with archives.running():
        pass  # it ends in order: what it has read is in the archive
    async with archives.running():
        await archives.note(lambda note: note.position == accepted[-1])
    assert await archives.seqs() == accepted
    assert archives.health.warnings == {}


async def test_while_the_store_is_away_it_says_so_and_loses_nothing(archives: Archives) -> None:
    broker = archives.broker
    first = await put(broker, ["a"])
    archives.root.write_bytes(b"in the way")
    async with archives.running():
        note = await archives.note(lambda note: bool(note.trouble))
        assert (note.waiting_frames, note.waiting_events) == (1, 1)
        assert "1 events wait in EVENTS" in archives.health.warnings[f"archive {SITE}"]
        assert archives.telemetry.value("archive_errors_total", site=SITE) >= 1
        assert archives.telemetry.value("archive_lag_frames", site=SITE) == 1
        assert archives.telemetry.value("archive_oldest_seconds", site=SITE) > 0
        archives.root.unlink()
        second = await put(broker, ["b"])
        await archives.note(lambda note: note.position == second and not note.trouble)
        assert archives.health.warnings == {}
        assert archives.telemetry.value("archive_lag_frames", site=SITE) == 0
        assert archives.telemetry.value("archive_events_total", site=SITE) == 2
        stored = sum(each.size for each in await archives.store.list("") if each.key.endswith(".zst"))
        assert archives.telemetry.value("archive_bytes_total", site=SITE) == stored
    assert await archives.seqs() == [first, second]


async def test_frames_that_events_lost_meanwhile_are_counted(archives: Archives) -> None:
    broker = archives.broker
    first = await put(broker, ["a"])
    async with archives.running():
        await archives.note(lambda note: note.position == first)
    for n in range(5):
        await put(broker, [f"lost{n}"])
    await broker.js.purge_stream(topology.EVENTS)
    async with archives.running():
        kept = await put(broker, ["b"])
        note = await archives.note(lambda note: note.position == kept)
        assert note.missed == 5
    assert await archives.seqs() == [first, kept]
    assert [entry.missed for entry in await entries(archives)] == [0, 5]
    assert 'archive_missed_frames_total{site="shop"} 5' in archives.telemetry.exposition().decode()


async def test_a_quiet_site_misses_nothing_when_others_frames_go(archives: Archives) -> None:
    broker = archives.broker
    first = await put(broker, ["a"])
    for n in range(5):
        seen = await put(broker, [f"other{n}"], site="quiet")
    async with archives.running():
        await archives.note(lambda note: note.position == first and note.seen >= seen)
    await broker.js.purge_stream(topology.EVENTS)
    async with archives.running():
        kept = await put(broker, ["b"])
        note = await archives.note(lambda note: note.position == kept)
    assert note.missed == 0


async def test_an_events_stream_that_was_created_again_goes_into_the_same_archive(archives: Archives) -> None:
    broker = archives.broker
    first = await put(broker, ["a"])
    async with archives.running():
        await archives.note(lambda note: note.position == first)
        await broker.js.delete_stream(topology.EVENTS)
        await topology.ensure(broker, ServiceSettings().topology())
        again = [await put(broker, [f"b{n}"]) for n in range(3)]
        # the reader of the old stream finds out when it hears nothing more
        await archives.note(lambda note: note.position == again[-1])
    assert (first, again) == (1, [1, 2, 3])
    assert await archives.seqs(1) == [first]
    assert await archives.seqs(2) == again


async def test_an_older_copy_of_the_brokers_store_is_told_and_passes_over_no_event(archives: Archives) -> None:
    """EVENTS has other frames under sequences that the archive has: now, or since it has gone on."""
    broker = archives.broker
    await put(broker, ["a"])
    incarnation = (await identify(broker, topology.EVENTS)).incarnation
    await archive(archives.store, [frame(1, "b"), frame(2, "c"), frame(3, "d")], 1, incarnation=incarnation)
    async with archives.running():
        note = await archives.note(lambda note: "EVENTS up to 3" in note.trouble)
        assert "docs/runbooks.md" in note.trouble
        for n in range(5):
            await put(broker, [f"e{n}"])
        at = note.at
        note = await archives.note(lambda note: note.at > at and bool(note.trouble))
        assert note.waiting_frames
    assert await archives.seqs() == [1, 2, 3]


async def test_another_stack_that_archives_into_the_same_place_is_told(archives: Archives) -> None:
    accepted = await put(archives.broker, ["a"])
    await archives.store.claim(f"archive-{SITE}", 2**50)
    async with archives.running():
        note = await archives.note(lambda note: "another stack" in note.trouble)
        assert (note.waiting_frames, note.position) == (1, 0)
        assert "another stack" in archives.health.warnings[f"archive {SITE}"]
        await archives.store.forget(f"archive-{SITE}")
        await archives.note(lambda note: note.position == accepted and not note.trouble)
    assert await archives.seqs() == [accepted]


async def test_an_archive_that_is_removed_is_made_again_of_what_events_has(archives: Archives) -> None:
    broker = archives.broker
    accepted = [await put(broker, ["a"])]
    async with archives.running():
        await archives.note(lambda note: note.position == accepted[-1])
        shutil.rmtree(archives.root)
        accepted.append(await put(broker, ["b"]))
        await archives.note(lambda note: note.position == accepted[-1])
    assert await archives.seqs() == accepted


async def test_an_archive_that_is_not_mounted_counts_what_it_lacks(archives: Archives) -> None:
    broker = archives.broker
    for n in range(3):
        last = await put(broker, [f"a{n}"])
    async with archives.running():
        await archives.note(lambda note: note.position == last)
    await broker.js.purge_stream(topology.EVENTS, seq=last)
    shutil.rmtree(archives.root)
    async with archives.running():
        kept = await put(broker, ["b"])
        note = await archives.note(lambda note: note.position == kept)
        assert note.missed == 2
    assert await archives.seqs() == [last, kept]
    assert (await entries(archives))[0].missed == 2


async def test_a_rewrite_gets_the_lease_of_a_router_that_archives(archives: Archives) -> None:
    broker = archives.broker
    accepted = [await put(broker, [f"bob{n}" if n == 2 else f"m{n}"]) for n in range(4)]

    def of_bob(line: Line) -> bool:
        return line.message_id.startswith("bob")

    async with archives.running():
        await archives.note(lambda note: note.position == accepted[-1])
        report = await rewrite(broker=broker, store=archives.store, gate=archives.gate, site=SITE, gone=of_bob, holder="test")
        assert report.events == 1
        later = await put(broker, ["m9"])
        await archives.note(lambda note: note.position == later)
    assert await archives.seqs() == [accepted[0], accepted[1], accepted[3], later]


async def test_a_replay_reads_what_events_has_no_longer_from_the_archive_and_goes_over(archives: Archives) -> None:
    broker = archives.broker
    gone = [await put(broker, [f"m{n}"]) for n in range(6)]
    async with archives.running():
        await archives.note(lambda note: note.position == gone[-1])
    await broker.js.purge_stream(topology.EVENTS, seq=gone[3])
    kept = [await put(broker, [f"m{n}"]) for n in range(6, 9)]
    older = Older(archives.gate, lambda: {SITE: archives.options})
    async with reading(broker, "one") as (one,):
        report = await replay(broker, snapshot({"one": {}}), SITE, gone[1], kept[1], replay_id="r", older=older)
        await until(lambda: len(one.ids) == 7)
    assert one.seqs == [*gone[1:], *kept[:2]]
    assert one.ids == [f"m{n}" for n in range(1, 8)]
    assert (report.frames, report.first_seq, report.last_seq) == (7, gone[1], kept[1])

    await broker.js.purge_stream(topology.EVENTS)
    async with reading(broker, "one") as (one,):
        await replay(broker, snapshot({"one": {}}), SITE, replay_id="r2", older=older)
        await until(lambda: len(one.ids) == 6)
    assert one.seqs == gone


async def test_what_the_archive_lacks_of_a_range_is_counted(archives: Archives) -> None:
    broker = archives.broker
    incarnation = (await identify(broker, topology.EVENTS)).incarnation
    await archive(archives.store, [frame(n, f"m{n}") for n in (1, 2, 3)], 1, together=1, incarnation=incarnation)
    last = 3
    older = Older(archives.gate, lambda: {SITE: archives.options})
    assert await older.missed(broker, SITE, 1, last) == 0
    # an older manifest was put back, and what came later was archived behind it
    books = Books(archives.store, SITE)
    day = (await books.index()).days[-1]
    manifest = await books.day(day)
    gone = manifest.objects.pop(1)
    await archives.store.put(layout.manifest_key(SITE, day), msgspec.json.encode(manifest))
    assert await older.missed(broker, SITE, 1, last) == gone.last - gone.after == 1
    assert await older.missed(broker, SITE, last, last) == 0


async def test_a_reader_that_waits_while_events_loses_frames_finds_them_in_the_archive(archives: Archives) -> None:
    """More frames than a reader pulls at once are lost, while it has read one: a destination is down for longer than EVENTS keeps."""
    broker, accepted = archives.broker, list[int]()
    for n in range(2 * PULL_MESSAGES + 10):
        accepted.append(await put(broker, [f"m{n}"]))
        if n % 2:
            await put(broker, [f"other{n}"], site="quiet")
    async with archives.running():
        await archives.note(lambda note: note.position == accepted[-1])
    older = Older(archives.gate, lambda: {SITE: archives.options})
    async with LongReader(broker, SITE, older, start_seq=accepted[0]) as reader:
        first = await reader.next(10)
        await broker.js.purge_stream(topology.EVENTS, seq=accepted[-3])
        rest = [await reader.next(10) for _ in accepted[1:]]
        assert await reader.next(0.05) is None
    assert [each and each.seq for each in (first, *rest)] == accepted
    assert reader.archived


async def test_a_person_is_forgotten_in_the_archive_of_a_site_that_left_the_project(archives: Archives) -> None:
    broker = archives.broker
    accepted = [await put(broker, [name], userId=name) for name in ("jane", "bob")]
    async with archives.running():
        await archives.note(lambda note: note.position == accepted[-1])
    request = Request(id="r1", names=["jane"], verify=False, at=0.0, by="test", digests=[], parts=[ROUTER])
    working = asyncio.create_task(
        keep_forgetting(context=archives.context, gate=archives.gate, lease_seconds=5, archived=dict, place=lambda: None)
    )
    await ask(broker, request)
    try:
        async with asyncio.timeout(60):
            while (part := await read_part(broker, "r1", ROUTER)) is None or not part.ended_at:
                assert not working.done(), working
                await asyncio.sleep(0.05)
    finally:
        working.cancel()
        await asyncio.wait([working])
    place = part.places[f"archive of {SITE}"]
    assert (place.removed, place.left) == (1, 0)
    assert await archives.seqs() == accepted[1:]


async def entries(archives: Archives) -> list[Entry]:
    return [found.entry for found in await ArchiveReader(archives.store, SITE, archives.gate).objects(1)]
