"""Records of Kafka and its options: what a record is made of, which names are legal, and what a wrong option is told."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any

import pytest
from aiokafka.errors import for_code
from hypothesis import given
from hypothesis import strategies as st

from loader import registry
from loader.contract.events import EventDestination
from loader.contract.warehouse import Environment
from loader.queues.kafka.fate import fate_of
from loader.queues.kafka.names import wrong_with
from loader.queues.kafka.options import Options
from loader.queues.kafka.records import Maker, Record
from loader.queues.kafka.session import Session
from shared.driving.kafka import INVALID_RECORD, arguments
from shared.errors import ConfigError
from shared.events.outcome import Dead, DeadReason, Drop, DropReason, Outcome, Retry
from shared.threads import ThreadGate

AT = 1_700_000_000.0
SERVERS = "kafka-1.example.com:9092"


def maker(**options: Any) -> Maker:
    return Maker(Options(bootstrap_servers=SERVERS, **{"topic": "events", **options}))


def record(event: dict[str, Any], **options: Any) -> Record:
    (call,) = maker(**options).calls([event], AT).calls
    (made,) = call.records
    return made


def ended(event: dict[str, Any], **options: Any) -> Drop | Dead:
    made = maker(**options).calls([event], AT)
    assert not made.calls
    return made.ended[0]


EVENT = {"messageId": "m", "type": "track", "userId": "u", "anonymousId": "a", "timestamp": datetime(2026, 1, 2, tzinfo=UTC)}


def test_a_record_is_the_event_with_its_time_and_headers() -> None:
    made = record(EVENT)
    assert (made.topic, made.key, made.at) == ("events", b"u", 1767312000000)
    assert json.loads(made.value) == {**EVENT, "timestamp": "2026-01-02T00:00:00Z"}
    assert made.headers([("site", b"shop")]) == [("message_id", b"m"), ("type", b"track"), ("site", b"shop")]


@pytest.mark.parametrize(
    ("key", "event", "expected"),
    [
        ("user", {"userId": "u", "anonymousId": "a"}, b"u"),
        ("user", {"anonymousId": "a"}, b"a"),
        ("user", {"messageId": "m"}, b"m"),
        ("anonymous_id", {"userId": "u", "anonymousId": "a"}, b"a"),
        ("anonymous_id", {"userId": "u"}, b"u"),
        ("none", {"userId": "u"}, None),
        ("{{ event.properties.x }}", {"properties": {"x": "é"}}, "é".encode()),
        ("{{ event.properties.x }}", {"properties": {}}, None),
    ],
)
def test_the_key_is_what_the_option_says(key: str, event: dict[str, Any], expected: bytes | None) -> None:
    assert record({"type": "track", **event}, key=key).key == expected


def test_a_time_is_never_before_1970_and_may_be_the_one_of_receipt() -> None:
    old = {**EVENT, "timestamp": datetime(1950, 1, 1, tzinfo=UTC), "receivedAt": datetime(2026, 2, 3, tzinfo=UTC)}
    assert record(old).at == 0
    assert record(old, timestamp="received").at == 1770076800000
    assert record({"type": "track"}).at == int(AT * 1000)


def test_an_event_that_gives_no_record_ends_with_its_reason() -> None:
    assert ended(EVENT, topic="{{ event.nothing }}") == Drop(DropReason.TEMPLATE_EMPTY)
    assert ended(EVENT, value=" {{ event.nothing }} ") == Drop(DropReason.TEMPLATE_EMPTY)
    wrong = ended(EVENT, topic="{{ 1 // 0 }}")
    assert isinstance(wrong, Dead)
    assert (wrong.reason, wrong.detail.partition(":")[0]) == (DeadReason.TEMPLATE_FAILED, "topic")
    large = ended({**EVENT, "long": "x" * 2_000}, batch_bytes=1_000)
    assert isinstance(large, Dead)
    assert large.reason == DeadReason.TOO_LARGE
    assert "batch_bytes is 1000" in large.detail


@given(st.text(max_size=300))
def test_no_event_reaches_a_topic_with_an_illegal_name(name: str) -> None:
    made = maker(topic="{{ event.name }}").calls([{**EVENT, "name": name}], AT)
    for call in made.calls:
        assert all(not wrong_with(each.topic) for each in call.records)
    assert len(made.calls) + len(made.ended) == 1


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "a/b", "é", "x" * 250, "__consumer_offsets", "a\n"])
def test_illegal_names_are_refused(name: str) -> None:
    assert wrong_with(name)
    with pytest.raises(ConfigError):
        registry.parse_options("bus", {"type": "kafka", "bootstrap_servers": SERVERS, "topic": name})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bootstrap_servers": "kafka"}, "bootstrap_servers: expected host:port"),
        ({"bootstrap_servers": "kafka:9092,"}, "bootstrap_servers: expected host:port"),
        ({"bootstrap_servers": "kafka://a:9092"}, "bootstrap_servers: expected host:port"),
        ({"bootstrap_servers": "me@a:9092"}, "bootstrap_servers: expected host:port"),
        ({"sasl": "PLAIN"}, "expected user and password"),
        ({"user": "u", "password": "p"}, "expected sasl beside them"),
        ({"ssl": "require", "ssl_key": "k"}, "expected both or neither"),
        ({"ssl_root_certificate": "ca.pem"}, "ssl: expected verify-full"),
        ({"key": "userid"}, "key: expected user, anonymous_id, none, or a template"),
        ({"key": "{{ events }}"}, "key: "),
        ({"value": "{{ event"}, "value: "),
        ({"timeout": 0}, "timeout: expected more than 0"),
        ({"batch_bytes": 10}, "batch_bytes: expected 1000 or more"),
    ],
)
def test_a_wrong_option_is_told_what_is_expected(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        registry.parse_options("bus", {"type": "kafka", "bootstrap_servers": SERVERS, "topic": "events", **options})
    assert words in str(refused.value)


def test_the_password_is_a_secret() -> None:
    assert registry.secrets_of("kafka") == {"password"}


@pytest.mark.parametrize(
    ("key", "ordered", "one_line"), [("user", True, False), ("none", True, False), ("{{ event.type }}", True, True), ("anonymous_id", False, False)]
)  # fmt: skip
async def test_all_events_go_in_one_line_where_users_may_share_a_key(key: str, ordered: bool, one_line: bool) -> None:
    document = {"type": "kafka", "bootstrap_servers": SERVERS, "topic": "events", "key": key, "ordered": ordered}
    plugin, options = registry.parse_options("bus", document)
    gate = ThreadGate(1, "test")
    try:
        destination = await plugin.open_destination("bus", options, Environment(gate))
    finally:
        gate.close()
    assert isinstance(destination, EventDestination)
    assert destination.limits.one_line is one_line


def test_a_key_has_the_partition_that_javas_client_chooses() -> None:
    """From the tests of Kafka's own `Utils.murmur2`."""
    session = Session(None)
    for key, number in ((b"21", -973932308), (b"foobar", -790332482), (b"abc", 479470107)):
        assert session.partition(key, range(10)) == (number & 0x7FFFFFFF) % 10


