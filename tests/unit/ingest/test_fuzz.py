"""Malformed bodies by the thousand: no parser raises, and each event is accepted or rejected. `make fuzz` tries 100,000 each."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import os
import zlib
from functools import partial

import brotli
import msgspec
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest.contract import HttpRequest
from ingest.judge.budget import Budget
from ingest.judge.encoding import BadEncoding, TooLarge, UnknownCharset, decode_body, to_utf8
from ingest.judge.mend import Fault, read_leniently
from ingest.judge.split import split_batch
from ingest.protocols import segment, snowplow
from tests.support import odd_bodies

BODIES = int(os.environ.get("FUZZ_BODIES", "400"))
"""For each parser."""

MUTATIONS = 40
LONG_RUN = "FUZZ_BODIES" in os.environ

fuzz = settings(
    max_examples=max(1, BODIES // MUTATIONS),
    deadline=None,
    derandomize=not LONG_RUN,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def ask(
    route: str, body: bytes, headers: dict[str, str], query: dict[str, str] | None = None, method: str = "POST"
) -> HttpRequest:
    return HttpRequest(method, route, {"type": "track"}, query or {}, headers, body, "", "")


@given(text=odd_bodies.texts, seed=odd_bodies.seeds, route=odd_bodies.routes, key=odd_bodies.keys)
@fuzz
def test_any_body_of_any_path(text: bytes, seed: int, route: str, key: dict[str, str]) -> None:
    for body in odd_bodies.mutations(text, seed, MUTATIONS):
        odd_bodies.within_time(partial(odd_bodies.check_segment, ask(route, body, key)))


SNOWPLOW = [
    b'{"data":[{"e":"ue","p":"web","ue_pr":"{\\"schema\\":\\"s\\",\\"data\\":{\\"schema\\":\\"iglu:a/b/c/1-0-0\\",\\"data\\":{}}}"}]}',
    b'{"data":[{"e":"pv","eid":5,"co":{"schema":"s","data":[{"schema":"iglu:a/b/c/1-0-0","data":[1]}]},"ip":"1.2.3.4"},7]}',
    b'{"schema":"iglu:a/b/c/1-0-0","data":[{"e":"pv"}]}',
]


@given(text=odd_bodies.texts, seed=odd_bodies.seeds, base=st.sampled_from(SNOWPLOW))
@fuzz
def test_any_body_and_query_of_a_snowplow_tracker(text: bytes, seed: int, base: bytes) -> None:
    keyed = {"x-write-key": "web", "cookie": text.decode("utf-8", "replace")}
    for number, body in enumerate(odd_bodies.mutations(text if seed % 3 == 0 else base, seed, MUTATIONS)):
        route = (snowplow.TP2, snowplow.IGLU)[number % 2]
        odd_bodies.within_time(partial(odd_bodies.check_snowplow, ask(route, body, keyed)))
        packed = base64.urlsafe_b64encode(body).decode()
        query = {"e": "ue", "token": "web", ("ue_px", "cx")[number % 2]: packed, "url": body.decode("utf-8", "replace")}
        odd_bodies.check_snowplow(ask(snowplow.PIXEL, b"", {}, query, "GET"))


@given(query=odd_bodies.queries, seed=odd_bodies.seeds, text=odd_bodies.texts)
@fuzz
def test_any_query_of_a_pixel(query: dict[str, str], text: bytes, seed: int) -> None:
    for body in odd_bodies.mutations(text, seed, MUTATIONS):
        data = {"data": body.decode("utf-8", "replace")} if seed % 2 else {"data": base64.b64encode(body).decode()}
        odd_bodies.check_segment(ask(segment.PIXEL, b"", {}, {"writeKey": "web", **data}, "GET"))
    odd_bodies.check_segment(ask(segment.PIXEL, b"", {}, {"writeKey": "web", **query}, "GET"))


@given(text=odd_bodies.texts, seed=odd_bodies.seeds, content_type=odd_bodies.content_types)
@fuzz
def test_any_charset(text: bytes, seed: int, content_type: str) -> None:
    for body in odd_bodies.mutations(text, seed, MUTATIONS):
        try:
            read = to_utf8(body, content_type)
        except UnknownCharset:
            assert "rot13" in content_type
        else:
            assert read is body or read.decode()


@given(text=odd_bodies.texts, seed=odd_bodies.seeds, packed=st.booleans())
@fuzz
def test_any_message_of_a_socket(text: bytes, seed: int, packed: bool) -> None:
    message = b'{"id":1,"key":"web",' + text[1:] if text.startswith(b'{"') else b'{"id":1,"key":"web","batch":' + text + b"}"
    if packed:
        with contextlib.suppress(msgspec.MsgspecError, UnicodeError, OverflowError):
            message = msgspec.msgpack.encode(msgspec.json.decode(message))
    for body in odd_bodies.mutations(message, seed, MUTATIONS):
        odd_bodies.within_time(partial(odd_bodies.check_message, body if packed else body.decode("utf-8", "replace")))


@given(text=odd_bodies.texts, seed=odd_bodies.seeds)
@fuzz
def test_any_text_is_split_or_not_and_read_leniently_or_not(text: bytes, seed: int) -> None:
    for body in odd_bodies.mutations(text, seed, MUTATIONS):
        pieces = split_batch(body, 50)
        if pieces is not None:
            assert all(event and event in body for event in pieces.events)
        read = read_leniently(body, Budget())
        assert isinstance(read, Fault) or json.loads(read[1]) == read[0] or b"\\u" in body or not body.isascii()


@given(
    text=odd_bodies.texts, seed=odd_bodies.seeds, encoding=st.sampled_from(["gzip", "deflate", "br", "zstd", "gzip, br", None])
)
@fuzz
def test_any_bytes_in_any_encoding(text: bytes, seed: int, encoding: str | None) -> None:
    packed = {"deflate": zlib.compress, "br": brotli.compress, "zstd": zstandard.compress}.get(encoding or "", gzip.compress)(
        text
    )
    for body in odd_bodies.mutations(packed, seed, MUTATIONS):
        with contextlib.suppress(TooLarge, BadEncoding):
            assert len(decode_body(body, encoding, 1000)) <= max(1000, len(body))
