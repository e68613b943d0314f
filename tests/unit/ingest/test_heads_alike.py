"""A head that differs from one that came before in values alone is read as the parser reads it, or left to the parser."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser, RawRequestMessage

from ingest.clients.keys import KeyIndex
from ingest.http import heads
from ingest.http.heads import Alike, Heads
from ingest.http.routes import Match, Routes
from ingest.protocols import segment
from shared.project.model import Project
from tests.unit.ingest.test_heads import KNOWN, both_ways
from tests.unit.ingest.test_ways import KEY, TRACK, request

KEYS = KeyIndex(Project())
FOUND = Routes([segment]).find("POST", "/v1/track")
assert FOUND is not None
MATCH: Match = FOUND

POST = b"POST /v1/track?a=b HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\nX-Sign: abc\r\nCookie: a=b; c=d\r\nContent-Length: 2"
GET = b"GET /i?e=pv HTTP/1.1\r\nHost: x\r\nAccept: */*\r\nX-Sign: abc"


def parse(head: bytes, body: bytes = b"") -> RawRequestMessage | None:
    """Returns what aiohttp's parser reads, if that is exactly one whole request."""
    loop = asyncio.new_event_loop()
    try:
        parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16, max_line_size=8190, max_field_size=8190)
        messages, upgraded, tail = parser.feed_data(head + heads.END + body)
        if len(messages) != 1 or upgraded or tail or not messages[0][1].is_eof():
            return None
        message = messages[0][0]
        assert isinstance(message, RawRequestMessage)
        return message
    except HttpProcessingError:
        return None
    finally:
        loop.close()


def knowing(*before: bytes) -> Heads:
    known = Heads()
    known.use_keys(KEYS)
    for head in before:
        message = parse(head, b"{}" if head.startswith(b"POST") else b"")
        assert message is not None
        known.remember_shape(head, MATCH, message)
    return known


def variants(chance: random.Random) -> Iterator[bytes]:
    pieces = [
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b":",
        b"\0",
        b"\x7f",
        b"\xc3\xa9",
        b"#",
        b"?",
        b"%41",
        b"close",
        b"Upgrade",
        b"chunked",
        b"7",
        b"+",
        b"x",
    ]
    lines = [
        b"Transfer-Encoding: chunked",
        b"Content-Length: 7",
        b"X-Sign: other",
        b"Connection: close",
        b"Expect: 100-continue",
        b" folded",
    ]
    for head in (POST, GET):
        for _ in range(1500):
            place = chance.randrange(len(head))
            end = place + chance.choice([0, 0, 1, 3])
            yield head[:place] + chance.choice(pieces) + head[end:]
        for line in lines:
            for place in range(head.count(b"\r\n") + 1):
                parts = head.split(b"\r\n")
                yield b"\r\n".join([*parts[: place + 1], line, *parts[place + 1 :]])
                yield b"\r\n".join([*parts[:place], line, *parts[place + 1 :]])


@pytest.mark.parametrize("seed", range(2))
def test_what_is_read_is_what_the_parser_reads(seed: int) -> None:
    """Looked up, read by a pattern, or as the lines of an earlier head behind another query."""
    known, taken = knowing(POST, GET), 0
    for head in variants(random.Random(seed)):
        found = known.alike(head, KEYS)
        if found is None:
            continue
        taken += 1
        alike, read = found
        message = parse(head, b"{" * alike.size)
        assert message is not None, head
        path, _, query = message.path.partition("?")
        assert (alike.method, read, list(alike.headers.items())) == (
            message.method,
            query,
            [(name.lower(), value) for name, value in message.headers.items()],
        ), head
        assert head.split(b" ")[1].startswith(path.encode())
        assert not message.should_close
        assert not message.upgrade
        assert not message.chunked
    assert taken > 100


