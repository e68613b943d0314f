"""Heads of requests that came before: a client repeats its head with every request, so the edge reads it once.

A head is remembered by its bytes, with the parser's reading of it. If a request begins with the same bytes, on a connection whose
parser is between two requests, it means the same, and the parser need not see it. Only heads of small plain requests with a
header key that opens a site are remembered. A new revision of the project forgets all of them. Their number and size are bounded.

Many clients write something new into every head: a length, a signature, a cookie, a query. Such a head is *alike*: method, path and
the names of its headers, in their order, came before and the parser read them. Then only values differ, and a value of printable
ASCII means what it says; headers that tell how a request is framed must be the same. `tests/unit/ingest/test_heads_alike.py` compares
this reading with the parser's.
"""

from __future__ import annotations

from typing import NamedTuple

from aiohttp.http_parser import RawRequestMessage
from multidict import CIMultiDict, CIMultiDictProxy

from ingest.clients.keys import KeyIndex
from ingest.clients.queries import PRINTABLE
from ingest.contract import HttpRequest
from ingest.http.routes import Match

MAX_HEAD_BYTES = 2048
MAX_BYTES = 8 * 1024 * 1024
"""Bound on the bytes of all heads and the values read from them: a client with a browser's key can send new ones for ever."""

LINE_BYTES = 256
"""Memory of a parsed header beside its bytes, about."""

SHAPES_BYTES = 1024 * 1024
"""Bound on the bytes of all shapes: they need no key."""

END = b"\r\n\r\n"

FRAMING = frozenset({"connection", "proxy-connection", "keep-alive", "te"})
"""Headers whose values must equal the earlier ones."""
NEVER_ALIKE = frozenset({"transfer-encoding", "content-encoding", "trailer", "expect", "upgrade"})
LENGTH = "content-length"
LONGEST_LENGTH = 9


class Head(NamedTuple):
    """The meaning of a head's bytes."""

    match: Match
    size: int
    """Of the body, in bytes."""
    asked: HttpRequest
    """The request without its body."""
    proxied: bool
    """True: the request depends on its sender, so `asked` is built for each."""


class Shape(NamedTuple):
    """What heads with the same method, path and names of headers have in common."""

    match: Match
    names: tuple[str, ...]
    length: int
    """The place of the header with the body's length; -1: there is no body."""
    fixed: tuple[tuple[int, str], ...]
    """Places of headers whose values must be these."""


class Alike(NamedTuple):
    """A head as the parser would read it."""

    match: Match
    method: str
    query: str
    headers: CIMultiDictProxy[str]
    size: int


class Heads:
    """The remembered heads. When full, it forgets all: heads in use come again soon."""

    def __init__(self) -> None:
        self.shapes: dict[tuple[str, ...], Shape] = {}
        self.shapes_bytes = 0
        self._shapes_keys: KeyIndex | None = None
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

    def alike(self, head: bytes, keys: KeyIndex) -> Alike | None:
        """Reads a head that differs from one that came before in values alone; None: the parser must read it."""
        if self._shapes_keys is not keys or (read := _read(head)) is None:
            return None
        form, query, values = read
        shape = self.shapes.get(form)
        if shape is None:
            return None
        for place, value in shape.fixed:
            if values[place] != value:
                return None
        size = 0
        if shape.length >= 0:
            text = values[shape.length]
            if len(text) > LONGEST_LENGTH or not text.isdigit():
                return None
            size = int(text)
        headers = CIMultiDictProxy(CIMultiDict(zip(shape.names, values, strict=True)))
        return Alike(shape.match, form[0], query, headers=headers, size=size)

    def remember_shape(self, head: bytes, match: Match, message: RawRequestMessage) -> None:
        """Remembers what a head that the parser read has in common with others, unless its framing is unusual."""
        read = _read(head)
        if read is None or read[0] in self.shapes:
            return
        form, query, values = read
        names = form[2:]
        lower = [each.lower() for each in names]
        if (
            len(set(lower)) < len(lower)
            or not NEVER_ALIKE.isdisjoint(lower)
            or any(each.startswith("sec-websocket") for each in lower)
        ):
            return
        target = f"{form[1]}?{query}" if f"{form[1]}?".encode() in head else form[1]
        if (
            message.path != target
            or message.method != form[0]
            or list(message.headers.items()) != list(zip(names, values, strict=True))
        ):
            return
        size = sum(map(len, form)) + LINE_BYTES * len(form)
        if self.shapes_bytes + size > SHAPES_BYTES:
            self.shapes.clear()
            self.shapes_bytes = 0
        fixed = tuple((place, values[place]) for place, name in enumerate(lower) if name in FRAMING)
        self.shapes[form] = Shape(match, names, lower.index(LENGTH) if LENGTH in lower else -1, fixed)
        self.shapes_bytes += size

    def use_keys(self, keys: KeyIndex) -> None:
        """Forgets the shapes of other keys: paths may be of a site's own."""
        if self._shapes_keys is not keys:
            self.shapes.clear()
            self.shapes_bytes = 0
            self._shapes_keys = keys


def _read(head: bytes) -> tuple[tuple[str, ...], str, tuple[str, ...]] | None:
    """Returns (method, path and names of headers; query; values of headers), None for a head with anything unusual in it."""
    ends = head.translate(None, PRINTABLE)
    # no control characters and no blanks around values: parsers differ in what they make of them
    if ends != b"\r\n" * (len(ends) // 2) or b":  " in head or b" \r\n" in head or head[-1:] == b" ":
        return None
    first, *lines = head.decode("ascii").split("\r\n")
    if 2 * len(lines) != len(ends):
        return None
    method, _, rest = first.partition(" ")
    target, _, version = rest.partition(" ")
    if version != "HTTP/1.1" or "#" in target or not lines:
        return None
    path, _, query = target.partition("?")
    names, marks, values = zip(*[line.partition(": ") for line in lines], strict=True)
    if "" in marks or "" in values:
        return None
    return (method, path, *names), query, values


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
        or not head.startswith(f"{message.method} {message.path} HTTP/1.1\r\n".encode("utf-8", "surrogateescape"))
    ):
        return b""
    return head
