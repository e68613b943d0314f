"""Bodies of Segment's protocol that are almost JSON, none at all, too deep, too large or dear."""

from __future__ import annotations

from functools import partial

import pytest

from ingest.protocols import segment
from shared.events.outcome import DeadReason
from tests.support import dear_bodies
from tests.unit.ingest.calls import KEY, batch, parsed, refused
from tests.unit.ingest.desks import CountingDesk, post, project


@pytest.mark.parametrize(
    ("event", "clean"),
    [
        ('{"type":"page","userId":"u","n":NaN}', '{"type":"page","userId":"u","n":null}'),
        ('{"type":"page","userId":"u","n":-Infinity}', '{"type":"page","userId":"u","n":null}'),
        ('{"type":"page","userId":"u","t":"\\ud800x"}', '{"type":"page","userId":"u","t":"�x"}'),
        ('{"type":"page","userId":"u","t":"\\ud83d\\ude00"}', '{"type":"page","userId":"u","t":"\\ud83d\\ude00"}'),
        ('{"type":"page","userId":"u","t":"a\nb"}', '{"type":"page","userId":"u","t":"a\\nb"}'),
        ('{"type":"page","userId":"u","t":"a\x00b"}', '{"type":"page","userId":"u","t":"a\\u0000b"}'),
    ],
)
def test_almost_json_is_mended_alone_and_counted(event: str, clean: str) -> None:
    neighbour = '{"type":"page","userId":"u", "price":1.10}'
    result = parsed("/v1/batch", batch(neighbour, event, neighbour))
    assert not result.rejects
    assert result.bodies[0] == result.bodies[2] == neighbour.encode()
    assert result.bodies[1] == clean.encode()
    assert result.repaired == (event != clean)


@pytest.mark.parametrize(
    "broken", ['{"type":"page",}', "{'type':'page'}", "undefined", '{"type":"page" "userId":"u"}', '{"a":01}']
)
def test_an_event_that_is_no_json_at_all_is_cut_out_of_its_batch(broken: str) -> None:
    good = '{"type":"page","userId":"u","messageId":"%s"}'
    result = parsed("/v1/batch", batch(good % "1", broken, good % "2", sentAt='"2026-01-01T00:00:00Z"'))
    assert [head.message_id for head in result.heads] == ["1", "2"]
    assert [(reject.position, reject.reason) for reject in result.rejects] == [(1, DeadReason.MALFORMED_JSON)]
    assert result.sent_at == "2026-01-01T00:00:00Z"


def test_stray_bytes_are_replaced_and_only_their_event_counts_as_repaired() -> None:
    good = b'{"type":"page","userId":"u"}'
    bad = b'{"type":"page","userId":"u","name":"caf\xe9"}'
    result = parsed("/v1/batch", b'{"batch":[' + good + b"," + bad + b"]}")
    assert result.bodies == [good, bad.replace(b"\xe9", "�".encode())]
    assert result.repaired == 1


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"])
def test_a_byte_order_mark_does_not_matter(mark: bytes) -> None:
    text = '{"userId":"ü"}'
    encoding = {b"\xef\xbb\xbf": "utf-8", b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}[mark]
    assert parsed("/v1/page", mark + text.encode(encoding)).bodies == [text.encode()]


