"""The contract of wire protocols, between the HTTP server and the files in `ingest/protocols/`.

A protocol is a pure parser. The server reads a request, decodes its content encoding within a bound, and hands bytes over; the
protocol returns events with heads and the client's own bytes, or a refusal. It touches no socket, clock or file, and asks `Desk`
for anything it needs from the process. The server does the work that is the same for all protocols: routing, bodies, limits of
size and rate, CORS, the client's address and user agent, publishing, dead letters, and answering only after the events are
durable.

Every protocol is one file that defines:

    NAME: str                                             equals the file name; goes into `RequestContext.protocol`
    ROUTES: tuple[Route, ...]                             `Route("POST", "/v1/pixel/{type}")`; a parameter is one path segment
    COOKIES: bool                                         optional: pages send it cookies, from any origin that may send; no body has
                                                          a key that counts beside one outside
    def credentials(request) -> list[Credential]          keys found without reading the body, strongest carrier first
    def parse(request, desk) -> Parsed | Reply | Refusal  never raises, whatever the bytes
    def reply(request, result) -> Reply                   what the client of this protocol wants to hear
    def judge_again(parsed, body, form, new_id)           judges the body of a dead letter, `form` as the request's Parsed had it
    def as_event(body, form) -> bytes | None              the same body as JSON that says everything itself

A file may also say `QUERY_DECIDES = True`: no key in a body is stronger than one in the query, so the server knows the site of such
a request from its head. `HAS_KEYS = False`: no key opens a site in it, so the server remembers nothing of what a head opened.

`MOST_BODY_BYTES = 26 * 2**20`: a body up to there reaches `parse` although the site allows less, if the address shows the site. It says what becomes of it.

`parse` collects every key it finds, asks `desk.admit` before it builds anything of a body, and judges the events by the limits of
the site it is given. A `Reply` from `parse` is final: there are no events (files, settings documents, discarded metrics).

A protocol that keeps a connection open is a file with `PATH` instead of ROUTES, and reads and writes messages:

    NAME: str
    PATH: str
    def credentials(request) -> list[Credential]
    def read(data, desk, credentials) -> SocketMessage | SocketProblem     never raises, whatever the bytes
    def write_hello / write_ack / write_problem / write_pong
    def judge_again, as_event                                              as above

`ingest/http/sockets.py` keeps its connections. `ingest/registry.py` finds the files, `tests/contract/protocols/` holds each of
them to this page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from ingest.lookups import Checks, Seen
from shared.events.frame import Head
from shared.events.outcome import DeadReason, DropReason
from shared.project.model import SiteLimits
from shared.project.snowplow import Snowplow

NO_HEADERS: Mapping[str, str] = MappingProxyType({})

Carrier = Literal["basic", "bearer", "header", "body", "event", "path", "query", "host", "webhook"]
"""The places of a key, in order of precedence. `webhook`: the address of one, which alone proves nothing."""


@dataclass(frozen=True, slots=True)
class Route:
    """A method and a path pattern; `{name}` stands for one path segment."""

    method: Literal["GET", "POST"]
    path: str


class HttpRequest(NamedTuple):
    """A request as protocols see it. `headers` is looked up with lower-case names only."""

    method: str
    route: str
    """The pattern of ROUTES that matched."""
    params: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    """Decoded from its content encoding."""
    host: str = ""
    """Host name without port, lower case."""
    base_url: str = ""
    """Scheme and authority under which the client reaches this server, for documents that name it."""
    admission: Admission | None = None
    """The result of the key in the head when the same head came before, if it says nothing else: no charset, no other key."""
    query_text: str = ""
    """The query as it came, for senders that sign it."""


class Credential(NamedTuple):
    """A key as a client presented it: `id` or `id:secret`."""

    carrier: Carrier
    value: str


class Given(NamedTuple):
    """What a request says of its payload outside of the body: a name, an id, a user; `kind` is how the body is written."""

    kind: Literal["json", "form", "text", ""] = ""
    name: str = ""
    id: str = ""
    user: str = ""


class Reading(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the payload of a webhook becomes events. Dead letters keep it, so they can be read again by the same rules.

    `event`, `message_id`, `user_id`: paths into the payload, the first that is there counts.
    """

    webhook: str
    type: str
    packed: bool = False
    event: tuple[str, ...] = ()
    message_id: tuple[str, ...] = ()
    user_id: tuple[str, ...] = ()
    content_id: bool = False


