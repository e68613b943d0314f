"""What the edge answers to requests that are wrong, too large or never whole."""

from __future__ import annotations

import asyncio
import gzip
import json

import pytest

from shared.jetstream.broker import Broker
from tests.e2e.ingest.edge import KEY, edge_here, post, raw
from tests.support.nats import NatsServer


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "code"),
    [
        ("/v1/track", b"nonsense", KEY, 400, "invalid_json"),
        ("/v1/track", b"", KEY, 400, "empty_body"),
        ("/v1/track", b"{}", {"X-Write-Key": "nobody"}, 401, "unknown_key"),
        ("/v1/track", b"{}", {"Host": "elsewhere"}, 401, "missing_key"),
        ("/v1/track", b"{}", {"X-Write-Key": "closed"}, 401, "site_disabled"),
        ("/v1/track", b"{}", {"Authorization": "Bearer nobody"}, 401, "unknown_key"),
        (f"/v1/track?writeKey=nobody&{'&'.join(f'a{n}=' for n in range(900))}", b"{}", {"Host": "x"}, 401, "unknown_key"),
        ("/v1/unheard", b"{}", KEY, 404, "unknown_path"),
        ("/v1/pixel/track", b"{}", KEY, 405, "wrong_method"),
        ("/v1/ws", b"{}", KEY, 426, "upgrade_required"),
        ("/v1/track", b"{}", {**KEY, "Content-Encoding": "compress"}, 415, "bad_encoding"),
        ("/v1/track", b"xx", {**KEY, "Content-Encoding": "gzip"}, 400, "bad_encoding"),
        ("/v1/track", b" " * 9_000_000, KEY, 413, "request_too_large"),
        ("/v1/track", gzip.compress(b"0" * 9_000_000), {**KEY, "Content-Encoding": "gzip"}, 413, "request_too_large"),
        ("/v1/track", gzip.compress(b"0" * 9_000_000), KEY, 413, "request_too_large"),
        ("/v1/batch", b" " * 10_001, {"X-Write-Key": "strict"}, 413, "request_too_large"),
        ("/v1/page", b'{"userId":"' + b"u" * 2001 + b'"}', {"X-Write-Key": "strict"}, 413, "event_too_large"),
        ("/v1/page", b'{"userId":"u"}', {"X-Write-Key": "strict", "Origin": "https://evil.example"}, 403, "origin_not_allowed"),
        ("/v1/page", b'{"userId":"u"}', {"X-Write-Key": "api:wrong"}, 401, "wrong_secret"),
    ],
)
async def test_a_bad_request_is_told_so_with_a_code_and_words(
    nats: NatsServer, broker: Broker, path: str, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    async with edge_here(nats, broker) as edge:
        answered, answer = await post(edge, path, body, headers)
        assert (answered, answer["code"]) == (status, code)
        assert answer["message"]
        if status == 413:
            assert any(limit in answer["message"] for limit in ("8388608", "10000", "2000"))
        assert await edge.ids() == []


async def test_a_declared_length_beyond_the_limit_is_refused_before_the_body_comes(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker) as edge:
        head = b"POST /v1/batch HTTP/1.1\r\nHost: x\r\nX-Write-Key: web\r\nContent-Length: 99999999999\r\n\r\n"
        answer = await raw(edge, head)
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"99999999999 bytes" in answer


async def test_an_endless_chunked_body_is_cut_at_the_limit(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker) as edge:
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
        writer.write(b"POST /v1/batch HTTP/1.1\r\nHost: x\r\nX-Write-Key: strict\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"1000\r\n" + b" " * 0x1000 + b"\r\n"
        for _ in range(20):
            writer.write(chunk)
        await writer.drain()
        async with asyncio.timeout(60):
            assert (await reader.readline()).startswith(b"HTTP/1.1 413")
        writer.close()


@pytest.mark.parametrize("sent", [b"", b"POST /v1/tr", b"POST /v1/track HTTP/1.1\r\nHost: x\r\n"])
async def test_a_client_that_never_finishes_its_headers_is_told_408_and_let_go(
    nats: NatsServer, broker: Broker, sent: bytes
) -> None:
    async with edge_here(nats, broker, read_timeout=0.3) as edge:
        answer = await raw(edge, sent)
        assert answer.startswith(b"HTTP/1.1 408")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}".encode() in head
        assert json.loads(body)["code"] == "read_timeout"


async def test_a_client_that_never_finishes_its_body_is_told_408(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker, read_timeout=0.3) as edge:
        answer = await raw(edge, b"POST /v1/track HTTP/1.1\r\nHost: x\r\nX-Write-Key: web\r\nContent-Length: 50\r\n\r\n{")
        assert answer.startswith(b"HTTP/1.1 408")
        assert await edge.ids() == []


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01\x02\x00", b"GARBAGE\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /\xff HTTP/1.1\r\nA\x00b: c\r\n\r\n"]
)
async def test_what_is_no_http_is_answered_400_in_json(nats: NatsServer, broker: Broker, sent: bytes) -> None:
    async with edge_here(nats, broker, read_timeout=0.5) as edge:
        answer = await raw(edge, sent)
        assert answer.split(b" ")[1] in (b"400", b"404", b"408"), answer
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"]


async def test_the_request_limit_of_a_site_holds_where_its_key_stands_in_the_body(nats: NatsServer, broker: Broker) -> None:
    async with edge_here(nats, broker) as edge:
        body = {"writeKey": "strict", "batch": [{"type": "page", "userId": "u", "a": "x" * 1500}] * 10}
        status, answer = await post(edge, "/v1/batch", body, {"Host": "elsewhere"})
        assert (status, answer["code"]) == (413, "request_too_large")
        assert "10000" in answer["message"]


async def test_a_path_leaves_no_folder(nats: NatsServer, broker: Broker) -> None:
    ways = ("../pages.py", "..%2fpages.py", "%2e%2e%2fpages.py", "..%5cpages.py", "%00", "//etc/passwd", "%2fetc%2fpasswd")
    paths = [f"{start}{way}" for start in ("/p/m/", "/p/d/", "/p/s/web/", "/analytics.js/v1/web/") for way in ways]
    async with edge_here(nats, broker) as edge:
        asked = [f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n" for path in paths]
        asked[-1] = asked[-1].replace("Host: x\r\n", "Host: x\r\nConnection: close\r\n")
        answer = await raw(edge, "".join(asked).encode())
        assert answer.count(b"HTTP/1.1 404 ") == len(paths)
