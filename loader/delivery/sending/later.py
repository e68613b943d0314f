"""Events in RETRY that wait for another try: one message for each call, with its due time, the number of failures and the first
one's time.

A failed call waits here and not in its line, so it holds up only later events of its users. These queue up behind it, untried, so
that the order of each user stays (`SendLimits.ordered`). If a call fails again, it is stored again with a later due time, and
then the first message is removed. Both have the number of the first one (`ORDER`), which orders the calls of a user.

Only places, users and times of waiting events are in memory. A loader owns the messages that exist when it begins. A message that
comes later under a lower epoch is from a frozen former holder; this loader has its events from the queue.
"""

from __future__ import annotations

import asyncio
import bisect
import heapq
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from loader.contract.events import MOST_HOLD_SECONDS, SendLimits
from loader.delivery.sending.job import ONE, Item, Job, Source, bits_by_frame, frame_of, key_of, line_of
from shared.errors import NotConnected, Permanent
from shared.events.frame import decode_frame, encode_frame
from shared.events.headers import (
    BITS,
    DUE,
    EPOCH,
    FAILURES,
    FRAMES,
    INSTEAD,
    ORDER,
    SINCE,
    USERS,
    Place,
    read_place,
    write_place,
)
from shared.jetstream import topology
from shared.jetstream.publisher import Publisher
from shared.jetstream.queue_reader import QueueReader
from shared.jetstream.reader import Message
from shared.streams.waiting import frames_in
from shared.telemetry.tracing.spans import Trail, read_trail

FIRST_SECONDS = 10.0
WAKE_SECONDS = 1.0
LONGEST_SECONDS = 3600.0
FACTOR = 3.0
MOST_WAITING = 50_000
"""Most waiting messages of one connection; while there are more, the loader takes nothing from the queue."""

log = logging.getLogger(__name__)


def delay_of(limits: SendLimits, failures: int) -> float:
    """Returns the wait in seconds of a call that failed so often."""
    return float(min(limits.retry_seconds * FACTOR ** min(max(0, failures - 1), 20), LONGEST_SECONDS))


def _left(seconds: float) -> float:
    """Returns how long a message waits whose due time is so far ahead: a time that a wrong clock wrote holds nothing up for ever."""
    return min(seconds, MOST_HOLD_SECONDS) if seconds > 0 else 0.0


@dataclass(slots=True, eq=False)
class Waiting:
    """A message of RETRY. `held`: its events by frame, as bits; `frames`: the waiting ones of these. `due` is of the
    steady clock, so that a clock that is set while it waits changes nothing; `since` is epoch seconds. `instead`: the message that it replaces, 0 if none.

    `hurried`: it failed while the whole destination failed, so it is tried as soon as the destination works again.
    """

    seq: int
    order: int
    lane: str
    held: list[tuple[int, int]]
    frames: list[tuple[int, int]]
    users: tuple[str, ...]
    failures: int
    due: float
    since: float
    epoch: int
    instead: int = 0
    trail: Trail | None = None
    busy: bool = False
    hurried: bool = False

    @property
    def events(self) -> int:
        """Number of waiting events in it."""
        return sum(bits.bit_count() for _, bits in self.frames)


