"""Heads of requests that came before: a client repeats its head with every request, so the edge reads it once.

A head is remembered by its bytes, with the parser's reading of it. If a request begins with the same bytes, on a connection whose
parser is between two requests, it means the same, and the parser need not see it. Only heads of small plain requests with a
header key that opens a site are remembered. A new revision of the project forgets all of them. Their number and size are bounded.
"""

from __future__ import annotations

from typing import NamedTuple

from aiohttp.http_parser import RawRequestMessage

from ingest.clients.keys import KeyIndex
from ingest.contract import HttpRequest
from ingest.http.routes import Match

MAX_HEAD_BYTES = 2048
MAX_BYTES = 8 * 1024 * 1024
"""Bound on the bytes of all heads and the values read from them: a client with a browser's key can send new ones for ever."""

LINE_BYTES = 256
"""Memory of a parsed header beside its bytes, about."""

END = b"\r\n\r\n"


class Head(NamedTuple):
    """The meaning of a head's bytes."""

    match: Match
    size: int
    """Of the body, in bytes."""
    asked: HttpRequest
    """The request without its body."""
    proxied: bool
    """True: the request depends on its sender, so `asked` is built for each."""


class Heads:
    """The remembered heads. When full, it forgets all: heads in use come again soon."""

    def __init__(self) -> None:
        self.known: dict[bytes, Head] = {}
        self.bytes = 0
        self._keys: KeyIndex | None = None
        self.get = self.known.get

    def is_of(self, keys: KeyIndex) -> bool:
        """Whether the remembered heads are valid with these keys."""
        return self._keys is keys

    def remember(self, head: bytes, known: Head, keys: KeyIndex) -> None:
        """Remembers a head's meaning with these keys."""
        size = len(head) + LINE_BYTES * (len(known.asked.headers) + len(known.asked.query) + 4)
        if self._keys is not keys or self.bytes + size > MAX_BYTES:
            self.known.clear()
            self.bytes = 0
            self._keys = keys
        if head not in self.known:
            self.bytes += size
        self.known[head] = known


def head_of(data: bytes, message: RawRequestMessage, size: int) -> bytes:
    """Returns the head of a request that is exactly `data`; nothing if `data` and the parser's reading could differ.

    They could differ if the parser still held a piece of an earlier head (it would have read more headers than `data` has), kept
    a piece of the next request, or ended the head or a line elsewhere.
    """
    end = data.find(END)
    if end < 0 or end + len(END) + size != len(data):
        return b""
    head = data[:end]
    lines = head.count(b"\r\n")
    if lines != len(message.raw_headers) or lines != head.count(b"\n") or lines != head.count(b"\r"):
        return b""
    if (
        b"\r\n " in head
        or b"\r\n\t" in head
        or not head.startswith(f"POST {message.path} HTTP/1.1\r\n".encode("utf-8", "surrogateescape"))
    ):
        return b""
    return head