def test_signatures_cookies_queries_and_lengths_differ() -> None:
    known = knowing(POST, GET)
    other = (
        POST.replace(b"abc", b"sha256=00ff")
        .replace(b"c=d", b"c=e")
        .replace(b"a=b ", b"x=%20y ")
        .replace(b"Length: 2", b"Length: 17")
    )
    found = known.alike(other, KEYS)
    assert found is not None
    alike, query = found
    assert (query, alike.size, alike.headers["x-sign"], alike.headers["cookie"]) == ("x=%20y", 17, "sha256=00ff", "a=b; c=e")
    found = known.alike(GET.replace(b"?e=pv", b""), KEYS)
    assert found is not None
    bare, query = found
    assert (bare.method, query, bare.size) == ("GET", "", 0)


@pytest.mark.parametrize(
    "head",
    [
        POST.replace(b"keep-alive", b"close"),
        POST.replace(b"Content-Length: 2", b"Content-Length: +2"),
        POST.replace(b"Content-Length: 2", b"Content-Length: 2, 2"),
        POST.replace(b"Content-Length: 2", b"Content-Length: " + b"9" * 40),
        POST.replace(b"X-Sign: abc", b"X-Sign: a\tb"),
        POST.replace(b"X-Sign: abc", b"X-Sign: "),
        POST.replace(b"X-Sign: abc", b"X-Sign:abc"),
        POST.replace(b"HTTP/1.1", b"HTTP/1.0"),
        POST.replace(b"/v1/track", b"/v1/page"),
        POST.replace(b"?a=b", b"?a=b#c"),
        POST + b"\r\nX-Sign: abc",
        b"",
        b"POST /v1/track?a=b HTTP/1.1",
    ],
)
def test_what_frames_a_request_and_what_is_odd_is_left_to_the_parser(head: bytes) -> None:
    assert knowing(POST).alike(head, KEYS) is None


@pytest.mark.parametrize("line", [b"Expect: 100-continue", b"X-Sign: again", b"Content-Encoding: identity"])
def test_a_head_of_unusual_framing_is_no_model(line: bytes) -> None:
    known = Heads()
    known.use_keys(KEYS)
    message = parse(POST + b"\r\n" + line, b"{}")
    assert message is not None
    known.remember_shape(POST + b"\r\n" + line, MATCH, message)
    assert not known.shapes


def test_shapes_are_bounded_and_die_with_their_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "SHAPES_BYTES", 10_000)
    known = knowing(*(GET + f"\r\nX-{number}: y".encode() for number in range(40)))
    assert 0 < len(known.shapes) < 10
    assert known.shapes_bytes <= 10_000
    last = GET + b"\r\nX-39: z"
    assert known.alike(last, KEYS)
    newer = KeyIndex(Project())
    assert known.alike(last, newer) is None
    known.use_keys(newer)
    assert not known.shapes


QUERIES = [
    b"e=pv&url=https%3A%2F%2Fx", b"", b"a=b#c", b"a b", b"a=b HTTP/1.1", b"a=b HTTP/1.0", b"\xc3\xa9", b"\x7f", b"a?b", b"%zz", b"\t", b"\0", b'"<>{}|',
]  # fmt: skip


def reading(found: tuple[Alike, str] | None) -> tuple[object, ...] | None:
    return found and (found[0].method, found[1], found[0].size, dict(found[0].headers))


@pytest.mark.parametrize("query", QUERIES, ids=repr)
def test_lines_that_came_before_behind_another_query_are_read_as_a_head_that_comes_first(query: bytes) -> None:
    other = GET.replace(b"e=pv", query)
    known = knowing(GET)
    for number in range(3):
        assert known.alike(GET.replace(b"e=pv", b"n=%d" % number), KEYS)
    assert len(known.rests) == 1
    assert reading(known.alike(other, KEYS)) == reading(knowing(GET).alike(other, KEYS))
    assert known.alike(GET.replace(b"/i?e=pv", b"/j?" + query), KEYS) is None
    assert known.alike(other.replace(b"HTTP/1.1", b"HTTP/1.0"), KEYS) is None


