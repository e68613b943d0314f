"""Hostile requests, a row each: a name, bytes for one connection, and the statuses that may be heard. 0 is no answer at all."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from typing import NamedTuple

import brotli
import zstandard

from tests.hostile.edge import MIB, request
from tests.support import dear_bodies

KEYED = {"X-Write-Key": "web"}
NAMELESS: dict[str, str] = {}


class Row(NamedTuple):
    """One attack. `requests` is how many requests it consists of, each of which has its share of CPU."""

    name: str
    data: bytes
    heard: frozenset[int]
    requests: int = 1


def row(name: str, data: bytes, *heard: int, requests: int = 1) -> Row:
    return Row(name, data, frozenset(heard), requests)


def batch(body: bytes, headers: dict[str, str], **more: str) -> bytes:
    return request("POST /v1/batch", body, {**headers, **{name.replace("_", "-"): value for name, value in more.items()}})


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda body: gzip.compress(body, 6),
    "deflate": lambda body: zlib.compress(body, 6),
    "br": lambda body: brotli.compress(body, quality=4),
    "zstd": lambda body: zstandard.ZstdCompressor(level=3).compress(body),
}


def body_rows() -> list[Row]:
    """The dearest bodies, packed, with a key; and some of them without, where the key could stand inside."""
    rows = []
    for number, (name, make) in enumerate(dear_bodies.JSON.items()):
        encoding = list(ENCODERS)[number % len(ENCODERS)]
        packed = ENCODERS[encoding](make())
        rows.append(row(f"{name}-keyed", batch(packed, KEYED, Content_Encoding=encoding), 200, 400, 413))
        if number % 5 == 0 or "key" in name:
            rows.append(row(f"{name}-nameless", batch(packed, NAMELESS, Content_Encoding=encoding), 401))
    plain = dear_bodies.JSON["chains"]()
    return [
        *rows,
        row("plain", batch(plain, KEYED), 200),
        row("unclosed", batch(b'{"batch":[' + b'{"a":' * 1_600_000, KEYED), 400),
        row("quotes", batch(b'{"batch":[' + b'"' * (8 * MIB - 20), KEYED), 400),
        row("nul", batch(b"\x00" * (8 * MIB), KEYED), 400),
        row("kana", batch(b'{"batch":["' + b"\xb1" * (8 * MIB - 20) + b'"]}', KEYED, Content_Type="a;charset=shift_jis"), 200),
        row("no-kana", batch(b'{"batch":["' + b"\xfd" * (8 * MIB - 20), KEYED, Content_Type="a;charset=shift_jis"), 400, 415),
        row("utf-16-without-a-mark", batch(b'{"type":"page"}', KEYED, Content_Type="a;charset=utf-16"), 400),
        row("a-name-like-a-value", batch(b'{"%b" : 1, "x": "%b", "batch": []}' % (b"a" * 20, b"a" * 20), KEYED), 200),
    ]


def bomb_rows() -> list[Row]:
    """Little that becomes much."""
    blank = b" " * (64 * MIB)
    rows = [
        row(f"bomb-{encoding}", batch(ENCODERS[encoding](blank), NAMELESS, Content_Encoding=encoding), 413)
        for encoding in ("gzip", "deflate", "zstd")
    ]
    rows.append(row("bomb-br", batch(brotli.compress(blank, quality=1), KEYED, Content_Encoding="br"), 413))
    twice = gzip.compress(gzip.compress(blank))
    rows.append(row("bomb-gzip-in-gzip", batch(twice, NAMELESS, Content_Encoding="gzip, gzip"), 413))
    rows.append(row("many-layers", batch(twice, KEYED, Content_Encoding=", ".join(["gzip"] * 400)), 400))
    rows.append(
        row(
            "many-encoding-lines",
            request("POST /v1/batch", twice, KEYED).replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip" * 50 + b"\r\n\r\n", 1),
            400,
            413,
            415,
        )
    )
    frames = zstandard.ZstdCompressor(write_content_size=False).compress(b"") * 900_000
    rows.append(row("empty-zstd-frames", batch(frames, NAMELESS, Content_Encoding="zstd"), 400))
    blocks = b"\x02\x08\x20\x80\x00" * 1_600_000 + b"\x03\x00"
    rows.append(row("empty-deflate-blocks", batch(blocks, NAMELESS, Content_Encoding="deflate"), 400))
    rows.append(row("members", batch(gzip.compress(b"") * 20_000, NAMELESS, Content_Encoding="gzip"), 400))
    rows.append(row("window", batch(b"\x28\xb5\x2f\xfd\x00\xff" + b"\x00" * 50, NAMELESS, Content_Encoding="zstd"), 400))
    return rows


def head_rows() -> list[Row]:
    """Heads that are large, strange or false."""
    good = json.dumps({"type": "page", "userId": "u"}).encode()
    post = b"POST /v1/page HTTP/1.1\r\nHost: a\r\nX-Write-Key: web\r\n"
    length = b"Content-Length: %d\r\n\r\n" % len(good)
    return [
        row("huge-header", post + b"A: " + b"x" * 100_000 + b"\r\n" + length + good, 400, 431),
        row("huge-line", b"GET /v1/pixel/page?" + b"a=b&" * 50_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 400, 431),
        row("many-headers", post + b"".join(b"A%d: b\r\n" % n for n in range(5000)) + length + good, 400, 431),
        row(
            "many-large-headers",
            post + b"".join(b"A%d: %b\r\n" % (n, b"x" * 15_000) for n in range(100)) + length + good,
            400,
            431,
        ),
        row("many-forwarded", post + b"X-Forwarded-For: " + b"1.1.1.1," * 1500 + b"\r\n" + length + good, 200),
        row("forwarded-forged", post + b"Forwarded: for=6.6.6.6;host=evil\r\nX-Forwarded-For: 6.6.6.6\r\n" + length + good, 200),
        row("two-lengths", post + b"Content-Length: 5\r\n" + length + good, 400),
        row("length-and-chunks", post + b"Transfer-Encoding: chunked\r\n" + length + good, 400),
        row("smuggled-chunked", post + b"Transfer-Encoding: xchunked\r\n" + length + good, 400),
        row("smuggled-twice", post + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", 400),
        row("smuggled-after-gzip", post + b"Transfer-Encoding: chunked, gzip\r\n" + length + good, 400),
        row("smuggled-list-of-lengths", post + b"Content-Length: %d, %d\r\n\r\n" % (len(good), len(good)) + good, 400),
        row("smuggled-length-in-trailer", post + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + length + good, 400),
        row("smuggled-by-extension", post + b"Transfer-Encoding: chunked\r\n\r\n5;a\nb\r\nhello\r\n0\r\n\r\n", 400),
        row("smuggled-in-get", b"GET /health HTTP/1.1\r\nHost: a\r\n" + length + good, 200),
        row("two-hosts", b"POST /v1/page HTTP/1.1\r\nHost: evil\r\nHost: shop.example.com\r\n" + length + good, 400),
        row("negative-length", post + b"Content-Length: -1\r\n\r\n", 400),
        row("plus-length", post + b"Content-Length: +5\r\n\r\nhello", 400),
        row("endless-length", post + b"Content-Length: " + b"9" * 300 + b"\r\n\r\n", 400, 413),
        row("large-length", post + b"Content-Length: 99999999999\r\n\r\n", 413),
        row("bare-lf", b"POST /v1/page HTTP/1.1\nHost: a\nContent-Length: 0\n\n", 400),
        row("folded", post + b"A: b\r\n c\r\n" + length + good, 400),
        row("nul-in-header", post + b"A: b\x00c\r\n" + length + good, 400),
        row("space-before-colon", post + b"Content-Length : 5\r\n\r\nhello", 400),
        row("no-version", b"GET /\r\n\r\n", 400, 404),
        row("http-2-preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        row("tls-hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 512, 400),
        row("proxy-preface-of-a-stranger", b"PROXY TCP4 6.6.6.6 1.1.1.1 1 2\r\nGET /health HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        row("odd-method", b"BREW /v1/page HTTP/1.1\r\nHost: a\r\n\r\n", 400, 405),
        row("connect", b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 400, 404, 405),
        row("trace", b"TRACE /v1/page HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        row("odd-upgrade", b"GET /v1/ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n", 400, 426),
        row("basic-garbage", request("POST /v1/page", good, {"Authorization": "Basic " + "A" * 15_000}), 401),
        row("long-key", request("POST /v1/page", good, {"X-Write-Key": "k" * 15_000}), 401),
        row("user-agent", request("POST /v1/page", good, {**KEYED, "User-Agent": "Mozilla/5.0 (" + "A; " * 5000}), 200),
        row("origin", request("POST /v1/page", good, {**KEYED, "Origin": "https://" + "a." * 7000 + "b"}), 200),
        row(
            "preflight",
            request("OPTIONS /v1/page", b"", {"Origin": "https://a", "Access-Control-Request-Headers": "a," * 8000}),
            204,
        ),
        row("pixel-deep", request("GET /v1/pixel/page?writeKey=web&" + "a." * 7000 + "b=1"), 200),
        row("pixel-many", request("GET /v1/pixel/page?writeKey=web&" + "&".join(f"a{n}=1" for n in range(2000))), 200),
        row("path-percent", request("GET /" + "%2e%2e/" * 2000), 404),
        row("path-slashes", request("GET " + "/" * 15_000), 404),
        row("pipelined-gets", request("GET /nothing") * 200, 404, requests=200),
        row("pipelined-posts", request("POST /v1/page", good, {"X-Write-Key": "nobody"}) * 200, 401, requests=200),
        row("pipelined-then-garbage", request("POST /v1/page", good, KEYED) * 3 + b"\x00" * 100, 200, 400, requests=4),
    ]


def webhook_rows() -> list[Row]:
    """Deliveries: the dearest bodies to an open webhook, and dear lies to verified ones."""
    rows = []
    for name, make in dear_bodies.JSON.items():
        packed = ENCODERS["zstd"](make())
        rows.append(row(f"webhook-{name}", request("POST /webhooks/open", packed, {"Content-Encoding": "zstd"}), 200, 400, 413))
    signed = {"X-Hub-Signature-256": "sha256=" + "0" * 64}
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    fields = b"&".join(b"a%d=1" % number for number in range(700_000))
    large = b'{"a":"' + b"x" * (7 * MIB) + b'"}'
    return [
        *rows,
        row("webhook-array", request("POST /webhooks/open", b"[" + b"1," * 3_000_000 + b"1]"), 200),
        row("webhook-form", request("POST /webhooks/open", fields, form), 200, 413),
        row("webhook-unsigned", request("POST /webhooks/signed", large), 401),
        row("webhook-wrong", request("POST /webhooks/signed", large, signed), 401),
        row("webhook-short-signature", request("POST /webhooks/signed", large, {"X-Hub-Signature-256": "sha256=00"}), 401),
        row("webhook-long-signature", request("POST /webhooks/signed", b"{}", {"X-Hub-Signature-256": "0" * 15_000}), 401),
        row("webhook-sms-fields", request("POST /webhooks/sms", fields, {**form, "X-Twilio-Signature": "x"}), 403),
        row("webhook-sms-digest", request("POST /webhooks/sms?bodySHA256=00", large, {"X-Twilio-Signature": "x"}), 401),
        row("webhook-nobody", request("POST /webhooks/nobody", large, signed), 404),
        row("webhook-address", request("GET /webhooks/" + "%41" * 4000), 404),
        row("webhook-query", request("GET /webhooks/open?" + "&".join(f"a{number}=1" for number in range(2000))), 200),
    ]


def chunk_rows() -> list[Row]:
    """Chunked bodies."""
    post = b"POST /v1/page HTTP/1.1\r\nHost: a\r\nX-Write-Key: web\r\nTransfer-Encoding: chunked\r\n\r\n"
    good = json.dumps({"type": "page", "userId": "u"}).encode()
    return [
        row("one-byte-chunks", post + b"".join(b"1\r\n%c\r\n" % byte for byte in good + b" " * 5000) + b"0\r\n\r\n", 200),
        row("millions-of-chunks", post + b"1\r\n{\r\n" * 1_000_000, 400),
        row("chunks-of-forty-bytes", post + (b"28\r\n" + b" " * 40 + b"\r\n") * 200_000 + b"0\r\n\r\n", 400),
        row("long-extension", post + b"5;" + b"x" * 100_000 + b"\r\nhello\r\n0\r\n\r\n", 400, 431),
        row("odd-size", post + b"0x5\r\nhello\r\n0\r\n\r\n", 400),
        row("overflowing-size", post + b"F" * 40 + b"\r\nhello\r\n", 400),
        row("missing-line-end", post + b"5\r\nhello0\r\n\r\n", 400),
        row(
            "many-trailers",
            post + b"%x\r\n%b\r\n0\r\n" % (len(good), good) + b"".join(b"T%d: b\r\n" % n for n in range(5000)) + b"\r\n",
            200,
            400,
            431,
        ),
        row("endless", post + (b"10000\r\n" + b" " * 65536 + b"\r\n") * 200, 413),
    ]


def rows() -> list[Row]:
    """All of them."""
    return [*body_rows(), *bomb_rows(), *head_rows(), *chunk_rows(), *webhook_rows()]
