"""From a whole request to its answer: one way for all requests, whichever reader took them from the socket.

`begin` parses, judges and hands the events over. It returns an answer that is known at once; an answer that must wait for the
disk comes later, through the caller's function. Nothing here waits or raises: our own fault is a 500 and a line in the log. Its
callers are `ingest/http/server.py`, with a task for each request, and `ingest/http/quick.py`, without.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import cast

from multidict import MultiMapping

from ingest.clients.address import Place
from ingest.clients.early import decides
from ingest.clients.origins import VARY, Origins, preflight_headers
from ingest.clients.own_address import host_of, own_url
from ingest.clients.queries import parse_query
from ingest.contract import NO_HEADERS, Admission, HttpRequest, Parsed, Refusal, Reply
from ingest.http.answer import RETRY_AFTER_SECONDS, Answered, as_reply, not_stored, too_large
from ingest.http.heads import NO_QUERY, Alike
from ingest.http.request_ids import new_request_id
from ingest.http.routes import Match, Routes
from ingest.intake.intake import Intake, Sender
from ingest.intake.spans import Begun, RequestSpans
from ingest.intake.ticket import Ticket
from ingest.judge.encoding import GZIP_MAGIC, BadEncoding, TooLarge, content_encoding, decode_body
from ingest.limits.bounds import Held
from ingest.limits.refusals import jittered
from shared.errors import Permanent, Transient
from shared.telemetry.tracing.spans import Span, Trail

TIMED_REQUESTS = 64
"""One request in so many is timed: a histogram costs more than all other counting."""

HEALTH_PATH = "/health"

LAST_STATUSES = frozenset({408, 413})
"""After these the connection closes: the rest of the request may still be coming."""

TOO_MANY_REQUESTS = Refusal(503, "overloaded", "too many requests at once; try again", retry_after=RETRY_AFTER_SECONDS)
TOO_MANY_BYTES = Refusal(503, "overloaded", "too many bytes at once; try again", retry_after=RETRY_AFTER_SECONDS)

_NO_PLACE = Place()
_NO_ANSWER = Answered(Reply(0, b""))
_INTERNAL = Refusal(500, "internal", "the request failed; its events were not accepted")

log = logging.getLogger(__name__)


Done = Callable[[Answered], None]
"""Called with the answer, once; neither waits nor raises."""


class _Pending(Ticket):
    """A request whose events are on their way."""

    __slots__ = ("asked", "begun", "done", "match", "parsed", "peer", "pipeline", "started")

    def __init__(
        self,
        pipeline: Pipeline,
        match: Match,
        asked: HttpRequest,
        peer: str | None,
        parsed: Parsed,
        started: float,
        begun: Begun,
        done: Done,
    ) -> None:
        self.frames = 0  # instead of a call of the base, which does the same: one call less for each request
        self.over = False
        self.trail = begun.trail if begun.__class__ is Span else None
        self.pipeline = pipeline
        self.match = match
        self.asked = asked
        self.peer = peer
        self.parsed = parsed
        self.started = started
        self.begun = begun
        self.done = done

    def settle(self, failure: Exception | None) -> None:
        self.done(self.pipeline.finish(self, failure))


class Pipeline:
    """Answers whole requests."""

    def __init__(self, intake: Intake, routes: Routes, is_ready: Callable[[], bool] = lambda: True, public_url: str = "") -> None:
        self.intake = intake
        self._routes = routes
        self.is_ready = is_ready
        self._public_url = public_url.rstrip("/")
        self.draining = False
        """Every answer closes its connection."""
        self._begun = 0
        tracing = intake.telemetry.tracing
        self._spans = RequestSpans(tracing) if tracing is not None else None
        self._count_answer = lru_cache(512)(self._answer_counter)
        self._plain = _NO_ANSWER
        self._with_cookies = frozenset(each.NAME for each in routes.protocols if getattr(each, "COOKIES", False))

    def find(self, method: str, path: str) -> Match | None:
        """Returns the match of a raw path: a protocol's route, or a path of a site's own."""
        return self._routes.find(method, path) or self._routes.find_own(method, path, self.intake.keys.paths)

    def ask(
        self, match: Match, method: str, query: str, headers: Mapping[str, str], body: bytes, peer: str | None, local: str = ""
    ) -> HttpRequest:
        """Returns the request as protocols see it. `body` is decoded.

        Args:
            local: our side of the socket, for requests without a body: some ask for the address to send to.
        """
        place = self._place(headers, peer)
        host = headers.get("host", "")
        return HttpRequest(
            method=method,
            route=match.route,
            params=match.params,
            query=parse_query(query) if query else NO_QUERY,
            headers=headers,
            body=body,
            host=host_of(place.authority or host),
            base_url="" if body else self._base_url(place, host, peer, local),
            query_text=query,
        )

    def ask_alike(self, known: Alike, query: str, body: bytes, *, peer: str | None, local: str) -> HttpRequest:
        """Returns what `ask` does, for a head that is like another one."""
        trusted = self.intake.proxies.trusted
        if known.host is not None and known.local == local and not trusted:
            asked = known.ask(query, body)
            if not known.is_opened:
                known.is_opened = True
                if known.match.protocol.NAME in self._with_cookies:
                    known.admission = self.known_admission(known.match, asked._replace(query=NO_QUERY))
            return asked
        asked = self.ask(
            match=known.match, method=known.method, query=query, headers=known.headers, body=body, peer=peer, local=local
        )
        if not trusted:
            known.host, known.base_url, known.local = asked.host, asked.base_url, local
        return asked

    def host(self, headers: Mapping[str, str], peer: str | None) -> str:
        """Returns the host name the client called."""
        return host_of(self._place(headers, peer).authority or headers.get("host", ""))

    def known_admission(self, match: Match, asked: HttpRequest) -> Admission | None:
        """Returns what a key in the headers opens, if nothing else in the request can change that (`HttpRequest.known`)."""
        kind = asked.headers.get("content-type", "").lower()
        if "charset" in kind and not kind.endswith("charset=utf-8"):
            return None
        found = match.protocol.credentials(asked)
        is_decided = decides(found, query=match.query_decides) or match.protocol.NAME in self._with_cookies
        opened = self.intake.keys.admit(found) if is_decided else None
        return None if opened is None or isinstance(opened, Refusal) or opened[1] else opened[0]

    def begin(self, match: Match, asked: HttpRequest, peer: str | None, done: Done) -> Answered | None:
        """Takes a whole request in; returns None if the answer must wait for the disk: then `done` is called with it."""
        self._begun += 1
        spans, begun = self._spans, cast("Begun", 0)
        if spans is not None:
            begun = spans.begin(asked, match.protocol.NAME) if spans.wants(asked) else time.time_ns()
        started = time.perf_counter() if self._begun % TIMED_REQUESTS == 0 or begun.__class__ is Span else 0.0
        try:
            answered = self._take(match=match, asked=asked, peer=peer, started=started, begun=begun, done=done)
        except Exception:
            log.exception("request failed", extra={"path": match.route, "protocol": match.protocol.NAME})
            answered = self.answer(asked.headers, match.protocol.NAME, as_reply(_INTERNAL))
        if answered is not None and (started or (begun and answered.reply.status >= 500)):
            self._note(match=match, asked=asked, answered=answered, started=started, begun=begun)
        return answered

    def finish(self, pending: _Pending, failure: Exception | None) -> Answered:
        """Returns the answer, once the events are stored or have failed."""
        match, asked, parsed = pending.match, pending.asked, pending.parsed
        site = parsed.admission.site
        try:
            if failure is None:
                reply = match.protocol.reply(asked, self.intake.accepted(parsed, match.protocol.NAME))
                if parsed.headers:
                    status, content, content_type, own = reply
                    reply = Reply(status, content, content_type, {**own, **parsed.headers})
                answered = self.answer(asked.headers, match.protocol.NAME, reply, site)
            else:
                answered = self.refuse(match, asked, not_stored(failure, parsed.admission), pending.peer)
        except Exception:
            log.exception("request failed", extra={"path": match.route, "protocol": match.protocol.NAME})
            answered = self.answer(asked.headers, match.protocol.NAME, as_reply(_INTERNAL))
        if pending.started or (pending.begun and answered.reply.status >= 500):  # a sampled one is timed, too
            self._note(match=match, asked=asked, answered=answered, started=pending.started, begun=pending.begun, parsed=parsed)
        return answered

    def refuse_unread(self, match: Match, asked: HttpRequest, refusal: Refusal, peer: str | None) -> Answered:
        """Refuses a request that never began."""
        answered = self.refuse(match, asked, refusal, peer)
        if self._spans is not None:
            self._note(match=match, asked=asked, answered=answered, started=0.0, begun=time.time_ns())
        return answered

    def refuse(self, match: Match, asked: HttpRequest, refusal: Refusal, peer: str | None) -> Answered:
        """Words and counts the refusal of a whole request."""
        if refusal.site is None:
            site, key = self.intake.keys.sender_of(match.protocol.credentials(asked))
            refusal = replace(refusal, site=site, key=key)
        if self.intake.micro is not None:
            self.intake.micro.note_refusal(asked, refusal, match.protocol.NAME)
        refusal, request_id = self._refused(refusal, peer)
        answered = self.answer(asked.headers, match.protocol.NAME, match.protocol.reply(asked, refusal), refusal.site)
        return answered._replace(request_id=request_id)

    def turn_away(self, headers: Mapping[str, str], protocol: str, refusal: Refusal, peer: str | None) -> Answered:
        """Words and counts a refusal before any protocol saw the request."""
        refusal, request_id = self._refused(refusal, peer)
        return self.answer(headers, protocol, as_reply(refusal), refusal.site)._replace(request_id=request_id)

    def health(self, method: str) -> Answered:
        """Tells balancers whether this edge takes requests; only the admin page says why not."""
        status, body = (200, b'{"status":"ok"}') if self.is_ready() and not self.draining else (503, b'{"status":"unavailable"}')
        if method not in ("GET", "HEAD"):
            status, body = 405, b'{"code":"wrong_method","message":"/health takes GET"}'
        headers = {"Cache-Control": "no-store"} | ({"Retry-After": str(jittered(RETRY_AFTER_SECONDS))} if status == 503 else {})
        return Answered(Reply(status, body, headers=headers), close=self.draining)

    def _refused(self, refusal: Refusal, peer: str | None) -> tuple[Refusal, bytes]:
        request_id = new_request_id()
        self.intake.refusals.note(refusal, peer, request_id)
        if refusal.retry_after is not None:
            refusal = replace(refusal, retry_after=jittered(refusal.retry_after))
        return refusal, request_id

    def answer(self, headers: Mapping[str, str], protocol: str, reply: Reply, site: str | None = None) -> Answered:
        """Adds the headers that the asking page must see, and counts.

        Args:
            headers: those of the request.
        """
        self._count_answer(protocol, reply.status)(1)
        origin = headers.get("origin")
        if reply is self._plain.reply and not origin and not self.draining:
            return self._plain
        if "Access-Control-Allow-Origin" in reply.headers:  # the same for every page
            return Answered(reply, NO_HEADERS, self.draining)
        # a cache must not give an answer without an origin to a page with one
        extra = (
            self._origins(site).headers(origin, cookies=protocol in self._with_cookies)
            if origin
            else VARY
            if "Cache-Control" in reply.headers
            else NO_HEADERS
        )
        answered = Answered(reply, extra, self.draining or reply.status in LAST_STATUSES)
        if reply.status == 200 and not answered.close and not extra:
            self._plain = answered  # success is one object in most protocols, and nearly always the next answer
        return answered

    def preflight(self, headers: Mapping[str, str], path: str) -> Answered:
        """Answers OPTIONS."""
        keys = self.intake.keys
        site = keys.site_of_host(path if path in keys.paths else host_of(headers.get("host", "")))
        match = self.find("POST", path) or self.find("GET", path)
        cookies = match is not None and match.protocol.NAME in self._with_cookies
        allowed = preflight_headers(self._origins(site), headers, cookies=cookies)
        allowed["Allow"] = "GET, POST, OPTIONS"
        return Answered(Reply(204, b"", "", allowed), close=self.draining)

    def unknown(self, method: str, path: str, *, is_upgrade: bool) -> Reply:
        """Answers a request that no protocol takes."""
        if is_upgrade:
            return as_reply(Refusal(426, "upgrade_required", f"{path} speaks WebSocket only"))
        known = self._routes.methods(path, self.intake.keys.paths)
        if known:
            reply = as_reply(Refusal(405, "wrong_method", f"{path} takes {' and '.join(known)}, not {method[:20]}"))
            return reply._replace(headers={"Allow": ", ".join([*(["HEAD"] if "GET" in known else []), *known, "OPTIONS"])})
        return as_reply(Refusal(404, "unknown_path", f"nothing is served at {path[:200]!r}"))

    def request_limit(self, match: Match, method: str, query: str, headers: Mapping[str, str]) -> int:
        """Returns the site's limit if its key is outside the body, else the largest limit of any site."""
        keys = self.intake.keys
        if keys.smallest_request == keys.largest_request and not match.most_bytes:
            return keys.largest_request
        return self.admitted(match, method, query, headers)[0]

    def admitted(self, match: Match, method: str, query: str, headers: Mapping[str, str]) -> tuple[int, bool]:
        """Returns the limit of the body, and whether a key outside of it opens a site."""
        keys = self.intake.keys
        found = match.protocol.credentials(
            self.ask(match=match, method=method, query=query, headers=headers, body=b"", peer=None)
        )
        admission = keys.admit(found) if found else None
        if isinstance(admission, tuple):
            return max(int(admission[0].limits.request_bytes), match.most_bytes), True
        return keys.largest_request, False

    def unpack(
        self, match: Match, method: str, query: str, headers: MultiMapping[str], body: bytes, limit: int, held: Held
    ) -> bytes | Refusal:
        """Returns the body without its content encodings; unpacks no stranger's body if the headers show that its key opens no site."""
        encoding = content_encoding(headers)
        if encoding is not None or body[:2] == GZIP_MAGIC:
            found = match.protocol.credentials(
                self.ask(match=match, method=method, query=query, headers=headers, body=b"", peer=None)
            )
            if decides(found, query=match.query_decides) and isinstance(refusal := self.intake.keys.admit(found), Refusal):
                return refusal
        return decode(body, encoding, limit, held)

    def _take(
        self, match: Match, asked: HttpRequest, peer: str | None, started: float, begun: Begun, done: Done
    ) -> Answered | None:
        protocol = match.protocol
        parsed = protocol.parse(asked, self.intake)
        if isinstance(parsed, Reply):
            return self.answer(asked.headers, protocol.NAME, parsed)
        if isinstance(parsed, Refusal):
            return self.refuse(match, asked, parsed, peer)
        site = parsed.admission.site
        limit = int(parsed.admission.limits.request_bytes)
        if len(asked.body) > max(
            limit, match.most_bytes
        ):  # the key was in the body, which was read within the largest limit of any site
            return self.refuse(match, asked, too_large(f"the body has {len(asked.body)} bytes", limit, parsed.admission), peer)
        pending = _Pending(
            pipeline=self, match=match, asked=asked, peer=peer, parsed=parsed, started=started, begun=begun, done=done
        )
        try:
            result = self.intake.take(parsed, Sender(peer, asked.headers), protocol.NAME, pending)
        except (Transient, Permanent) as exc:
            result = not_stored(exc, parsed.admission)
        if result is None:
            return None
        if isinstance(result, Refusal):
            return self.refuse(match, asked, result, peer)
        return self.answer(asked.headers, protocol.NAME, protocol.reply(asked, result), site)

    def _place(self, headers: Mapping[str, str], peer: str | None) -> Place:
        proxies = self.intake.proxies
        return proxies.place(peer, headers) if proxies.trusted else _NO_PLACE

    def _answer_counter(self, protocol: str, status: int) -> Callable[[float], None]:
        return self.intake.telemetry.counter("ingest_requests_total", protocol=protocol, status=str(status))

    def _note(
        self, match: Match, asked: HttpRequest, answered: Answered, started: float, begun: Begun, parsed: Parsed | None = None
    ) -> None:
        """Times a request, and ends its span, if it has them."""
        if started:
            trail: Trail | None = begun.trail if isinstance(begun, Span) else None
            seconds, name = time.perf_counter() - started, match.protocol.NAME
            self.intake.telemetry.record_in(trail, "ingest_request_seconds", seconds, protocol=name)
        if self._spans is not None:
            self._spans.end(
                begun=begun,
                asked=asked,
                protocol=match.protocol.NAME,
                status=answered.reply.status,
                site=None if parsed is None else parsed.admission.site,
                events=0 if parsed is None else len(parsed.heads),
            )

    def _origins(self, site: str | None) -> Origins:
        desk = self.intake.sites.get(site) if site is not None else None
        return self.intake.all_origins if desk is None else desk.origins

    def _base_url(self, place: Place, host: str, peer: str | None, local: str) -> str:
        if self._public_url:
            return self._public_url
        keys = self.intake.keys
        return own_url(
            place=place,
            host=host,
            is_proxied=self.intake.proxies.trusts(peer),
            is_domain=lambda name: keys.site_of_host(name) is not None,
            local=local,
        )


def decode(body: bytes, encoding: str | None, limit: int, held: Held) -> bytes | Refusal:
    """Returns the body without its content encodings."""
    if len(body) > limit:
        return too_large("the body is larger", limit)
    if encoding is None and body[:2] != GZIP_MAGIC:
        return body
    try:
        decoded = decode_body(body, encoding, limit)
        return decoded if held.grow_to(len(decoded)) else TOO_MANY_BYTES
    except TooLarge:
        return too_large(f"the body of {len(body)} bytes is larger when decoded", limit)
    except BadEncoding as exc:
        return Refusal(415 if exc.unknown else 400, "bad_encoding", str(exc))
