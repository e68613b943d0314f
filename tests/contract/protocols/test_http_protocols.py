"""What every HTTP protocol promises (`ingest/contract.py`), held against every file of `ingest/protocols/`."""

from __future__ import annotations

import json
import string
from collections import Counter
from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ingest.contract import Accepted, HttpProtocol, HttpRequest, Parsed, Refusal, Reject, Reply, Route
from ingest.http.routes import Routes
from ingest.registry import http_protocols
from shared.events.event import facts_of, materialise
from shared.events.frame import RequestContext
from shared.events.outcome import DeadReason
from shared.events.rescue import UNREADABLE, rescue
from tests.unit.ingest.desks import CountingDesk

PROTOCOLS = http_protocols()
CASES = [
    pytest.param(protocol, route, id=f"{protocol.NAME} {route.method} {route.path}")
    for protocol in PROTOCOLS
    for route in protocol.ROUTES
]
FACTS = facts_of(RequestContext(0, "test", "web"))

IMAGES = {"image/gif"}
BARE = {*IMAGES, "text/plain", "text/plain; charset=utf-8", "text/javascript; charset=utf-8"}
"""Success in these is no JSON."""

words = st.sampled_from(
    ["ue", "pv", "e30", '{"schema":"s","data":[]}', "track", "page", "u", "", "web", "\ud800", "a.b", "é", "x" * 50]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | words
keys = st.sampled_from(["e", "data", "ue_px", "ue_pr", "co", "cx", "eid", "uid", "type", "event", "userId", "messageId", "anonymousId", "properties", "traits", "context", "batch",
                        "writeKey", "sentAt", "__sql_type", "groupId", "previousId", "integrations", "a"])  # fmt: skip
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=6), max_leaves=12
)
events = st.dictionaries(keys, values, max_size=8)


def written(value: object) -> bytes:
    """JSON as Python writes it: NaN, Infinity and lone surrogates included."""
    return json.dumps(value).encode()


whole = st.one_of(
    events.map(written),
    st.lists(events | values, max_size=4).map(lambda items: written({"batch": items, "writeKey": "web"})),
    st.lists(events | values, max_size=4).map(lambda items: written({"data": [*items, {"e": "pv"}]})),
    values.map(written),
)
bodies = st.one_of(
    st.binary(max_size=200),
    whole,
    st.tuples(whole, st.integers(0, 300), st.binary(max_size=3)).map(lambda cut: cut[0][: cut[1]] + cut[2] + cut[0][cut[1] :]),
    st.tuples(whole, st.integers(0, 300)).map(lambda cut: cut[0][: cut[1]]),
    st.text(alphabet='{}[]",:\\ab1', max_size=80).map(str.encode),
)
queries = st.dictionaries(
    st.sampled_from(["e", "nuid", "ue_px", "cx", "data", "writeKey", "userId", "a.b.c", "a", "event", "."]) | st.text(max_size=5),
    st.text(max_size=20),
    max_size=5,
)
headers = st.dictionaries(
    st.sampled_from(["cookie", "sp-anonymous", "origin", "referer", "authorization", "x-write-key", "content-type"]),
    st.sampled_from(["web", "Basic d2ViOg==", "Basic !", "Bearer", "Bearer x", "\udcff", ":"])
    | st.text(string.printable, max_size=10),
)


def request(route: Route, body: bytes, query: Mapping[str, str], some_headers: Mapping[str, str]) -> HttpRequest:
    parts = [part[1:-1] for part in route.path.split("/") if part.startswith("{")]
    params = {name: {"type": "page", "key": "web"}.get(name, "x") for name in parts}
    return HttpRequest(route.method, route.path, params, query, some_headers, body, "shop.example.com", "http://localhost")


def check_reply(reply: Reply) -> None:
    assert 200 <= reply.status < 500
    if reply.content_type not in BARE:
        answer = json.loads(reply.body)
        assert reply.status == 200 or (answer["code"] and answer["message"])


