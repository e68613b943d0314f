"""Messages over WebSocket, as far as no connection is needed to judge them."""

from __future__ import annotations

import tracemalloc

import msgspec
import pytest

from ingest.contract import Credential, SocketMessage, SocketProblem
from ingest.protocols import websocket
from tests.unit.ingest.desks import CountingDesk

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
