"""Messages over WebSocket, as far as no connection is needed to judge them."""

from __future__ import annotations

import json
import tracemalloc

import msgspec
import pytest

from ingest.contract import Accepted, Credential, Reject, SocketMessage, SocketProblem
from ingest.judge import packed
from ingest.protocols import websocket
from shared.events.outcome import DeadReason
from tests.support import dear_bodies
from tests.unit.ingest.desks import CountingDesk, get, project

KNOWN = (Credential("query", "web"),)
EVENT = {"type": "page", "userId": "u"}


@pytest.mark.parametrize("name", [b"id", b"ping", b"sentAt", b"context"])
def test_a_value_that_would_take_all_memory_is_not_even_built(name: bytes) -> None:
    count = 2_000_000
    bomb = b"\x82" + msgspec.msgpack.encode(name.decode()) + b"\xdd" + count.to_bytes(4, "big") + b"\x90" * count
    message = bomb + msgspec.msgpack.encode("batch") + msgspec.msgpack.encode([EVENT])
    tracemalloc.start()
    try:
        websocket.read(message, CountingDesk(), KNOWN)
        assert tracemalloc.get_traced_memory()[1] < 10 * count
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("id_", ["x" * 1023, [1], None, True])
def test_an_id_is_a_short_text_or_number(id_: object) -> None:
    result = websocket.read(msgspec.json.encode({"id": id_, "event": EVENT}).decode(), CountingDesk(), KNOWN)
    if id_ is True:
        assert isinstance(result, SocketMessage)
        return
    assert isinstance(result, SocketProblem)
    assert result.code == "missing_id"


@pytest.mark.parametrize("binary", [False, True])
def test_a_message_with_both_an_event_and_a_batch_is_refused_instead_of_losing_one(binary: bool) -> None:
    def read(**message: object) -> object:
        encoded = msgspec.msgpack.encode(message) if binary else msgspec.json.encode(message).decode()
        return websocket.read(encoded, CountingDesk(), KNOWN)

    problem = read(id=1, event=EVENT, batch=[EVENT])
    assert isinstance(problem, SocketProblem)
    assert problem.code == "invalid_message"
    for message in (read(id=1, event=None, batch=[EVENT]), read(id=1, event=EVENT, batch=None)):
        assert isinstance(message, SocketMessage)
        assert message.parsed is not None
        assert len(message.parsed.heads) == 1


ONE = json.dumps(EVENT)
LONG = json.dumps({**EVENT, "x": "y" * 30})


@pytest.mark.parametrize(
    "message",
    [
        f'{{"id":1,"batch":[{ONE}],"batch":[{ONE}]}}',
        f'{{"id":1,"event":{LONG},"event":{ONE}}}',
        f'{{"id": 1, "event": {ONE}, "other":[], "event": {ONE}}}',
        # just as long as with the blanks of another writer
        f'{{"event":1,"id":1,"sentAt":1,"context":{{}},"integrations":{{}},"ping":1,"event":{ONE} }}',
        f'{{"id":1,"batch":[{ONE}],"b\\u0061tch":[{ONE}]}}',
        f'{{"id":1,"batch":[{ONE[:-1]},"n":NaN}}],"batch":[{ONE}]}}',
    ],
)
def test_a_batch_or_event_that_stands_twice_is_refused_instead_of_losing_one(message: str) -> None:
    problem = websocket.read(message, CountingDesk(), KNOWN)
    assert isinstance(problem, SocketProblem)
    assert problem.code == "invalid_message"
    assert "twice" in problem.message


