"""The contract of channels, between the core that decides what is told and the plug-ins in `channels/` that put it into a service's form.

A channel is two pure functions. `requests` makes the calls that carry a message; `answer` says what became of one. The core sends,
waits, tries again, and keeps what was told. A message whose outcome is not known (the router died, or no answer came) is sent again
under the same id: calls must name it by that id, so that a service that knows repeats shows one.

A message holds names, times and reasons of Penstock, never the body of an event.

Every plug-in is a module that names itself by its module name and defines:

    OPTIONS: type[msgspec.Struct]   what the user may write beside the fields of `AlertRules`; unknown keys refused, secrets marked
    MOST_ITEMS: int                 how many items one message may hold
    KNOWS_REPEATS: bool             whether the service shows a message that comes again under the same id once
    RESOLVES_EACH: bool             whether it keeps an incident for each listed fault, so that each of these must be told as ended
    def requests(options: OPTIONS, message: Message) -> list[Post | Mail]
    def answer(request: Post | Mail, response: Response) -> Outcome
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple, Protocol, get_args

import msgspec
from msgspec import Meta, field

from shared.reading.units import Duration

Kind = Literal["connection", "dead", "silence", "volume", "freshness", "sync", "feed", "queue", "service", "disk", "certificate"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Severity = Literal["critical", "warning"]


class AlertRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of every alert: what it tells, when, and how often."""

    enabled: Annotated[bool, Meta(description="false: nothing is sent; what was told stays told")] = True
    when: Annotated[list[Kind], Meta(description="what it tells; empty: everything")] = []
    connections: Annotated[list[str], Meta(description="connections that it tells of; empty: all")] = []
    sites: Annotated[list[str], Meta(description="sites that it tells of, and whose connections; empty: all")] = []
    syncs: Annotated[list[str], Meta(description="syncs that it tells of; empty: all")] = []
    feeds: Annotated[list[str], Meta(description="feeds that it tells of; empty: all")] = []
    after: Annotated[
        Duration,
        Meta(
            description="how long a fault must last before it is told, and be gone before its end is told; dead letters are told at once"
        ),
    ] = field(default_factory=lambda: Duration(120))
    repeat: Annotated[Duration, Meta(description="how often a fault that lasts is told again, at least 1m; 0: never")] = field(
        default_factory=lambda: Duration(4 * 3600)
    )
    every: Annotated[
        Duration, Meta(description="least time between two messages; what happens meanwhile comes in one message")
    ] = field(default_factory=lambda: Duration(60))
    recovered: Annotated[bool, Meta(description="false: the end of a fault is not told")] = True
    freshness: Annotated[
        Duration,
        Meta(description="how long the oldest event of a connection may wait for its destination, beside its batch period"),
    ] = field(default_factory=lambda: Duration(3600))
    silence: Annotated[
        Duration | None,
        Meta(
            description="how long a site that sent events may send none; none: decided from its usual traffic, see docs/alerts.md"
        ),
    ] = None
    volume: Annotated[
        float,
        Meta(
            ge=1.1,
            description="how many times more than the most, or less than the least, of the same hour of earlier days is unusual",
        ),
    ] = 2.0
    queue: Annotated[float, Meta(gt=0, le=1, description="part of a queue's or stream's room from which on it is told")] = 0.8
    disk: Annotated[float, Meta(gt=0, le=1, description="part of a disk, or of the broker's store, from which on it is told")] = (
        0.85
    )
    certificate: Annotated[Duration, Meta(description="how long before the end of a certificate it is told")] = field(
        default_factory=lambda: Duration(14 * 86_400)
    )
    certificates: Annotated[
        list[str],
        Meta(
            max_length=50,
            description="servers with TLS whose certificates are looked at, as `host:port`; those of destinations and of the broker are known",
        ),
    ] = []

    def tells(self, kind: Kind) -> bool:
        """Whether it tells of this kind."""
        return not self.when or kind in self.when


class Item(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One fault, or its end. Times are epoch seconds."""

    key: str
    """Names the fault for as long as it lasts, such as `connection shop-wh`; a service that knows incidents keeps one under it."""
    kind: Kind
    status: Literal["failing", "recovered"]
    severity: Severity
    title: str
    why: str = ""
    next: str = ""
    """A command to begin with."""
    since: float
    ended: float = 0.0
    again: bool = False
    """It was told before and lasts."""
    times: int = 0
    """How often it ended and came back within hours."""
    note: str = ""
    """Of one that ended: why it is no longer told, where it did not get well; empty: it did."""
    sample: dict[str, str] = {}
    """Of dead letters: one of them, without its body."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What one message tells. `more`: items beyond those listed, by status. `unlisted`: faults that last and that no message listed."""

    id: str
    alert: str
    at: float
    items: list[Item]
    more: dict[str, int] = {}
    unlisted: int = 0
    test: bool = False


class Post(NamedTuple):
    """A call over HTTP."""

    url: str
    headers: Mapping[str, str]
    body: bytes


class Mail(NamedTuple):
    """A mail for a server of SMTP. `content`: the whole message, as RFC 5322 has it."""

    host: str
    port: int
    security: Literal["starttls", "tls", "none"]
    user: str | None
    password: str | None
    sender: str
    recipients: tuple[str, ...]
    content: bytes
    verify: bool = True


Request = Post | Mail


class Response(NamedTuple):
    """The answer: a status of HTTP or a code of SMTP. Header names are in lower case."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = {}


class Outcome(NamedTuple):
    """What became of a request. `why` is empty if it was taken; `person`: it will not work before a person acts; `unsure`: the service may
    have taken it, and did not say so."""

    why: str = ""
    person: bool = False
    after_seconds: float | None = None
    """The service wants the next attempt no earlier."""
    unsure: bool = False


TAKEN = Outcome()


class Channel(Protocol):
    """The parts of a plug-in module."""

    OPTIONS: type[msgspec.Struct]
    MOST_ITEMS: int
    KNOWS_REPEATS: bool
    RESOLVES_EACH: bool

    def requests(self, options: Any, message: Message) -> list[Request]:
        """Returns the calls that carry a message."""
        ...

    def answer(self, request: Any, response: Response) -> Outcome:
        """Returns what became of a call."""
        ...
