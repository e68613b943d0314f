"""Spans of one process: cheap to begin, and sent only if their trace is sampled or they failed.

A `Trail` is a W3C trace context: it names a trace and a span in it, and says whether the trace is sampled. It travels in the headers
`traceparent` and `tracestate` of HTTP requests and of messages. A frame has a trail whether it is sampled or not, so lines of the log
and failures of all stages name the same trace.

A span that is not sampled costs a few numbers and is thrown away. If it fails, it is sent all the same, `ERRORS_A_SECOND` at most. A
process begins sampled traces by ratio, and no more than a number a second: so the cost has a bound under any traffic.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from random import getrandbits
from typing import NamedTuple

from opentelemetry.trace import SpanKind

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
ERRORS_A_SECOND = 10
MOST_LINKS = 128
"""Links of a span; the SDK takes no more."""
MOST_STATE = 512
"""A longer tracestate is left out, as W3C Trace Context allows."""
MOST_WORDS = 500
"""Characters of an error's text."""

Value = str | int | float | bool

_SHAPE = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MEMBER = r"[a-z0-9][a-z0-9_\-*/@]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
_STATE = re.compile(rf"{_MEMBER}(?:[ \t]*,[ \t]*{_MEMBER}){{0,31}}")
"""Members of a tracestate, at most 32 (https://www.w3.org/TR/trace-context/#tracestate-header)."""
_HALF = 1 << 64


class Trail(NamedTuple):
    """A span's place in its trace. `state`: the sender's tracestate, passed on as it came."""

    trace_id: int
    span_id: int
    sampled: bool
    state: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """The headers that carry it."""
        found = {TRACEPARENT: f"00-{self.trace_id:032x}-{self.span_id:016x}-{'01' if self.sampled else '00'}"}
        if self.state:
            found[TRACESTATE] = self.state
        return found


def read_trail(headers: Mapping[str, str]) -> Trail | None:
    """Returns the trail that headers carry; None if they carry none, or one that W3C Trace Context calls invalid."""
    text = headers.get(TRACEPARENT)
    found = _SHAPE.fullmatch(text) if text is not None else None
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    state = headers.get(TRACESTATE, "")
    if state and (len(state) > MOST_STATE or not _STATE.fullmatch(state)):
        state = ""
    return Trail(int(trace_id, 16), int(span_id, 16), bool(int(flags, 16) & 1), state)


class Span:
    """A piece of work in a trace. `end` sends it, if it is to be sent."""

    __slots__ = ("attributes", "ended_ns", "error", "kind", "links", "name", "parent", "started_ns", "trail", "what")

    def __init__(
        self, name: str, kind: SpanKind, trail: Trail, parent: Trail | None, links: Sequence[Trail], started_ns: int
    ) -> None:
        self.name = name
        self.kind = kind
        self.trail = trail
        self.parent = parent
        self.links = links
        self.started_ns = started_ns
        self.ended_ns = 0
        self.attributes: dict[str, Value] = {}
        self.error = ""
        self.what = ""

    def set(self, name: str, value: Value) -> None:
        """Sets an attribute; names follow the semantic conventions of OpenTelemetry."""
        self.attributes[name] = value

    def fail(self, error: str, what: str = "") -> None:
        """Says that the work failed: the kind of error, of which there are few, and a text for people, without secrets."""
        self.error, self.what = error, what[:MOST_WORDS]

    @property
    def headers(self) -> dict[str, str]:
        """Message headers that carry it on."""
        return self.trail.headers


class _NoSpan(Span):
    """Where nothing is traced."""

    __slots__ = ()

    def set(self, name: str, value: Value) -> None:
        """Does nothing."""

    def fail(self, error: str, what: str = "") -> None:
        """Does nothing."""

    @property
    def headers(self) -> dict[str, str]:
        """None."""
        return {}


NO_SPAN: Span = _NoSpan(name="", kind=SpanKind.INTERNAL, trail=Trail(0, 0, sampled=False), parent=None, links=(), started_ns=0)

_current: ContextVar[Span | None] = ContextVar("span", default=None)


