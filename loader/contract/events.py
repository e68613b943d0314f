"""The contract of event-wise destinations, between the loader's core and the plug-ins in `cloud/` and `queues/`.

A table destination (`loader/contract/warehouse.py`) takes rows. An event-wise one takes events: each goes out in a call, alone or
with others, and each has its own outcome. The core does the work that is the same for all destinations: consuming, keeping the
order of each user, pauses and rates, retries over days, dead letters, counting, acknowledging.

A plug-in says which calls carry which events (`calls`), and opens a way to send them (`link`). What became of each event of a call
is an outcome, under any protocol:

    Ok                        the destination has the event, durably
    Retry(reason, after)      not taken this time; perhaps later, after so many seconds
    Retry(everyone=True)      the whole destination takes nothing now: all calls wait
    Retry(denied=True)        not let in: a person must act, or, where others are let in, the event is at fault
    Dead(reason, detail)      never taken: a dead letter

The core calls `calls` with events in their order, then `Link.send` with each call. The same events must give the same calls, except
for parts that depend on the time: the core calls `calls` again before each repeat. A call may arrive twice: if its answer was lost,
or the loader was killed before it noted the answer. So each call has a key, which the core makes of connection, lane, sequence and
index of its first event; a repeat has the same key.

A service over HTTP needs no way of its own. It has two pure functions: `calls`, and `answer`, which says what an answer means for
each event (`HTTPDestination`). It opens no socket, reads no clock and waits for nothing; `loader/links/http.py` sends its calls, and
writes the key into the header `Idempotency-Key`.

Every plug-in is one file that names itself by its module name and defines:

    OPTIONS: type[msgspec.Struct]          what the user may write, `type` excepted; unknown keys refused
    CAPABILITIES: EventCapabilities        of the type, known without a connection
    async def open_destination(name: str, options: OPTIONS, environment: Environment) -> EventDestination

`loader/registry.py` finds it, `tests/contract/events/` holds it to this page. The kits for it are `loader/calls/` and `loader/links/`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from loader.contract.warehouse import CheckResult
from shared.events.event import JSON
from shared.events.outcome import Dead, Drop, Outcome
from shared.reading.mask import Mask

IDEMPOTENCY_KEY = "Idempotency-Key"
"""Header of every call over HTTP (draft-ietf-httpapi-idempotency-key-header)."""

MOST_HOLD_SECONDS = 86_400.0
"""No destination makes all its calls wait for longer than a day, whatever its `Retry-After` says."""

MOST_STEPS = 4
"""Calls over HTTP that may follow each other for the same events until it is known what became of them."""


@dataclass(frozen=True, slots=True)
class EventCapabilities:
    """The core's facts about a type of destination; data, no code. Fields that table destinations have too share their names."""

    stream: bool = True
    """Events may be sent as they come."""
    transactional: Literal[False] = False
    merge: Literal["no"] = "no"
    """A replay sends delivered events again."""


@dataclass(frozen=True, slots=True)
class SendLimits:
    """The limits and the order of calls, as data."""

    events_per_call: int = 1
    """The most events for one call of `calls`."""
    calls_at_once: int = 8
    """The most calls under way together. Events of one user always go by the same line of calls, one after the other."""
    ordered: bool = True
    """True: an event waits until the earlier events of its user have ended. False: a waiting event holds up no other."""
    one_line: bool = False
    """True: if `ordered`, all events are in one order, as if they were of one user."""
    calls_a_second: float | None = None
    timeout_seconds: float = 30.0
    """The time for a whole call, from connecting to the last byte of the answer."""
    answer_bytes: int = 64 * 1024
    """The most bytes that are read of the body of an answer over HTTP; a longer one is cut, and the link closed."""
    retry_seconds: float = 10.0
    """The first wait of a failed call; each further wait is three times as long, up to an hour."""
    max_age_seconds: float = 3 * 86_400.0
    """The time after its first failure when the core gives an event up. It gives up no event while the whole destination fails."""


class Parcel(Protocol):
    """A call under any protocol: the events that go out together."""

    @property
    def events(self) -> Sequence[int]:
        """The indexes of its events among those given to `calls`, at least one."""
        ...

    def shown(self) -> Sequence[Call]:
        """Returns it in the form of requests, for people (`penstock explain`)."""
        ...


