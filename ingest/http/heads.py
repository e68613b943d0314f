"""Heads of requests that came before: a client sends the same one again and again, so what it means is read once.

A head is remembered by its bytes, with the parser's reading of it. A request that begins with the same bytes, on a connection
whose parser is between two requests, means the same: the parser need not see it. Remembered are only heads of small plain
requests, and only with a key in a header that opens a site; a new revision of the project forgets all of them. Their number and
size are bounded.
"""

from __future__ import annotations

from typing import NamedTuple

from aiohttp.http_parser import RawRequestMessage

from ingest.clients.keys import KeyIndex
from ingest.contract import HttpRequest
from ingest.http.routes import Match

MAX_HEAD_BYTES = 2048
MAX_BYTES = 8 * 1024 * 1024
"""Bytes of all heads with the values read from them: anybody who knows a browser's key can send new ones."""

LINE_BYTES = 256
"""What a header that was read holds beside its bytes, about."""

END = b"\r\n\r\n"


class Head(NamedTuple):
    """What the bytes of a head mean."""

    match: Match
    size: int
    """Of the body, in bytes."""
    asked: HttpRequest
    """The request without its body."""
    proxied: bool
    """What it asks depends on who sends it: `asked` must be built for each."""


class Heads:
    """The remembered heads. A full memory forgets everything: heads still in use are soon known again."""

    def __init__(self) -> None:
        self.known: dict[bytes, Head] = {}
        self.bytes = 0
        self._keys: KeyIndex | None = None
        self.get = self.known.get

    def is_of(self, keys: KeyIndex) -> bool:
        """Whether the remembered heads hold with these keys."""
        return self._keys is keys

    def remember(self, head: bytes, known: Head, keys: KeyIndex) -> None:
        """Remembers what a head means with these keys."""
        size = len(head) + LINE_BYTES * (len(known.asked.headers) + len(known.asked.query) + 4)
        if self._keys is not keys or self.bytes + size > MAX_BYTES:
            self.known.clear()
            self.bytes = 0
            self._keys = keys
        if head not in self.known:
            self.bytes += size
        self.known[head] = known


def head_of(data: bytes, message: RawRequestMessage, size: int) -> bytes:
    """Returns the head of a request that is exactly `data`; nothing where data and what the parser made of it could differ.

    They could where the parser still held a piece of a head from before (it would have read more headers than `data` has), kept a
    piece of what follows, or ended the head or a line elsewhere.
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
