"""Odd request bodies for every parser of the edge, and what must hold whatever a parser is given.

Used by property tests (`tests/unit/ingest/test_fuzz.py`, `make fuzz` for many more examples) and by the fuzzer that is guided by
coverage (`tests/fuzz/parsers.py`).
"""

from __future__ import annotations

import json
import random
import string
import time
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

from ingest.contract import Accepted, HttpRequest, Parsed, Refusal, Reply, SocketMessage, SocketProblem
from ingest.protocols import segment, snowplow, websocket
from shared.events.event import facts_of, materialise
from shared.events.frame import RequestContext
from shared.events.outcome import DeadReason
from tests.support.dear_bodies import MAX_CPU_SECONDS
from tests.unit.ingest.desks import CountingDesk, project

FACTS = facts_of(RequestContext(0, "test", "web"))
SMALL_PROJECT = project(event_bytes=4096, request_bytes=1 << 20, events_per_request=50, depth=10, keys=60)
LIMITS = SMALL_PROJECT.sites["shop"].limits

_TOKENS = (
    b"NaN", b"-Infinity", b"\\ud800", b"\\ud83d\\ude00", b"\\u0000", b"\\x", b'"batch":[', b'"writeKey":"web",', b'"type":"page",',
    b"{", b"}", b"[", b"]", b'"', b",", b":", b"null", b"1e999", b"01", b"-", b"\xff", b"\xef\xbb\xbf", b"\xc3", b"\x00", b"\n", b" ",
    b"\\", b"\\u00", b"9" * 40, b"[" * 12, b'{"a":' * 12, b'"__sql_type":1,', b"\xe2\x80\x8b", b'"sentAt":1772366400000,', b'"userId":7,',
)  # fmt: skip

_names = st.sampled_from(
    ["type", "event", "userId", "messageId", "anonymousId", "properties", "traits", "context", "batch", "writeKey", "sentAt",
     "groupId", "previousId", "integrations", "a", "", "é"]
)  # fmt: skip
_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from(["track", "page", "u", "web", "\ud800", "\u200b", "\0", " ", "x" * 50]),
)  # fmt: skip
_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=5), max_leaves=10
)
_good = st.fixed_dictionaries(
    {"type": st.sampled_from(["track", "page", "identify", "group", "alias"]), "event": st.just("Sold"), "userId": st.just("u")},
    optional={
        "messageId": st.uuids().map(str),
        "properties": st.dictionaries(_names, _values, max_size=4),
        "groupId": st.just("g"),
    },
)
_events = _good | st.dictionaries(_names, _values, max_size=6) | _values
_beside = st.dictionaries(st.sampled_from(["context", "integrations", "sentAt", "writeKey", "sequence"]), _values, max_size=3)
_whole = st.one_of(
    st.tuples(st.lists(_events, max_size=6), _beside).map(lambda parts: {"batch": parts[0], **parts[1]}),
    st.tuples(_beside, st.lists(_events, max_size=6)).map(lambda parts: {**parts[0], "batch": parts[1]}),
    st.lists(_events, max_size=6),
    _events,
)


def _written(value: object, separators: tuple[str, str], *, ascii_only: bool) -> bytes:
    return json.dumps(value, ensure_ascii=ascii_only, separators=separators).encode("utf-8", "surrogatepass")


texts = st.builds(_written, _whole, st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " : ")]), ascii_only=st.booleans())
"""Batches and single events as clients write them."""

seeds = st.integers(0, 2**32 - 1)


def mutations(text: bytes, seed: int, count: int) -> Iterator[bytes]:
    """Yields a text, and `count` - 1 that differ in some places: drawing each from a strategy would take fifty times as long."""
    chance = random.Random(seed)
    yield text
    for _ in range(count - 1):
        body = text if chance.random() < 0.9 else chance.randbytes(chance.randrange(200))
        for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
            body = _changed(body, chance)
        yield body


def _changed(body: bytes, chance: random.Random) -> bytes:
    at, size = chance.randrange(len(body) + 1), chance.choice((1, 1, 2, 5, 20, 60))
    match chance.randrange(7):
        case 0:
            return body[:at] + body[at + size :]
        case 1:
            return body[: len(body) - size]
        case 2:
            return body[: at + size] + body[at:]
        case 3 if body:
            at = min(at, len(body) - 1)
            return body[:at] + bytes([body[at] ^ (1 << chance.randrange(8))]) + body[at + 1 :]
        case 4:
            piece = body[at : at + 60]
            at = chance.randrange(len(body) + 1)
            return body[:at] + piece + body[at:]
        case _:
            return body[:at] + chance.choice(_TOKENS) + body[at:]