def test_a_key_of_a_client_is_not_held_however_long_it_is() -> None:
    session = Session(None)
    short, long = b"u" * 20, b"u" * 20_000
    before = sys.getrefcount(short), sys.getrefcount(long)
    assert 0 <= session.partition(short, range(10)) < 10
    assert 0 <= session.partition(long, range(10)) < 10
    assert (sys.getrefcount(short) > before[0], sys.getrefcount(long)) == (True, before[1])


def outcome(code: int, topic: str = "t", fixed: str = "t") -> Outcome:
    arguments(Options(bootstrap_servers=SERVERS, topic="t"), "test", 1.0)
    error: Any = for_code(code)
    return fate_of(error(), {}, topic, fixed).outcome(
        Record(topic=topic, key=None, value=b"", at=0, message_id=b"m", type=b"track")
    )


@pytest.mark.parametrize(
    ("code", "expected"),
    [(10, DeadReason.TOO_LARGE), (18, DeadReason.TOO_LARGE), (2, DeadReason.REJECTED_BY_DESTINATION), (32, DeadReason.REJECTED_BY_DESTINATION), (INVALID_RECORD, DeadReason.REJECTED_BY_DESTINATION)],
)  # fmt: skip
def test_a_refusal_of_a_record_alone_is_a_letter(code: int, expected: DeadReason) -> None:
    found = outcome(code)
    assert isinstance(found, Dead)
    assert found.reason == expected


@pytest.mark.parametrize("code", [-1, 3, 6, 7, 17, 19, 20, 29, 31, 43, 44, 45, 47, 56, 58, 59, 999])
def test_no_other_answer_of_brokers_makes_a_letter_by_itself(code: int) -> None:
    found = outcome(code)
    assert isinstance(found, Retry)
    assert not found.denied
    assert found.everyone is (code in (3, 7, 17, 19, 29, 31, 43, 44, 58))


@pytest.mark.parametrize("code", [3, 17, 29, 43, 44])
def test_a_topic_that_an_event_chose_is_that_events_own_trouble(code: int) -> None:
    found = outcome(code, "chosen", "{{ event.x }}")
    assert isinstance(found, Retry)
    assert (found.denied, found.everyone) == (True, False)
