"""Heads of requests that came before: a client repeats its head with every request, so the edge reads it once.

A head is remembered by its bytes, with the parser's reading of it. If a request begins with the same bytes, on a connection whose
parser is between two requests, it means the same, and the parser need not see it. Only heads of small plain requests with a
header key that opens a site are remembered. A new revision of the project forgets all of them. Their number and size are bounded.

Many clients write something new into every head: a length, a signature, a cookie, a query. Such a head is *alike*: method, path and
the names of its headers, in their order, came before and the parser read them. Then only values differ, and a value of printable
ASCII means what it says; headers that tell how a request is framed must be the same. Of a client that writes nothing new but the
query, the lines behind the first are remembered as they are. `tests/unit/ingest/test_heads_alike.py` compares
this reading with the parser's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from aiohttp.http_parser import RawRequestMessage

from ingest.clients.carriers import QUERY_NAMES
from ingest.clients.keys import KeyIndex
from ingest.clients.queries import PRINTABLE, parse_query
from ingest.contract import Admission, HttpRequest
from ingest.http.routes import Match

MAX_HEAD_BYTES = 2048
MAX_BYTES = 8 * 1024 * 1024
"""Bound on the bytes of all heads and the values read from them: a client with a browser's key can send new ones for ever."""

LINE_BYTES = 256
"""Memory of a parsed header beside its bytes, about."""

SHAPES_BYTES = 1024 * 1024
"""Bound on the bytes of all shapes: they need no key."""

OFTEN = 16
"""A shape that came so often gets a pattern, which reads its heads in a third of the time and is made in half a millisecond."""
MOST_PATTERNS = 256
"""Patterns made in one revision of the project: a stranger can ask for them."""
MOST_LINES = 40
"""A head of more headers gets no pattern: making one takes longer with each."""
PATTERNS_OF_LINE = 4
"""Patterns for one method, path and number of headers; a head is compared with each."""

RESTS_BYTES = 2 * 1024 * 1024
"""Bound on the bytes of all rests, which need no key, and the values read from them."""
CAME = 10_000
"""Number of rests of which is known that they came once."""

END = b"\r\n\r\n"
NO_QUERY: Mapping[str, str] = {}
_VERSION = b" HTTP/1.1"
_IN_QUERY = bytes(set(PRINTABLE) - set(b" #"))

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


class Shape:
    """What heads with the same method, path and names of headers have in common."""

    __slots__ = ("fixed", "length", "lower", "match", "method", "names", "pattern", "uses")

    def __init__(self, match: Match, method: str, names: tuple[str, ...], values: tuple[str, ...]) -> None:
        self.match = match
        self.method = method
        self.names = names
        self.lower = tuple(each.lower() for each in names)
        self.length = self.lower.index(LENGTH) if LENGTH in self.lower else -1
        """The place of the header with the body's length; -1: there is no body."""
        self.fixed = tuple((place, values[place]) for place, name in enumerate(self.lower) if name in FRAMING)
        """Places of headers whose values must be these."""
        self.uses = 0
        self.pattern: re.Pattern[str] | None = None
        """Matches a head of printable characters, once the shape came often."""


class Alike:
    """A head as the parser would read it, without its query. `headers` have lower-case names."""

    __slots__ = ("admission", "base_url", "headers", "host", "is_opened", "local", "match", "method", "size")

    def __init__(self, match: Match, method: str, headers: Mapping[str, str], size: int) -> None:
        self.match = match
        self.method = method
        self.headers = headers
        self.size = size
        self.host: str | None = None
        """The host that the head names; None: it was not needed yet, or depends on the sender."""
        self.base_url = ""
        self.local = ""
        """Our side of the socket for which `base_url` holds."""
        self.admission: Admission | None = None
        """What opens without the query, if the query cannot change that otherwise than by a key."""
        self.is_opened = False
        """Whether `admission` was looked for."""

    def ask(self, query: str, body: bytes) -> HttpRequest:
        """Returns the request with a query and a body, if `host` and `base_url` are known."""
        match, parameters = self.match, parse_query(query) if query else NO_QUERY
        admission = self.admission
        if admission is not None and not parameters.keys().isdisjoint(QUERY_NAMES):
            admission = None
        return HttpRequest(
            method=self.method,
            route=match.route,
            params=match.params,
            query=parameters,
            headers=self.headers,
            body=body,
            host=self.host or "",
            base_url=self.base_url,
            admission=admission,
            query_text=query,
        )


