"""Events of visitors get the user that is learned later: which, when, once, and within bounds."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest

from functions_runtime.rules.stitching import MOST_AGAIN_BYTES, Stitched, passing, stitch, with_user
from functions_runtime.rules.visitor import (
    MOST_USERS,
    REFRESH,
    Bounds,
    Kept,
    Sighting,
    Stay,
    Visitor,
    decode_visitor,
    encode_visitor,
    is_news,
    updated,
    with_sightings,
)
from shared.events.frame import Frame, Head, RequestContext, decode_frame, encode_frame, pack

SECOND = 1_000_000
BOUNDS = Bounds(look_back=100 * SECOND, max_events=100, max_bytes=100_000, forward=True)
BACKWARD = BOUNDS._replace(forward=False)

Sent = tuple[float, str, str | None, str | None]
"""Second, message id, anonymous id, user id."""


def frame_of(*events: Sent, complete: bool = False) -> Frame:
    """Returns a frame in which each event has a request of its own."""
    requests = [RequestContext(round(at * SECOND), "segment", "web", ip="203.0.113.7", complete=complete) for at, *_ in events]
    heads = [
        Head(message_id, "track", "Order", user, anonymous, number)
        for number, (_, message_id, anonymous, user) in enumerate(events)
    ]
    bodies = []
    for _, message_id, anonymous, user in events:
        body = {"messageId": message_id, "anonymousId": anonymous, "userId": user, "n": 1}
        bodies.append(json.dumps({key: value for key, value in body.items() if value is not None}).encode())
    return pack("shop", requests, heads, bodies)


class Path:
    """A connection in small: what the bucket keeps, and the table as merging leaves it."""

    def __init__(self, bounds: Bounds = BOUNDS) -> None:
        self.bounds = bounds
        self.now = 10**9 * SECOND
        self.visitors: dict[str, Visitor] = {}
        self.table: dict[str, tuple[int, str | None]] = {}
        self.rows = 0
        self.lost = 0
        self.writes = 0

    def take(self, frame: Frame) -> Stitched:
        made = stitch(frame, passing(frame), self.visitors, self.bounds)
        made.frame = decode_frame(encode_frame(made.frame))
        for head, body in zip(made.frame.heads, made.frame.bodies(), strict=True):
            user = json.loads(body).get("userId")
            assert (user if isinstance(user, str) else None) == head.user_id
            received = made.frame.requests[head.request].received_at
            before = self.table.get(head.message_id)
            if before is None or before[0] <= received:
                self.table[head.message_id] = (received, head.user_id)
            self.rows += 1
        for brought in made.brought:
            name = brought.anonymous_id
            visitor, lost = updated(
                self.visitors.get(name, Visitor(name)),
                sightings=brought.sightings,
                kept=brought.kept,
                gone=brought.gone,
                bounds=self.bounds,
                now=self.now,
            )
            self.visitors[name] = decode_visitor(encode_visitor(visitor), name) or pytest.fail("not as it was")
            self.lost += lost
            self.writes += 1
        return made

    def users(self) -> dict[str, str | None]:
        return {message_id: user for message_id, (_, user) in self.table.items()}


def test_earlier_events_go_again_with_the_user_and_count_as_made() -> None:
    path = Path()
    path.take(frame_of((1, "a", "d", None), (2, "b", "d", None), (2, "x", "other", None)))
    made = path.take(frame_of((3, "c", "d", "jane")))
    assert [head.message_id for head in made.frame.heads] == ["c", "a", "b"]
    assert (made.frame.source_events, made.frame.made, made.again, made.stamped) == (1, 2, 2, 0)
    assert path.users() == {"a": "jane", "b": "jane", "c": "jane", "x": None}
    again = path.take(frame_of((4, "e", "d", "jane")))
    assert len(again.frame) == 1, "they go once"


def test_what_goes_again_is_as_it_was_but_for_the_user() -> None:
    body = b'{"type":"track","event":"Order","anonymousId":"d","properties":{"total": 12345678901234567.89,"userId":"no"}}'
    head = Head("a", "track", "Order", None, "d", 0)
    request = RequestContext(1 * SECOND, "segment", "web", ip="203.0.113.7", defaults=b'{"context":{"app":"x"}}')
    path = Path()
    path.take(pack("shop", [request], [head], [body]))
    made = path.take(frame_of((3, "c", "d", "jane"))).frame
    assert made.bodies()[1] == b'{"userId":"jane",' + body[1:]
    assert made.heads[1] == msgspec.structs.replace(head, user_id="jane", request=1)
    assert made.requests[1] == request


def test_events_of_one_frame_and_later_ones_get_the_user_at_once() -> None:
    path = Path()
    made = path.take(frame_of((1, "a", "d", None), (2, "b", "d", "jane"), (3, "c", "d", None)))
    assert (made.stamped, made.again, len(made.frame)) == (2, 0, 3)
    path.take(frame_of((4, "e", "d", None)))
    assert set(path.users().values()) == {"jane"}
    assert path.visitors["d"].kept == []


def test_of_two_users_of_a_device_each_keeps_what_is_theirs() -> None:
    path = Path()
    for number, user in enumerate((None, "jane", None, "joe", None)):
        path.take(frame_of((number, f"m{number}", "d", user)))
    assert path.users() == {"m0": "jane", "m1": "jane", "m2": "jane", "m3": "joe", "m4": "joe"}
    backward = Path(BACKWARD)
    for number, user in enumerate((None, "jane", None, "joe", None)):
        backward.take(frame_of((number, f"m{number}", "d", user)))
    assert backward.users() == {"m0": "jane", "m1": "jane", "m2": "joe", "m3": "joe", "m4": None}


def test_without_forward_events_between_two_sightings_are_of_that_user() -> None:
    path = Path(BACKWARD)
    for number, user in enumerate(("jane", None, "jane", None)):
        path.take(frame_of((number, f"m{number}", "d", user)))
    assert path.users() == {"m0": "jane", "m1": "jane", "m2": "jane", "m3": None}


def test_two_users_in_one_request_are_told_by_its_order() -> None:
    frame = frame_of(*((1.0, f"m{n}", "d", user) for n, user in enumerate((None, "jane", None, "joe", None))))
    path = Path()
    path.take(frame)
    assert path.users() == {"m0": "jane", "m1": "jane", "m2": "jane", "m3": "joe", "m4": "joe"}


def test_an_event_that_its_user_overtook_gets_the_id_at_once() -> None:
    path = Path()
    path.take(frame_of((5, "b", "d", "jane")))
    assert path.take(frame_of((1, "a", "d", None))).stamped == 1
    assert path.users() == {"a": "jane", "b": "jane"}


@pytest.mark.parametrize("user", [None, "joe"])
def test_a_clock_that_ran_ahead_for_a_while_does_not_make_later_events_look_old(user: str | None) -> None:
    path = Path()
    path.now = 1_000 * SECOND
    path.take(frame_of((50_000, "ahead", "d", user)))
    path.take(frame_of((1_001, "page", "d", None)))
    path.take(frame_of((1_002, "login", "d", "jane")))
    assert path.users() == {"ahead": user, "page": "jane", "login": "jane"}


def test_what_is_older_than_the_look_back_stays_without_a_user() -> None:
    path = Path()
    path.take(frame_of((1, "old", "d", None), (50, "young", "d", None)))
    path.take(frame_of((110, "c", "d", "jane")))
    assert path.users() == {"old": None, "young": "jane", "c": "jane"}
    assert path.lost == 0, "it is not lost, its time is over"
    assert path.visitors["d"].kept == []
    path.take(frame_of((300, "e", "d", None)))
    assert path.users()["e"] is None, "nor does a user last for ever"


def test_a_visitor_keeps_so_many_events_and_bytes_and_the_oldest_go_first() -> None:
    path = Path(BOUNDS._replace(max_events=3))
    path.take(frame_of(*((n, f"m{n}", "d", None) for n in range(5))))
    assert path.lost == 2
    path.take(frame_of((9, "c", "d", "jane")))
    assert path.users() == {"m0": None, "m1": None, "m2": "jane", "m3": "jane", "m4": "jane", "c": "jane"}
    size = Kept(0, Head("", ""), RequestContext(0, "", ""), frame_of((1, "m0", "d", None)).bodies()[0]).size
    few = Path(BOUNDS._replace(max_bytes=2 * size))
    few.take(frame_of(*((n, f"m{n}", "d", None) for n in range(5))))
    assert (few.lost, len(few.visitors["d"].kept)) == (3, 2)
    none = Path(BOUNDS._replace(max_bytes=size - 1))
    made = none.take(frame_of((1, "m0", "d", None)))
    assert (made.large, made.kept, none.visitors) == (1, 0, {})


def test_a_known_user_costs_no_write_and_leaves_the_frame_as_it_is() -> None:
    path = Path()
    path.take(frame_of((1, "a", "d", "jane")))
    frame = frame_of(*((n, f"m{n}", "d", "jane") for n in range(2, 10)), (3, "y", None, "joe"))
    assert stitch(frame, passing(frame), path.visitors, BOUNDS).frame is frame
    path.take(frame)
    assert path.writes == 1
    path.take(frame_of((15, "z", "d", "jane")))
    assert path.writes == 2, "now and then the sighting is noted again"


def test_what_does_not_fit_waits_for_the_visitors_next_event() -> None:
    big = Bounds(look_back=100 * SECOND, max_events=1000, max_bytes=MOST_AGAIN_BYTES, forward=True)
    path = Path(big)
    body = b'{"text":"' + b"x" * (MOST_AGAIN_BYTES // 3) + b'"}'
    for number in range(3):
        for name in ("d", "e"):
            request = RequestContext(number * SECOND, "segment", "web")
            path.take(pack("shop", [request], [Head(f"{name}{number}", "page", None, None, name)], [body]))
    lost = path.lost
    made = path.take(frame_of((5, "i", "d", "jane"), (5, "j", "e", "joe")))
    assert made.waiting > 0
    assert made.again + made.waiting == 6 - lost
    for number in range(6, 9):
        made = path.take(frame_of((number, f"k{number}", "d", "jane"), (number, f"l{number}", "e", None)))
    users = path.users()
    assert {users[f"d{n}"] for n in range(lost // 2, 3)} == {"jane"}
    assert {users[f"e{n}"] for n in range(lost - lost // 2, 3)} == {"joe"}


def test_a_repeat_of_a_kept_event_does_not_go_again_below_the_newer_one() -> None:
    path = Path()
    path.take(frame_of((1, "a", "d", None)))
    made = path.take(frame_of((2, "a", "d", "jane")))
    assert [head.message_id for head in made.frame.heads] == ["a"]
    assert path.users() == {"a": "jane"}


def test_a_frame_that_comes_again_changes_nothing() -> None:
    path = Path()
    frames = [frame_of((1, "a", "d", None)), frame_of((2, "b", "d", "jane")), frame_of((3, "c", "d", None))]
    for frame in frames:
        path.take(frame)
        before = dict(path.visitors)
        path.take(frame)
        assert path.visitors == before
    for frame in frames:
        path.take(frame)
    assert set(path.users().values()) == {"jane"}, "a replay of all of them neither"


@pytest.mark.parametrize(("given", "learned"), [(7, "7"), (None, None), ("", None), (True, None), ({"a": 1}, None)])
def test_a_user_id_that_a_function_gives_may_be_a_number(given: Any, learned: str | None) -> None:
    frame = frame_of((1, "a", "d", None), complete=True)
    body = json.dumps({"anonymousId": "d", "userId": given}).encode()
    frame = pack("shop", frame.requests, frame.heads, [body])
    path = Path()
    made = stitch(frame, passing(frame), {}, BOUNDS)
    assert [sighting.user for brought in made.brought for sighting in brought.sightings] == ([learned] if learned else [])
    assert made.kept == (given in (None, ""))
    path.take(frame_of((2, "b", "d", "jane")))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{}", b'{"userId":"j\xc3\xbc"}'),
        (b' {"a": 1.50 }', b' {"userId":"j\xc3\xbc","a": 1.50 }'),
        (b'{"userId":null,"n":12345678901234567.89}', b'{"userId":"j\xc3\xbc","n":12345678901234567.89}'),
        (b'{"n":1e999}', b'{"userId":"j\xc3\xbc","n":1e999}'),
        (b'{"userId":null,"n":NaN}', None),
        (b"[]", None),
    ],
)
def test_a_body_gets_a_user_and_keeps_the_rest_as_it_was_written(body: bytes, said: bytes | None) -> None:
    assert with_user(body, "jü") == said


def test_stays_of_users_are_parted_and_bounded() -> None:
    stays = with_sightings([Stay(1, 9, "jane")], [Sighting(5, "joe")], 100)
    assert stays == [Stay(1, 1, "jane"), Stay(5, 5, "joe"), Stay(9, 9, "jane")]
    assert with_sightings(stays, [Sighting(6, "joe"), Sighting(20, "jane")], 100)[-2:] == [Stay(5, 6, "joe"), Stay(9, 20, "jane")]
    assert len(with_sightings([], [Sighting(n, str(n)) for n in range(100)], 100)) == MOST_USERS
    pause = [Stay(1, 1, "jane"), Stay(102, 102, "jane")]
    assert with_sightings([], [Sighting(1, "jane"), Sighting(102, "jane")], 100) == pause
    assert with_sightings(pause, [Sighting(50, "jane")], 100) == [Stay(1, 102, "jane")]
    bounds = BOUNDS._replace(look_back=80)
    known = [Stay(100, 150, "jane")]
    assert not is_news(known, [Sighting(155, "jane")], bounds)
    assert not is_news(known, [Sighting(120, "jane")], bounds)
    assert is_news(known, [Sighting(161, "jane")], bounds)
    assert is_news(known, [Sighting(99, "jane")], bounds)
    assert is_news(known, [Sighting(120, "joe")], bounds)
    assert is_news([], [Sighting(1, "jane")], bounds)


def test_a_record_that_cannot_be_read_is_none() -> None:
    visitor = Visitor("d", [Stay(1, 2, "jane")], [])
    value = encode_visitor(visitor)
    assert decode_visitor(value, "d") == visitor
    assert decode_visitor(value, "e") is None
    for damaged in (b"", b"x", value[:-1], msgspec.msgpack.encode((99, 0, b"")), msgspec.msgpack.encode((1, 10**12, b""))):
        assert decode_visitor(damaged, "d") is None


def meant(sightings: list[Sighting], at: int, bounds: Bounds) -> str | None:
    """The user of an anonymous event, by the words of docs/identity.md."""
    before = [each for each in sightings if 0 <= at - each.at <= bounds.look_back]
    after = [each for each in sightings if 0 <= each.at - at <= bounds.look_back]
    if before and after and before[-1].user == after[0].user and after[0].at - before[-1].at <= bounds.look_back:
        return after[0].user
    if bounds.forward and before:
        return before[-1].user
    return after[0].user if after else None


@pytest.mark.parametrize("forward", [True, False])
@pytest.mark.parametrize("seed", range(20))
def test_every_event_ends_with_the_user_that_its_time_tells_once(seed: int, forward: bool) -> None:
    chance = random.Random(seed)
    bounds = BOUNDS._replace(forward=forward, look_back=30 * SECOND)
    path = Path(bounds)
    sent: list[Sent] = []
    for number in range(200):
        anonymous = chance.choice(["d", "e", None])
        user = chance.choice([None, None, None, None, f"u{chance.randrange(3)}"])
        sent.append((number + chance.random() / 2, f"m{number}", anonymous, user))
    place = 0
    while place < len(sent):
        many = chance.randrange(1, 12)
        frame = frame_of(*sent[place : place + many])
        for _ in range(chance.choice([1, 1, 2])):  # a runtime that dies takes a frame again
            path.take(frame)
        place += many
    for anonymous in ("d", "e"):
        own = [each for each in sent if each[2] == anonymous]
        sightings = [Sighting(round(at * SECOND), user) for at, _, _, user in own if user]
        for at, message_id, _, user in own:
            age = round(at * SECOND) - max((each.at for each in sightings if each.at <= at * SECOND), default=0)
            if user is None and bounds.look_back * (1 - 1 / REFRESH) < age <= bounds.look_back:
                continue  # the last sighting need not be noted
            assert path.table[message_id][1] == (user or meant(sightings, round(at * SECOND), bounds)), message_id
    assert set(path.table) == {each[1] for each in sent}
