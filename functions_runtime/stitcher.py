"""Stitching of one connection: reads the visitors of a frame from the bucket `identity`, and notes there what the frame brought.

    read, note the outcome where functions made it, keep, DELIVER, forget, acknowledge

The stitcher keeps an event before it is delivered without a user, and forgets it after it was delivered with one. So a runtime that dies in between lost
nothing: what it had not forgotten goes again with the visitor's next event, under its message id. The visitors of a frame are written together,
so that the broker syncs once. Every write is a compare-and-set: if another runtime wrote meanwhile, the stitcher adds what the frame brought.

Events are never held back or lost for the sake of a visitor: when the bucket is full or was emptied, some events stay without a
user, which is counted and said.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from functions_runtime.again import Again
from functions_runtime.outcomes import Outcomes, Persist
from functions_runtime.rules.outcome import Outcome
from functions_runtime.rules.stitching import Brought, Passing, Stitched, passing, stitch
from functions_runtime.rules.visitor import Bounds, Visitor, bounds_of, decode_visitor, encode_visitor, updated
from shared.errors import Conflict, Permanent, QueueFull, Transient
from shared.events.frame import Frame, encode_frame
from shared.events.headers import write_place
from shared.jetstream import topology
from shared.jetstream.broker import asking
from shared.jetstream.kv import MOST_TOGETHER, Bucket, Write
from shared.project.identity import Identity
from shared.project.model import Connection
from shared.service import ServiceContext
from shared.telemetry.names import CounterName

MOST_PAYLOAD_BYTES = 15 * 1024 * 1024
"""Of a frame with what goes again; the broker takes 16 MiB."""
MOST_TOGETHER_BYTES = 2 * 1024 * 1024
"""Of the records that the broker syncs together."""
AT_ONCE = 64
"""Writes under way, of records that are written one by one."""
MOST_REMEMBERED = 4096
MOST_REMEMBERED_BYTES = 32 * 1024 * 1024
MICROSECONDS = 1_000_000

log = logging.getLogger(__name__)


class _Remembered(NamedTuple):
    """A visitor as the bucket has it, until `ends_at` (epoch seconds), and its bytes in memory."""

    visitor: Visitor
    revision: int
    bytes: int
    ends_at: float


class _Made(NamedTuple):
    """What a frame brought to a visitor, how the record is then, how many events its bounds cost, and how the bucket gets it."""

    brought: Brought
    visitor: Visitor
    lost: int
    write: Write


def _parts(made: Sequence[_Made]) -> Iterator[list[_Made]]:
    """Yields what is written together: neither too many nor too large."""
    part: list[_Made] = []
    size = 0
    for each in made:
        if part and (len(part) == MOST_TOGETHER or size + len(each.write.value) > MOST_TOGETHER_BYTES):
            yield part
            part, size = [], 0
        part.append(each)
        size += len(each.write.value)
    if part:
        yield part


class Stitcher:
    """The visitors of one connection, for one holder of its lease.

    Args:
        name: of the connection.
        outcomes: of its queue; another incarnation of the connection has other visitors.
        persist: does something until it is durable.
        wall: epoch seconds.
    """

    def __init__(
        self, context: ServiceContext, name: str, outcomes: Outcomes, persist: Persist, wall: Callable[[], float] = time.time
    ) -> None:
        self._context = context
        self._name = name
        self._outcomes = outcomes
        self._persist = persist
        self._queue = outcomes.queue
        self._wall = wall
        self._bucket = Bucket(context.broker, topology.IDENTITY_BUCKET)
        self._part = f"identity of connection {name}"
        self._remembered: OrderedDict[str, _Remembered] = OrderedDict()
        """What this holder read or wrote last: a copy of the bucket in a cluster may be behind it."""
        self._bytes = 0
        self._events: list[Passing] = []
        """Of the frame that was read last."""
        self._begun = False

    async def _begin(self) -> None:
        """Says so if what was kept for the connection is gone: the bucket is not the one that it used before."""
        with asking("cannot look at the bucket of visitors"):
            info = await self._context.broker.js.stream_info(f"KV_{topology.IDENTITY_BUCKET}")
        created = str(info.created).encode()
        state, key = Bucket(self._context.broker, topology.STATE_BUCKET), f"identity.{self._queue}"
        before = await state.get(key)
        if before is None or before.value != created:
            await state.put(key, created)
            if before is not None:
                self._say_lost()
        self._begun = True

    async def publish(
        self, outcome: Outcome, made: Frame, connection: Connection, again: Again, *, decided: bool, varies: bool = False
    ) -> Frame:
        """Publishes what became of a frame, its events with their users where the connection stitches; returns the frame that went on.

        Args:
            made: the frame of the outcome.
            decided: a former session noted the outcome, so its frame stays as it is.
            varies: the outcome may be another one a second time, also without functions.

        Raises:
            Conflict: another runtime has the connection.
        """
        identity = connection.identity
        if identity is None:
            await self._outcomes.publish(outcome, again)
            return made
        await self._persist(lambda: self.read(made))
        stitched, payload = self.stitch(made, identity, decided=decided)
        if stitched.frame is not made:
            made = stitched.frame
            place = outcome.place._replace(events=len(made)) if made.taken == 0 else outcome.place
            headers = {**outcome.headers, **write_place(place)}
            outcome = msgspec.structs.replace(outcome, place=place, headers=headers, payload=payload)
        if (connection.functions or varies) and any(brought.kept for brought in stitched.brought):
            await self._outcomes.note(
                outcome
            )  # what is kept must be what is delivered, whatever functions would give a second time
        await self._persist(lambda: self.keep(stitched.brought, identity))
        await self._outcomes.publish(outcome, again)
        await self._persist(lambda: self.forget(stitched.brought, identity))
        self._count_made(stitched)
        return made

    async def read(self, frame: Frame) -> None:
        """Reads the visitors of a frame.

        Raises:
            Permanent: the frame's block is damaged.
            NotConnected, Transient: the broker does not answer.
        """
        events = self._events = passing(frame)
        self._forget_some()
        now = self._wall()
        wanted: dict[str, str] = {}
        for event in events:
            known = self._remembered.get(event.anonymous_id)
            if known is None or known.ends_at <= now:
                wanted[self._key(event.anonymous_id)] = event.anonymous_id
            else:
                self._remembered.move_to_end(event.anonymous_id)
        if wanted:
            try:
                if not self._begun:
                    await self._begin()
                entries = await self._bucket.get_many(list(wanted))
            except Transient:
                await self._mend()
                raise
            for key, anonymous_id in wanted.items():
                entry = entries.get(key)
                self._remember(anonymous_id, entry.value if entry else None, entry.revision if entry else 0)

    def stitch(self, frame: Frame, identity: Identity, *, decided: bool = False) -> tuple[Stitched, bytes]:
        """Returns the frame that goes on, which `read` took before, and its payload.

        Args:
            decided: the frame was stitched before, and goes on as it is.
        """
        events = self._events
        visitors = {name: self._remembered[name].visitor for name in {event.anonymous_id for event in events}}
        try:
            made = stitch(frame, events, visitors, bounds_of(identity), decided=decided)
        except Exception:
            log.exception(
                "a frame cannot be stitched for a reason of ours; it goes on as it is", extra={"connection": self._name}
            )
            self._count("functions_identity_forgotten_total", len(events), reason="internal")
            made = Stitched(frame)
        payload = encode_frame(made.frame)
        if made.frame is not frame and len(payload) > MOST_PAYLOAD_BYTES:
            # user ids of thousands of bytes: the events go on as they are, and nothing is learned of their visitors
            self._count("functions_identity_forgotten_total", len(events), reason="frame")
            made = Stitched(frame)
            payload = encode_frame(frame)
        return made, payload

    async def keep(self, brought: Sequence[Brought], identity: Identity) -> None:
        """Notes who was seen and what is delivered without a user, before that is delivered.

        Raises:
            NotConnected, Transient: not known to be noted; call again.
        """
        await self._put_all([each._replace(gone=frozenset()) for each in brought if each.kept or each.sightings], identity)

    async def forget(self, brought: Sequence[Brought], identity: Identity) -> None:
        """Takes out what has been delivered with its user.

        Raises:
            NotConnected, Transient: not known to be noted; call again.
        """
        await self._put_all([each._replace(kept=()) for each in brought if each.gone], identity)

    async def _put_all(self, brought: Sequence[Brought], identity: Identity) -> None:
        bounds, places = bounds_of(identity), asyncio.Semaphore(AT_ONCE)

        async def put(each: Brought) -> int:
            async with places:
                return await self._put(each, bounds)

        try:
            left = await self._put_together(brought, bounds) if len(brought) > 1 else brought
            results = await asyncio.gather(*map(put, left), return_exceptions=True)
            failures = [each for each in results if isinstance(each, BaseException)]
            if failures:
                raise failures[0]
        except Transient:
            await self._mend()
            raise
        self._count("functions_identity_forgotten_total", sum(each for each in results if isinstance(each, int)), reason="bounds")

    async def _put_together(self, brought: Sequence[Brought], bounds: Bounds) -> list[Brought]:
        """Adds what a frame brought, for one sync of the broker for many visitors; returns those that it took no batch of.

        Raises:
            NotConnected: not known to be noted; what is there is found when it is noted again.
        """
        left: list[Brought] = []
        lost = 0
        made = [self._made(each, bounds) for each in brought]
        for some in _parts(made):
            revisions = await self._bucket.put_together(
                [each.write for each in some], ttl_seconds=bounds.look_back / MICROSECONDS
            )
            if revisions is None:
                left += [each.brought for each in some]
                continue
            for each, revision in zip(some, revisions, strict=True):
                self._note(each, revision, bounds)
                lost += each.lost
        self._count("functions_identity_forgotten_total", lost, reason="bounds")
        return left

    def _made(self, brought: Brought, bounds: Bounds) -> _Made:
        name = brought.anonymous_id
        known = self._remembered.get(name) or _Remembered(Visitor(name), 0, 0, 0.0)
        visitor, lost = updated(
            known.visitor,
            sightings=brought.sightings,
            kept=brought.kept,
            gone=brought.gone,
            bounds=bounds,
            now=round(self._wall() * MICROSECONDS),
        )
        return _Made(brought, visitor, lost, Write(self._key(name), encode_visitor(visitor), known.revision))

    def _note(self, made: _Made, revision: int, bounds: Bounds) -> None:
        ends_at = self._wall() + bounds.look_back / MICROSECONDS
        self._replace(made.brought.anonymous_id, _Remembered(made.visitor, revision, made.visitor.size, ends_at))

    async def _put(self, brought: Brought, bounds: Bounds) -> int:
        """Adds what a frame brought; returns how many events the visitor's bounds cost."""
        name = brought.anonymous_id
        seconds = bounds.look_back / MICROSECONDS
        while True:
            made = self._made(brought, bounds)
            key, value, known = made.write
            try:
                revision = await self._bucket.put(key, value, revision=known, ttl_seconds=seconds)
            except Conflict:
                entry = await self._bucket.get(key)
                remembered = self._remembered.get(name)
                if entry is None and known and remembered is not None and remembered.ends_at > self._wall() + 1:
                    await self._begin()
                self._remember(name, entry.value if entry else None, entry.revision if entry else 0)
            except QueueFull:
                self._count("functions_identity_forgotten_total", len(brought.kept), reason="full")
                return 0
            except Permanent:  # a broker that takes smaller messages than ours does
                self._count("functions_identity_forgotten_total", len(made.visitor.kept), reason="large")
                return 0
            else:
                self._note(made, revision, bounds)
                return made.lost

    def _count_made(self, made: Stitched) -> None:
        self._count("functions_identity_stitched_total", made.stamped, how="at_once")
        self._count("functions_identity_stitched_total", made.again, how="again")
        self._count("functions_identity_kept_total", made.kept)
        self._count("functions_identity_forgotten_total", made.large, reason="large")

    def _key(self, anonymous_id: str) -> str:
        return f"{self._queue}.{hashlib.sha256(anonymous_id.encode('utf-8', 'surrogatepass')).hexdigest()[:40]}"

    def _remember(self, anonymous_id: str, value: bytes | None, revision: int) -> None:
        visitor = decode_visitor(value, anonymous_id) if value else None
        if value and visitor is None:
            self._count("functions_identity_forgotten_total", 1, reason="unreadable")
        # how long it stays is not known: a minute is enough for the frames that come together
        visitor = visitor or Visitor(anonymous_id)
        kept = _Remembered(visitor, revision, visitor.size, self._wall() + 60)
        self._replace(anonymous_id, kept)

    def _replace(self, anonymous_id: str, kept: _Remembered) -> None:
        before = self._remembered.pop(anonymous_id, None)
        self._bytes += kept.bytes - (before.bytes if before else 0)
        self._remembered[anonymous_id] = kept

    def _forget_some(self) -> None:
        while self._remembered and (len(self._remembered) > MOST_REMEMBERED or self._bytes > MOST_REMEMBERED_BYTES):
            self._bytes -= self._remembered.popitem(last=False)[1].bytes

    async def _mend(self) -> None:
        """Makes the bucket again if it was removed: the streams are looked after when the link comes back, and it is there."""
        if self._context.broker.nc.is_connected:
            await topology.ensure(self._context.broker, self._context.settings.topology())
            await self._begin()

    def _say_lost(self) -> None:
        self._remembered.clear()
        self._bytes = 0
        why = "what was kept of visitors is gone, the bucket was made again: events before this moment stay without a user"
        log.warning("what was kept of visitors is gone", extra={"connection": self._name})
        self._context.health.warn(self._part, f"{why}; it needs nothing from you, and a restart ends this warning")
        self._context.telemetry.count("functions_identity_lost_total", connection=self._name)

    def _count(self, metric: CounterName, amount: int, **labels: str) -> None:
        if amount:
            self._context.telemetry.count(metric, amount, connection=self._name, **labels)
