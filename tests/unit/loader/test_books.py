"""The books of events that are sent one by one: what functions did to their frames is counted when the frames are at their end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from loader.delivery.sending.books import Books, OpenChunk
from loader.delivery.sending.job import Item, Job, Source
from shared.events.frame import Frame, Head, RequestContext, pack
from shared.streams.ended import Counts, Ended, counts_of_frame

LANE = "live-1-shop"


class Stored:
    """Stands for `Accounts`."""

    def __init__(self) -> None:
        self.stored = Ended()
        self.acknowledged: list[int] = []

    async def note(self, ended: Ended) -> None:
        self.stored = ended

    async def acknowledge(self, frames: Sequence[int], retried: Sequence[int]) -> None:
        self.acknowledged += frames

    def books(self) -> Books:
        return Books(cast("Any", self), self.acknowledge, lambda _: None)

    async def write(self, books: Books) -> None:
        books.close()
        await books.keep()


def written(events: int, taken: int, dropped: int) -> Frame:
    heads = [Head(f"m{number}", "track") for number in range(events)]
    frame = pack("shop", [RequestContext(0, "p", "k", complete=True)], heads, [b"{}"] * events)
    frame.taken, frame.dropped = taken, {"function": dropped}
    return frame


def chunk_of(frame: Frame, seq: int) -> tuple[OpenChunk, list[Item]]:
    chunk = OpenChunk(lane=LANE, seqs=[seq], acks=[seq + 10], left=len(frame), sent=frame.source_events, oldest_at=0.0)
    chunk.functions = counts_of_frame(frame, live=True)
    source = Source(LANE, frame)
    return chunk, [Item(source, index, seq, index, "u") for index in range(len(frame))]


async def test_a_frame_of_which_functions_left_nothing_is_at_its_end_at_once() -> None:
    stored = Stored()
    books = stored.books()
    books.open(chunk_of(written(0, 3, 3), 1)[0])
    await stored.write(books)
    assert stored.stored.counts == Counts(live=3, functions_dropped={"function": 3})
    assert (stored.stored.through, stored.stored.sent, stored.acknowledged) == ({LANE: 1}, 3, [11])


async def test_what_functions_did_is_counted_once_however_often_a_loader_dies_in_the_frame() -> None:
    stored = Stored()
    frame = written(3, 2, 1)
    for delivered in (1, 2):
        books = stored.books()
        chunk, items = chunk_of(frame, 1)
        chunk.left -= books.begun(LANE, 1).bit_count()
        books.open(chunk)
        books.delivered(Job(items[delivered - 1 : delivered], chunk=chunk), items[delivered - 1 : delivered])
        await stored.write(books)
        assert stored.stored.counts == Counts(live=delivered, delivered=delivered)
        assert stored.acknowledged == []
    books = stored.books()
    chunk, items = chunk_of(frame, 1)
    chunk.left -= books.begun(LANE, 1).bit_count()
    books.open(chunk)
    books.delivered(Job(items[2:], chunk=chunk), items[2:])
    await stored.write(books)
    counts = stored.stored.counts
    assert counts == Counts(live=2, made=2, delivered=3, functions_dropped={"function": 1})
    assert counts.live + counts.made == counts.total
    assert (stored.stored.begun, stored.acknowledged) == ({}, [11])
