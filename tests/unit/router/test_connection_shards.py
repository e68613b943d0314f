"""Shards of connections in the router: every event belongs to one, at every sequence, and is counted once."""

from __future__ import annotations

import pytest

from router.rules.arrival import Arrival
from router.rules.compiled import compile_project
from router.rules.match import match
from router.rules.spread import Spread, next_splits
from shared.events.frame import Head, RequestContext, encode_frame, pack
from shared.events.outcome import DropReason
from shared.events.shards import Split
from shared.project.snapshot import StoredProject

USERS = 40
SPLITS = (Split(1, 1), Split(10, 3), Split(20, 2))


def arrival(seq: int) -> Arrival:
    heads = [Head(message_id=f"m{number}", type="track", event="e", user_id=f"u{number}") for number in range(USERS)]
    request = RequestContext(received_at=1, protocol="segment", key="k")
    return Arrival(seq, 0.0, encode_frame(pack("shop", [request] * USERS, heads, [b"{}"] * USERS)), with_heads=True)


@pytest.mark.parametrize(("seq", "of"), [(1, 1), (9, 1), (10, 3), (19, 3), (20, 2), (99, 2)])
def test_at_every_sequence_each_event_is_of_one_shard(seq: int, of: int) -> None:
    found = [set(Spread("wh", number, SPLITS).own(arrival(seq))) for number in range(3)]
    assert sum(map(len, found)) == USERS
    assert set().union(*found) == set(range(USERS))
    assert [bool(each) for each in found] == [number < of for number in range(3)]


def test_a_number_that_did_not_begin_yet_is_replaced() -> None:
    assert next_splits([Split(1, 1)], 3, 10) == [Split(1, 1), Split(10, 3)]
    assert next_splits([Split(1, 1), Split(10, 3)], 2, 10) == [Split(1, 1), Split(10, 2)]
    assert next_splits([Split(1, 1), Split(10, 3)], 1, 10) == [Split(1, 1)]
    assert next_splits([Split(1, 1), Split(10, 3)], 3, 30) == [Split(1, 1), Split(10, 3)]


def test_shards_ask_only_their_own_events_and_count_each_once() -> None:
    resolved = {
        "sites": {"shop": {"keys": [{"id": "k"}]}},
        "destinations": {"pg": {"type": "postgres", "dsn": "postgres://x"}},
        "connections": {
            "wh": {"site": "shop", "destination": "pg", "shards": 3, "where": {"field": "userId", "ne": "u7"}},
            "plain": {"site": "shop", "destination": "pg"},
        },
    }
    rules = compile_project(StoredProject({}, resolved, shards={"wh": 3}).snapshot(1))["shop"]
    assert rules.connections["plain"].spread is None
    assert not rules.connections["plain"].needs_heads
    frame = arrival(5)
    frame.repeated = [0, 1, 2]
    matched = [match(rules.connections[name], frame) for name in ("wh", "wh=2", "wh=3")]
    kept = [index for each in matched for index in each.indexes or ()]
    assert sorted(kept) == [index for index in range(3, USERS) if index != 7]
    assert sum(each.drops.get(DropReason.DUPLICATE, 0) for each in matched) == 3
    assert sum(each.drops.get(DropReason.FILTERED, 0) for each in matched) == 1
    for each in matched:
        assert len(each.indexes or ()) + sum(each.drops.values()) == USERS