Outside = Callable[[HttpRequest], str]
"""Finds a value outside of the body; an empty text where it is not there."""


class Unproven(NamedTuple):
    """Why a sender is not believed. `status` is 401, 403 or 503."""

    status: int
    code: str
    message: str


class Hook(Protocol):
    """A webhook of the project, as far as its protocol may ask it."""

    @property
    def reading(self) -> Reading:
        """How its payloads become events."""
        ...

    @property
    def outside(self) -> tuple[Outside | None, Outside | None, Outside | None]:
        """What finds name, id and user in headers and query; None where nothing is looked for there."""
        ...

    @property
    def binds_id(self) -> bool:
        """Whether a delivery's id stands where the signature does not cover it, so the bytes that are signed are part of it."""
        ...

    @property
    def hidden(self) -> str:
        """A parameter of the query that is no part of the payload: it holds the token."""
        ...

    def verify(self, request: HttpRequest, now: float) -> Unproven | None:
        """Returns why the sender is not believed, None if it is. Costs one pass over the body at most.

        Args:
            now: seconds since 1970.
        """
        ...


@dataclass(frozen=True, slots=True)
class Admission:
    """The site and key of an admitted request, and the site's rules for events."""

    site: str
    key: str
    """The key's id, masked where it is secret by itself."""
    kind: Literal["browser", "server"]
    limits: SiteLimits
    require_id: bool = True
    ip: Literal["keep", "truncate", "drop"] = "keep"
    """What becomes of an address that an event names itself."""
    snowplow: Snowplow = field(default_factory=Snowplow)
    schemas: Checks | None = None
    """The schemas of the site, if it has a folder of them."""
    bucket: str = ""
    """The name under which the key's events a second are counted; never shown."""
    hook: Hook | None = None
    """The webhook whose address was called; its sender is still to be verified."""

    def refuse(self, status: int, code: str, message: str, retry_after: int | None = None) -> Refusal:
        """Refuses a request of this key."""
        return Refusal(status=status, code=code, message=message, retry_after=retry_after, site=self.site, key=self.key)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The whole request is refused. `code` is stable and for programs, `message` is for people."""

    status: int
    code: str
    message: str
    retry_after: int | None = None
    """Seconds; set on 429 and 503."""
    site: str | None = None
    """The site for which the refusal is counted, if the key was known. If a protocol names none, the server looks up a key
    outside the body."""
    key: str = ""
    """The key's id, masked as in `Admission`; known if the site is."""
    dead: Reject | None = None
    """Parts of the request to keep in the dead letters, for protocols whose clients never learn of errors."""


class Reject(NamedTuple):
    """One event of a request that goes to the dead letters. `position` is its index in the request."""

    position: int
    reason: DeadReason
    detail: str
    body: bytes


IgnoredReason = Literal["unknown_batch_member", "context_not_an_object", "integrations_not_an_object"]


@dataclass(slots=True)
class Parsed:
    """The events of a request: `heads` and `bodies` run in parallel; heads have request index 0.

    A body may be a view of the request (`msgspec.Raw`): it has a length and can be joined, but is no `bytes`. With rejects, all
    bodies are `bytes`.
    """

    admission: Admission
    heads: list[Head] = field(default_factory=list)
    bodies: list[bytes | msgspec.Raw] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    sent_at: str | None = None
    form: str = ""
    """What the request says about its events outside their bodies, in the protocol's words (`judge_again`). Kept in dead letters."""
    defaults: bytes | None = None
    """A JSON object merged under every event."""
    repaired: int = 0
    """Number of events whose bytes were not JSON and were mended."""
    made_ids: int = 0
    """Number of events that came without a messageId."""
    headers: Mapping[str, str] | None = None
    """Headers of the answer, once the events are durable."""
    hide_address: bool = False
    """The sender wants neither its address nor its place kept."""
    unknown_schemas: int = 0
    """Number of data whose schema the site's folder does not have."""
    unfit: int = 0
    """Number of data that do not fit their schema, in events that were accepted."""
    ignored: Sequence[IgnoredReason] = ()
    """Parts of the request outside its events that the protocol ignores."""
    ip_policy: str | None = None
    """How the client wants its address treated, in the words of `X-IP-Policy`, if it says so elsewhere."""
    asked: HttpRequest | None = None
    """The request itself, where test suites may ask for it (the setting `micro`)."""


