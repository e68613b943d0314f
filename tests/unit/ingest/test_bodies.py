"""What happens to bodies that are odd: ids nobody sees, members twice, charsets, clocks, repeats, and what a stranger's body may cost."""

from __future__ import annotations

import gzip
import json
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from multidict import CIMultiDict

from ingest.clients.address import Proxies
from ingest.clients.early import SMALL_BYTES
from ingest.clients.keys import KeyIndex
from ingest.contract import Accepted, Parsed, Refusal, Reject, SocketMessage, SocketProblem
from ingest.http.pipeline import Pipeline
from ingest.http.routes import Routes
from ingest.intake.intake import Intake
from ingest.judge import calls
from ingest.judge.batch import LARGE_BYTES
from ingest.judge.encoding import MOST_UNKNOWN
from ingest.limits.bounds import Bounds, Held
from ingest.protocols import segment, websocket
from shared.events.outcome import DeadReason
from tests.unit.ingest.desks import CountingDesk, post, project

KEY = {"x-write-key": "web"}
PAGE = '{"type":"page","userId":"u","messageId":"%s"}'


def parse(route: str, body: bytes | str, desk: CountingDesk | None = None, headers: dict[str, str] = KEY, **more: Any) -> Any:
    return segment.parse(post(route, body, headers=headers, **more), desk or CountingDesk())


def parsed(route: str, body: bytes | str, desk: CountingDesk | None = None, headers: dict[str, str] = KEY) -> Parsed:
    result = parse(route, body, desk, headers)
    assert isinstance(result, Parsed), result
    return result


def batch(*events: str, more: str = "") -> str:
    return f'{{"batch":[{",".join(events)}]{more}}}'


@pytest.mark.parametrize("blank", ["", "  ", "\\u0000", "\\u200b\\ufeff", "\\u3164", "\\u0301", "\\u00ad\\u2060 ", "\u200b"])
def test_an_id_without_a_visible_character_is_no_id(blank: str) -> None:
    result = parsed("/v1/batch", batch(f'{{"type":"page","userId":"u","messageId":"{blank}"}}'))
    assert [head.message_id for head in result.heads] == ["new-1"]
    for event in (
        f'{{"type":"page","userId":"{blank}","anonymousId":"{blank}"}}',
        f'{{"type":"track","userId":"u","event":"{blank}"}}',
        f'{{"type":"group","userId":"u","groupId":"{blank}"}}',
        f'{{"type":"alias","userId":"u","previousId":"{blank}"}}',
    ):
        assert [reject.reason for reject in parsed("/v1/batch", batch(event)).rejects] == [DeadReason.MISSING_ID]
    known = parsed("/v1/batch", batch(f'{{"type":"page","userId":"{blank}","anonymousId":"a"}}')).heads[0]
    assert (known.user_id, known.anonymous_id) == (None, "a")


@pytest.mark.parametrize("id_", ["x", " x", "\u00e9", "\u65e5\u672c", "\U0001f600", "\u200bx"])
def test_an_id_with_a_visible_character_stays(id_: str) -> None:
    assert parsed("/v1/batch", batch(PAGE % id_)).heads[0].message_id == id_


@pytest.mark.parametrize(
    "twice",
    [
        '"userId":1,"userId":"u"',
        '"userId":"u","messageId":[],"messageId":"m"',
        '"userId":"u","properties":1,"properties":{"a":1.10}',
    ],
)
def test_of_a_member_that_stands_twice_the_last_counts_whatever_the_first_is(twice: str) -> None:
    event = f'{{"type":"page",{twice}}}'
    result = parsed("/v1/batch", batch(event, PAGE % "n"))
    assert [head.user_id for head in result.heads] == ["u", "u"]
    assert msgspec.json.decode(result.bodies[0]) == msgspec.json.decode(event)
    assert parsed("/v1/page", event).bodies == result.bodies[:1]


def test_ids_that_are_one_row_in_a_warehouse_are_one_id_for_the_window_of_duplicates() -> None:
    spellings = ["a\\u0000b", "a\ufffdb", "a\\ufffdb", "\\u0061\\u0000b"]
    result = parsed("/v1/batch", batch(*[PAGE % each for each in spellings]))
    assert {head.message_id for head in result.heads} == {"a\ufffdb"}
    stray = parsed("/v1/batch", batch(PAGE % "?").encode().replace(b"?", b"a\xffb"))
    assert stray.heads[0].message_id == "a\ufffdb"


