"""A request is answered alike with a task of its own and without: the same bytes, the same counts, the same events, the same end."""

from __future__ import annotations

import asyncio
import gzip
import random
import re
import zlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest

from ingest.clients.bursts import burst_of
from shared.errors import NotConnected, Permanent
from shared.project.model import Key, Project, Site, SiteLimits
from shared.reading.units import ByteSize
from tests.unit.ingest.wires import edge, settled

PROJECT = Project(
    sites={
        "shop": Site(keys=[Key(id="web"), Key(id="api", kind="server", secret="s3cret")], domains=["shop.example.com"]),
        "strict": Site(
            keys=[Key(id="strict")],
            origins=["https://strict.example"],
            bots="refuse",
            limits=SiteLimits(event_bytes=ByteSize(400), request_bytes=ByteSize(2000), events_per_request=3),
        ),
        "closed": Site(keys=[Key(id="closed")], enabled=False),
        "people": Site(keys=[Key(id="people")], bots="drop"),
    }
)

TRACK = b'{"event":"Sold","userId":"u","messageId":"m"}'
BATCH = b'{"batch":[{"type":"page","userId":"u","messageId":"a"},{"type":"page"},7,{"type":"page","userId":"u","messageId":"b"}]}'
KEY = "X-Write-Key: web"
STRICT = "X-Write-Key: strict"