class Heads:
    """The remembered heads. When full, it forgets all: heads in use come again soon."""

    def __init__(self) -> None:
        self.shapes: dict[tuple[str, ...], Shape] = {}
        self.shapes_bytes = 0
        self.often: dict[tuple[bytes, int], list[Shape]] = {}
        """Shapes with patterns, by method with path and number of headers."""
        self.patterns = 0
        self.rests: dict[bytes, dict[bytes, Alike]] = {}
        """Heads by their lines behind the first, and by the first up to the query."""
        self.rests_bytes = 0
        self._came: set[int] = set()
        """Hashes of rests that came once: most never come again."""
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
        headers = {name.lower(): value for name, value in known.asked.headers.items()}
        if len(headers) == len(known.asked.headers):  # each name once: a plain table is faster
            known = known._replace(asked=known.asked._replace(headers=headers))
        self.known[head] = known

    def alike(self, head: bytes, keys: KeyIndex) -> tuple[Alike, str] | None:
        """Reads a head that differs from one that came before in values alone.

        Returns:
            The head and its query; None: the parser must read it.
        """
        if self._shapes_keys is not keys:
            return None
        line, _, rest = head.partition(b"\r\n")
        start, mark, query = line.partition(b"?")
        starts = self.rests.get(rest)
        if starts is not None and (again := starts.get(start + mark)) is not None:
            if not mark:
                return again, ""
            text = query[: -len(_VERSION)]
            if query.endswith(_VERSION) and not text.translate(None, _IN_QUERY):
                return again, text.decode("ascii")
        found = self._matched(head, start if mark else start[: -len(_VERSION)]) or self._looked_up(head)
        if found is not None:
            if (number := hash(rest)) in self._came:
                self._keep(rest, start + mark, found[0])
            else:
                if len(self._came) >= CAME:
                    self._came.clear()
                self._came.add(number)
        return found

    def _matched(self, head: bytes, start: bytes) -> tuple[Alike, str] | None:
        """Reads a head by the patterns of shapes that came often. `start`: its method and path."""
        shapes = self.often.get((start, head.count(b"\r\n")))
        if shapes is None or not _is_plain(head):
            return None
        text = head.decode("ascii")
        for shape in shapes:
            if shape.pattern is not None and (found := shape.pattern.fullmatch(text)) is not None:
                query, *values = found.groups("")
                size = int(values[shape.length]) if shape.length >= 0 else 0
                return Alike(shape.match, shape.method, dict(zip(shape.lower, values, strict=True)), size), query
        return None

    def _looked_up(self, head: bytes) -> tuple[Alike, str] | None:
        read = _read(head)
        shape = self.shapes.get(read[0]) if read is not None else None
        if read is None or shape is None:
            return None
        form, query, values = read
        for place, value in shape.fixed:
            if values[place] != value:
                return None
        size = 0
        if shape.length >= 0:
            text = values[shape.length]
            if len(text) > LONGEST_LENGTH or not text.isdigit():
                return None
            size = int(text)
        shape.uses += 1
        if shape.uses == OFTEN and self.patterns < MOST_PATTERNS and len(values) <= MOST_LINES:
            others = self.often.setdefault((f"{form[0]} {form[1]}".encode(), len(values)), [])
            if len(others) < PATTERNS_OF_LINE:
                self.patterns += 1
                shape.pattern = _pattern(form, shape)
                others.append(shape)
        return Alike(shape.match, form[0], dict(zip(shape.lower, values, strict=True)), size), query

    def _keep(self, rest: bytes, start: bytes, found: Alike) -> None:
        """Remembers the lines of a head behind the first: many clients change nothing but the query."""
        size = len(rest) + len(start) + LINE_BYTES * (len(found.headers) + 4)
        if self.rests_bytes + size > RESTS_BYTES:
            self.rests.clear()
            self.rests_bytes = 0
        self.rests_bytes += size
        self.rests.setdefault(rest, {})[start] = found

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
            self._forget_shapes()
        self.shapes[form] = Shape(match, form[0], names, values)
        self.shapes_bytes += size

    def use_keys(self, keys: KeyIndex) -> None:
        """Forgets the shapes of other keys: paths may be of a site's own."""
        if self._shapes_keys is not keys:
            self._forget_shapes()
            self.rests.clear()
            self.rests_bytes = 0
            self.patterns = 0
            self._shapes_keys = keys

    def _forget_shapes(self) -> None:
        self.shapes.clear()
        self.often.clear()
        self.shapes_bytes = 0


def _is_plain(head: bytes) -> bool:
    """Whether a head holds nothing but printable characters and ends of lines."""
    ends = head.translate(None, PRINTABLE)
    return ends == b"\r\n" * (len(ends) // 2)


def _pattern(form: tuple[str, ...], shape: Shape) -> re.Pattern[str]:
    """Returns what matches the heads that `_read` finds to be of a shape, with their query and the values of their headers."""
    fixed = dict(shape.fixed)
    lines = []
    for place, name in enumerate(shape.names):
        value = r"(?! )[^\r]++(?<! )"  # no blanks around it
        if place in fixed:
            value = re.escape(fixed[place])
        elif place == shape.length:
            value = rf"[0-9]{{1,{LONGEST_LENGTH}}}"
        lines.append(rf"\r\n{re.escape(name)}: ({value})")
    return re.compile(rf"{re.escape(form[0])} {re.escape(form[1])}(?:\?([!\"$-~]*+))? HTTP/1\.1{''.join(lines)}")


def _read(head: bytes) -> tuple[tuple[str, ...], str, tuple[str, ...]] | None:
    """Returns (method, path and names of headers; query; values of headers), None for a head with anything unusual in it."""
    # no control characters and no blanks around values: parsers differ in what they make of them
    if not _is_plain(head) or b":  " in head or b" \r\n" in head or head[-1:] == b" ":
        return None
    first, *lines = head.decode("ascii").split("\r\n")
    if len(lines) != head.count(b"\n"):
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