@pytest.mark.parametrize(
    ("route", "body", "code"),
    [
        ("/v1/track", b"", "empty_body"),
        ("/v1/batch", b"  ", "empty_body"),
        ("/v1/track", b"nonsense", "invalid_json"),
        ("/v1/track", b"[1]", "invalid_json"),
        ("/v1/track", b"5", "invalid_json"),
        ("/v1/track", b'{"a":', "invalid_json"),
        ("/v1/track", b'{"a":' + b"[" * 100_000, "invalid_json"),
        ("/v1/track", b"\xff\x00\xfe", "invalid_json"),
        ("/v1/batch", b"{}", "invalid_batch"),
        ("/v1/batch", b'{"batch":{}}', "invalid_batch"),
        ("/v1/batch", b'{"batch":null}', "invalid_batch"),
        ("/v1/batch", b'{"batch":[{"type":"page"', "invalid_json"),
        ("/v1/batch", b'{"batch":[{"type":"page]}', "invalid_json"),
        ("/v1/batch", b'{"batch":[' + b"[" * 100_000, "invalid_json"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_with_400_and_a_code(route: str, body: bytes, code: str) -> None:
    refusal = refused(route, body)
    assert (refusal.status, refusal.code) == (400, code)
    assert refusal.message


def test_a_broken_body_is_refused_with_the_place_where_it_breaks() -> None:
    assert "line 2, column 5" in refused("/v1/track", '{"a":1,\n"b" 2}').message


def test_an_event_nested_a_thousand_levels_deep_does_not_cost_its_neighbours() -> None:
    deep = '{"type":"page","userId":"u","a":' + "[" * 5000 + "]" * 5000 + "}"
    result = parsed("/v1/batch", batch('{"type":"page","userId":"u"}', deep))
    assert len(result.heads) == 1
    assert [reject.reason for reject in result.rejects] == [DeadReason.TOO_DEEP]


@pytest.mark.parametrize("inner", ["[%s]", '{"a":%s}', '{"a":[%s]}'])
def test_objects_and_arrays_are_both_levels(inner: str) -> None:
    levels = 2 if "[" in inner and "{" in inner else 1

    def event(depth: int) -> str:
        text = "1"
        for _ in range((depth - 1) // levels):
            text = inner % text
        return f'{{"type":"page","userId":"u","context":{text}}}'

    result = parsed("/v1/batch", batch(event(63), event(65)))
    assert len(result.heads) == 1
    assert [reject.reason for reject in result.rejects] == [DeadReason.TOO_DEEP]


@pytest.mark.parametrize("name", dear_bodies.DEAREST)
def test_no_body_within_the_limit_holds_up_the_neighbours_for_long(name: str) -> None:
    body = dear_bodies.JSON[name]()
    assert len(body) <= dear_bodies.BODY_BYTES
    for headers in (KEY, {}):
        asked = post("/v1/batch", body, headers=headers)
        dear_bodies.check_cost(partial(segment.parse, asked, CountingDesk()))


def test_an_almost_json_body_too_large_to_be_mended_is_told_where_it_breaks() -> None:
    refusal = refused("/v1/page", '{"userId":"u","a":NaN,"text":"' + "x" * 2**20 + '"}')
    assert (refusal.status, refusal.code) == (400, "invalid_json")
    assert "byte 18" in refusal.message
    assert "524288 bytes" in refusal.message


def test_an_event_that_grows_beyond_the_limit_when_mended_is_rejected_with_its_own_bytes() -> None:
    event = '{"type":"page","userId":"u","a":"' + "\x01" * 200 + '"}'
    result = parsed("/v1/batch", batch(event, '{"type":"page","userId":"u"}'), CountingDesk(project(event_bytes=500)))
    assert len(result.heads) == 1
    assert [(reject.reason, reject.body) for reject in result.rejects] == [(DeadReason.TOO_LARGE, event.encode())]


def test_a_mended_event_that_is_rejected_all_the_same_keeps_its_own_bytes() -> None:
    event = '{"type":"track","userId":5,"a":NaN}'
    assert parsed("/v1/batch", batch(event)).rejects[0].body == event.encode()


def test_a_single_event_beyond_the_limit_is_refused_with_413_and_its_size() -> None:
    refusal = refused("/v1/page", '{"userId":"u","t":"' + "x" * 1000 + '"}', CountingDesk(project(event_bytes=500)))
    assert refusal.status == 413
    assert "1021 bytes" in refusal.message
    assert "500" in refusal.message


def test_more_events_than_the_site_allows_are_refused_with_413() -> None:
    refusal = refused("/v1/batch", batch(*["{}"] * 5), CountingDesk(project(events_per_request=4)))
    assert (refusal.status, refusal.code) == (413, "too_many_events")
