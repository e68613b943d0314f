"""What the account of a connection counts: each event once, whatever is cut off, set aside or refused."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

import numpy as np
import pytest

from loader.contract.warehouse import LoadPlan
from loader.queue import account as module
from loader.queue.account import Accounts, Outcome, Share, share_of_aside, share_of_lane
from loader.queue.aside import Aside
from loader.rows.batch import ShapedBatch
from shared.errors import Conflict, Fenced
from shared.events.frame import Frame, Head, RequestContext, pack
from shared.events.headers import Place, again_lane, live_lane, replay_lane
from shared.jetstream.kv import Entry
from shared.streams.ended import Counts, Ended, Pending, decode_ended

LANE = "live-1-shop"


class Store:
    """The bucket, and whoever is killed keeps what is in it."""

    def __init__(self) -> None:
        self.value: bytes | None = None
        self.revision = 0
        self.writes = 0

    async def get(self, key: str) -> Entry | None:
        return Entry(key, self.value, self.revision) if self.value is not None else None

    async def put(self, key: str, value: bytes, *, revision: int) -> int:
        assert key == "loader.c.1-a"
        if revision != self.revision:
            raise Conflict("no")
        self.value, self.revision, self.writes = value, self.revision + 1, self.writes + 1
        return self.revision


class Gauges:
    def __init__(self) -> None:
        self.set: dict[str, float] = {}

    def gauge(self, name: str, value: float, **labels: str) -> None:
        self.set[f"{name} {labels.get('reason', '')}".strip()] = value


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    stored = Store()
    monkeypatch.setattr(module, "Bucket", lambda *_: stored)
    return stored


def accounts() -> Accounts:
    return Accounts(cast("Any", None), "c.1-a", "c", cast("Any", Gauges()))


async def restarted(*committed: str) -> Accounts:
    """A successor, whose destination knows the loads of these lanes."""
    fresh = accounts()
    await read(fresh, *committed)
    return fresh


async def read(held: Accounts, *committed: str) -> None:
    async def known(_: Ended, pending: Pending) -> bool:
        return pending.lane in committed

    await held.read(known)


def batch(*events: int, first: int = 1, **dropped: int) -> ShapedBatch:
    """Frames of so many events each."""
    frames = [(first + number, pack("shop", [], [], [])) for number in range(len(events))]
    none = np.empty(0, np.int32)
    return ShapedBatch({}, (), cast("Any", Counter(dropped)), Counter(), sum(events), frames, none, none)


def noted(
    held: Accounts, shaped: ShapedBatch, outcome: Outcome, *, share: Share | None = None, lane: str = LANE, first: int = 1
) -> Pending:
    last = first + len(shaped.frames) - 1
    return held.pending(share or share_of_lane(lane, last, 0), shaped, outcome, LoadPlan("c", lane, first, last))


async def test_a_load_counts_also_where_its_loader_loses_the_connection_before_it_wrote_so_and_takes_it_again(
    store: Store,
) -> None:
    held = await restarted()
    load = noted(held, batch(3), Outcome(tables=("tracks",)))
    await held.expect(load)
    await held.done(load, 1.0)
    await read(held)  # for the gauges, before its destination is open
    await held.flush()
    await read(held, LANE)
    assert held.counts.delivered == 3


async def test_a_committed_load_counts_once_whether_it_is_said_or_only_known_by_the_ledger(store: Store) -> None:
    first = await restarted()
    outcome = Outcome({(1, 0): "too_deep"}, tables=("tracks",))
    load = noted(first, batch(3, 2, filtered=1), outcome)
    await first.expect(load)
    for lanes, delivered in (((), 0), ((LANE,), 3)):
        assert (await restarted(*lanes)).counts.delivered == delivered
    second = await restarted(LANE)
    again = noted(second, batch(3, 2, filtered=1), Outcome(tables=()))
    assert again.counts == Counts()
    await second.done(again, 1.0)
    assert (await restarted()).counts == Counts(live=5, delivered=3, dead={"too_deep": 1}, dropped={"filtered": 1})
    with pytest.raises(Fenced):
        await first.done(noted(first, batch(1, first=9), Outcome(), first=9), 2.0)


async def test_a_load_is_one_write_and_what_is_only_known_here_is_written_at_the_next_chance(store: Store) -> None:
    held = await restarted()
    for number in range(3):
        load = noted(held, batch(2, first=number + 1), Outcome(tables=("t",)), first=number + 1)
        await held.expect(load)
        await held.done(load, 5.0 + number)
    assert store.writes == 3
    await held.flush()
    await held.flush()
    assert store.writes == 4
    successor = await restarted()
    assert (successor.counts.delivered, successor.last_load_at) == (6, 7.0)


async def test_an_event_with_rows_set_aside_waits_until_the_last_of_them_is_in(store: Store) -> None:
    held = await restarted()
    await held.done(noted(held, batch(3), Outcome(aside={1: 0b011}, tables=("tracks",))), 1.0)
    assert held.counts.delivered == 1
    place = Place(LANE, 1, 2)
    orders = Aside(1, "orders", place, 0.0, 0, 0b011)
    views = Aside(2, "views", place, 0.0, 0, 0b001)
    await held.done(noted(held, batch(2), Outcome(tables=("orders",)), share=share_of_aside(orders, lambda: views.bits)), 1.0)
    assert held.counts.delivered == 2
    await held.done(noted(held, batch(1), Outcome(tables=("views",)), share=share_of_aside(views, lambda: 0)), 1.0)
    assert held.counts == Counts(live=3, delivered=3)
    again = noted(await restarted(), batch(1), Outcome(), share=share_of_aside(views, lambda: 0))
    assert again.counts == Counts()


async def test_an_event_that_is_dead_by_one_row_is_not_delivered_by_another(store: Store) -> None:
    held = await restarted()
    await held.done(noted(held, batch(2), Outcome({(1, 0): "rejected_by_destination"}, {1: 0b11})), 1.0)
    assert (held.counts.total, held.early) == (1, 1)
    aside = Aside(1, "orders", Place(LANE, 1, 2), 0.0, 0, 0b11)
    await held.done(noted(held, batch(2), Outcome(tables=("orders",)), share=share_of_aside(aside, lambda: 0)), 1.0)
    assert held.counts == Counts(live=2, delivered=1, dead={"rejected_by_destination": 1})
    assert held.early == 0


@pytest.mark.parametrize("dead", [False, True])
async def test_rows_set_aside_by_a_delivery_that_was_cut_off_are_counted_with_their_frame(store: Store, dead: bool) -> None:
    waits = {1: 0b01}
    cut_off = await restarted()
    aside = Aside(1, "orders", Place(LANE, 1, 1), 0.0, 0, 0b01)
    share = share_of_lane(LANE, 1, 0, waits.__getitem__)
    assert noted(cut_off, batch(2), Outcome(), share=share).counts.delivered == 1
    # the table works again before the frame comes again
    done = Outcome({(1, 0): "missing_key"} if dead else {}, tables=("orders",))
    await cut_off.done(noted(cut_off, batch(1), done, share=share_of_aside(aside, lambda: 0)), 1.0)
    cut_off.keep_asides([])
    await cut_off.flush()
    await cut_off.done(noted(cut_off, batch(2), Outcome()), 1.0)
    assert cut_off.counts == Counts(live=2, delivered=1 if dead else 2, dead={"missing_key": 1} if dead else {})


async def test_events_that_come_again_count_once_where_their_rows_are_set_aside_by_a_delivery_that_is_cut_off(
    store: Store,
) -> None:
    first = await restarted()
    await first.done(noted(first, batch(2), Outcome(tables=("tracks",))), 1.0)
    lanes = share_of_lane(LANE, 1, 0)
    await first.expect_aside(lanes, LANE, {1: 0b01})
    await first.expect_aside(lanes, LANE, {1: 0b11})
    rows = Aside(1, "tracks", Place(LANE, 1, 2), 0.0, 0, 0b11)
    second = await restarted()
    second.keep_asides([rows])
    await second.done(noted(second, batch(2), Outcome(tables=("tracks",)), share=share_of_aside(rows, lambda: 0)), 2.0)
    assert second.counts.delivered == 2
    assert second.early == 0
    new = share_of_lane(LANE, 2, 0)
    await second.expect_aside(new, LANE, {2: 0b1})  # not counted yet
    assert second.early == 0


async def test_events_of_replays_and_of_unreadable_frames_are_accounted_for(store: Store) -> None:
    held = await restarted()
    replay = share_of_lane("replay-x", 1, 0)
    await held.done(noted(held, batch(4), Outcome(tables=("t",)), share=replay, lane="replay-x"), 1.0)
    await held.done(noted(held, batch(0), Outcome(), share=share_of_lane(LANE, 2, 7)), 1.0)
    assert held.counts == Counts(live=7, replayed=4, delivered=4, dead={"frame_unreadable": 7})


async def test_what_other_task_ends_does_not_take_a_load_under_way_for_done(store: Store) -> None:
    held = await restarted()
    load = noted(held, batch(5), Outcome(tables=("t",)))
    await held.expect(load)
    aside = Aside(3, "orders", Place(LANE, 0, 1), 0.0, 0, 0b1)
    await held.done(noted(held, batch(1), Outcome({(0, 0): "frame_unreadable"}), share=share_of_aside(aside, lambda: 0)), 1.0)
    assert (await restarted(LANE)).counts.delivered == 5
    assert (await restarted()).counts.delivered == 0


async def test_what_was_loaded_into_another_destination_stays_noted(store: Store) -> None:
    held = await restarted()
    held.note_moved(lambda _: False)  # nothing is counted yet
    load = noted(held, batch(2), Outcome(tables=("t",)))
    await held.expect(load)
    await held.done(load, 1.0)
    held.note_moved(lambda lane: lane == LANE)
    await held.flush()
    assert not decode_ended(store.value).moved
    moved = await restarted()
    moved.note_moved(lambda _: False)
    await moved.flush()
    load = noted(moved, batch(2, first=5), Outcome(tables=("t",)), first=5)
    await moved.expect(load)
    await moved.done(load, 2.0)
    await moved.flush()
    assert decode_ended(store.value).moved


def written(events: int, *, taken: int, dropped: int = 0, dead: int = 0) -> Frame:
    """A frame that functions made of one with `taken` events."""
    heads = [Head(f"m{number}", "track") for number in range(events)]
    frame = pack("shop", [RequestContext(0, "p", "k", complete=True)], heads, [b"{}"] * events)
    frame.taken = taken
    frame.dropped = {"function": dropped} if dropped else {}
    frame.dead = {"function_failed": dead} if dead else {}
    return frame


def of_functions(*frames: Frame, first: int = 1) -> ShapedBatch:
    none = np.empty(0, np.int32)
    numbered = list(enumerate(frames, first))
    return ShapedBatch({}, (), Counter(), Counter(), sum(map(len, frames)), numbered, none, none)


async def test_what_functions_did_is_counted_with_their_frame_and_once(store: Store) -> None:
    held = await restarted()
    shaped = of_functions(written(5, taken=4, dropped=1), written(0, taken=3, dropped=2, dead=1))
    load = noted(held, shaped, Outcome({(1, 4): "type_conflict"}, tables=("tracks",)))
    await held.expect(load)
    for lanes, taken in (((), 0), ((LANE,), 7)):
        assert (await restarted(*lanes)).counts.live == taken
    successor = await restarted(LANE)
    assert noted(successor, shaped, Outcome()).counts == Counts()
    await successor.done(noted(successor, shaped, Outcome()), 1.0)
    counts = (await restarted()).counts
    assert counts == Counts(
        live=7,
        made=2,
        delivered=4,
        dead={"type_conflict": 1},
        functions_dropped={"function": 3},
        functions_dead={"function_failed": 1},
    )
    assert counts.live + counts.made == counts.total


async def test_a_load_without_a_row_counts_what_functions_left_out(store: Store) -> None:
    held = await restarted()
    await held.done(noted(held, of_functions(written(0, taken=2, dropped=2)), Outcome()), 1.0)
    assert (await restarted()).counts == Counts(live=2, functions_dropped={"function": 2})


async def test_events_that_functions_get_again_later_are_missing_until_they_come_back(store: Store) -> None:
    held = await restarted()
    await held.done(noted(held, of_functions(written(2, taken=3)), Outcome()), 1.0)
    assert (held.counts.live, held.counts.made, held.counts.total) == (3, -1, 2)
    lane = "again-1"
    back = noted(held, of_functions(written(1, taken=0)), Outcome(), share=share_of_lane(lane, 1, 0), lane=lane)
    await held.done(back, 2.0)
    assert (held.counts.live, held.counts.replayed, held.counts.made, held.counts.total) == (3, 0, 0, 3)


async def test_many_replays_do_not_make_it_forget_how_far_lanes_that_go_on_are_counted(store: Store) -> None:
    held = await restarted()
    lasting = (again_lane("c.1"), live_lane("i", "shop"))
    for lane in (*lasting, *(replay_lane(str(number)) for number in range(2 * module.KEPT_SOURCES))):
        share = share_of_lane(lane, 1, 0)
        pending = held.pending(share, batch(1), Outcome(), LoadPlan("c", lane, 1, 1))
        await held.done(pending, 1.0)
    assert set(lasting) < held.counted.keys()
    assert len(held.counted) == len(lasting) + module.KEPT_SOURCES