def test_a_packed_batch_that_stands_twice_is_refused() -> None:
    def message(*names: str) -> bytes:
        parts = [msgspec.msgpack.encode(name) + msgspec.msgpack.encode([EVENT]) for name in names]
        return bytes([0x81 + len(parts)]) + b"\xa2id\x01" + b"".join(parts)

    assert isinstance(websocket.read(message("batch", "batch"), CountingDesk(), KNOWN), SocketProblem)
    assert isinstance(websocket.read(message("batch", "unknown"), CountingDesk(), KNOWN), SocketMessage)
    assert isinstance(websocket.read(message("batch", *map(str, range(12))), CountingDesk(), KNOWN), SocketMessage)
    assert isinstance(websocket.read(message("batch", "\0").replace(b"\0", b"\xf0"), CountingDesk(), KNOWN), SocketProblem)
    many = b"\xde\x00\x66" + message("batch", *map(str, range(100)))[1:]
    assert isinstance(websocket.read(many, CountingDesk(), KNOWN), SocketProblem)


def test_a_message_may_have_other_blanks_and_members_that_mean_nothing() -> None:
    for indent in (None, 1, 4):
        for key in ({}, {"key": "web"}):
            message = json.dumps({**key, "id": 1, "unknown": "x" * 50, "batch": [EVENT, EVENT], "context": {}}, indent=indent)
            assert isinstance(websocket.read(message, CountingDesk(), KNOWN), SocketMessage)


@pytest.mark.parametrize("count", [300, 900])
def test_a_packed_message_becomes_a_bounded_amount_of_json(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def to_json(event: bytes) -> bytes | str:
        written.append(convert(event))
        return written[-1]

    convert = packed.to_json
    monkeypatch.setattr(websocket, "to_json", to_json)
    desk = CountingDesk(project(event_bytes=1000, request_bytes=10_000))
    events = [{**EVENT, "a": [{}] * count} for _ in range(100)]
    message = websocket.read(msgspec.msgpack.encode({"id": 1, "batch": events}), desk, KNOWN)
    assert isinstance(message, SocketMessage)
    assert message.parsed is not None
    assert sum(map(len, written)) <= 10_000 + 3000
    assert len(message.parsed.heads) + len(message.parsed.rejects) == 100
    assert {reject.reason for reject in message.parsed.rejects} == {DeadReason.TOO_LARGE}
    assert (len(message.parsed.heads) >= 3) == (count == 300)
    assert "send fewer events at once" in message.parsed.rejects[-1].detail


def test_an_acknowledgement_names_a_few_rejects_and_counts_the_others() -> None:
    rejects = [Reject(number, DeadReason.MISSING_ID, "no id", b"{}") for number in range(30)]
    ack = json.loads(websocket.write_ack(False, 1, Accepted(5, rejects), 1))
    assert (len(ack["rejected"]), ack["rejects_not_shown"]) == (10, 20)
    assert "rejects_not_shown" not in json.loads(websocket.write_ack(False, 1, Accepted(5, rejects[:10]), 1))


@pytest.mark.parametrize("name", dear_bodies.DEAREST_PACKED)
def test_no_packed_message_within_the_limit_holds_up_the_neighbours_for_long(name: str) -> None:
    message = dear_bodies.PACKED[name]()
    assert len(message) <= dear_bodies.BODY_BYTES
    dear_bodies.check_cost(lambda: websocket.read(message, CountingDesk(), KNOWN))


def test_a_handshake_has_few_keys() -> None:
    offered = ", ".join(["penstock.v1", "key.d2Vi", *["key.b3RoZXI"] * 1000])
    found = websocket.credentials(get("/v1/ws")._replace(headers={"sec-websocket-protocol": offered}))
    assert Credential("header", "web") in found
    assert len(found) <= websocket.MAX_OFFERED


def test_a_key_in_each_message_takes_the_place_of_the_one_before() -> None:
    known: tuple[Credential, ...] = KNOWN
    for number in range(50):
        found = websocket.read(json.dumps({"key": "web", "id": number, "event": EVENT}), CountingDesk(), known)
        assert isinstance(found, SocketMessage)
        known = tuple(found.credentials)
    assert known == (Credential("body", "web"), *KNOWN)