@pytest.mark.parametrize(
    "body",
    [
        '{"batch":[%s],"batch":[%s]}',
        '{"batch":[%s], "batch":[%s]}',
        '{ "batch" : [%s] , "batch" : [%s] }',
        '{"batch":[],"sentAt":"x","batch":[%s,%s]}',
        '{"batch":[%s,{"a":NaN}],"batch":[%s]}',
        '{"context":{"a":1},"batch":[%s,%s],"context":{"b":2}}',
        '{"writeKey":"web","batch":[%s,%s],"writeKey":"other"}',
        '{"bat\\u0063h":[%s],"batch":[%s]}',
    ],
)
def test_a_member_that_stands_twice_beside_the_events_is_refused(body: str) -> None:
    refusal = parse("/v1/batch", body % (PAGE % "1", PAGE % "2"))
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.code) == (400, "invalid_batch")


def test_a_second_batch_that_is_as_long_as_the_blanks_of_another_writer_is_refused() -> None:
    for count in range(1, 100):
        refusal = parse("/v1/batch", f'{{"batch":[{PAGE % "1"}],{batch(*[PAGE % "2"] * count)[1:]}')
        assert isinstance(refusal, Refusal)


def test_a_name_may_be_spelled_like_a_value() -> None:
    alike = "a" * 20
    ignored = parsed("/v1/batch", f'{{"{alike}" : 1, "x" : "{alike}", "batch" : [{PAGE % "1"}]}}').ignored
    assert ignored == ["unknown_batch_member"] * 2
    odd = '{"a" :                 "b", "c" : " :                 ", "batch" : []}'
    assert isinstance(parse("/v1/batch", odd), Parsed | Refusal)


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" , ", " : ")])
def test_blanks_and_members_in_any_order_are_read_alike(indent: int | None, separators: tuple[str, str]) -> None:
    events = [{"type": "page", "userId": "u", "messageId": str(n), "batch": [n], "properties": {"batch": "x"}} for n in range(3)]
    body = {"sentAt": "2026-01-01T00:00:00Z", "context": {"batch": {"batch": 1}}, "batch": events, "integrations": {}}
    result = parsed("/v1/batch", json.dumps(body, indent=indent, separators=separators))
    assert [head.message_id for head in result.heads] == ["0", "1", "2"]
    assert not result.ignored


def test_what_sdks_write_beside_the_events_is_no_mistake_of_the_user() -> None:
    more = ',"timestamp":"2026-01-01T00:00:00Z","sequence":1,"messageId":"m"'
    assert not parsed("/v1/batch", batch(PAGE % "1", more=more)).ignored


def test_what_stands_beside_the_events_and_means_nothing_is_counted() -> None:
    more = ',"library":1,"context":"text","integrations":[],"foo":{"a":[1]}'
    ignored = parsed("/v1/batch", batch(PAGE % "1", more=more)).ignored
    assert sorted(ignored) == [
        "context_not_an_object",
        "integrations_not_an_object",
        "unknown_batch_member",
        "unknown_batch_member",
    ]
    assert not parsed("/v1/batch", batch(PAGE % "1", more=',"context":null')).ignored


@pytest.mark.parametrize(
    ("charset", "codec"),
    [("iso-8859-1", "latin-1"), ('"ISO-8859-1"', "latin-1"), ("windows-1252", "cp1252"), ("utf-16", "utf-16"),
     ("utf-16le", "utf-16-le"), ("UTF-8", "utf-8"), ("shift_jis", "cp932"), ("gbk", "gbk")],
)  # fmt: skip
@pytest.mark.parametrize("route", ["/v1/page", "/v1/batch"])
def test_a_declared_charset_is_decoded(route: str, charset: str, codec: str) -> None:
    name = "\u65e5\u672c" if codec in ("cp932", "gbk") else "caf\u00e9"
    event = f'{{"type":"page","userId":"{name}"}}'
    body = event if route == "/v1/page" else batch(event)
    result = parsed(route, body.encode(codec), headers={**KEY, "content-type": f"application/json; charset={charset}"})
    assert result.heads[0].user_id == name
    assert result.bodies == [event.encode()]
    assert not result.repaired


def test_utf_16_without_a_mark_is_read_as_browsers_read_it() -> None:
    headers = {**KEY, "content-type": "text/plain; charset=utf-16"}
    assert parsed("/v1/page", '{"userId":"u"}'.encode("utf-16-le"), headers=headers).heads[0].user_id == "u"
    for odd in (b"{", b'{"userId":"u"}x'):
        assert isinstance(parse("/v1/page", odd, headers=headers), Refusal)


@pytest.mark.parametrize("charset", ["utf-7", "rot13", "zip", "unicode_escape", "x" * 5000])
def test_a_charset_that_is_not_decoded_is_refused_with_415(charset: str) -> None:
    refusal = parse("/v1/page", '{"userId":"u"}', headers={**KEY, "content-type": f"text/plain;charset={charset}"})
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.code) == (415, "unknown_charset")
    assert len(refusal.message) < 200


