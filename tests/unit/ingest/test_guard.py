"""Who may connect, and what unfinished heads and frames may hold."""

from __future__ import annotations

import resource

import pytest

from ingest.clients.address import Proxies, parse_networks
from ingest.http.frames import STRANGER_BYTES, TOO_BIG, TRY_AGAIN, Frames
from ingest.limits.bounds import LEAST_SHARE, SHARE, Bounds
from ingest.limits.guard import RESERVE, Guard, address_key, places_for
from shared.project.model import Project
from tests.unit.ingest.wires import edge, settled

TRUSTED = Proxies(parse_networks(["10.0.0.0/8"], "X"))


class Socket:
    def __init__(self) -> None:
        self.ended = False

    def make_room(self) -> None:
        self.ended = True


def guard(connections: int = 3, per_address: int = 2) -> Guard:
    return Guard(max_connections=connections, max_per_address=per_address, max_sockets=4, proxies=TRUSTED)


def test_an_address_has_its_share_and_gets_it_back() -> None:
    door, sockets = guard(10), [Socket() for _ in range(3)]
    assert [bool(door.enter(each, "192.0.2.1")) for each in sockets] == [False, False, True]
    assert door.enter(Socket(), "192.0.2.2") == ""
    door.leave(sockets[2])  # which never came in
    assert "192.0.2.1 has 2 connections" in door.enter(Socket(), "192.0.2.1")
    door.leave(sockets[0])
    last = Socket()
    assert door.enter(last, "192.0.2.1") == ""
    for each in (sockets[1], last):
        door.leave(each)
    assert set(door._addresses) == {"192.0.2.2"}, "an address without connections must cost nothing"


def test_a_network_of_ipv6_is_one_address_and_a_mapped_one_is_ipv4() -> None:
    assert address_key("2001:db8:1:2::3") == address_key("2001:db8:1:2:ffff::1%eth0")
    assert address_key("2001:db8:1:3::3") != address_key("2001:db8:1:2::3")
    assert address_key("::ffff:192.0.2.1") == address_key("192.0.2.1")


def test_a_trusted_proxy_is_not_counted_but_whom_it_speaks_for_is() -> None:
    door, sockets = guard(10), [Socket() for _ in range(5)]
    assert not any(door.enter(each, "10.0.0.1") for each in sockets)
    assert [bool(door.move(each, "192.0.2.1")) for each in sockets[:3]] == [False, False, True]
    for each in sockets:
        door.leave(each)
    assert door.connections == 0
    assert door.enter(Socket(), "192.0.2.1") == ""


def test_a_full_house_gives_the_place_of_the_oldest_silent_connection_to_the_newest() -> None:
    door = guard(2, 10)
    silent, served, newest = Socket(), Socket(), Socket()
    door.enter(silent, "192.0.2.1")
    door.enter(served, "192.0.2.2")
    door.settle(served)
    assert door.enter(newest, "192.0.2.3") == ""
    assert (silent.ended, served.ended, door.connections) == (True, False, 2)
    door.settle(newest)
    assert "all 2 connections are taken" in door.enter(Socket(), "192.0.2.4")
    door.leave(served)
    assert door.enter(Socket(), "192.0.2.4") == ""


def test_a_stranger_has_room_for_a_key_and_all_sockets_together_have_a_bound() -> None:
    bounds = Bounds(max_requests=1, max_body_bytes=100_000)
    stranger = Frames(bounds, 50_000, "", stranger=True)
    assert stranger.feed(STRANGER_BYTES)
    assert not stranger.feed(1)
    assert stranger.farewell == TOO_BIG
    stranger.free()
    known = [Frames(bounds, 50_000, "", stranger=False) for _ in range(3)]
    assert known[0].feed(60_000)
    assert known[1].feed(40_000)
    assert not known[2].feed(1)
    assert known[2].farewell == TRY_AGAIN
    known[0].taken()
    assert bounds.body_bytes == 100_001, "what came last may be the beginning of the next message"
    known[0].feed(10)
    known[0].taken()
    assert known[0].block() is True
    assert known[1].block() is False, "a message may wait there too"
    for each in known:
        each.free()
    assert bounds.body_bytes == 0


def test_the_sockets_of_one_address_leave_room_for_all_others() -> None:
    bounds = Bounds(max_requests=1, max_body_bytes=SHARE * LEAST_SHARE)
    one, same, other = (
        Frames(bounds, LEAST_SHARE, address, stranger=False) for address in ("192.0.2.1", "192.0.2.1", "192.0.2.2")
    )
    assert one.feed(LEAST_SHARE)
    assert not same.feed(1)
    assert same.farewell == TRY_AGAIN
    assert not same.block(), "an unread message takes room too"
    assert other.feed(LEAST_SHARE)
    for each in (one, same, other):
        each.free()
    assert (bounds.body_bytes, bounds.address_bytes) == (0, {})


def test_after_our_side_closed_nothing_is_held_and_a_client_that_goes_on_is_cut_off() -> None:
    bounds = Bounds(max_requests=1, max_body_bytes=100_000)
    frames = Frames(bounds, 50_000, "", stranger=False)
    assert frames.feed(40_000)
    frames.close()
    assert bounds.body_bytes == 0
    assert frames.feed(50_000), "what was under way may come"
    assert bounds.body_bytes == 0
    assert not frames.feed(1)
    assert frames.farewell == b"", "it was told before"


@pytest.mark.parametrize(
    ("soft", "hard", "places", "raised"),
    [
        (1024, 100_000, 1000, 1000 + RESERVE),  # raised as far as is needed
        (100_000, 100_000, 1000, None),
        (1024, resource.RLIM_INFINITY, 1000, 1000 + RESERVE),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 1000, None),
        (RESERVE, RESERVE + 40, 40, RESERVE + 40),  # the rest is for files and the broker
        (RESERVE + 40, RESERVE + 40, 40, RESERVE + 40),
        (10, 10, 1, 10),
    ],
)
def test_connections_leave_descriptors_for_everything_else(
    soft: int, hard: int, places: int, raised: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_to: list[int] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: set_to.append(limits[0]))
    assert places_for(1000) == places
    assert set_to == ([] if raised is None else [raised])


def test_a_limit_of_descriptors_that_cannot_be_raised_is_lived_with(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("not permitted")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (RESERVE + 7, 100_000))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert places_for(1000) == 7


async def test_a_request_that_came_while_the_process_was_held_up_is_answered() -> None:
    async with edge(Project(), read_timeout_seconds=0) as running:
        wire = running.connect()
        await settled()  # the time is out before the socket is read
        wire.send(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        await settled()
        assert b" 200 " in wire.received
        wire.vanish()
