"""Segment's protocol: what every call becomes, and that one bad event hurts only itself."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ingest.contract import Parsed
from ingest.protocols import segment
from shared.events.frame import Head
from shared.events.outcome import DeadReason
from tests.unit.ingest.calls import batch, parsed, refused
from tests.unit.ingest.desks import CountingDesk, post, project


@pytest.mark.parametrize(
    ("path", "event", "head"),
    [
        ("track", {"event": "Sold", "userId": "u"}, Head("new-1", "track", "Sold", "u")),
        ("t", {"event": "Sold", "anonymousId": "a", "userId": None}, Head("new-1", "track", "Sold", None, "a")),
        ("identify", {"userId": "u", "traits": {"a": 1}}, Head("new-1", "identify", None, "u")),
        ("i", {"userId": "u", "messageId": "m"}, Head("m", "identify", None, "u")),
        ("page", {"userId": "u", "name": "Home"}, Head("new-1", "page", None, "u")),
        ("p", {"anonymousId": "a"}, Head("new-1", "page", None, None, "a")),
        ("screen", {"userId": "u"}, Head("new-1", "screen", None, "u")),
        ("s", {"userId": "u"}, Head("new-1", "screen", None, "u")),
        ("group", {"userId": "u", "groupId": "g"}, Head("new-1", "group", None, "u")),
        ("g", {"anonymousId": "a", "groupId": "g"}, Head("new-1", "group", None, None, "a")),
        ("alias", {"userId": "u", "previousId": "p"}, Head("new-1", "alias", None, "u")),
        ("a", {"userId": "u", "previousId": "p"}, Head("new-1", "alias", None, "u")),
    ],
)
def test_every_call_becomes_its_type_and_keeps_the_clients_bytes(path: str, event: dict[str, Any], head: Head) -> None:
    body = json.dumps(event, indent=1)
    result = parsed(f"/v1/{path}", body)
    assert result.heads == [head]
    assert result.bodies == [body.encode()]
    assert not result.rejects


@pytest.mark.parametrize("path", ["batch", "import", "b"])
def test_a_batch_gives_its_events_in_order_with_bytes_untouched(path: str) -> None:
    first = '{ "type":"track", "event":"A", "userId":"u", "messageId":"1", "price":1.10, "x":1.10 }'
    second = '{"type":"page","anonymousId":"a","messageId":"2","properties":{"é":"\\u00e9"}}'
    result = parsed(f"/v1/{path}", batch(first, second, sentAt='"2026-01-01T00:00:00.000Z"'))
    assert result.bodies == [first.encode(), second.encode()]
    assert [head.message_id for head in result.heads] == ["1", "2"]
    assert result.sent_at == "2026-01-01T00:00:00.000Z"
    assert result.admission.site == "shop"


def test_junes_paths_are_segments_under_another_name() -> None:
    assert parsed("/sdk/track", '{"event":"Sold","userId":"u"}').heads == [Head("new-1", "track", "Sold", "u")]
    assert parsed("/sdk/batch", batch('{"type":"page","userId":"u"}')).heads == [Head("new-1", "page", None, "u")]
    assert {"/sdk/track", "/sdk/alias", "/sdk/batch"} <= {route.path for route in segment.ROUTES}


def test_context_and_integrations_of_a_batch_are_kept_as_defaults() -> None:
    event = '{"type":"page","userId":"u"}'
    result = parsed("/v1/batch", batch(event, context='{"ip":"1.2.3.4"}', integrations='{"All":false}'))
    assert json.loads(result.defaults or b"") == {"context": {"ip": "1.2.3.4"}, "integrations": {"All": False}}
    assert parsed("/v1/batch", batch(event, context="5", integrations="{}")).defaults is None


@pytest.mark.parametrize(
    "context", ['{"traits":["a"],"properties":"x","type":5,"userId":7,"groupId":{"a":1}}', '{"event":false,"timestamp":[]}']
)
def test_members_of_a_context_may_be_anything(context: str) -> None:
    assert (
        parsed("/v1/batch", batch('{"type":"page","userId":"u"}', context=context)).defaults
        == f'{{"context":{context}}}'.encode()
    )


@pytest.mark.parametrize("context", ["null", '"x"', "[1]", "7", "{}"])
def test_a_context_that_is_no_object_is_left_out(context: str) -> None:
    assert parsed("/v1/batch", batch('{"type":"page","userId":"u"}', context=context)).defaults is None


@pytest.mark.parametrize(
    ("events", "context", "status", "words"),
    [
        (1, '{"a":"' + "x" * 3000 + '"}', 413, "`context` of 3008 bytes cannot be merged"),
        (1, '{"a":' * 70 + "1" + "}" * 70, 400, "nests 70 levels"),
        (30, '{"a":"' + "x" * 1500 + '"}', 413, "under each of 30 events"),
    ],
)
def test_a_context_that_cannot_be_merged_under_every_event_is_refused(events: int, context: str, status: int, words: str) -> None:
    desk = CountingDesk(project(event_bytes=2000, request_bytes=10_000))
    refusal = refused("/v1/batch", batch(*['{"type":"page","userId":"u"}'] * events, context=context), desk)
    assert refusal.status == status
    assert words in refusal.message


def test_one_event_from_a_path_takes_the_type_of_the_path() -> None:
    assert parsed("/v1/page", '{"type":"track","userId":"u"}').heads[0].type == "page"
    assert parsed("/v1/page", '{"type":7,"userId":"u"}').bodies == [b'{"type":"page","userId":"u"}']


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ('{"userId":"u"}', DeadReason.MISSING_TYPE),
        ('{"type":"","userId":"u"}', DeadReason.MISSING_TYPE),
        ('{"type":"buy","userId":"u"}', DeadReason.UNKNOWN_TYPE),
        ('{"type":{"a":1},"userId":"u"}', DeadReason.WRONG_TYPE),
        ('{"type":"page"}', DeadReason.MISSING_ID),
        ('{"type":"page","userId":"","anonymousId":null}', DeadReason.MISSING_ID),
        ('{"type":"track","userId":"u"}', DeadReason.MISSING_ID),
        ('{"type":"track","userId":"u","event":null}', DeadReason.MISSING_ID),
        ('{"type":"track","userId":"u","event":5}', DeadReason.WRONG_TYPE),
        ('{"type":"group","userId":"u"}', DeadReason.MISSING_ID),
        ('{"type":"alias","userId":"u"}', DeadReason.MISSING_ID),
        ('{"type":"alias","anonymousId":"a","previousId":"p"}', DeadReason.MISSING_ID),
        ('{"type":"page","userId":["u"]}', DeadReason.WRONG_TYPE),
        ('{"type":"page","userId":true}', DeadReason.WRONG_TYPE),
        ('{"type":"page","userId":"u","properties":[1]}', DeadReason.WRONG_TYPE),
        ('{"type":"identify","userId":"u","traits":"x"}', DeadReason.WRONG_TYPE),
        ("7", DeadReason.NOT_AN_OBJECT),
        ("null", DeadReason.NOT_AN_OBJECT),
        ('"text"', DeadReason.NOT_AN_OBJECT),
        ("[1,2]", DeadReason.NOT_AN_OBJECT),
        ('{"type":"page","userId":"u","properties":' + "[" * 80 + "]" * 80 + "}", DeadReason.WRONG_TYPE),
        ('{"type":"page","userId":"u","properties":{"a":' + "[" * 80 + "]" * 80 + "}}", DeadReason.TOO_DEEP),
        (
            '{"type":"page","userId":"u","properties":{' + ",".join(f'"k{n}":1' for n in range(10_000)) + "}}",
            DeadReason.TOO_MANY_KEYS,
        ),
        ('{"type":"page","userId":"u","text":"' + "x" * 300_000 + '"}', DeadReason.TOO_LARGE),
        ('{"type":"page","userId":"' + "u" * 2000 + '"}', DeadReason.TOO_LARGE),
    ],
)
def test_a_bad_event_is_rejected_with_its_reason_and_its_neighbours_are_accepted(event: str, reason: DeadReason) -> None:
    good = '{"type":"page","userId":"u","messageId":"%s"}'
    result = parsed("/v1/batch", batch(good % "1", event, good % "2"))
    assert [head.message_id for head in result.heads] == ["1", "2"]
    if reason is DeadReason.WRONG_TYPE and event.count("[") == 80:
        reason = DeadReason.TOO_DEEP  # depth is judged before types
    assert [(reject.position, reject.reason, reject.body) for reject in result.rejects] == [(1, reason, event.encode())]
    assert result.rejects[0].detail


def test_numbers_as_ids_become_text_in_the_head_and_in_the_body() -> None:
    result = parsed("/v1/track", '{"event":"A","userId":12345678901234567890123,"messageId":7.0,"properties":{"a":1.10}}')
    assert result.heads == [Head("7", "track", "A", "12345678901234567890123")]
    assert result.bodies == [b'{"event":"A","userId":"12345678901234567890123","messageId":"7","properties":{"a":1.10}}']


def test_duplicate_keys_and_huge_numbers_are_taken_as_they_are() -> None:
    event = '{"userId":"a","userId":"b","n":123456789012345678901234567890,"n":1}'
    result = parsed("/v1/page", event)
    assert result.heads[0].user_id == "b"
    assert result.bodies == [event.encode()]


def test_an_event_without_ids_is_accepted_where_the_site_does_not_ask_for_them() -> None:
    result = segment.parse(post("/v1/page", "{}", headers={"x-write-key": "other"}), CountingDesk())
    assert isinstance(result, Parsed)
    assert result.heads == [Head("new-1", "page")]


def test_an_empty_batch_and_a_bare_array_are_accepted() -> None:
    assert parsed("/v1/batch", batch()).heads == []
    assert len(parsed("/v1/batch", '[{"type":"page","userId":"u"}]').heads) == 1