class File(Protocol):
    """A file that browsers load, in every form in which it is sent."""

    def reply(self, headers: Mapping[str, str]) -> Reply:
        """Returns the answer to a request with these headers: compressed, or 304."""
        ...


class Origins(Protocol):
    """The pages that may send to a site."""

    def stranger(self, headers: Mapping[str, str]) -> str | None:
        """Returns the page that sent a request, if it may not send."""
        ...


class SitePages(Protocol):
    """A site as its pages know it (`ingest/browser/pages.py`)."""

    @property
    def cookie_domain(self) -> str | None: ...

    @property
    def cookie_days(self) -> int: ...

    @property
    def origins(self) -> Origins: ...

    def plugins(self, base: str) -> Sequence[Mapping[str, Any]]: ...

    @property
    def settings(self) -> File: ...


SHOWN_REJECTS = 10
"""An answer names so many rejects, and says how many more there are."""


class Accepted(NamedTuple):
    """The events of a request are durable: `accepted` in EVENTS, `rejected` in the dead letters, `dropped` nowhere."""

    accepted: int
    rejects: Sequence[Reject] = ()
    dropped: DropReason | None = None


class Reply(NamedTuple):
    """An answer, ready to send."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = NO_HEADERS


class SocketProblem(NamedTuple):
    """A fault of one message, or of the connection if `fatal`."""

    code: str
    message: str
    id: Any = None
    """The id of the message, as the client sent it."""
    retry_after: int | None = None
    fatal: bool = False
    sender: Admission | Refusal | None = None
    """The result of looking up the message's key, if it was looked up: names the site and key for which the problem is counted."""


class SocketMessage(NamedTuple):
    """A message of a client: an id and events, or a ping, or only a key."""

    id: Any
    parsed: Parsed | None
    ping: Any = None
    credentials: tuple[Credential, ...] = ()
    """The admission of the site; kept for the messages that follow."""


class Desk(Protocol):
    """The process, as far as a parser may ask it."""

    @property
    def micro(self) -> Seen | None:
        """What was seen lately; None unless the setting `micro` is on."""
        ...

    def admit(self, credentials: Sequence[Credential]) -> Admission | Refusal:
        """Returns the site that the strongest of `credentials` opens, or a 401. A pure lookup."""
        ...

    def new_id(self) -> str:
        """Returns a new unique messageId, for events that came without one."""
        ...

    def pages(self, site: str) -> SitePages:
        """Returns what the pages of an admitted site are told."""
        ...

    def now(self) -> float:
        """Returns the time, in seconds since 1970, for signatures that grow old."""
        ...


class HttpProtocol(Protocol):
    """A module of `ingest/protocols/`."""

    NAME: str
    ROUTES: tuple[Route, ...]

    def credentials(self, request: HttpRequest) -> list[Credential]: ...

    def parse(self, request: HttpRequest, desk: Desk) -> Parsed | Reply | Refusal: ...

    def reply(self, request: HttpRequest, result: Accepted | Refusal) -> Reply: ...

    def judge_again(self, parsed: Parsed, body: bytes, form: str, new_id: Callable[[], str]) -> None: ...

    def as_event(self, body: bytes, form: str) -> bytes | None: ...


class SocketProtocol(Protocol):
    """A module of `ingest/protocols/` for connections that stay open. Text messages are `str`, binary ones `bytes`."""

    NAME: str
    PATH: str
    SUBPROTOCOLS: tuple[str, ...]

    def credentials(self, request: HttpRequest) -> list[Credential]: ...

    def read(self, data: str | bytes, desk: Desk, known: Sequence[Credential]) -> SocketMessage | SocketProblem: ...

    def write_hello(self, binary: bool, credit: int) -> str | bytes: ...

    def write_ack(self, binary: bool, id_: Any, result: Accepted, credit: int) -> str | bytes: ...

    def write_problem(self, binary: bool, problem: SocketProblem) -> str | bytes: ...

    def write_pong(self, binary: bool, value: Any) -> str | bytes: ...

    def judge_again(self, parsed: Parsed, body: bytes, form: str, new_id: Callable[[], str]) -> None: ...

    def as_event(self, body: bytes, form: str) -> bytes | None: ...
