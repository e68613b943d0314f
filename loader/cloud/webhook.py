"""Events to the user's HTTP address: one event a call, or several as a JSON array.

The user gives the method, address, headers and body; the last three may be Jinja templates. A template sees `events`, and `event`
if a call has one event. The body without a template is the event as JSON; with `batch_events` beyond 1 it is a JSON array, and a
body template that uses `event` renders one element of it. `secret` signs each call (`loader/calls/signature.py`).

An answer with 2xx says that all events of the call have arrived; the body of an answer means nothing. `loader/calls/answers.py`
reads other answers.

Known trap: a template must not choose the server. Scheme and host are plain text, so no client can redirect events. A path must
not climb either: `urlencode` leaves `/` and `..` as they are, and HTTP clients resolve them, so a path with dots for a folder is
refused.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Annotated, Literal
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import Meta, field

from loader.calls.answers import outcome_of
from loader.calls.options import Pace
from loader.calls.signature import sign
from loader.calls.text import TemplateFailed, Text, one_line
from loader.cloud import Service
from loader.contract.events import Call, Calls, EventCapabilities, EventDestination, Response, SendLimits
from loader.contract.warehouse import Environment
from shared.events.event import JSON, encode_event
from shared.events.outcome import Dead, DeadReason, Drop, DropReason, Outcome
from shared.reading.units import ByteSize

MOST_URL = 8_000
MOST_HEADER = 8_000
MOST_BODY = 16 * 1024 * 1024
"""The most characters of a rendered template."""

_SERVER = re.compile(r"https?://[^/?#\s{]+(?:[/?#]|$)", re.IGNORECASE)
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)  # RFC 9110, section 5.6.2
_OWN = frozenset({"content-length", "transfer-encoding", "connection", "host"})
_ONE, _MANY = ("event", "events"), ("events",)


class Options(Pace, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a webhook."""

    url: Annotated[
        str, Meta(description="address; may be a template behind the host, such as `https://example.com/in/{{ event.type }}`")
    ]
    method: Annotated[Literal["POST", "PUT", "PATCH", "GET", "DELETE"], Meta(description="method of each call")] = "POST"
    headers: Annotated[
        dict[str, str], Meta(extra={"secret": True}, description="headers of each call; their values may be templates")
    ] = field(default_factory=dict)
    body: Annotated[
        str | None, Meta(description="template of the body; default: the event as JSON, or a JSON array of events")
    ] = None
    secret: Annotated[str | None, Meta(extra={"secret": True}, description="signs time and body of each call (HMAC-SHA256)")] = (
        None
    )
    signature_header: Annotated[str, Meta(description="header of the signature")] = "X-Penstock-Signature"
    batch_events: Annotated[int, Meta(ge=1, le=1000, description="most events in a call; 1: each event in a call of its own")] = 1
    batch_bytes: Annotated[ByteSize, Meta(description="most bytes in the body of a call with several events")] = field(
        default_factory=lambda: ByteSize(1024 * 1024)
    )
    calls_at_once: Annotated[int, Meta(ge=1, le=256, description="calls under way together")] = 8

    def __post_init__(self) -> None:
        _Templates(self)
        super().__post_init__()


OPTIONS = Options
CAPABILITIES = EventCapabilities()


async def open_destination(name: str, options: Options, environment: Environment) -> EventDestination:  # noqa: ARG001
    """Returns the destination; connects to nothing yet."""
    return Webhook(options)


class _Templates:
    """The texts of the options, compiled.

    Raises:
        ValueError: one is wrong; says which.
    """

    def __init__(self, options: Options) -> None:
        known = _ONE if options.batch_events == 1 else _MANY
        if not _SERVER.match(options.url):
            raise ValueError("url: expected http:// or https://, then a host that is no template, and behind it `/`")
        _require_server(options.url)
        self.url = _text("url", options.url, known, MOST_URL)
        self.headers: dict[str, Text] = {}
        for name, value in options.headers.items():
            if not _HEADER.fullmatch(name) or name.lower() in _OWN:
                raise ValueError(f"headers: {name!r} is no name of a header that can be set")
            self.headers[name] = _text(f"headers.{name}", value, known, MOST_HEADER)
            if self.headers[name].constant and not value.isprintable():
                raise ValueError(f"headers.{name}: the value holds characters that cannot stand in a header")
        if not _HEADER.fullmatch(options.signature_header):
            raise ValueError(f"signature_header: {options.signature_header!r} is no name of a header")
        self.body = None if options.body is None else _text("body", options.body, _ONE, MOST_BODY)
        if self.body is not None and self.body.names >= {"event", "events"} and options.batch_events > 1:
            raise ValueError("body: a template of a batch uses `event` for each element, or `events` for the whole; not both")


def _text(option: str, source: str, known: Sequence[str], most: int) -> Text:
    try:
        return Text(source, known, most)
    except ValueError as exc:
        raise ValueError(f"{option}: {exc}") from exc


def _require_server(url: str) -> None:
    try:
        server = urlsplit(re.split(r"[/?#]", url.partition("://")[2], maxsplit=1)[0].join(("http://", "/")))
        _ = server.port
    except ValueError as exc:
        raise ValueError("url: host and port are no address") from exc
    if "@" in server.netloc:  # shown by `penstock plan`, where headers are not
        raise ValueError("url: a user name does not belong into it; write the header `Authorization` under `headers`")


