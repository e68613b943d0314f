"""Shards of a site: every event belongs to exactly one of them, at every sequence, and a user to one at a time."""

from __future__ import annotations

import msgspec
import pytest

from shared.events.frame import Head, RequestContext, decode_frame, encode_frame, pack
from shared.events.headers import live_lane, shard_of_lane, split_lane, stream_of
from shared.events.shards import (
    WHOLE,
    Layout,
    Range,
    Shard,
    Split,
    cut,
    ids_of,
    packed_for,
    part_of,
    shard_subject,
    words_of,
)

REQUEST = RequestContext(received_at=1, protocol="segment", key="k")
TWICE = Layout(splits=[Split(1, 1), Split(50, 4, 5.0), Split(80, 1, 8.0)])


def frame(users: list[str]) -> bytes:
    heads = [Head(f"m{number}", "track", None, user) for number, user in enumerate(users)]
    return encode_frame(pack("shop", [REQUEST], heads, [b"{}"] * len(users)))


@pytest.mark.parametrize("subject", ["events.shop.0", "events.shop.3", "events.shop.1-2", "events.shop.2-3"])
def test_each_event_of_a_frame_belongs_to_one_shard(subject: str) -> None:
    packed = packed_for(subject)
    users = [user for user in (f"user-{n}" for n in range(200)) if part_of(user, packed.of) == packed.number]
    payload = frame(users)
    for of in (1, 2, 4, 5):
        parts = [cut(subject, payload, Shard(number, of)) for number in range(of)]
        heads = [[] if part is None else decode_frame(part).heads for part in parts]
        assert sorted(head.message_id for some in heads for head in some) == sorted(f"m{n}" for n in range(len(users)))
        for number, some in enumerate(heads):
            assert {part_of(head.user_key, of) for head in some} <= {number}
            assert [head.message_id for head in some] == list(ids_of(subject, payload, Shard(number, of)))


def test_a_frame_packed_for_a_shard_is_taken_as_it_is_and_not_opened() -> None:
    assert cut("events.shop.1-4", b"never read", Shard(1, 4)) == b"never read"
    assert cut("events.shop.3-4", b"never read", Shard(1, 2)) == b"never read"
    assert cut("events.shop.2-4", b"never read", Shard(1, 2)) is None
    assert cut("events.shop.2-4", b"never read", WHOLE) == b"never read"


def test_an_unreadable_frame_belongs_to_the_first_shard_alone() -> None:
    assert [cut("events.shop.0", b"nonsense", Shard(number, 3)) for number in range(3)] == [b"nonsense", None, None]


def test_a_sequence_has_one_number_of_shards_and_ranges_meet_without_a_gap() -> None:
    assert [TWICE.splits[TWICE.index(seq)].of for seq in (1, 49, 50, 79, 80, 10_000)] == [1, 1, 4, 4, 1, 1]
    assert TWICE.next_range(WHOLE, 1) == Range(1, 50, 0.0, begins=False)
    assert TWICE.next_range(WHOLE, 50) == Range(80, None, 8.0, begins=True)
    assert TWICE.next_range(WHOLE, 90) == Range(90, None, 8.0, begins=False)
    assert TWICE.next_range(Shard(2, 4), 1) == Range(50, 80, 5.0, begins=True)
    assert TWICE.next_range(Shard(2, 4), 80) is None
    assert (TWICE.until(WHOLE), TWICE.until(Shard(0, 4))) == (0, 80)
    assert TWICE.shards == [WHOLE, *(Shard(number, 4) for number in range(4))]
    assert msgspec.json.decode(msgspec.json.encode(TWICE), type=Layout) == TWICE


def test_a_shard_has_a_lane_of_its_own_in_the_same_stream() -> None:
    lane = live_lane("i", "shop-1", 7, shard=Shard(1, 4).lane)
    assert (stream_of(lane), shard_of_lane(lane), split_lane(lane)[1]) == (("i", "shop-1"), "4.1", 7)
    assert split_lane(lane)[0] != split_lane(live_lane("i", "shop-1", 7))[0]
    assert live_lane("i", "shop-1", 7, shard=WHOLE.lane) == live_lane("i", "shop-1", 7)
    assert shard_of_lane(live_lane("i", "shop-1", 7)) == ""


def test_names_are_those_of_before_for_a_site_with_one_router() -> None:
    assert (WHOLE.key("shop"), shard_subject("shop", WHOLE)) == ("shop", "events.shop.0")
    assert (Shard(1, 4).key("shop"), shard_subject("shop", Shard(1, 4))) == ("shop.4.1", "events.shop.1-4")


def test_a_change_says_what_it_waits_for() -> None:
    wish = Layout(wish=4, change=1)
    assert words_of("shop", wish, {WHOLE: False}) == "site shop goes from 1 shard to 4: shard 1 of 1 has yet to stop"
    assert "draining shard 2 of 4" in words_of("shop", TWICE, {Shard(0, 4): True, Shard(1, 4): False})
    assert words_of("shop", TWICE, {Shard(0, 4): True}) == ""
