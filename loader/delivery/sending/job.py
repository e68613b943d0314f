"""A job: events of one lane that go out together in one call."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from loader.contract.events import SendLimits
from loader.rows.hints import may_hold_hints, take_hints
from shared.events import exact
from shared.events.dead import DeadLetter, now, origin_of
from shared.events.event import JSON, RequestFacts, facts_of, materialise
from shared.events.frame import Frame, Head, RequestContext, pack
from shared.telemetry.tracing.spans import Trail

if TYPE_CHECKING:
    from loader.delivery.sending.later import Waiting


def user_of(head: Head) -> str:
    """Returns a short name of an event's user, the same in every process. Two users with the same name only wait for each other."""
    return hashlib.blake2b(head.user_key.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


ONE = "0" * 16
"""The user of all events where they are in one order."""


def line_of(head: Head, limits: SendLimits) -> str:
    """Returns the user as which an event is ordered."""
    return ONE if limits.one_line else user_of(head)


class Source:
    """A frame whose events are being sent, and its `lane`; the frame is opened once."""

    def __init__(self, lane: str, frame: Frame, trail: Trail | None = None) -> None:
        self.lane = lane
        self.trail = trail
        self.frame = frame
        self.bodies = frame.bodies()
        self._facts: dict[int, RequestFacts] = {}

    def facts(self, request: int) -> RequestFacts:
        """Returns the server's facts about a request."""
        found = self._facts.get(request)
        if found is None:
            found = self._facts[request] = facts_of(self.frame.requests[request])
        return found


class Item(NamedTuple):
    """One event: at `position` of `source`; `seq` and `number` are its place in the lane, `user` as `user_of` names it."""

    source: Source
    position: int
    seq: int
    number: int
    user: str

    @property
    def head(self) -> Head:
        """The head of the event."""
        return self.source.frame.heads[self.position]

    def event(self) -> JSON:
        """Returns the full event, without what a function said about tables.

        Raises:
            Permanent, msgspec.MsgspecError, UnicodeDecodeError: it cannot be read.
        """
        head, body = self.head, self.source.bodies[self.position]
        event = materialise(body, head, self.source.facts(head.request), exact.decode)
        if self.source.frame.trusted_hints and may_hold_hints(body):
            take_hints(event, dict)
        return event

    def letter(self, site: str, connection: str, reason: str, detail: str) -> DeadLetter:
        """Returns the event's dead letter."""
        frame, head = self.source.frame, self.head
        return DeadLetter(
            stage="loader",
            site=site,
            connection=connection,
            reason=reason,
            detail=detail,
            body=self.source.bodies[self.position],
            at=now(),
            origin=origin_of(self.source.lane, self.seq, self.number),
            message_id=head.message_id,
            type=head.type,
            event=head.event,
            user_id=head.user_id,
            anonymous_id=head.anonymous_id,
            request=frame.requests[head.request],
            first_origin=frame.origins[self.position] if frame.origins else None,
        )


@dataclass(slots=True, eq=False)
class Job:
    """Events for one call, in their order. `failures`: how often it failed; `since`: the time of the first failure (epoch)."""

    items: Sequence[Item]
    waiting: Waiting | None = None
    """The message of RETRY that it comes from."""
    failures: int = 0
    since: float = 0.0
    pauses: int = 0
    """How often in a row the destination answered it by asking for a pause."""
    chunk: object = field(default=None, repr=False)

    @property
    def lane(self) -> str:
        """The lane of its events."""
        return self.items[0].source.lane

    @property
    def users(self) -> set[str]:
        """The users of its events."""
        return {item.user for item in self.items}

    def part(self, items: Sequence[Item]) -> Job:
        """Returns a job of some of the events."""
        return Job(
            items=items, waiting=self.waiting, failures=self.failures, since=self.since, pauses=self.pauses, chunk=self.chunk
        )


def key_of(connection: str, items: Sequence[Item]) -> str:
    """Returns the idempotency key of a call: the same for each repeat with the same events."""
    first = items[0]
    place = f"{connection}/{first.source.lane}/{first.seq}/{first.number}"
    if len(items) == 1:
        return place
    members = ",".join(f"{item.seq}.{item.number}" for item in items)
    return f"{place}+{len(items) - 1}.{zlib.crc32(members.encode()):08x}"


def bits_by_frame(items: Iterable[Item]) -> dict[int, int]:
    """Returns the events as bits, by the sequence of their frame."""
    bits: dict[int, int] = {}
    for item in items:
        bits[item.seq] = bits.get(item.seq, 0) | 1 << item.number
    return bits


def frame_of(items: Sequence[Item]) -> Frame:
    """Returns one frame of these events, which may come from several frames of a site."""
    requests: list[RequestContext] = []
    numbers: dict[int, int] = {}
    heads: list[Head] = []
    for item in items:
        head = item.head
        request = item.source.frame.requests[head.request]
        number = numbers.get(id(request))
        if number is None:
            number = numbers[id(request)] = len(requests)
            requests.append(request)
        heads.append(
            Head(
                message_id=head.message_id,
                type=head.type,
                event=head.event,
                user_id=head.user_id,
                anonymous_id=head.anonymous_id,
                request=number,
            )
        )
    frame = pack(items[0].source.frame.site, requests, heads, [item.source.bodies[item.position] for item in items])
    frame.trusted_hints = all(item.source.frame.trusted_hints for item in items)
    if any(item.source.frame.origins for item in items):
        frame.origins = [
            item.source.frame.origins[item.position]
            if item.source.frame.origins
            else origin_of(item.source.lane, item.seq, item.number)
            for item in items
        ]
    return frame