class Webhook(Service):
    """See `HTTPDestination`."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._texts = _Templates(options)
        limits = SendLimits(
            events_per_call=options.batch_events,
            calls_at_once=options.calls_at_once,
            ordered=options.ordered,
            calls_a_second=options.rate,
            timeout_seconds=float(options.timeout),
            retry_seconds=float(options.retry_delay),
            max_age_seconds=float(options.max_age),
        )
        super().__init__(limits)
        texts = [self._texts.url, *self._texts.headers.values(), *([self._texts.body] if self._texts.body else [])]
        self._templated = any(not text.constant for text in texts)
        self._fixed = {name: text.render() for name, text in self._texts.headers.items() if text.constant}
        if "content-type" not in {name.lower() for name in self._texts.headers}:
            self._fixed["Content-Type"] = "application/json"

    def calls(self, events: Sequence[JSON], at: float) -> Calls:
        ended: dict[int, Drop | Dead] = {}
        pieces: dict[int, bytes] = {}
        # times become texts; numbers of which a double would lose digits stay as they are
        seen = [msgspec.to_builtins(event, builtin_types=(Decimal,)) for event in events] if self._templated else []
        for index, event in enumerate(events):
            try:
                piece = self._piece(event, seen[index] if seen else None)
            except TemplateFailed as exc:
                ended[index] = Dead(DeadReason.TEMPLATE_FAILED, f"body: {exc}")
                continue
            if piece is None:
                ended[index] = Drop(DropReason.TEMPLATE_EMPTY)
            else:
                pieces[index] = piece
        calls: list[Call] = []
        groups = deque(self._groups(pieces))
        while groups:
            group = groups.popleft()
            try:
                calls.append(self._call(group, pieces, seen, at))
            except TemplateFailed as exc:
                if len(group) > 1:  # for one of them
                    groups.extendleft((group[len(group) // 2 :], group[: len(group) // 2]))
                else:
                    ended[group[0]] = Dead(DeadReason.TEMPLATE_FAILED, str(exc))
        return Calls(calls, ended)

    def answer(self, call: Call, response: Response) -> Sequence[Outcome]:
        return [outcome_of(response)] * len(call.events)

    def trial(self) -> Call | str:
        if not (self._texts.url.constant and all(text.constant for text in self._texts.headers.values())):
            return "its url or headers are made of an event, so that nothing can be sent without one"
        return Call(method="HEAD", url=self._texts.url.render(), headers=self._fixed, body=b"", events=(0,))

    def _piece(self, event: JSON, seen: JSON | None) -> bytes | None:
        """Returns an event's part of a body; None: the template skips it."""
        template = self._texts.body
        if template is None:
            return encode_event(event)
        if "events" in template.names and self._options.batch_events > 1:
            return encode_event(event)  # to know its size; the whole is rendered at once
        text = template.render(event=seen, events=[seen])
        return text.encode() if text.strip() else None

    def _groups(self, pieces: dict[int, bytes]) -> Iterator[list[int]]:
        """Yields the events of each call."""
        group: list[int] = []
        size = 2
        for index, piece in pieces.items():
            more = len(piece) + 1
            if group and (len(group) >= self._options.batch_events or size + more > self._options.batch_bytes):
                yield group
                group, size = [], 2
            group.append(index)
            size += more
        if group:
            yield group

    def _call(self, group: list[int], pieces: dict[int, bytes], seen: Sequence[JSON], at: float) -> Call:
        single = self._options.batch_events == 1
        chosen = [seen[index] for index in group] if seen else []
        values: dict[str, object] = {"events": chosen}
        if single and chosen:
            values["event"] = chosen[0]
        template = self._texts.body
        if single:
            body = pieces[group[0]]
        elif template is not None and "events" in template.names:
            body = template.render(events=chosen).encode()
        else:
            body = b"[" + b",".join(pieces[index] for index in group) + b"]"
        headers = dict(self._fixed)
        for name, text in self._texts.headers.items():
            if not text.constant:
                headers[name] = _named(f"headers.{name}", text, values)
        url = self._texts.url.render() if self._texts.url.constant else _below(_named("url", self._texts.url, values))
        if self._options.secret is not None:
            headers[self._options.signature_header] = sign(self._options.secret, at, body)
        return Call(method=self._options.method, url=url, headers=headers, body=body, events=group)


def _named(option: str, text: Text, values: dict[str, object]) -> str:
    try:
        return one_line(text.render(**values))
    except TemplateFailed as exc:
        raise TemplateFailed(f"{option}: {exc}") from exc


def _below(url: str) -> str:
    """Returns an address whose path only goes down.

    Raises:
        TemplateFailed: `.` or `..` is one of its folders, in any spelling.
    """
    path = unquote(re.split(r"[?#]", url, maxsplit=1)[0])
    if {".", ".."} & set(re.split(r"[/\\]", path)):
        raise TemplateFailed("url: it gave a path with `.` or `..` as a folder, by which a client would choose another path")
    return url