@pytest.mark.parametrize(
    ("charset", "unknown"), [("latin1", b"\x81"), ("utf-16le", b"\x00\xdc"), ("windows-1257", b"\x81"), ("", b"\x00\xdc")]
)
def test_what_a_charset_does_not_know_is_replaced_within_a_bound(charset: str, unknown: bytes) -> None:
    content_type = f"text/plain;charset={charset}"
    mark = b"" if charset else b"\xff\xfe"
    wide = not charset or "16" in charset
    few = mark + '{"type":"page","userId":"?"}'.encode("utf-16-le" if wide else "ascii").replace(
        b"?\0" if wide else b"?", unknown
    )
    assert parsed("/v1/page", few, headers={**KEY, "content-type": content_type}).heads[0].user_id == "\ufffd"
    refusal = parse("/v1/page", mark + unknown * (2 * MOST_UNKNOWN), headers={**KEY, "content-type": content_type})
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.code) == (415, "unknown_charset")


@pytest.mark.parametrize(
    ("sent_at", "read"),
    [("1772366400000", "1772366400000"), ("1772366400.5", "1772366400.5"), ('"2026-03-01T12:00:00Z"', "2026-03-01T12:00:00Z"),
     ("null", None), ("true", None), ("{}", None), ("9" * 100, None)],
)  # fmt: skip
def test_the_time_of_sending_may_be_a_number(sent_at: str, read: str | None) -> None:
    assert parsed("/v1/batch", batch(PAGE % "1", more=f',"sentAt":{sent_at}')).sent_at == read
    assert parsed("/v1/page", f'{{"userId":"u","sentAt":{sent_at}}}').sent_at == read


def test_a_request_with_an_idempotency_key_gives_its_events_the_same_ids_each_time() -> None:
    headers = {**KEY, "idempotency-key": "order-1"}
    event = '{"type":"page","userId":"u"}'

    def ids(body: str, headers: dict[str, str] = headers) -> list[str]:
        return [head.message_id for head in parsed("/v1/batch", body, headers=headers).heads]

    first = ids(batch(event, PAGE % "own", event))
    assert first == ids(batch(event, PAGE % "own", event))
    assert len(set(first)) == 3
    assert first[1] == "own"
    assert not set(first) & set(ids(batch(event, event))), "another body under the same key is another event"
    assert not set(ids(batch(event))) & set(ids(batch(event), {**headers, "idempotency-key": "order-2"}))
    single = [parsed("/v1/page", event, headers=headers).heads[0].message_id for _ in range(2)]
    assert single[0] == single[1]


def test_an_answer_says_what_was_not_accepted_and_how_much_it_does_not_show() -> None:
    request = post("/v1/track", b"")
    rejects = [Reject(n, DeadReason.MISSING_ID, "no id", b"{}") for n in range(30)]
    one = json.loads(segment.reply(request, Accepted(0, rejects[:1])).body)
    assert (one["success"], one["accepted"], one["rejected"]) == (False, 0, 1)
    assert "rejects_not_shown" not in one
    many = json.loads(segment.reply(request, Accepted(70, rejects)).body)
    assert (many["success"], len(many["rejects"]), many["rejects_not_shown"]) == (True, 10, 20)


HOSTILE = b'{"batch":[' + b"1," * (SMALL_BYTES) + b"x]}"


