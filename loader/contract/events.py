"""The contract of event-wise destinations, between the loader's core and the plug-ins in `cloud/`.

A table destination (`loader/contract/warehouse.py`) takes rows. An event-wise one takes events: each goes out in a call over
HTTP, alone or with others, and each has its own outcome. The core does the work that is the same for all destinations: consuming,
keeping the order of each user, sending, timeouts, pauses and rates, retries over days, dead letters, counting, acknowledging. A
plug-in has two pure functions: which calls carry which events (`calls`), and what an answer means for each of them (`answer`). It
opens no socket, reads no clock and waits for nothing.

The core calls `calls` with events in their order, then `answer` once for each call that was answered; `answer` may ask for a
further call. If a call gets no answer (no link, a timeout), the core tries it again. The same events must give the same calls,
except for parts that depend on the time: the core calls `calls` again before each repeat.

A call may arrive twice: if its answer was lost, or the loader was killed before it noted the answer. So each call has the header
`Idempotency-Key`, which the core makes of connection, lane, sequence and index of its first event; a repeat has the same key.

Every plug-in is one file that names itself by its module name and defines:

    OPTIONS: type[msgspec.Struct]          what the user may write, `type` excepted; unknown keys refused
    CAPABILITIES: EventCapabilities        of the type, known without a connection
    async def open_destination(name: str, options: OPTIONS, environment: Environment) -> EventDestination

`loader/registry.py` finds it, `tests/contract/events/` holds it to this page. The kit for it is `loader/calls/`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from shared.events.event import JSON
from shared.events.outcome import Dead, Drop, Outcome

IDEMPOTENCY_KEY = "Idempotency-Key"
"""Header of every call (draft-ietf-httpapi-idempotency-key-header)."""

MOST_HOLD_SECONDS = 86_400.0
"""No destination makes all its calls wait for longer than a day, whatever its `Retry-After` says."""

MOST_STEPS = 4
"""Calls that may follow each other for the same events until it is known what became of them."""


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
    calls_a_second: float | None = None
    timeout_seconds: float = 30.0
    """The time for a whole call, from connecting to the last byte of the answer."""
    answer_bytes: int = 64 * 1024
    """The most bytes that are read of an answer's body; a longer one is cut, and the link closed."""
    retry_seconds: float = 10.0
    """The first wait of a failed call; each further wait is three times as long, up to an hour."""
    max_age_seconds: float = 3 * 86_400.0
    """The time after its first failure when the core gives an event up. It gives up no event while the whole destination fails."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `events`: the indexes of its events among those given to `calls`, at least one."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    events: Sequence[int]


@dataclass(frozen=True, slots=True)
class Calls:
    """The calls of some events, in the order in which they must go out.

    `ended`: by index, events that go into no call.
    """

    calls: Sequence[Call]
    ended: Mapping[int, Drop | Dead] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Response:
    """An answer. `headers` by lower-case name; `body` is cut at `SendLimits.answer_bytes`; `at`: its time (epoch seconds)."""

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

    def calls(self, events: Sequence[JSON], at: float) -> Calls:
        """Returns the calls that carry these events; pure.

        Args:
            events: full events, as `shared.events.event.materialise` makes them, at most `SendLimits.events_per_call`.
            at: the time (epoch seconds), for signatures.
        """
        ...

    def answer(self, call: Call, response: Response) -> Sequence[Outcome] | Call:
        """Returns the outcome of each event of a call, in the order of `call.events`; pure.

        It may return a `Call` instead: the next step for the same events. The core sends it at once and calls `answer` again. So a
        plug-in can first fetch a token, or change a record that a refusal names. At most `MOST_STEPS` calls go out in a row for an
        event; a repeat begins with the first step again.

        If all events of a call are `Dead` and the answer does not say which one is at fault, the core halves the call until it
        has found the event.
        """
        ...

    def trial(self) -> Call | str:
        """Returns a call that changes nothing in the service, for `penstock check`; or why there is none."""
        ...

    async def close(self) -> None:
        """Frees its resources. Never raises."""
        ...
