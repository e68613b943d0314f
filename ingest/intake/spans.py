"""The span of a request that is sampled, or that we failed.

A request that is not sampled costs a comparison, a look for `traceparent` and the time: the next one to sample is drawn ahead. A client may continue its trace here (W3C Trace Context). No address, key, query or user agent of a client goes into a span.
"""

from __future__ import annotations

import math
import random
import time

from opentelemetry.trace import SpanKind

from ingest.contract import HttpRequest
from shared.telemetry.tracing.spans import TRACEPARENT, Span, Tracing, read_trail

LONGEST_NAME = 253
"""Characters of a host's name (RFC 1035)."""
Begun = Span | int
"""The span of a request that is sampled; the time at which another one began (epoch nanoseconds)."""


class RequestSpans:
    """Begins and ends the spans of requests."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._left = _gap(tracing.ratio)

    def wants(self, asked: HttpRequest) -> bool:
        """Whether `begin` must look at a request: its turn has come, or it continues a trace."""
        self._left -= 1
        return self._left <= 0 or TRACEPARENT in asked.headers

    def begin(self, asked: HttpRequest, protocol: str) -> Begun:
        """Called with a whole request."""
        parent = read_trail(asked.headers) if TRACEPARENT in asked.headers else None
        due = self._left <= 0
        if due:
            self._left = _gap(self._tracing.ratio)
        trail = self._tracing.decide(parent, always=due) if due or (parent is not None and parent.sampled) else None
        if trail is None:
            return time.time_ns()
        span = Span(
            name=f"{asked.method} {asked.route}",
            kind=SpanKind.SERVER,
            trail=trail,
            parent=parent,
            links=(),
            started_ns=time.time_ns(),
        )
        _describe(span, asked, protocol)
        return span

    def end(self, begun: Begun, asked: HttpRequest, protocol: str, status: int, site: str | None, events: int) -> None:
        """Called with the answer.

        Args:
            site: whose request it was, if that is known.
            events: which were acknowledged.
        """
        if isinstance(begun, Span):
            span = begun
        elif status < 500:
            return
        else:
            parent = read_trail(asked.headers)
            if parent is not None:  # the client's wish was beyond the bound
                parent = parent._replace(sampled=False)
            span = self._tracing.begin(f"{asked.method} {asked.route}", SpanKind.SERVER, parent=parent, started_ns=begun)
            _describe(span, asked, protocol)
        span.set("http.response.status_code", status)
        if site is not None:
            span.set("penstock.site", site)
        if status < 400:
            span.set("penstock.events", events)
        if status >= 500:
            span.fail(str(status))
        self._tracing.end(span)


def _gap(ratio: float) -> float:
    """Returns how many requests on the next sampled one comes, if each is sampled with the same chance."""
    if ratio <= 0:
        return math.inf
    return 1 if ratio >= 1 else 1 + math.floor(math.log(1 - random.random()) / math.log(1 - ratio))


def _describe(span: Span, asked: HttpRequest, protocol: str) -> None:
    span.set("http.request.method", asked.method)
    span.set("http.route", asked.route)
    if not asked.params:  # else a part of the path may be a key
        span.set("url.path", asked.route)
    span.set("url.scheme", "https" if asked.headers.get("x-forwarded-proto") == "https" else "http")
    if asked.host:
        span.set("server.address", asked.host[:LONGEST_NAME])
    span.set("http.request.body.size", len(asked.body))
    span.set("penstock.protocol", protocol)
