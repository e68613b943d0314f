"""Brings back rows that were set aside (`loader/queue/aside.py`): table by table, the oldest first, one at a time until the table
takes rows again.

Only the places of waiting rows are in memory; a frame is read again from RETRY in its turn.

A loader owns the messages that exist when it begins. A message that comes later under a lower epoch is from a former holder that
was frozen or cut off. Its frames are still in the queue, where this loader gets them, and taking both would double the rows.
"""

from __future__ import annotations

import logging
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping
from functools import reduce
from operator import or_
from typing import NamedTuple

from loader.queue.account import frame_of
from loader.queue.aside import Aside, Failing, read_aside
from shared.errors import NotConnected, Transient
from shared.events.headers import TABLE, read_place
from shared.jetstream import topology
from shared.jetstream.queue_reader import QueueReader
from shared.jetstream.reader import Message
from shared.streams.waiting import frames_in

FIRST_SECONDS = 10.0
WAKE_SECONDS = 1.0

log = logging.getLogger(__name__)

Unreadable = Callable[[str, int, bytes, str], Awaitable[None]]
"""Buries a message that is none of ours: its stream, its sequence, its payload, and the reason."""


class WaitingCall(NamedTuple):
    """A message of RETRY with events for calls. `held`: sequence and bits of each frame of its lane, in their order."""

    seq: int
    lane: str
    held: list[tuple[int, int]]


class Retries:
    """The waiting rows of one connection.

    Args:
        reader: of the connection's part of RETRY; it must hold back nothing (`most_held=-1`).
        failing: the tables that must be left alone for now.
        epoch: of the loader.
        show: called about once a second with the number of waiting rows by table.
        unreadable: called with unreadable messages, which are then acknowledged.
    """

    def __init__(
        self,
        reader: QueueReader,
        failing: Failing,
        epoch: int,
        unreadable: Unreadable,
        show: Callable[[Mapping[str, int]], None] = lambda _: None,
    ) -> None:
        self._show = show
        self.reader = reader
        self._failing = failing
        self._oldest_epoch = 0
        self._epoch = epoch
        self._unreadable = unreadable
        self._waiting: defaultdict[str, deque[Aside]] = defaultdict(deque)
        self._frames: defaultdict[str, dict[int, int]] = defaultdict(dict)
        self.calls: list[WaitingCall] = []
        """What was left of a destination that takes events one by one."""

    async def read_all(self) -> list[Aside]:
        """Reads and returns the rows that were set aside before.

        Raises:
            NotConnected: the broker does not answer.
        """
        found: list[Aside] = []
        more = await self.reader.count() > 0
        while more:
            message = await self.reader.next(FIRST_SECONDS)
            if message is None:
                raise NotConnected("what was set aside cannot be read")
            if (aside := await self._take(message)) is not None:
                found.append(aside)
            more = message.waiting > 0
        self._oldest_epoch = self._epoch
        return found

    @property
    def events(self) -> int:
        """Number of events with a waiting row."""
        return sum(reduce(or_, held.values()).bit_count() for held in self._frames.values())

    @property
    def rows(self) -> int:
        """Waiting rows by table."""
        return sum(aside.place.events for waiting in self._waiting.values() for aside in waiting)

    def bits(self, lane: str, seq: int) -> int:
        """Returns as bits the events of a frame with waiting rows."""
        return reduce(or_, self._frames.get(f"{lane}:{seq}", {}).values(), 0)

    def find(self, seq: int) -> Aside | None:
        """Returns the waiting rows in a message of RETRY."""
        return next((aside for waiting in self._waiting.values() for aside in waiting if aside.seq == seq), None)

    def others(self, aside: Aside) -> int:
        """Returns as bits the events of a frame with other waiting rows than these."""
        held = self._frames.get(frame_of(aside), {})
        return reduce(or_, (bits for seq, bits in held.items() if seq != aside.seq), 0)

    async def run(self, attempt: Callable[[Aside], Awaitable[bool]], ended: Callable[[], bool]) -> None:
        """Tries due rows, and takes in rows set aside meanwhile, until `ended`.

        Args:
            attempt: loads rows; returns whether they are done.
            ended: asked between any two attempts.
        """
        while not ended():
            self._show({table: sum(aside.place.events for aside in waiting) for table, waiting in self._waiting.items()})
            for table in list(self._waiting):
                waiting = self._waiting[table]
                while waiting and self._failing.due(table) and not ended():
                    if not await attempt(waiting[0]):
                        if self._failing.due(table):  # another table failed: since a change of the layout the rows go there
                            self._failing.fails(table, Transient("its rows go to another table now, which fails"))
                        break
                    self._forget(waiting.popleft())
                if not waiting:
                    del self._waiting[table]
            message = await self.reader.next(WAKE_SECONDS)
            while message is not None:
                await self._take(message)
                buffered = self.reader.take_buffered(1)
                message = buffered[0] if buffered else None

    async def _take(self, message: Message) -> Aside | None:
        aside = read_aside(message)
        place = read_place(message.headers)
        if aside is None and place is not None and TABLE not in message.headers:
            if self._oldest_epoch:  # of a former loader that was frozen: its events are in the queue
                await self.reader.ack([message.seq])
            else:
                self.calls.append(WaitingCall(message.seq, place.lane, frames_in(message.headers, place)))
            return None
        if aside is None:
            await self._unreadable(topology.RETRY, message.seq, message.payload, "the message names no table, lane and sequence")
            await self.reader.ack([message.seq])
            return None
        if aside.epoch < self._oldest_epoch:
            log.info("rows that a former loader set aside are left to the queue", extra={"table": aside.table, "seq": aside.seq})
            await self.reader.ack([message.seq])
            return None
        self._waiting[aside.table].append(aside)
        self._frames[frame_of(aside)][aside.seq] = aside.bits
        return aside

    def _forget(self, aside: Aside) -> None:
        held = self._frames[frame_of(aside)]
        held.pop(aside.seq, None)
        if not held:
            del self._frames[frame_of(aside)]