class Parcels(Protocol):
    """The calls of some events, in the order in which they must go out."""

    @property
    def calls(self) -> Sequence[Parcel]:
        """The calls."""
        ...

    @property
    def ended(self) -> Mapping[int, Drop | Dead]:
        """By index, events that go into no call."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a call.

    `outcomes`: of each of its events, in the order of `Parcel.events`. `works`: the destination as a whole works, although it wants
    some events later; it matters only if it does.
    """

    outcomes: Sequence[Outcome]
    works: bool = False


class DefectError(Exception):
    """The plug-in's own code failed on an answer; the cause is its error. The core makes dead letters of the events."""


class Link(Protocol):
    """The way of one connection's calls to the destination. Any number of tasks send at once, up to `SendLimits.calls_at_once`."""

    @property
    def trouble(self) -> str:
        """Why calls that are under way get no answer, with the remedy; empty if nothing is known to be wrong."""
        ...

    async def send(self, call: Any, key: str) -> Answer:
        """Sends a call that `calls` made, and returns what became of it.

        A destination that is away, slow or unwilling is an answer, not an error. It takes no longer than `SendLimits.timeout_seconds`.

        Args:
            key: the same for each repeat with the same events.

        Raises:
            DefectError: the plug-in's own code failed.
        """
        ...


Note = Callable[[str, float], None]
"""Counts a request: its result (a closed list), and how many seconds it took."""


@dataclass(frozen=True, slots=True)
class Way:
    """What a link is told. `mask` hides the destination's secrets in what the other side echoes."""

    connection: str
    site: str
    mask: Mask
    note: Note


@dataclass(frozen=True, slots=True)
class Call:
    """One request over HTTP. `events`: the indexes of its events among those given to `calls`, at least one."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    events: Sequence[int]

    def shown(self) -> Sequence[Call]:
        """See `Parcel.shown`."""
        return (self,)


@dataclass(frozen=True, slots=True)
class Calls:
    """The calls of some events over HTTP, in the order in which they must go out.

    `ended`: by index, events that go into no call.
    """

    calls: Sequence[Call]
    ended: Mapping[int, Drop | Dead] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Response:
    """An answer over HTTP. `headers` by lower-case name; `body` is cut at `SendLimits.answer_bytes`; `at`: its time (epoch seconds)."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    at: float


@runtime_checkable
class EventDestination(Protocol):
    """One event-wise destination of the project, open in this process."""

    @property
    def capabilities(self) -> EventCapabilities:
        """The module's `CAPABILITIES`."""
        ...

    @property
    def limits(self) -> SendLimits:
        """The limits of its calls; they stay the same while it is open."""
        ...

    def calls(self, events: Sequence[JSON], at: float) -> Parcels:
        """Returns the calls that carry these events; pure.

        Args:
            events: full events, as `shared.events.event.materialise` makes them, at most `SendLimits.events_per_call`.
            at: the time (epoch seconds), for signatures.
        """
        ...

    def link(self, way: Way) -> AbstractAsyncContextManager[Link]:
        """Returns the way of one connection's calls, open while its context is; opening it reaches nothing and never raises."""
        ...

    async def check(self, mask: Mask) -> Sequence[CheckResult]:
        """Tries the destination without changing anything there, for `penstock check`."""
        ...

    async def close(self) -> None:
        """Frees its resources. Never raises."""
        ...


@runtime_checkable
class HTTPDestination(EventDestination, Protocol):
    """An event-wise destination over HTTP. Its base `loader.cloud.Service` has `link`, `check` and `close`."""

    def calls(self, events: Sequence[JSON], at: float) -> Calls:
        """See `EventDestination.calls`."""
        ...

    def answer(self, call: Call, response: Response) -> Sequence[Outcome] | Call:
        """Returns the outcome of each event of a call, in the order of `call.events`; pure.

        It may return a `Call` instead: the next step for the same events. The link sends it at once and calls `answer` again. So a
        plug-in can first fetch a token, or change a record that a refusal names. At most `MOST_STEPS` calls go out in a row for an
        event; a repeat begins with the first step again.

        If all events of a call are `Dead` and the answer does not say which one is at fault, the core halves the call until it
        has found the event.
        """
        ...

    def trial(self) -> Call | str:
        """Returns a call that changes nothing in the service, for `penstock check`; or why there is none."""
        ...