def squeeze(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def request(path: str, body: bytes | None, *lines: str, method: str = "POST", version: str = "1.1") -> bytes:
    head = [f"{method} {path} HTTP/{version}", "Host: x", *lines]
    if body is not None:
        head.append(f"Content-Length: {len(body)}")
    return "".join(f"{line}\r\n" for line in head).encode("latin-1") + b"\r\n" + (body or b"")


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    head = request("/v1/track", None, KEY, "Transfer-Encoding: chunked")
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + end


LAST = request("/v1/projects/web/settings", None, "Connection: close", method="GET")
"""What the client sends at the end: whether it is answered shows whether the connection was kept."""

WHOLE = [
    request("/v1/track", TRACK, KEY),
    request("/v1/t", TRACK, "Authorization: Basic d2ViOg==", "Content-Type: text/plain"),
    request("/v1/track", TRACK, "Authorization: Basic YXBpOnMzY3JldA=="),
    request("/v1/track", TRACK, "Authorization: Basic YXBpOndyb25n"),
    request("/v1/track?writeKey=web&a=b", TRACK),
    request("/v1/track", b'{"writeKey":"web",' + TRACK[1:]),
    request("/v1/track", TRACK),
    request("/v1/track", TRACK, "X-Write-Key: nobody"),
    request("/v1/track", TRACK, "X-Write-Key: closed"),
    request("/v1/track", b"", KEY),
    request("/v1/track", None, KEY),
    request("/v1/track", b"not json", KEY),
    request("/v1/track", b"\xff\xfe{", KEY),
    request("/v1/track", b"7", KEY),
    request("/v1/track", b'{"event":"x"}', KEY),
    request("/v1/batch", BATCH, KEY),
    request("/v1/batch", b'{"batch":[]}', KEY),
    request("/v1/batch", b'{"batch":7}', KEY),
    request("/v1/m", b"{}", KEY),
    request("/v1/track", TRACK[:-1] + b',"x":"' + b"y" * 500 + b'"}', STRICT),
    request("/v1/batch", b'{"batch":[' + b",".join([TRACK] * 4) + b"]}", STRICT),
    request("/v1/track", TRACK, STRICT, "User-Agent: a bot"),
    request("/v1/track", TRACK, STRICT, "Origin: https://strict.example"),
    request("/v1/track", TRACK, STRICT, "Origin: https://other.example"),
    request("/v1/track", TRACK, KEY, "Origin: https://caf\xe9.example"),
    request("/v1/track", TRACK, KEY, "User-Agent: Caf\xe9"),
    request("/v1/track", b"x" * 70_000, KEY),
    request("/v1/track", squeeze(TRACK), KEY, "Content-Encoding: gzip"),
    request("/v1/track", squeeze(TRACK), KEY),
    request("/v1/track", zlib.compress(TRACK), KEY, "Content-Encoding: deflate"),
    request("/v1/track", TRACK, KEY, "Content-Encoding: gzip"),
    request("/v1/track", b"zzz", KEY, "Content-Encoding: gzip"),
    request("/v1/track", TRACK, KEY, "Content-Encoding: rot13"),
    request("/v1/track", TRACK, KEY, "Content-Encoding: identity"),
    request("/v1/track", squeeze(squeeze(TRACK)), KEY, "Content-Encoding: gzip", "Content-Encoding: gzip"),
    request("/v1/track", TRACK, KEY, "Expect: 100-continue"),
    request("/v1/track", TRACK, KEY, "Expect: nonsense"),
    request("/v1/track", TRACK, KEY, "Connection: Keep-Alive"),
    request("//v1//track/", TRACK, KEY),
    request("http://x/v1/track", TRACK, KEY),
    request("/v1%2Ftrack", TRACK, KEY),
    request("/nowhere", TRACK, KEY),
    request("/v1/pixel/track?data=eyJldmVudCI6IngiLCJ1c2VySWQiOiJ1IiwibWVzc2FnZUlkIjoicCJ9&writeKey=web", None, method="GET"),
    request("/v1/pixel/nothing?writeKey=web", None, method="GET"),
    request("/v1/pixel/track", TRACK, method="GET"),
    request("/v1/track", None, method="GET"),
    request("/v1/projects/web/settings", None, method="GET"),
    request("/v1/projects/web/settings", b"{}", method="GET"),
    request("/v1/projects/nobody/settings", None, "Origin: https://any.example", method="GET"),
    request("/v1/track", TRACK, KEY, method="PUT"),
    request("/v1/track", TRACK, KEY, method="DELETE"),
    request("/v1/track", None, "Origin: https://any.example", "Access-Control-Request-Headers: x-own", method="OPTIONS"),
    request("*", None, method="OPTIONS"),
    request("/v1/projects/web/settings", None, "Connection: keep-alive", method="GET", version="1.0"),
    request("/v1/track", TRACK, KEY, "Connection: Upgrade", "Upgrade: h2c"),
    request("/v1/track", TRACK, KEY, "connection: upgrade", "UPGRADE: h2c"),
    request("/v1/track", TRACK, KEY, "Connection: Upgrade", "Upgrade: websocket"),
    request("/v1/projects/web/settings", None, "Connection: Upgrade", "Upgrade: h2c", method="GET"),
    request("/v1/track", b'{"event":"upgrade","userId":"u","messageId":"up"}', KEY),
    chunked(TRACK),
    chunked(TRACK[:10], TRACK[10:], end=b"0\r\nX-Trailer: 1\r\n\r\n"),
    chunked(),
    b"\r\n" + request("/v1/track", TRACK, KEY),
]
"""Requests after which the connection goes on, or not, as the long way has it."""

ENDING = [
    request("/v1/track", TRACK, KEY, "Connection: close"),
    request("/v1/batch", BATCH, KEY, "Connection: close"),
    request("/v1/track", TRACK, KEY, version="1.0"),
    request("/v1/batch", b"x" * 3000, STRICT),
    request("/v1/track", None, method="HEAD", version="1.0"),
    b"nonsense\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"\x16\x03\x01\x02\x00",
    b"POST /v1/track HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /v1/track HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    b"POST /v1/track HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n{}",
    b"POST /v1/track HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
    b"POST /v1/track HTTP/1.1\r\nHost : x\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /v1/track HTTP/1.1\nHost: x\nContent-Length: 2\n\n{}",
    b"POST /v1/track HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
    b"POST /" + b"y" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /v1/track HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    chunked(end=b"zz\r\n\r\n"),
]


def cuts(data: bytes, chance: random.Random) -> Iterator[bytes]:
    """Cuts bytes into a few segments."""
    places = sorted({0, len(data), *(chance.randrange(len(data) + 1) for _ in range(chance.randrange(4)))})
    return (data[start:end] for start, end in pairwise(places))


async def compare(segments: Sequence[bytes | None], **options: Any) -> bytes:
    """Sends the same both ways; returns the answers."""
    found = []
    for quick_bytes in (0, 65536):
        async with edge(PROJECT, quick_bytes=quick_bytes, **options) as running:
            answer = await running.exchange(segments)
            found.append((answer, running.broker.ids(), running.counts, running.server.bounds.body_bytes))
    assert found[1] == found[0]
    answer = found[0][0]
    assert b"HTTP/1.0" not in answer
    assert b"Server:" not in answer
    return answer


@pytest.mark.parametrize("data", [*WHOLE, *ENDING], ids=map(str, range(len(WHOLE) + len(ENDING))))
async def test_a_request_is_answered_alike_both_ways(data: bytes) -> None:
    await compare([data, LAST])
    await compare([data + LAST, None])


@pytest.mark.parametrize("seed", range(40))
async def test_pipelined_requests_cut_anywhere_are_answered_alike_both_ways(seed: int) -> None:
    chance = random.Random(seed)
    requests = chance.choices(WHOLE, k=chance.randrange(2, 8))
    if chance.random() < 0.3:
        requests.append(chance.choice(ENDING))
    data = b"".join(requests)
    await compare([*cuts(data + LAST, chance), None])


async def test_all_lines_of_content_encoding_count() -> None:
    twice = request("/v1/track", squeeze(squeeze(TRACK)), KEY, "Content-Encoding: gzip", "Content-Encoding: gzip")
    assert (await compare([twice + LAST])).startswith(b"HTTP/1.1 200 OK")


async def test_transfer_codings_are_decoded_as_content_encodings_and_an_unknown_one_is_refused_in_words() -> None:
    deflated, squeezed = zlib.compress(TRACK), squeeze(TRACK)
    for coding, body, status, word in (
        ("gzip, chunked", squeezed, b"200", b"success"),
        ("deflate , chunked", deflated, b"200", b"success"),
        ("gzip, chunked", squeeze(TRACK)[:-9], b"400", b"bad_encoding"),
        ("lzw, chunked", deflated, b"415", b"bad_encoding"),
    ):
        sent = chunked(body).replace(b"Transfer-Encoding: chunked", f"Transfer-Encoding: {coding}".encode())
        answers = await compare([sent + LAST])
        assert answers.startswith(b"HTTP/1.1 " + status), coding
        assert word in answers


async def test_what_is_pipelined_behind_an_upgrade_that_is_not_known_is_answered() -> None:
    offers = ("Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABkAAQAAP__", "Upgrade: h2c")
    for first in (request("/v1/track", TRACK, KEY, *offers), request("/v1/projects/web/settings", None, *offers, method="GET")):
        data = first + WHOLE[0] + LAST
        for cut in range(0, len(first) + 10, 7):
            assert (await compare([data[:cut], data[cut:]])).count(b"HTTP/1.1 200 OK") == 3


async def test_where_the_end_of_an_upgrade_cannot_be_told_the_connection_closes() -> None:
    mixed = request("/v1/track", TRACK, KEY, "Connection: upGrade", "upGrade: h2c")
    assert (await compare([mixed + WHOLE[0] + LAST])).count(b"Connection: close") == 1


async def test_more_requests_than_may_wait_on_a_connection_are_answered_in_their_order() -> None:
    requests = [request("/v1/track", b'{"event":"x","userId":"u","messageId":"m%d"}' % n, KEY) for n in range(200)]
    many = await compare([b"".join(requests) + LAST])
    assert many.count(b"HTTP/1.1 200 OK") == 201
    mixed = [
        each
        for pair in zip(requests, [WHOLE[-8], chunked(TRACK), request("/v1/track", b"", KEY)] * 60, strict=False)
        for each in pair
    ]
    await compare([b"".join(mixed) + LAST])


@pytest.mark.parametrize("failure", [NotConnected("away"), Permanent("never"), ValueError("a fault of ours")])
async def test_a_failure_is_answered_alike_both_ways(failure: Exception, caplog: pytest.LogCaptureFixture) -> None:
    found = []
    for quick_bytes in (0, 65536):
        async with edge(PROJECT, quick_bytes=quick_bytes) as running:
            running.broker.failure = lambda: failure
            said = await running.exchange([WHOLE[0] + request("/v1/batch", BATCH, KEY) + LAST])
            # what is pipelined behind an answer that closes may be under way already, which depends on Python's version
            found.append((said, None if b"Connection: close" in said.split(b"HTTP/1.1")[1] else running.counts))
            assert running.server.bounds.requests == running.server.bounds.body_bytes == 0
    assert found[0] == found[1]
    assert not found[0][0].startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("turns", range(4))
async def test_a_client_that_closes_its_side_in_the_middle_of_a_body_is_let_go_at_once(
    turns: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with edge(PROJECT) as running:
        wire = running.connect()
        await settled()
        wire.send(b"POST /v1/track HTTP/1.1\r\nHost: a\r\nX-Write-Key: web\r\nContent-Length: 74\r\n\r\n{")
        for _ in range(turns):  # of the event loop: the request is in the queue, taken from it, or begun
            await asyncio.sleep(0)
        wire.send(None)
        await settled()
        assert wire.closed.is_set()
        assert not running.server.bounds.requests
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize(("size", "body_bytes", "status"), [(40, 6_000_000, b"200"), (1, 150_000, b"400")])
async def test_a_body_may_come_in_small_chunks_but_not_in_a_chunk_for_each_byte(
    size: int, body_bytes: int, status: bytes
) -> None:
    event = b'{"type":"page","userId":"u","a":"%b"},' % (b"x" * 1000)
    body = b'{"batch":[%b]}' % (event * (body_bytes // len(event)))[:-1]
    chunks = b"".join(
        b"%x\r\n%b\r\n" % (len(piece), piece) for at in range(0, len(body), size) if (piece := body[at : at + size])
    )
    data = chunks + b"0\r\n\r\n"
    head = b"POST /v1/batch HTTP/1.1\r\nHost: a\r\nX-Write-Key: web\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with edge(PROJECT) as running:
        answer = await running.exchange([head, *(data[at : at + 65536] for at in range(0, len(data), 65536))])
        assert answer.split(b" ")[1] == status
        assert b"too_many_chunks" in answer or status == b"200"
        await settled()
        assert not running.server.bounds.requests


@pytest.mark.parametrize(
    ("lines", "status", "said", "kept"),
    [
        ((STRICT, "Origin: https://evil.example"), 403, b"origin_not_allowed", 0),
        ((STRICT, "Origin: https://strict.example"), 200, b"success", 1),
        ((STRICT, "Origin: https://strict.example", "User-Agent: a bot"), 403, b"bot_refused", 0),
        (("X-Write-Key: people", "User-Agent: a bot"), 200, b"success", 0),
        ((KEY, "User-Agent: a bot"), 200, b"success", 1),
    ],
)
async def test_who_may_not_send_is_refused_and_what_bots_send_is_kept_or_not(
    lines: tuple[str, ...], status: int, said: bytes, kept: int
) -> None:
    async with edge(PROJECT) as running:
        answer = await running.exchange([request("/v1/track", TRACK, *lines), LAST])
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert said in answer
        accepted = [amount for (name, *_), amount in running.counts.items() if name == "ingest_events_accepted_total"]
        assert sum(accepted) == len(running.broker.ids()) == kept


async def test_a_request_may_have_as_many_events_as_its_key_may_send_at_once_and_no_more() -> None:
    shop = Site(keys=[Key(id="web")], limits=SiteLimits(rate=2))

    def batch(size: int) -> bytes:
        events = b",".join(b'{"type":"page","userId":"u","messageId":"m%d"}' % number for number in range(size))
        return request("/v1/batch", b'{"batch":[%b]}' % events, KEY)

    async with edge(Project(sites={"shop": shop})) as running:
        assert (await running.exchange([batch(burst_of(2) + 1)])).startswith(b"HTTP/1.1 413 ")
        answer = await running.exchange([batch(burst_of(2)), batch(1), LAST])
        assert re.findall(rb"HTTP/1\.1 (\d+) ", answer)[:2] == [b"200", b"429"]