@pytest.mark.parametrize(("protocol", "route"), CASES)
@given(body=bodies, query=queries, some_headers=headers)
@example(body=b"[" * 100_000, query={}, some_headers={})
@example(body=b'{"batch":[' + b'{"a":' * 50_000, query={}, some_headers={})
@example(body=b'{"userId":' + b"9" * 10_000 + b"}", query={}, some_headers={})
@example(body=b'{"batch":[{"type":"page","userId":1e999}]}', query={}, some_headers={})
@example(body=b"", query={"data": "e30", ".": "", "a." * 500: "x"}, some_headers={})
def test_any_bytes_are_parsed_or_refused_below_500_and_what_is_accepted_can_be_read_by_everybody(
    protocol: HttpProtocol, route: Route, body: bytes, query: Mapping[str, str], some_headers: Mapping[str, str]
) -> None:
    asked = request(route, body, query, some_headers)
    result = protocol.parse(asked, CountingDesk())
    if isinstance(result, Reply):
        check_reply(result)
        return
    if isinstance(result, Refusal):
        assert 400 <= result.status < 500
        check_reply(protocol.reply(asked, result))
        return
    assert len(result.heads) == len(result.bodies)
    for head, accepted in zip(result.heads, map(bytes, result.bodies), strict=True):
        assert head.message_id
        assert head.type
        assert head.request == 0
        msgspec.msgpack.encode(head)
        try:
            event = materialise(accepted, head, FACTS)
        except UNREADABLE as exc:  # numbers of thousands of digits: the loader reads them so
            rescued = rescue(body=accepted, head=head, facts=FACTS, first=exc, notes=Counter())
            assert isinstance(rescued, dict), rescued
            event = rescued
        assert event["type"] == head.type
    for reject in result.rejects:
        assert isinstance(reject.reason, DeadReason)
        assert reject.detail
    if result.defaults is not None:
        assert isinstance(json.loads(result.defaults), dict)
    check_reply(protocol.reply(asked, Accepted(len(result.heads), result.rejects)))


@pytest.mark.parametrize(("protocol", "route"), CASES)
def test_every_kind_of_outcome_can_be_answered(protocol: HttpProtocol, route: Route) -> None:
    asked = request(route, b"", {}, {})
    reject = Reject(0, DeadReason.MISSING_ID, "no id", b"\xff")
    for outcome in (Accepted(1), Accepted(0, [reject]), Accepted(0)):
        reply = protocol.reply(asked, outcome)
        assert reply.status == 200
        check_reply(reply)
    for status in (400, 401, 413, 429, 503):
        reply = protocol.reply(asked, Refusal(status, "code", "words", retry_after=3 if status in (429, 503) else None))
        if reply.content_type not in IMAGES:
            assert reply.status == status
            told = json.loads(reply.body)  # OTLP's `code` is a number; ours then begins the message
            assert told["code"] == "code" or (isinstance(told["code"], int) and told["message"].startswith("code: "))
        assert status not in (429, 503) or reply.content_type in IMAGES or reply.headers["Retry-After"] == "3"


@pytest.mark.parametrize(("protocol", "route"), CASES)
def test_credentials_are_found_without_the_body_and_parse_finds_no_others_before_them(
    protocol: HttpProtocol, route: Route
) -> None:
    asked = request(route, b"", {}, {"x-write-key": "web"})
    found = protocol.credentials(asked)
    assert found
    assert all(credential.carrier not in ("body", "event") for credential in found)


def test_protocols_claim_distinct_routes_and_every_route_is_found() -> None:
    routes = Routes(PROTOCOLS)
    for protocol in PROTOCOLS:
        for route in protocol.ROUTES:
            path = route.path.replace("{", "").replace("}", "")
            match = routes.find(route.method, path)
            assert match is not None
            assert match.route == route.path
            assert routes.find(route.method, path + "/") is not None


def test_accepted_events_of_a_parsed_request_are_never_more_than_it_held() -> None:
    protocol = next(each for each in PROTOCOLS if each.NAME == "segment")
    result = protocol.parse(request(Route("POST", "/v1/batch"), b'{"batch":[{},{},{}]}', {}, {}), CountingDesk())
    assert isinstance(result, Parsed)
    assert len(result.heads) + len(result.rejects) == 3