def current_trail() -> Trail | None:
    """Returns the trail of the span that the current task is in."""
    span = _current.get()
    return None if span is None else span.trail


def current_headers() -> dict[str, str]:
    """Returns message headers that carry the span that the current task is in; none where it is in none."""
    span = _current.get()
    return {} if span is None else span.trail.headers


class Allowance:
    """So many a second, and as many at once."""

    def __init__(self, a_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._a_second = a_second
        self._most = max(1.0, a_second)
        self._left = self._most
        self._clock = clock
        self._at = clock()

    def take(self) -> bool:
        """Takes one if there is one."""
        at = self._clock()
        self._left = min(self._most, self._left + (at - self._at) * self._a_second)
        self._at = at
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Tracing:
    """Begins and ends the spans of a process.

    Args:
        send: takes the ended spans that leave the process; neither waits nor raises.
        lose: called for each failed span beyond the bound of such spans.
        ratio: share of the traces begun here that are sampled.
        a_second: most sampled traces that begin here in a second, and as many more that clients ask for: so a client that asks for all of
            them takes none from the others.
    """

    def __init__(self, send: Callable[[Span], None], lose: Callable[[], None], *, ratio: float, a_second: float) -> None:
        self._send = send
        self._lose = lose
        self.ratio = ratio
        self._below = round(ratio * _HALF)
        self._begun = Allowance(a_second)
        self._asked = Allowance(a_second)
        self._failed = Allowance(ERRORS_A_SECOND)

    def decide(self, parent: Trail | None = None, *, always: bool = False) -> Trail | None:
        """Returns the trail of a request's span if it is sampled: by the sender's wish or by ratio, within the bound of both."""
        trace_id = getrandbits(128) if parent is None else parent.trace_id
        asked = not always and parent is not None and parent.sampled
        if not asked and not always and trace_id % _HALF >= self._below:
            return None
        if not (self._asked if asked else self._begun).take():
            return None
        return Trail(trace_id or 1, getrandbits(64) or 1, sampled=True, state="" if parent is None else parent.state)

    def begin(
        self,
        name: str,
        kind: SpanKind,
        *,
        parent: Trail | None = None,
        links: Sequence[Trail] = (),
        may_begin: bool = False,
        always: bool = False,
        started_ns: int = 0,
    ) -> Span:
        """Begins a span.

        Args:
            parent: the span above; its decision on sampling holds.
            links: spans of which it is a consequence too; without a parent it is sampled if one of them is.
            may_begin: without parent and links, whether a sampled trace may begin here; else the trace is not sampled.
            always: it may, at any ratio.
            started_ns: when it began (epoch); 0: now.
        """
        trail: Trail | None
        if parent is not None:
            trail = Trail(parent.trace_id, getrandbits(64) or 1, parent.sampled, parent.state)
        elif may_begin or always:
            trail = self.decide(always=always)
        else:
            trail = None
        if trail is None:
            sampled = any(link.sampled for link in links)
            trail = Trail(getrandbits(128) or 1, getrandbits(64) or 1, sampled)
        return Span(name=name, kind=kind, trail=trail, parent=parent, links=links, started_ns=started_ns or time.time_ns())

    def end(self, span: Span) -> None:
        """Ends a span; sends it if it is sampled, or if it failed."""
        if not span.trail.sampled:
            if not span.error:
                return
            if not self._failed.take():
                self._lose()
                return
        span.ended_ns = max(time.time_ns(), span.started_ns)  # the clock may have been put back
        if len(span.links) > MOST_LINKS:  # a viewer of traces has the sampled ones
            span.links = sorted(span.links, key=lambda link: not link.sampled)[:MOST_LINKS]
        self._send(span)

    @contextmanager
    def within(self, span: Span) -> Iterator[Span]:
        """Makes a span the current one, and ends it; an exception fails it, but for the end of a task."""
        token = _current.set(span)
        try:
            yield span
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as exc:
            if not span.error:
                span.fail(type(exc).__name__, str(exc))
            raise
        finally:
            _current.reset(token)
            self.end(span)
