"""What every protocol of open connections promises (`ingest/contract.py`), held against every file of `ingest/protocols/`."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ingest.contract import Accepted, Credential, HttpRequest, Reject, SocketMessage, SocketProblem, SocketProtocol
from ingest.http.routes import Routes
from ingest.registry import http_protocols, socket_protocols
from shared.events.event import facts_of, materialise
from shared.events.frame import RequestContext
from shared.events.outcome import DeadReason
from tests.contract.protocols.test_http_protocols import bodies, events, values
from tests.unit.ingest.desks import CountingDesk

PROTOCOLS = [pytest.param(protocol, id=protocol.NAME) for protocol in socket_protocols()]
KNOWN = [Credential("query", "web")]
FACTS = facts_of(RequestContext(0, "test", "web"))

envelopes = st.fixed_dictionaries(
    {},
    optional={
        "id": values,
        "key": st.sampled_from(["web", "nobody", 5]),
        "ping": values,
        "batch": st.lists(events | values, max_size=4) | values,
        "event": events | values,
        "sentAt": values,
        "context": values,
        "integrations": values,
    },
)


def packed(value: Any) -> bytes:
    try:
        return msgspec.msgpack.encode(value)
    except (OverflowError, UnicodeEncodeError):
        return b"\x80"


messages: st.SearchStrategy[str | bytes] = st.one_of(
    bodies.map(lambda body: body.decode("utf-8", "replace")),
    envelopes.map(json.dumps),
    st.binary(max_size=100),
    envelopes.map(packed),
    st.tuples(envelopes.map(packed), st.integers(0, 60), st.binary(max_size=2)).map(
        lambda cut: cut[0][: cut[1]] + cut[2] + cut[0][cut[1] :]
    ),
)


def read_back(written: str | bytes, binary: bool) -> Any:
    assert isinstance(written, bytes) is binary
    return json.loads(written) if isinstance(written, str) else msgspec.msgpack.decode(written)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(data=messages, known=st.booleans())
@example(data="[" * 100_000, known=True)
@example(data=b"\x91" * 100_000, known=True)
@example(data=b"\x82\xa2id\x01\xa5batch\x91" + b"\x81\xa1a" * 5_000 + b"\xc0", known=True)
@example(data="\ud800", known=True)
def test_any_message_is_read_or_answered_and_what_is_accepted_can_be_read_by_everybody(
    protocol: SocketProtocol, data: str | bytes, known: bool
) -> None:
    binary = isinstance(data, bytes)
    result = protocol.read(data, CountingDesk(), KNOWN if known else ())
    if isinstance(result, SocketProblem):
        assert result.code
        assert result.message
        read_back(protocol.write_problem(binary, result), binary)
        return
    assert isinstance(result, SocketMessage)
    if result.parsed is None:
        return
    for head, body in zip(result.parsed.heads, map(bytes, result.parsed.bodies), strict=True):
        assert head.message_id
        assert materialise(body, head, FACTS)["type"] == head.type
    positions = [reject.position for reject in result.parsed.rejects]
    assert len(positions) == len(set(positions))
    accepted = Accepted(len(result.parsed.heads), result.parsed.rejects)
    answer = read_back(protocol.write_ack(binary, result.id, accepted, 5), binary)
    assert answer["accepted"] + len(answer["rejected"]) + answer.get("rejects_not_shown", 0) == len(positions) + len(
        result.parsed.heads
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("binary", [False, True])
def test_everything_it_writes_can_be_read(protocol: SocketProtocol, binary: bool) -> None:
    assert read_back(protocol.write_hello(binary, 3), binary)
    assert read_back(protocol.write_pong(binary, {"a": [1]}), binary)
    reject = Reject(0, DeadReason.MISSING_ID, "no id", b"\xff")
    assert read_back(protocol.write_ack(binary, "x", Accepted(1, [reject]), 3), binary)
    problem = read_back(protocol.write_problem(binary, SocketProblem("code", "words", 7, 2)), binary)
    assert problem["id"] == 7


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_its_path_is_its_own(protocol: SocketProtocol) -> None:
    assert Routes(http_protocols()).find("GET", protocol.PATH) is None
    request = HttpRequest("GET", protocol.PATH, {}, {"writeKey": "web"}, {}, b"")
    assert Credential("query", "web") in protocol.credentials(request)
