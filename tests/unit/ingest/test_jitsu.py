"""Jitsu's paths: what its clients send there and what they are answered."""

from __future__ import annotations

import base64
import json

import pytest

from ingest.contract import Accepted, HttpRequest, Parsed, Refusal
from ingest.protocols import jitsu
from tests.unit.ingest.desks import CountingDesk


def asked(method: str, route: str, body: object = None, query: dict[str, str] | None = None, key: str = "web") -> HttpRequest:
    data = b"" if body is None else json.dumps(body).encode()
    start, _, kind = route.rpartition("/")
    if route in jitsu.BATCHES:
        return HttpRequest(method, route, {}, query or {}, {"x-write-key": key}, data)
    return HttpRequest(method, f"{start}/{{type}}", {"type": kind}, query or {}, {"x-write-key": key}, data)


@pytest.mark.parametrize(
    ("path", "body_type", "type_"),
    [
        ("/api/s/track", None, "track"),
        ("/api/s/p", "track", "page"),
        ("/api/s/s2s/identify", None, "identify"),
        ("/api/s/event", "group", "group"),
        ("/api/s/s2s/e", "track", "track"),
    ],
)
def test_the_path_gives_the_type_or_leaves_it_to_the_body(path: str, body_type: str | None, type_: str) -> None:
    body = {"event": "Opened", "groupId": "g", "userId": "u", "anonymousId": "a", **({"type": body_type} if body_type else {})}
    parsed = jitsu.parse(asked("POST", path, body), CountingDesk())
    assert isinstance(parsed, Parsed)
    assert [head.type for head in parsed.heads] == [type_]
    assert jitsu.reply(asked("POST", path), Accepted(1)).body == b'{"ok":true}'


def test_a_body_without_a_type_is_a_dead_letter_where_the_path_has_none() -> None:
    parsed = jitsu.parse(asked("POST", "/api/s/event", {"userId": "u"}), CountingDesk())
    assert isinstance(parsed, Parsed)
    assert [reject.reason.value for reject in parsed.rejects] == ["missing_type"]
    answer = json.loads(jitsu.reply(asked("POST", "/api/s/event"), Accepted(0, parsed.rejects)).body)
    assert (answer["ok"], answer["rejected"]) == (False, 1)


@pytest.mark.parametrize("path", jitsu.BATCHES)
def test_a_batch_is_answered_with_its_numbers(path: str) -> None:
    request = asked("POST", path, {"batch": [{"type": "page", "userId": "u"}, {"type": "page"}]})
    parsed = jitsu.parse(request, CountingDesk())
    assert isinstance(parsed, Parsed)
    answer = json.loads(jitsu.reply(request, Accepted(len(parsed.heads), parsed.rejects)).body)
    assert (answer["ok"], answer["receivedEvents"], answer["okEvents"], len(answer["errors"])) == (False, 2, 1, 1)


def test_a_pixel_answers_an_image_and_says_what_is_wrong_in_a_header() -> None:
    data = base64.b64encode(json.dumps({"anonymousId": "a", "event": "Opened"}).encode()).decode()
    request = asked("GET", "/api/px/track", query={"data": data})
    parsed = jitsu.parse(request, CountingDesk())
    assert isinstance(parsed, Parsed)
    assert [head.type for head in parsed.heads] == ["track"]
    assert jitsu.reply(request, Accepted(1)).content_type == "image/gif"
    refused = jitsu.reply(request, Refusal(401, "unknown_key", "the write key is unknown"))
    assert (refused.status, refused.headers["X-Jitsu-Error"]) == (200, "unknown_key")


def test_a_refusal_says_so_in_jitsus_words_and_ours() -> None:
    result = jitsu.parse(asked("POST", "/api/s/track", {"userId": "u"}, key="nobody"), CountingDesk())
    assert isinstance(result, Refusal)
    answer = json.loads(jitsu.reply(asked("POST", "/api/s/track"), result).body)
    assert answer["ok"] is False
    assert answer["error"] == answer["message"]
    assert answer["code"] == "unknown_key"


def test_a_type_that_does_not_exist_is_an_unknown_path() -> None:
    for method, path in (("POST", "/api/s/purchase"), ("GET", "/api/px/purchase")):
        result = jitsu.parse(asked(method, path, {"userId": "u"}), CountingDesk())
        assert isinstance(result, Refusal)
        assert result.status == 404
