"""Numbers of MQTT messages: a repeat has the number that it had, and no message gets that of another."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector_runner.feeds.kinds.mqtt import MqttOptions
from connector_runner.feeds.kinds.mqtt.session import FORMER_NUMBERS, Session, digest


def content(text: str) -> bytes:
    return digest("t", text.encode(), ())


def test_a_packet_that_comes_again_has_its_number_also_for_the_next_reader() -> None:
    first = Session(None, kept=False)
    assert [first.number(packet, content("same"), again=False) for packet in (1, 2, 3)] == [1, 2, 3]
    assert first.number(2, content("same"), again=True) == 2
    second = Session(first.note(), kept=True)
    assert second.name == first.name
    assert second.number(2, content("same"), again=True) == 2
    assert second.number(4, content("same"), again=True) == 4  # the former reader never noted it
    assert second.number(3, content("other"), again=True) == 5


def test_a_session_that_the_broker_lost_brings_nothing_again() -> None:
    first = Session(None, kept=False)
    first.number(1, content("a"), again=False)
    second = Session(first.note(), kept=False)
    assert second.name == first.name
    assert second.number(1, content("a"), again=True) == 2
    assert second.topics == ()


def test_a_packet_is_forgotten_once_the_broker_knows_that_it_is_acknowledged() -> None:
    session = Session(None, kept=False)
    session.number(1, content("a"), again=False)
    entries = session.acknowledged([1])
    assert session.holds == 1
    session.number(1, content("a"), again=False)  # the broker uses the id again
    session.forget(entries)
    assert session.holds == 1
    session.forget(session.acknowledged([1]))
    assert session.holds == 0


def test_a_broker_that_numbers_packets_anew_is_understood_after_a_reader_that_ended_in_order() -> None:
    first = Session(None, kept=False)
    for packet, text in enumerate("abca", 1):
        first.number(packet, content(text), again=False)
    first.acknowledged([2])
    second = Session(first.note(closed=True), kept=True)
    assert [second.number(packet, content(text), again=True) for packet, text in enumerate("aca", 1)] == [1, 3, 4]
    assert second.number(4, content("b"), again=True) == 5  # it may be another one
    killed = Session(first.note(), kept=True)
    assert killed.number(9, content("a"), again=True) == 5


def test_at_a_broker_that_reuses_packet_ids_no_message_is_taken_for_a_repeat() -> None:
    session = Session(None, kept=False)
    session.number(1, content("on"), again=False)
    session.forget(session.acknowledged([1]))
    session.number(1, content("on"), again=False)
    assert Session(session.note(), kept=True).number(1, content("on"), again=True) == 3
    # ids that begin again behind the last one are no reuse
    session = Session(None, kept=False)
    for packet in (65_534, 65_535, 1, 2):
        session.number(packet, content("on"), again=False)
    assert Session(session.note(), kept=True).number(2, content("on"), again=True) == 4


def test_packets_of_a_former_reader_are_forgotten_after_many_others() -> None:
    first = Session(None, kept=False)
    first.number(7, content("a"), again=False)
    second = Session(first.note(), kept=True)
    for packet in range(8, 8 + FORMER_NUMBERS + 1):
        second.number(packet, content("b"), again=False)
        second.forget(second.acknowledged([packet]))
    assert second.holds == 0


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["publish", "deliver", "acknowledge", "sound", "die", "lose"]), max_size=80), st.integers(1, 3))
def test_no_message_is_lost_or_doubled_at_a_broker_that_keeps_packet_ids(steps: list[str], contents: int) -> None:
    """A model of a broker that counts packet ids up, of a reader that dies, and of acknowledgements that get lost with it."""
    queue: deque[tuple[int, bytes]] = deque()
    under_way: dict[int, tuple[int, bytes, bool]] = {}  # by packet id: message, content, whether it was sent
    published = packet = 0
    session = Session(None, kept=False)
    stored = session.note()
    events: dict[int, int] = {}  # numbers of events, and their messages
    seen: list[int] = []
    unread: list[int] = []

    def deliver(again: bool, number: int) -> None:
        message, body, _ = under_way[number]
        identity = session.number(number, body, again=again)
        assert events.setdefault(identity, message) == message
        seen.append(number)

    for step in steps:
        if step == "publish":
            queue.append((published, content(str(published % contents))))
            published += 1
        elif step == "deliver" and queue:
            packet += 1
            message, body = queue.popleft()
            under_way[packet] = message, body, True
            deliver(False, packet)
            stored = session.note()
        elif step == "lose" and queue:  # sent to a reader that dies before it reads
            packet += 1
            message, body = queue.popleft()
            under_way[packet] = message, body, True
        elif step == "acknowledge" and seen:
            unread += seen
            session.acknowledged(seen)
            seen = []
        elif step == "sound":
            for number in unread:
                under_way.pop(number, None)
            session.forget(session.acknowledged(unread))
            unread = []
            stored = session.note()
        elif step == "die":
            for number in unread[: len(unread) // 2]:  # the broker read some
                under_way.pop(number, None)
            seen, unread = [], []
            session = Session(stored, kept=True)
            for number in sorted(under_way):
                deliver(True, number)
            stored = session.note()
    session = Session(stored, kept=True)
    for number in sorted(under_way):
        deliver(True, number)
    while queue:
        packet += 1
        message, body = queue.popleft()
        under_way[packet] = message, body, True
        deliver(False, packet)
    assert sorted(events.values()) == list(range(published))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"server": "example.com"}, "expected an address such as"),
        ({"server": "mqtt://user:secret@example.com"}, "expected an address such as"),
        ({"topics": ["a/#/b"]}, "stands for one whole level"),
        ({"topics": ["a/b+"]}, "stands for one whole level"),
        ({"topics": ["$share/group"]}, r"expected \$share/GROUP/FILTER"),
        ({"password": "secret"}, "expected one beside `password`"),
        ({"ssl_root_certificate": "ca.pem"}, "expected an address with mqtts://"),
        ({"server": "mqtts://example.com", "ssl_certificate": "c.pem"}, "expected both or neither"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(wrong: dict[str, object], words: str) -> None:
    given = {"server": "mqtt://example.com", "topics": ["a"], **wrong}
    with pytest.raises(ValueError, match=words):
        MqttOptions(**given)  # type: ignore[arg-type]