@pytest.mark.parametrize("headers", [{"x-write-key": "nobody"}, {"authorization": "Basic bm9ib2R5Og=="}, {}])
@pytest.mark.parametrize("route", ["/v1/batch", "/v1/track"])
def test_a_strangers_body_is_not_read(route: str, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> Any:
        raise AssertionError("the body was read")

    for name in ("Scan", "read_batch", "_decode_single", "_decode_single_item", "read_leniently"):
        monkeypatch.setattr(calls, name, fails)
    for body in (HOSTILE, HOSTILE.replace(b"x]", b'{"writeKey":"nobody"}]')):
        refusal = parse(route, body, headers=headers)
        assert isinstance(refusal, Refusal)
        assert refusal.status == 401
    if headers:
        small = parse(route, b"{", headers=headers)
        assert isinstance(small, Refusal)
        assert small.status == 401


@pytest.mark.parametrize("where", ['"writeKey":"web",', '"writeKey" : "web" ,', ""])
def test_a_large_body_may_hold_its_key_itself(where: str) -> None:
    events = ",".join([PAGE % n for n in range(2000)])
    if not where:
        events = events.replace("{", '{"writeKey":"web",', 1)
    result = parsed("/v1/batch", f'{{{where}"batch":[{events}]}}', headers={})
    assert len(result.heads) == 2000
    wrong = parse("/v1/batch", f'{{"properties":{{"writeKey":"web"}},"batch":[{events.replace("writeKey", "w")}]}}', headers={})
    assert isinstance(wrong, Refusal)
    assert wrong.status == 401, "the search only lets the body be read: the place of the key decides"


def test_a_large_body_of_too_many_events_builds_none_beyond_the_limit() -> None:
    body = b'{"batch":[' + b"1," * LARGE_BYTES + b"1]}"
    for data in (body, body[9:-1]):
        refusal = parse("/v1/batch", data, CountingDesk(project(events_per_request=50)))
        assert isinstance(refusal, Refusal)
        assert (refusal.status, refusal.code) == (413, "too_many_events")
    good = b'{"batch":[' + b",".join([b'{"type":"page","userId":"u","x":"%s"}' % (b"x" * 20_000)] * 50) + b"]}"
    assert len(good) > LARGE_BYTES
    assert len(parsed("/v1/batch", good, CountingDesk(project(events_per_request=50))).heads) == 50
    assert len(parsed("/v1/batch", good[9:-1], CountingDesk(project(events_per_request=50))).heads) == 50


def test_a_packed_array_is_counted_before_it_is_built() -> None:
    message = msgspec.msgpack.encode({"id": 1, "key": "web", "batch": [1] * 2_000_000})
    problem = websocket.read(message, CountingDesk(), ())
    assert isinstance(problem, SocketProblem)
    assert (problem.code, problem.id) == ("too_many_events", 1)


def test_a_packed_event_beyond_the_limit_is_rejected_unread_and_its_neighbours_are_accepted() -> None:
    events = [
        {"type": "page", "userId": "u"},
        {"type": "page", "a": [1] * 1000},
        {"type": "page", "a": b"x" * 900},
        {"type": "page"},
    ]
    message = msgspec.msgpack.encode({"id": 1, "key": "web", "batch": events})
    read = websocket.read(message, CountingDesk(project(event_bytes=1000)), ())
    assert isinstance(read, SocketMessage)
    assert read.parsed is not None
    assert len(read.parsed.heads) == 1
    reasons = {reject.position: reject.reason for reject in read.parsed.rejects}
    assert reasons == {1: DeadReason.TOO_LARGE, 2: DeadReason.TOO_LARGE, 3: DeadReason.MISSING_ID}
    assert all(reject.body == msgspec.msgpack.encode(events[reject.position]) for reject in read.parsed.rejects)


def test_valid_pairs_of_escaped_surrogates_are_left_alone_and_half_ones_become_the_replacement_character() -> None:
    good = '{"type":"page","userId":"u","t":"\\ud83d\\ude00","n":1.10}'
    bad = '{"type":"page","userId":"u","t":"\\\\ud83d\\ude00"}'
    result = parsed("/v1/batch", batch(good, bad))
    assert result.bodies[0] == good.encode()
    assert json.loads(result.bodies[1])["t"] == "\\ud83d\ufffd"
    assert result.repaired == 1


def test_a_request_has_a_bounded_amount_of_almost_json_and_what_is_beyond_it_is_a_dead_letter() -> None:
    event = '{"type":"page","userId":"u","a":NaN,"t":"' + "x" * 200_000 + '"}'
    result = parsed("/v1/batch", batch(*[event] * 5, PAGE % "good"))
    assert (len(result.heads), len(result.rejects), result.repaired) == (3, 3, 2)
    assert {reject.reason for reject in result.rejects} == {DeadReason.MALFORMED_JSON}
    assert "524288 bytes" in result.rejects[0].detail


def test_a_strangers_body_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> bytes:
        raise AssertionError("the body was unpacked")

    pipeline = Pipeline(
        cast("Intake", SimpleNamespace(keys=KeyIndex(project()), proxies=Proxies(), telemetry=SimpleNamespace(tracing=None))),
        Routes([segment]),
    )
    match = pipeline.find("POST", "/v1/batch")
    assert match is not None
    held = Held(Bounds(max_requests=1, max_body_bytes=1000))
    packed = gzip.compress(b"{}")
    assert pipeline.unpack(match, "POST", "", CIMultiDict(KEY), packed, 1000, held) == b"{}"
    monkeypatch.setattr("ingest.http.pipeline.decode_body", fails)
    for headers in ({"x-write-key": "nobody"}, {"authorization": "Basic bm9ib2R5Og==", "content-encoding": "br"}):
        refusal = pipeline.unpack(match, "POST", "", CIMultiDict(headers), packed, 1000, held)
        assert isinstance(refusal, Refusal)
        assert (refusal.status, refusal.code) == (401, "unknown_key")


def test_what_is_wrong_with_json_is_said_in_one_sentence() -> None:
    refusal = parse("/v1/batch", '{"batch": [{"type": "pa')
    assert isinstance(refusal, Refusal)
    assert refusal.message.endswith("Unterminated string starting at line 1, column 21")