def test_a_shape_that_comes_often_is_read_by_a_pattern_that_takes_no_other_head() -> None:
    signed = [POST.replace(b"X-Sign: abc", b"X-Sign: %d" % number) for number in range(heads.OFTEN)]
    often, seldom = knowing(POST), knowing(POST)
    for head in signed:
        assert often.alike(head, KEYS)
    assert often.patterns == 1
    taken = 0
    for head in variants(random.Random(7)):
        if head.startswith(b"POST"):
            found = reading(often.alike(head, KEYS))
            assert found == reading(seldom.alike(head, KEYS)) or (b":  " in head and found is not None), head
            seldom.often.clear()
            taken += found is not None
    assert taken > 100


def test_patterns_and_remembered_lines_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "OFTEN", 1)
    monkeypatch.setattr(heads, "MOST_PATTERNS", 6)
    monkeypatch.setattr(heads, "RESTS_BYTES", 10_000)
    monkeypatch.setattr(heads, "CAME", 5)
    shapes = [GET.replace(b"/i", b"/%d" % (number % 2)) + b"\r\nX-%d: y" % number for number in range(40)]
    known = knowing(*shapes)
    for head in shapes:
        for _ in range(3):
            assert known.alike(head, KEYS)
    assert known.patterns == 6
    assert all(len(each) <= heads.PATTERNS_OF_LINE for each in known.often.values())
    assert 0 < known.rests_bytes <= 10_000
    assert 0 < len(known.rests) < 10
    long = GET + b"".join(b"\r\nX-%d: y" % number for number in range(heads.MOST_LINES))
    monkeypatch.setattr(heads, "MOST_PATTERNS", 7)
    wide = knowing(long)
    assert wide.alike(long, KEYS)
    assert wide.patterns == 0
    newer = KeyIndex(Project())
    known.use_keys(newer)
    assert not known.rests
    assert not known.often


async def test_requests_of_alike_heads_are_answered_alike_both_ways() -> None:
    longer = TRACK.replace(b"Sold", b"Sold again")
    pixel = "/v1/pixel/track?writeKey=web&data=%s"
    await both_ways(
        [
            request("/v1/track", longer, KEY),
            request("/v1/track", longer, "X-Write-Key: nobody"),
            request("/v1/track", longer, "X-Write-Key: strict"),
            request("/v1/track", b"x" * 70_000, KEY),
            request("/v1/track", longer, "Authorization: Basic d2ViOg=="),
            request("/v1/track", longer, "Authorization: Basic YXBpOndyb25n"),
            request("/v1/track?writeKey=nobody", longer, KEY),
            request("/v1/track", longer, KEY)[:-5],
            longer[-5:] + KNOWN,
            *(
                request(pixel % data, None, method="GET")
                for data in ("eyJldmVudCI6IngiLCJ1c2VySWQiOiJ1IiwibWVzc2FnZUlkIjoicCJ9", "x", "%%", "e%C3")
            ),
            request("/v1/pixel/track?writeKey=nobody", None, method="GET"),
            *(request("/v1/pixel/track?writeKey=web", body, method="GET") for body in (b"", b"", b"{}", b"", b"{}")),
            request("/v1/track", longer, KEY),
        ]
    )


async def test_a_key_in_the_query_counts_beside_a_domain_that_opened_the_same_lines_before() -> None:
    rest = b" HTTP/1.1\r\nHost: shop.example.com\r\nCookie: sp=0f8fad5b-d9cb-469f-a165-70867728950e\r\n\r\n"
    queries = (
        b"",
        b"",
        b"&a=b",
        b"&a=b%20c",
        b"&writeKey=nobody",
        b"&token=strict",
        b"&writekey=web",
        b"&writeKey=",
        b"#x",
        b"&a=b",
    )
    await both_ways([b"GET /i?e=pv&eid=e%d" % number + query + rest for number, query in enumerate(queries)])
