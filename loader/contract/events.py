"""What an event-wise destination is: the contract between the loader's core and the plug-ins in `cloud/`.

A table destination (`loader/contract/warehouse.py`) takes rows. An event-wise one takes events: each goes out in a call over HTTP, alone or
with others, and each has an outcome of its own. The core owns everything that is the same for all of them: consuming, keeping the
order of each user, sending, timeouts, pauses and rates, retries over days, dead letters, counting, acknowledging. A plug-in owns two
pure functions: which calls carry which events (`calls`), and what an answer means for each of them (`answer`). It opens no socket,
reads no clock and waits for nothing.

Who calls what: `calls` with events in their order, then `answer` once for each call that was answered; it may ask for a further call. A call that got no
answer (no connection, a timeout) is a failure that the core tries again. The same events give the same calls, but for what depends
on the time: the core calls `calls` again before each repeat.

A call may arrive twice: when its answer was lost, or the loader was killed before it noted the answer. So each call bears the header
`Idempotency-Key`, which the core makes of connection, lane, sequence and index of its first event; a repeat bears the same key.

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
    """What the core must know of a type of destination; data, no code. Named as those of tables where both have them."""

    stream: bool = True
    """Events may be sent as they come."""
    transactional: Literal[False] = False
    merge: Literal["no"] = "no"
    """A replay sends events that were delivered again."""


@dataclass(frozen=True, slots=True)
class SendLimits:
    """How calls go out: limits and order, as data."""

    events_per_call: int = 1
    """`calls` gets no more events than this at once."""
    calls_at_once: int = 8
    """Calls under way together. Events of one user always go by the same line of calls, one after the other."""
    ordered: bool = True
    """An event waits until the earlier ones of its user are at their end. False: an event that waits holds up no other."""
    calls_a_second: float | None = None
    timeout_seconds: float = 30.0
    """For a whole call, from the connection to the last byte of the answer."""
    answer_bytes: int = 64 * 1024
    """Of an answer's body so much is read; what is longer is cut, and the connection closed."""
    retry_seconds: float = 10.0
    """How long a call that failed waits first; each further wait is three times as long, up to an hour."""
    max_age_seconds: float = 3 * 86_400.0
    """How long after its first failure an event is given up. Time in which the whole destination fails does not give up an event."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `events`: which of the events given to `calls` it carries, by index, at least one."""

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
    """An answer. `headers` by lower-case name; `body` is cut at `SendLimits.answer_bytes`; `at`: when it came (epoch seconds)."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    at: float


@runtime_checkable
class EventDestination(Protocol):
    """One event-wise destination of the project, open in this process."""

    @property
    def capabilities(self) -> EventCapabilities:
        """As the module's `CAPABILITIES`."""
        ...

    @property
    def limits(self) -> SendLimits:
        """How its calls go out; the same as long as it is open."""
        ...

    def calls(self, events: Sequence[JSON], at: float) -> Calls:
        """Returns the calls that carry these events; pure.

        Args:
            events: full events, as `shared.events.event.materialise` makes them, at most `SendLimits.events_per_call`.
            at: the time (epoch seconds), for signatures.
        """
        ...

    def answer(self, call: Call, response: Response) -> Sequence[Outcome] | Call:
        """Returns what became of each event of a call, in the order of `call.events`; pure.

        A `Call` instead is the next step for the same events: it goes out at once, and its answer is asked about in turn. So a service
        that wants a token first, or that names the record to be changed in a refusal, has its way. Of each event at most `MOST_STEPS`
        calls go out in a row; a repeat begins with the first again.

        Where all events of a call are `Dead` and the answer does not say which one is at fault, the core cuts the call in halves,
        until it has found the event.
        """
        ...

    def trial(self) -> Call | str:
        """Returns a call that changes nothing there, for `penstock check`; or why there is none."""
        ...

    async def close(self) -> None:
        """Gives back what it holds. Never raises."""
        ...
