"""Decodes content encodings within a bound: a bomb of a few kilobytes must not become gigabytes. Pure.

Clients lie about encodings: a body with gzip's magic bytes is decoded without being declared, and a declared encoding that the
body plainly does not have is ignored when the body looks like JSON.
"""

from __future__ import annotations

import zlib

import brotli
import zstandard

GZIP_MAGIC = b"\x1f\x8b"
MAX_LAYERS = 2
MAX_MEMBERS = 64
"""Streams end to end in one gzip body. What follows each is copied, so that a body of empty ones would cost minutes."""

MAX_ZSTD_WINDOW = 8 * 1024 * 1024
"""What RFC 9659 demands of zstd over HTTP."""


class TooLarge(Exception):
    """The decoded body exceeds the bound."""


class BadEncoding(Exception):
    """The body is not what its encoding says, or the encoding is unknown."""

    def __init__(self, message: str, *, unknown: bool = False) -> None:
        super().__init__(message)
        self.unknown = unknown


def decode_body(body: bytes, encoding: str | None, max_bytes: int) -> bytes:
    """Returns the body without its content encodings.

    Raises:
        TooLarge: more than `max_bytes` came out.
        BadEncoding: see there.
    """
    if encoding is None and body[:2] != GZIP_MAGIC:
        return body
    names = [name.strip().lower() for name in (encoding or "gzip").split(",")]
    names = [name for name in names if name not in ("", "identity")]
    if not names and body[:2] == GZIP_MAGIC:
        names = ["gzip"]
    if len(names) > MAX_LAYERS:
        raise BadEncoding(f"{len(names)} layers of content encoding, the limit is {MAX_LAYERS}")
    for name in reversed(names):
        decoder = _DECODERS.get(name)
        if decoder is None:
            raise BadEncoding(f"content encoding {name[:40]!r} is unknown; known: gzip, deflate, br, zstd", unknown=True)
        try:
            body = decoder(body, max_bytes)
        except (zlib.error, brotli.error, zstandard.ZstdError) as exc:
            if body.lstrip()[:1] in (b"{", b"["):
                return body
            raise BadEncoding(f"the body is not {name}: {exc}") from exc
    return body


def _gzip(body: bytes, max_bytes: int) -> bytes:
    return _inflate(body, max_bytes, zlib.MAX_WBITS | 16)


def _deflate(body: bytes, max_bytes: int) -> bytes:
    try:
        return _inflate(body, max_bytes, zlib.MAX_WBITS)
    except zlib.error:
        # many clients send the bare stream without zlib's header
        return _inflate(body, max_bytes, -zlib.MAX_WBITS)


def _inflate(body: bytes, max_bytes: int, window: int) -> bytes:
    parts: list[bytes] = []
    room = max_bytes
    while body:
        if len(parts) == MAX_MEMBERS:
            raise zlib.error(f"more than {MAX_MEMBERS} streams end to end")
        decoder = zlib.decompressobj(window)
        part = decoder.decompress(body, room + 1)
        if len(part) > room:
            raise TooLarge
        if not decoder.eof:
            raise zlib.error("the stream is cut off")
        parts.append(part)
        room -= len(part)
        body = decoder.unused_data
        if window != zlib.MAX_WBITS | 16 or body[:2] != GZIP_MAGIC:
            break  # only gzip has members; other trailing bytes are padding
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _brotli(body: bytes, max_bytes: int) -> bytes:
    decoder = brotli.Decompressor()
    parts = [decoder.process(body, output_buffer_limit=max_bytes + 1)]
    size = len(parts[0])
    while not decoder.is_finished() and size <= max_bytes:
        part = decoder.process(b"", output_buffer_limit=max_bytes + 1 - size)
        if not part and decoder.can_accept_more_data():
            raise brotli.error("the stream is cut off")
        parts.append(part)
        size += len(part)
    if size > max_bytes:
        raise TooLarge
    return b"".join(parts)


def _zstd(body: bytes, max_bytes: int) -> bytes:
    decoder = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW)
    with decoder.stream_reader(body, read_across_frames=True) as reader:
        decoded = reader.read(max_bytes + 1)
    if len(decoded) > max_bytes:
        raise TooLarge
    # the reader ends silently where the body is cut off; without a declared size the JSON will tell
    if len(decoded) < zstandard.frame_content_size(body):
        raise zstandard.ZstdError("the stream is cut off")
    return decoded


_DECODERS = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "br": _brotli,
    "zstd": _zstd,
}