content_types = st.sampled_from(
    [
        "application/json",
        "text/plain;charset=UTF-8",
        "application/json; charset=iso-8859-1",
        "x; charset=utf-16",
        "x;charset=rot13",
    ]
)
keys = st.sampled_from([{"x-write-key": "web"}, {}, {"authorization": "Bearer x"}, {"x-write-key": "nobody"}])
routes = st.sampled_from([each.path for each in segment.ROUTES if each.method == "POST"])
queries = st.dictionaries(
    st.sampled_from(["data", "writeKey", "userId", "a.b.c", "event", "."]) | st.text(string.printable, max_size=5),
    st.text(max_size=40),
    max_size=5,
)


def within_time(check: Callable[[], object]) -> None:
    """Runs a check; one that took long is measured again, in CPU time of its own, because the machine may be busy."""
    began = time.perf_counter()
    check()
    if time.perf_counter() - began > MAX_CPU_SECONDS:
        started = time.process_time()
        check()
        assert time.process_time() - started < MAX_CPU_SECONDS


def check_segment(asked: HttpRequest) -> Parsed | None:
    """Parses a request; holds what must be true of whatever comes out."""
    result = segment.parse(asked, CountingDesk(SMALL_PROJECT))
    if isinstance(result, Reply):
        assert result.status == 200
        return None
    if isinstance(result, Refusal):
        assert 400 <= result.status < 500
        answer = segment.reply(asked, result)
        assert asked.route == segment.PIXEL or (answer.status == result.status and json.loads(answer.body)["code"] == result.code)
        return None
    check_parsed(result, _sent(asked))
    segment.reply(asked, Accepted(len(result.heads), result.rejects))
    return result


def check_snowplow(asked: HttpRequest) -> None:
    """Parses a request of a tracker; an accepted event can be read, and a reject stays one when it is judged again."""
    result = snowplow.parse(asked, CountingDesk(SMALL_PROJECT))
    if isinstance(result, Reply | Refusal):
        assert 200 <= result.status < 500
        return
    for head, body in zip(result.heads, result.bodies, strict=True):
        assert head.message_id
        assert isinstance(json.loads(bytes(body)), dict)
    for reject in result.rejects:
        again = Parsed(result.admission)
        snowplow.judge_again(again, reject.body, result.form, lambda: "made")
        assert [each.reason for each in again.rejects] == [reject.reason]
    snowplow.reply(asked, Accepted(len(result.heads), result.rejects))


def check_message(data: str | bytes) -> None:
    """Reads a WebSocket message; holds what must be true of whatever comes out."""
    read = websocket.read(data, CountingDesk(SMALL_PROJECT), ())
    if isinstance(read, SocketProblem):
        assert read.code
        websocket.write_problem(isinstance(data, bytes), read)
    elif isinstance(read, SocketMessage) and read.parsed is not None:
        check_parsed(read.parsed, None)
        websocket.write_ack(isinstance(data, bytes), read.id, Accepted(1, read.parsed.rejects), 1)


def check_parsed(parsed: Parsed, sent: int | None) -> None:
    """Every event is accepted or rejected; what is accepted is strict JSON within the limits, and everybody can read it."""
    assert len(parsed.heads) == len(parsed.bodies)
    if sent is not None:
        assert len(parsed.heads) + len(parsed.rejects) == sent
    positions = [reject.position for reject in parsed.rejects]
    assert len(set(positions)) == len(positions)
    for head, body in zip(parsed.heads, map(bytes, parsed.bodies), strict=True):
        assert head.message_id.strip()
        assert head.type
        assert len(body) <= LIMITS.event_bytes
        value = _strictly(body)
        assert type(value) is dict
        assert _depth(value) <= LIMITS.depth
        if b"e" not in body.lower():  # a number beyond a double is found by the loader
            event = materialise(body, head, FACTS)
            assert (event["type"], event["messageId"]) == (head.type, head.message_id)
    for reject in parsed.rejects:
        assert isinstance(reject.reason, DeadReason)
        assert reject.detail
    if parsed.defaults is not None:
        assert type(_strictly(parsed.defaults)) is dict


def _sent(asked: HttpRequest) -> int | None:
    """Returns how many events a body holds, where Python's own reader can tell."""
    if asked.route not in ("/v1/batch", "/v1/import", "/v1/b"):
        return 1
    try:
        value = json.loads(asked.body)
    except (ValueError, RecursionError):
        return None
    batch = value.get("batch") if isinstance(value, dict) else value
    return len(batch) if isinstance(batch, list) else None


def _strictly(body: bytes) -> Any:
    value = json.loads(body.decode("utf-8"), parse_constant=_refuse)
    json.dumps(value, ensure_ascii=False).encode("utf-8")  # no half surrogate pair
    return value


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def _depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 0
