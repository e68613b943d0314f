"""Decodes content encodings within a bound: a bomb of a few kilobytes must not become gigabytes. Also charsets. Pure.

Clients lie about encodings: a body with gzip's magic bytes is decoded without being declared, and a declared encoding that the
body plainly does not have is ignored when the body looks like JSON.
"""

from __future__ import annotations

import codecs
import re
import zlib
from functools import lru_cache
from typing import TYPE_CHECKING

import brotli
import zstandard

if TYPE_CHECKING:
    from multidict import MultiMapping

GZIP_MAGIC = b"\x1f\x8b"
MAX_LAYERS = 2
MAX_MEMBERS = 64
"""Most streams end to end in one gzip body. The rest of the body is copied after each, so a body of empty streams would cost minutes."""

MAX_ZSTD_WINDOW = 8 * 1024 * 1024
"""The largest window of zstd over HTTP (RFC 9659)."""

UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")

MOST_UNKNOWN = 100_000
"""Most places of a body that its charset does not know: each is slow to replace, and no text has so many."""

PIECE_BYTES = 64 * 1024

_CHARSET = re.compile(r""";\s*charset\s*=\s*["']?([^\s;"']+)""", re.IGNORECASE)
_CODECS = {
    # as browsers read these names (https://encoding.spec.whatwg.org): windows-1252 has printable characters where Latin-1 has none
    **dict.fromkeys(("iso-8859-1", "iso8859-1", "latin1", "latin-1", "l1", "windows-1252", "cp1252"), "cp1252"),
    **dict.fromkeys(("utf-16", "utf16"), "utf-16"),
    "utf-16le": "utf-16-le",
    "utf-16be": "utf-16-be",
    **{f"iso-8859-{part}": f"iso8859-{part}" for part in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)},
    "iso-8859-9": "cp1254",
    **{f"windows-{page}": f"cp{page}" for page in (1250, 1251, 1253, 1254, 1255, 1256, 1257, 1258)},
    "koi8-r": "koi8-r",
    "koi8-u": "koi8-u",
    "shift_jis": "cp932",
    "euc-jp": "euc-jp",
    "euc-kr": "cp949",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "gb18030": "gb18030",
    "big5": "big5hkscs",
}
_UTF8 = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})


class UnknownCharset(Exception):
    """The declared charset is unknown here, or is not the body's."""


class TooLarge(Exception):
    """The decoded body exceeds the bound."""


class BadEncoding(Exception):
    """The body is not what its encoding says, or the encoding is unknown."""

    def __init__(self, message: str, *, unknown: bool = False) -> None:
        super().__init__(message)
        self.unknown = unknown


def to_utf8(body: bytes, content_type: str | None) -> bytes:
    """Returns a body in UTF-8, whatever charset its Content-Type or a mark at its beginning declares.

    Places that the charset does not know become U+FFFD.

    Raises:
        UnknownCharset: the charset is unknown, or the body is plainly in another.
    """
    codec = _codec(content_type) if content_type else None
    if codec is None and body.startswith(UTF16_MARKS):
        codec = "utf-16"
    elif codec == "utf-16" and not body.startswith(UTF16_MARKS):
        codec = "utf-16-le"  # as browsers read it
    return body if codec is None else _decode(body, codec).encode("utf-8", "replace")


def _decode(body: bytes, codec: str) -> str:
    try:
        return body.decode(codec)
    except UnicodeDecodeError:
        decoder = codecs.getincrementaldecoder(codec)("replace")
    parts: list[str] = []
    unknown = 0
    for start in range(0, len(body), PIECE_BYTES):
        parts.append(decoder.decode(body[start : start + PIECE_BYTES], start + PIECE_BYTES >= len(body)))
        unknown += parts[-1].count("\ufffd")
        if unknown > MOST_UNKNOWN:
            raise UnknownCharset(f"the body is not in the charset {codec} that it declares; send UTF-8")
    return "".join(parts)


@lru_cache(256)
def _codec(content_type: str) -> str | None:
    """Returns Python's name of the declared charset; None for UTF-8, and if none is declared."""
    declared = _CHARSET.search(content_type)
    if declared is None:
        return None
    name = declared[1].lower()
    if name in _UTF8:
        return None
    codec = _CODECS.get(name)
    if codec is None:
        raise UnknownCharset(f"charset {name[:40]!r} is not decoded here; send UTF-8")
    return codec


def content_encoding(headers: MultiMapping[str]) -> str | None:
    """Returns the encodings of all lines as one list; None if the client names none. A transfer coding such as `gzip, chunked` is one."""
    found = headers.getall("content-encoding") if "content-encoding" in headers else []
    if "transfer-encoding" in headers:
        codings = ",".join(headers.getall("transfer-encoding")).split(",")
        found = [*found, *(each for each in codings if each.strip().lower() not in ("chunked", "identity", ""))]
    return ",".join(found) if found else None


def decode_body(body: bytes, encoding: str | None, max_bytes: int) -> bytes:
    """Returns the body without its content encodings.

    Raises:
        TooLarge: more than `max_bytes` came out.
        BadEncoding: the body is not in its encoding, or the encoding is unknown.
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
