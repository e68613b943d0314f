"""Content encodings: all four, lies about them, and bombs."""

from __future__ import annotations

import contextlib
import gzip
import zlib

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from ingest.judge.encoding import BadEncoding, TooLarge, decode_body

TEXT = b'{"event":"' + b"abc" * 1000 + b'"}'


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


WRITERS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("name", WRITERS)
def test_an_encoding_is_decoded(name: str) -> None:
    assert decode_body(WRITERS[name](TEXT), name.upper(), 10_000) == TEXT


def test_deflate_without_the_zlib_header_is_decoded() -> None:
    assert decode_body(raw_deflate(TEXT), "deflate", 10_000) == TEXT


def test_gzip_members_and_zstd_frames_end_to_end_are_one_body() -> None:
    assert decode_body(gzip.compress(b"ab") + gzip.compress(b"cd"), "gzip", 100) == b"abcd"
    frame = zstandard.ZstdCompressor().compress
    assert decode_body(frame(b"ab") + frame(b"cd"), "zstd", 100) == b"abcd"


def test_a_body_of_countless_empty_gzip_members_is_refused_before_it_costs_minutes() -> None:
    with pytest.raises(BadEncoding, match="more than 64 streams"):
        decode_body(gzip.compress(b"") * 200_000, "gzip", 8_000_000)


def test_layers_are_decoded_from_the_outside_in() -> None:
    assert decode_body(brotli.compress(gzip.compress(TEXT)), "gzip, br", 10_000) == TEXT
    with pytest.raises(BadEncoding, match="3 layers"):
        decode_body(TEXT, "gzip, gzip, gzip", 10_000)


@pytest.mark.parametrize("encoding", [None, "identity", ""])
def test_gzip_that_nobody_declared_is_decoded(encoding: str | None) -> None:
    assert decode_body(gzip.compress(TEXT), encoding, 10_000) == TEXT


@pytest.mark.parametrize("name", WRITERS)
def test_json_that_only_claims_to_be_encoded_is_taken_as_it_is(name: str) -> None:
    assert decode_body(TEXT, name, 10_000) == TEXT


@pytest.mark.parametrize("name", WRITERS)
def test_a_bomb_is_refused_without_unpacking_it(name: str) -> None:
    bomb = WRITERS[name](b"0" * 50_000_000)
    assert len(bomb) < 100_000
    with pytest.raises(TooLarge):
        decode_body(bomb, name, 1_000_000)


@pytest.mark.parametrize("name", WRITERS)
def test_a_body_of_exactly_the_limit_passes(name: str) -> None:
    assert decode_body(WRITERS[name](TEXT), name, len(TEXT)) == TEXT
    with pytest.raises(TooLarge):
        decode_body(WRITERS[name](TEXT), name, len(TEXT) - 1)


@pytest.mark.parametrize("name", WRITERS)
def test_a_cut_off_or_foreign_body_is_refused(name: str) -> None:
    with pytest.raises(BadEncoding):
        decode_body(WRITERS[name](TEXT)[:-5], name, 10_000)
    with pytest.raises(BadEncoding):
        decode_body(b"\x00\x01\x02 no such thing", name, 10_000)


def test_an_unknown_encoding_is_told_apart() -> None:
    with pytest.raises(BadEncoding, match="gzip, deflate, br, zstd") as error:
        decode_body(TEXT, "compress", 10_000)
    assert error.value.unknown


@given(body=st.binary(max_size=300), name=st.sampled_from([*WRITERS, None]), cut=st.integers(0, 40), encode=st.booleans())
def test_no_bytes_raise_anything_else_or_exceed_the_bound(body: bytes, name: str | None, cut: int, encode: bool) -> None:
    if encode and name:
        body = WRITERS[name](body)
        body = body[:cut] + body[cut + 1 :]
    with contextlib.suppress(TooLarge, BadEncoding):
        assert len(decode_body(body, name, 200)) <= max(200, len(body))
