"""What a replay's counts say between the acknowledgement of its frames and the loader's next write."""

from __future__ import annotations

import msgspec
import pytest

from penstock.control.status.balance import Balance, View, balance_of
from router.forwarding.account import Account
from router.forwarding.state import SiteState
from shared.events.headers import Place
from shared.streams.ended import Counts, Ended, Pending
from shared.streams.waiting import InFunctions, SetAside, Waiting

LANE = "replay-r"
STATE = SiteState(accepted=5, accounts={"c": Account(queue="c", left=None, forwarded=5)})
LIVE = Counts(live=5, delivered=5)
TAKEN = Pending(lane=LANE, last=9, tables=["t"], source=LANE, through=9, counts=Counts(replayed=3, delivered=3))


def balance(queue: Waiting, pending: Pending | None = TAKEN, *, steady: bool = True, counts: Counts = LIVE) -> Balance:
    ended = Ended(counts=counts, pending=pending)
    return balance_of("c", "shop", View(state=STATE, ended=ended, queue=queue, aside=SetAside({}, {}), steady=steady))


def waiting(place: Place) -> Waiting:
    return Waiting(1, place.events, oldest=place, replayed=place.events if place.lane == LANE else 0)


@pytest.mark.parametrize(
    ("queue", "replayed", "delivered", "settled"),
    [
        (Waiting(), 3, 8, True),
        (waiting(Place(LANE, 9, 3)), 3, 5, False),
        (waiting(Place(LANE, 10, 2)), 5, 8, False),
    ],
)
def test_a_replay_is_counted_once_while_its_load_is_noted_as_pending(
    queue: Waiting, replayed: int, delivered: int, settled: bool
) -> None:
    found = balance(queue)
    assert (found.received, found.replayed, found.delivered, found.settled) == (5, replayed, delivered, settled)
    assert not found.problems


def test_counts_are_settled_when_they_balance_and_the_loader_wrote_nothing_meanwhile() -> None:
    assert balance(Waiting(), None).settled
    assert not balance(Waiting(), None, steady=False).settled
    assert not balance(Waiting(), None, counts=Counts(live=4, delivered=4)).settled


def test_what_waits_before_functions_and_what_they_made_balance() -> None:
    before = InFunctions(Waiting(1, 2), Waiting(1, 1))
    counts = Counts(live=3, made=1, delivered=3, dead={"type_conflict": 0}, functions_dropped={"function": 1})
    view = View(state=STATE, ended=Ended(counts=counts), queue=Waiting(), aside=SetAside({}, {}), functions=before)
    found = balance_of("c", "shop", view)
    assert (found.received, found.made, found.dropped, found.problems) == (5, 2, {"function": 1}, [])
    assert found.waiting == {"events": 0, "functions": 3, "queue": 0, "aside": 0}
    assert found.received + found.made == found.delivered + sum(found.dropped.values()) + found.all_waiting
    lost = balance_of("c", "shop", msgspec.structs.replace(view, functions=InFunctions(Waiting(1, 1))))
    assert lost.problems == ["the router forwarded 5 events, the loader took, or has waiting, 4"]