class Later:
    """The waiting events of one connection.

    Args:
        reader: of the connection's part of RETRY; it must hold back nothing (`most_held=-1`).
        unreadable: buries a message that cannot be read.
        replaced: called with a message that another one replaced.
        wall: epoch seconds.
        steady: seconds of a clock that cannot be set.
    """

    def __init__(
        self,
        reader: QueueReader,
        publisher: Publisher,
        connection: str,
        queue: str,
        epoch: int,
        limits: SendLimits,
        unreadable: Callable[[str, int, bytes, str], Awaitable[None]],
        replaced: Callable[[Waiting], None],
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reader = reader
        self._publisher = publisher
        self._connection = connection
        self._queue = queue
        self._epoch = epoch
        self._limits = limits
        self._unreadable = unreadable
        self._replaced = replaced
        self._wall = wall
        self._steady = steady
        self._oldest_epoch = 0
        self._waiting: dict[int, Waiting] = {}
        self._by_user: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        """By user the messages, as (order, sequence), in their order."""
        self._coming: Counter[str] = Counter()
        """By user the messages that are being stored."""
        self._due: list[tuple[float, int]] = []
        self._hurried: set[int] = set()
        self.changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def events(self) -> int:
        """Number of waiting events."""
        return sum(each.events for each in self._waiting.values())

    @property
    def rows(self) -> int:
        """The same as `events`, by one name, for gauges that are by table."""
        return self.events

    def holds(self, user: str) -> bool:
        """Whether events of a user wait, so that later ones must wait behind them."""
        return self._limits.ordered and (user in self._by_user or self._coming[user] > 0)

    def places(self) -> dict[tuple[str, int], int]:
        """Returns the events in messages, ended or not: lane and sequence of their frames, and bits."""
        found: dict[tuple[str, int], int] = {}
        for each in self._waiting.values():
            for seq, bits in each.held:
                found[each.lane, seq] = found.get((each.lane, seq), 0) | bits
        return found

    async def read_all(self, early: Callable[[str, int], int]) -> None:
        """Reads the messages of former holders; if an event is in two messages, the newer one counts.

        Args:
            early: returns as bits the ended events of a frame.

        Raises:
            NotConnected: the broker does not answer.
        """
        found: list[Waiting] = []
        more = await self._reader.count() > 0
        while more:
            message = await self._reader.next(FIRST_SECONDS)
            if message is None:
                raise NotConnected("what waits for another try cannot be read")
            if (one := await self._read(message)) is not None:
                found.append(one)
            more = message.waiting > 0
        seen: dict[tuple[str, int], int] = {}
        for one in reversed(found):
            kept: list[tuple[int, int]] = []
            for seq, bits in one.frames:
                left = bits & ~seen.get((one.lane, seq), 0) & ~early(one.lane, seq)
                seen[one.lane, seq] = seen.get((one.lane, seq), 0) | bits
                if left:
                    kept.append((seq, left))
            one.frames = kept
        for one in found:
            if one.frames:
                self._add(one)
            else:
                await self._reader.remove([one.seq])  # removed before its ended events are forgotten
        self._oldest_epoch = self._epoch

    async def put(
        self,
        items: Sequence[Item],
        job: Job,
        *,
        failures: int,
        due: float,
        since: float,
        hurried: bool = False,
        last: bool = True,
    ) -> None:
        """Stores events for later; returns when they are durable.

        Args:
            items: of the job.
            failures: how often they failed; 0: they were not tried and wait behind others.
            due: seconds from now.
            last: no other message of the job follows. The message that the job was read from stays until then.

        Raises:
            NotConnected, Transient, QueueFull: not known to be stored.
        """
        users = tuple(dict.fromkeys(item.user for item in items)) if self._limits.ordered else ()
        self._coming.update(users)
        place = Place(job.lane, items[0].seq, len(items))
        frames = sorted(bits_by_frame(items).items())
        headers = {
            **write_place(place),
            BITS: f"{frames[0][1]:x}",
            EPOCH: str(self._epoch),
            FAILURES: str(failures),
            DUE: f"{self._wall() + due:.3f}",
            SINCE: f"{since:.3f}",
        }
        if (trail := items[0].source.trail) is not None:
            headers.update(trail.headers)
        if len(frames) > 1:
            headers[FRAMES] = ",".join(f"{seq}:{bits:x}" for seq, bits in frames)
        if users:
            headers[USERS] = ",".join(users)
        before = job.waiting
        if before is not None:
            headers[ORDER] = str(before.order)
            if last:
                headers[INSTEAD] = str(before.seq)
        msg_id = f"call.{key_of(self._connection, items)}.{failures}.{self._epoch}.{before.seq if before else 0}"
        ack = await self._publisher.publish(
            topology.retry_subject("loader", self._queue), encode_frame(frame_of(items)), msg_id=msg_id, headers=headers
        )
        if hurried:
            known = self._waiting.get(ack.seq)
            if known is None:
                self._hurried.add(ack.seq)
            else:
                known.hurried = True
        self.changed.set()

    def end(self, one: Waiting) -> None:
        """Forgets an ended message."""
        self._waiting.pop(one.seq, None)
        for user in one.users:
            held = self._by_user.get(user)
            if held is None:
                continue
            place = bisect.bisect_left(held, (one.order, one.seq))
            if place < len(held) and held[place] == (one.order, one.seq):
                held.pop(place)
            if not held:
                del self._by_user[user]
            else:
                self._wake_next(held[0][1])
        self.changed.set()

    def hurry(self) -> None:
        """Makes calls due at once that failed while the whole destination failed."""
        for one in self._waiting.values():
            if one.hurried and not one.busy:
                one.hurried, one.due = False, 0.0
                heapq.heappush(self._due, (0.0, one.seq))
        self.changed.set()

    def take_due(self) -> Waiting | None:
        """Returns a due message with no earlier message of its users; the caller owns it until `end`."""
        now = self._steady()
        while self._due and self._due[0][0] <= now:
            _, seq = heapq.heappop(self._due)
            one = self._waiting.get(seq)
            if one is None or one.busy or one.due > now or not self._is_first(one):
                continue
            one.busy = True
            return one
        return None

    def next_in(self) -> float:
        """Returns the seconds until a message may be due, at most one."""
        return min(WAKE_SECONDS, max(0.0, self._due[0][0] - self._steady())) if self._due else WAKE_SECONDS

    async def job(self, one: Waiting) -> Job | None:
        """Returns the events of a message as a job; None: it cannot be read, and is buried.

        Raises:
            NotConnected: the broker does not answer.
        """
        payload = await self._reader.payload(one.seq)
        try:
            frame = decode_frame(payload)
            source = Source(one.lane, frame, one.trail)
        except Permanent as exc:
            await self._unreadable(topology.RETRY, one.seq, payload, str(exc))
            return None
        wanted = dict(one.frames)
        places = [(seq, index) for seq, bits in one.held for index in range(bits.bit_length()) if bits >> index & 1]
        items = [
            Item(source=source, position=position, seq=seq, number=index, user=line_of(frame.heads[position], self._limits))
            for position, (seq, index) in enumerate(places[: len(frame)])
            if wanted.get(seq, 0) >> index & 1
        ]
        return Job(items, one, one.failures, one.since) if items else None

    async def take_in(self, seconds: float) -> None:
        """Reads new messages, for so long at most."""
        message = await self._reader.next(seconds)
        while message is not None:
            one = await self._read(message)
            if one is not None:
                one.hurried = one.seq in self._hurried
                self._hurried.discard(one.seq)
                self._add(one)
                before = self._waiting.get(one.instead)
                if before is not None:
                    self.end(before)
                    self._replaced(before)
                if one.epoch == self._epoch:
                    self._coming.subtract(one.users)
                    for user in one.users:
                        if self._coming[user] <= 0:
                            del self._coming[user]
            buffered = self._reader.take_buffered(1)
            message = buffered[0] if buffered else None

    async def _read(self, message: Message) -> Waiting | None:
        headers = message.headers
        place = read_place(headers)
        if place is None:
            await self._unreadable(topology.RETRY, message.seq, message.payload, "the message names no lane and sequence")
            await self._reader.ack([message.seq])
            return None
        try:
            epoch, failures = int(headers.get(EPOCH, "0")), int(headers.get(FAILURES, "0"))
            order = int(headers.get(ORDER, message.seq))
            due, since = float(headers.get(DUE, "0")), float(headers.get(SINCE, message.at_seconds))
            users = self._users(message)
        except (ValueError, Permanent) as exc:
            await self._unreadable(topology.RETRY, message.seq, message.payload, f"its headers cannot be read: {exc}")
            await self._reader.ack([message.seq])
            return None
        if epoch < self._oldest_epoch:
            log.info("events that a former loader set aside are left to the queue", extra={"seq": message.seq})
            await self._reader.ack([message.seq])
            return None
        return Waiting(
            seq=message.seq,
            order=order,
            lane=place.lane,
            held=frames_in(headers, place),
            frames=frames_in(headers, place),
            users=users,
            failures=failures,
            due=self._steady() + _left(due - self._wall()),
            since=since,
            epoch=epoch,
            instead=int(headers.get(INSTEAD, "0")),
            trail=read_trail(headers),
        )

    def _users(self, message: Message) -> tuple[str, ...]:
        if not self._limits.ordered:
            return ()
        if self._limits.one_line:
            return (ONE,)
        text = message.headers.get(USERS)
        if text is not None and text != ONE:
            return tuple(text.split(","))
        # stored while order did not matter, or was another one, or for another kind of destination
        return tuple(dict.fromkeys(line_of(head, self._limits) for head in decode_frame(message.payload).heads))

    def _add(self, one: Waiting) -> None:
        self._waiting[one.seq] = one
        for user in one.users:
            bisect.insort(self._by_user[user], (one.order, one.seq))
        heapq.heappush(self._due, (one.due, one.seq))

    def _is_first(self, one: Waiting) -> bool:
        return all(self._by_user[user][0][1] == one.seq for user in one.users)

    def _wake_next(self, seq: int) -> None:
        one = self._waiting.get(seq)
        if one is not None and not one.busy:
            heapq.heappush(self._due, (one.due, seq))
