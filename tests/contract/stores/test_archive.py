"""An archive in every kind of store: killed between every two steps, it has each frame once; readers and rewrites do not disturb each other."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import msgspec
import pytest
import zstandard

from router.archive.draft import Draft
from router.archive.writer import BooksChanged, Writer
from shared.archive import layout
from shared.archive.books import Books
from shared.archive.expire import expire
from shared.archive.lines import Line, Stored
from shared.archive.reader import ArchiveReader
from shared.archive.repair import Repaired, repair_held
from shared.archive.rewrite import Rewritten, rewrite_held
from shared.errors import Fenced, SetupError, Transient
from shared.jetstream.lease import Lease
from shared.stores.contract import Store
from shared.stores.local import LocalStore
from shared.threads import ThreadGate
from tests.contract.stores.test_stores import store
from tests.support.archive import AT, GATE, SITE, Died, Dying, archive, archived, faults, frame
from tests.support.s3 import s3_server

__all__ = ["s3_server", "store"]

# sequences with holes, as where other sites' frames stand between; an hour and a day end inside
FRAMES = [
    frame(seq, f"m{seq}", f"n{seq}", user="ann" if seq % 3 else "bob", at=AT + 7 * 3600 * index)
    for index, seq in enumerate((1, 2, 5, 6, 9, 11, 12))
]
WHOLE = [(each.seq, [f"m{each.seq}", f"n{each.seq}"]) for each in FRAMES]


@pytest.fixture
def gate() -> Iterator[ThreadGate]:
    gate = ThreadGate(2)
    yield gate
    gate.close()


@pytest.fixture
async def filled(store: Store) -> Store:
    """A store with an archive of all frames."""
    await archive(store, FRAMES, 1)
    return store


def stride(store: Store) -> int:
    """How far apart the steps are at which a test kills: all of them where a step costs nothing."""
    return 1 if isinstance(store, LocalStore) else 5


def of_bob(line: Line) -> bool:
    return line.user_id == "bob"


async def rewrite(store: Store, gate: ThreadGate, epoch: int) -> Rewritten:
    lease = Lease(f"archive.{SITE}", epoch, 3600)
    return await rewrite_held(store=store, gate=gate, site=SITE, gone=of_bob, lease=lease)


async def test_frames_are_found_again_by_sequence_and_by_time(filled: Store, gate: ThreadGate) -> None:
    assert await archived(filled, gate) == WHOLE
    assert await faults(filled, gate) == []
    assert await archived(filled, gate, first=6, last=9) == WHOLE[3:5]
    since, until = FRAMES[2].at_seconds, FRAMES[4].at_seconds
    assert await archived(filled, gate, since=since, until=until) == WHOLE[2:5]
    assert await ArchiveReader(filled, SITE, gate).reach("x") == (1, 12)
    assert await ArchiveReader(filled, SITE, gate).reach("another") == (0, 0)
    assert await ArchiveReader(filled, "quiet", gate).reach("x") == (0, 0)


async def test_killed_at_any_step_it_has_each_frame_once(store: Store, gate: ThreadGate) -> None:
    steps = Dying(store)
    await archive(steps, FRAMES[:4], 1)
    await remove_all(store)
    for number in range(1, steps.made + 1, stride(store)):
        try:
            with pytest.raises(Died):
                await archive(Dying(store, number), FRAMES[:4], 1)
            # the next router cuts the objects elsewhere
            await archive(store, FRAMES, 2, together=2)
            assert await archived(store, gate) == WHOLE, f"killed at step {number}"
            assert await faults(store, gate) == [], f"killed at step {number}"
        finally:
            await remove_all(store)


async def test_failing_at_any_step_it_goes_on(store: Store, gate: ThreadGate) -> None:
    for number in itertools.count(1, stride(store)):
        steps = Dying(store, number, fails=True)
        await archive(steps, FRAMES[:4], 1)
        assert await archived(store, gate) == WHOLE[:4], f"failed at step {number}"
        assert await faults(store, gate) == [], f"failed at step {number}"
        await remove_all(store)
        if steps.made < number:
            return


async def test_a_former_router_that_wakes_changes_nothing(filled: Store, gate: ThreadGate) -> None:
    former = await archive(filled, FRAMES, 2)
    later = [*FRAMES, frame(20, "m20"), frame(21, "m21")]
    await archive(filled, later[:-1], 3)
    with pytest.raises(Fenced):
        await write_next(former, later[-1])
    assert await archived(filled, gate) == [*WHOLE, (20, ["m20"])]
    assert await faults(filled, gate) == []


async def write_next(writer: Writer, stored: Stored) -> None:
    day, hour = writer.place_for(stored.at_seconds)
    draft = Draft(day=day, hour=hour, after=writer.position, incarnation=writer.number)
    draft.add([stored])
    await writer.write(day, *draft.finish(0))


async def test_an_archive_that_another_hand_changed_is_begun_again_from_its_books(filled: Store, gate: ThreadGate) -> None:
    writer = Writer(Dying(filled, 3, fails=True), SITE, Lease("l", 2, 3600), "x", gate=GATE)
    await writer.open()
    await filled.delete([each.key for each in await filled.list("")])
    with pytest.raises(Transient, match="away"):
        await write_next(writer, frame(20, "m20"))
    with pytest.raises(BooksChanged):
        await write_next(writer, frame(20, "m20"))


async def test_frames_of_another_incarnation_overwrite_none(filled: Store, gate: ThreadGate) -> None:
    await archive(filled, FRAMES[:3], 2, incarnation="y")
    assert await archived(filled, gate, 1) == WHOLE
    assert await archived(filled, gate, 2) == WHOLE[:3]
    assert await ArchiveReader(filled, SITE, gate).reach("y") == (1, 5)
    assert await faults(filled, gate) == []
    writer = await archive(filled, FRAMES, 3, incarnation="z")
    assert (writer.number, writer.position) == (3, 12)


async def test_a_rewrite_takes_people_out_and_nothing_else(filled: Store, gate: ThreadGate) -> None:
    report = await rewrite(filled, gate, 2)
    assert (report.rewritten, report.events) == (2, 6)
    assert await archived(filled, gate) == [each for each in WHOLE if each[0] % 3]
    assert await faults(filled, gate) == []
    assert await traces(filled) == 0
    assert (await rewrite(filled, gate, 3)).events == 0
    # the archive goes on where it was, although its last frame is gone
    writer = await archive(filled, [*FRAMES, frame(20, "m20")], 4)
    assert writer.position == 20
    assert (await archived(filled, gate))[-1] == (20, ["m20"])
    assert await faults(filled, gate) == []


async def test_a_rewrite_killed_at_any_step_is_finished_by_the_next_and_leaves_no_trace(store: Store, gate: ThreadGate) -> None:
    left = [each for each in WHOLE if each[0] % 3]
    for number in itertools.count(1, stride(store)):
        await archive(store, FRAMES, 1)
        steps = Dying(store, number)
        try:
            await rewrite(steps, gate, 2)
        except Died:
            found = await archived(store, gate)
            assert [each for each in found if each[0] % 3] == left, "others' events are readable at any time"
            await rewrite(store, gate, 3)
        assert await archived(store, gate) == left, f"killed at step {number}"
        assert await faults(store, gate) == []
        assert await traces(store) == 0
        await remove_all(store)
        if steps.made < number:
            return


async def traces(store: Store) -> int:
    """Returns how many objects hold an event of bob."""
    keys = [each.key for each in await store.list("") if each.key.endswith(layout.SUFFIX)]
    texts = [zstandard.ZstdDecompressor().decompressobj().decompress(await store.get(key) or b"") for key in keys]
    return sum(b"bob" in text for text in texts)


async def test_a_reader_goes_on_where_a_rewrite_replaced_its_object(filled: Store, gate: ThreadGate) -> None:
    reader = ArchiveReader(filled, SITE, gate)
    found = await reader.objects(1)
    await rewrite(filled, gate, 2)
    seqs = [stored.seq for each in found for stored in [frame async for frame in reader.frames_of(each)]]
    assert seqs == [each[0] for each in WHOLE if each[0] % 3]


async def test_what_is_gone_or_damaged_is_named(filled: Store, gate: ThreadGate) -> None:
    first, second, *_ = [each.key for each in await filled.list("") if each.key.endswith(layout.SUFFIX)]
    await filled.delete([first])
    await filled.put(second, b"other bytes")
    said = await faults(filled, gate)
    assert [each.partition(":")[0] for each in said] == [first, second]
    with pytest.raises(Transient, match="penstock archive repair"):
        await archived(filled, gate)
    await filled.put(layout.index_key(SITE), b"{")
    with pytest.raises(SetupError, match=r"index\.json is damaged"):
        await archived(filled, gate)


async def test_missed_frames_and_strays_are_reported(filled: Store, gate: ThreadGate) -> None:
    await archive(filled, [frame(30, "m30")], 2, missed=17)
    books = Books(filled, SITE)
    day = (await books.index()).days[-1]
    assert (await books.day(day)).objects[-1].missed == 17
    stray = layout.folder(SITE, day) + layout.name_of("00", 90, 91)
    await filled.put(stray, b"left of a dead router")
    assert await faults(filled, gate) == [stray]
    await archive(filled, [], 3)
    assert await faults(filled, gate) == []


async def rewrite_nobody(store: Store, gate: ThreadGate, epoch: int) -> None:
    await rewrite_held(store=store, gate=gate, site=SITE, gone=lambda _: False, lease=Lease("l", epoch, 3600))


async def repaired(store: Store, gate: ThreadGate, epoch: int, *, dry_run: bool = False) -> Repaired:
    return await repair_held(store=store, gate=gate, site=SITE, lease=Lease("l", epoch, 3600), dry_run=dry_run)


async def test_a_manifest_that_is_gone_costs_no_object_and_no_event(filled: Store, gate: ThreadGate) -> None:
    index = await Books(filled, SITE).index()
    before = {each.key for each in await filled.list("")}
    key = layout.manifest_key(SITE, index.days[0])
    await filled.delete([key])
    for call in (archived(filled, gate), rewrite(filled, gate, 2), archive(filled, FRAMES, 3)):
        with pytest.raises(SetupError, match="penstock archive repair"):
            await call
    assert {each.key for each in await filled.list("")} == before - {key}
    assert any("repair" in each for each in await faults(filled, gate))
    assert (await repaired(filled, gate, 4, dry_run=True)).made == [key]
    report = await repaired(filled, gate, 4)
    assert (report.made, report.left_out) == ([key], [])
    assert await archived(filled, gate) == WHOLE
    assert await faults(filled, gate) == []
    assert (await repaired(filled, gate, 5)) == Repaired(SITE)


async def test_an_index_that_is_gone_or_old_costs_no_object_and_no_event(filled: Store, gate: ThreadGate) -> None:
    await archive(filled, FRAMES[:2], 2, incarnation="y")
    before = {each.key for each in await filled.list("")}
    books = Books(filled, SITE)
    index = await books.index()
    older = msgspec.json.encode(msgspec.structs.replace(index, days=index.days[:1]))
    for epoch, text in ((3, b""), (5, b"{"), (7, older)):
        await filled.put(layout.index_key(SITE), text)
        if not text:
            await filled.delete([layout.index_key(SITE)])
        with pytest.raises(SetupError, match="penstock archive repair"):
            await archive(filled, [*FRAMES, frame(20, "m20")], epoch, together=1)
        await repaired(filled, gate, epoch + 1)
        assert {each.key for each in await filled.list("")} == before
        assert await books.index() == index
        assert await archived(filled, gate) == WHOLE
        assert await archived(filled, gate, 2) == WHOLE[:2]
        assert await faults(filled, gate) == []


async def test_a_repair_leaves_books_of_a_later_version_alone(filled: Store, gate: ThreadGate) -> None:
    index = await Books(filled, SITE).index()
    key = layout.manifest_key(SITE, index.days[0])
    later = msgspec.json.encode({"version": layout.VERSION + 1, "site": SITE, "day": index.days[0]})
    await filled.put(key, later)
    with pytest.raises(SetupError, match="upgrade"):
        await repaired(filled, gate, 2)
    assert await filled.get(key) == later


async def test_a_repair_goes_on_without_what_is_damaged_and_says_what_is_missing(filled: Store, gate: ThreadGate) -> None:
    first, second, *_ = [each.key for each in await filled.list("") if each.key.endswith(layout.SUFFIX)]
    data = await filled.get(second) or b""
    await filled.put(second, data[: len(data) // 2])
    said = await faults(filled, gate)
    assert [each.partition(":")[0] for each in said] == [second]
    with pytest.raises(Transient, match=f"{second} is gone or damaged.*penstock archive repair"):
        await archived(filled, gate)
    report = await repaired(filled, gate, 2)
    (text,) = report.left_out
    assert text.startswith(second)
    left = await archived(filled, gate)
    assert len(WHOLE) - len(left) == report.frames > 0
    assert await faults(filled, gate) == []
    assert sum(each.entry.missed for each in await ArchiveReader(filled, SITE, gate).objects(1)) >= report.frames
    assert await repaired(filled, gate, 3) == Repaired(SITE)
    # a person finds a copy
    await filled.put(second, data)
    assert (await repaired(filled, gate, 4)).listed == [second]
    assert await archived(filled, gate) == WHOLE
    assert await faults(filled, gate) == []
    assert first in [each.key for each in await filled.list("")]


async def test_an_older_manifest_that_is_put_back_costs_nothing_that_events_has_no_longer(
    filled: Store, gate: ThreadGate
) -> None:
    books = Books(filled, SITE)
    day = (await books.index()).days[-1]
    manifest = await books.day(day)
    older = msgspec.structs.replace(manifest, objects=manifest.objects[:-1])
    await filled.put(layout.manifest_key(SITE, day), msgspec.json.encode(older))
    before = {each.key for each in await filled.list("")}
    await rewrite_nobody(filled, gate, 2)
    assert {each.key for each in await filled.list("")} == before
    writer = await archive(filled, [frame(30, "m30")], 3, kept_from=30)
    assert await archived(filled, gate) == [*WHOLE, (30, ["m30"])]
    assert writer.position == 30
    assert await faults(filled, gate) == []


async def test_an_object_without_manifest_of_a_stream_that_is_gone_is_taken_up(store: Store, gate: ThreadGate) -> None:
    steps = Dying(store)
    await archive(steps, FRAMES[:3], 1)
    await remove_all(store)
    with pytest.raises(Died):
        await archive(Dying(store, steps.made), FRAMES[:3], 1)
    # the broker's store is lost with the writer
    await archive(store, FRAMES[3:], 2, incarnation="y")
    assert await archived(store, gate) + await archived(store, gate, 2) == WHOLE
    assert await faults(store, gate) == []


async def test_an_expiry_killed_at_any_step_leaves_readers_whole_days(store: Store, gate: ThreadGate) -> None:
    for number in itertools.count(1, stride(store)):
        await archive(store, FRAMES, 1)
        steps = Dying(store, number)
        books = Books(store, SITE)
        now = (await _last(books)).ends
        try:
            await expire(Books(steps, SITE), await steps.claim("archive-shop", 2), now, 1.0, 0)
        except Died:
            found = await archived(store, gate)
            assert found == WHOLE[-len(found) :], f"killed at step {number}"
            await expire(books, await store.claim("archive-shop", 3), now, 1.0, 0)
        days = (await books.index()).days
        assert {layout.day_of(each.key) for each in await store.list("raw/")} == {*days, ""}
        assert await faults(store, gate) == []
        await remove_all(store)
        if steps.made < number:
            return


async def test_old_days_go_and_the_rest_stays_whole(filled: Store, gate: ThreadGate) -> None:
    books = Books(filled, SITE)
    index = await books.index()
    assert len(index.days) >= 2
    area = await filled.claim("archive-shop", 2)
    gone = await expire(books, area, (await _last(books)).ends, 1.0, 0)
    assert gone == index.days[: len(gone)]
    assert gone
    assert await faults(filled, gate) == []
    assert (await books.index()).days == index.days[len(gone) :]
    left = await archived(filled, gate)
    assert left == WHOLE[-len(left) :]
    assert not [each for each in await filled.list("") if layout.day_of(each.key) in gone]


async def _last(books: Books) -> layout.Entry:
    return (await books.day((await books.index()).days[-1])).objects[-1]


async def remove_all(store: Store) -> None:
    await store.delete([each.key for each in await store.list("")])
    await store.forget("archive-shop")
