"""Holds a connection's frames until they are due: the first part of every way from a queue into a destination.

The caller decides which frames are wanted and what happens to due ones: rows for tables (`loader/delivery/flow.py`), calls for
events one by one (`loader/delivery/sending/flow.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from loader.queue.collect import Bounds, Held, Holding
from loader.watch.limit import Limit
from shared.clock import Clock
from shared.events.dead import DeadLetter, bury, now
from shared.events.headers import Place, read_place
from shared.events.outcome import DeadReason
from shared.jetstream import topology
from shared.jetstream.queue_reader import QueueReader
from shared.jetstream.reader import Message
from shared.service import ServiceContext

WAKE_SECONDS = 1.0

log = logging.getLogger(__name__)

Wanted = Callable[[Place], Awaitable[bool | None]]
"""Whether to hold a frame; False: it has ended already, acknowledge it. None: the service drains, leave it."""


class Holder:
    """Reads one connection's queue.

    Args:
        bounds: when held frames are due.
        limit: of dead letters.
        wanted: asked about each frame.
    """

    def __init__(
        self,
        context: ServiceContext,
        connection: str,
        site: str,
        bounds: Bounds,
        limit: Limit,
        wanted: Wanted,
    ) -> None:
        self._context = context
        self._connection = connection
        self._site = site
        self._bounds = bounds
        self._limit = limit
        self._wanted = wanted

    async def run(self, reader: QueueReader, due: Callable[[list[Held]], Awaitable[None]]) -> None:
        """Holds frames until the service drains.

        Args:
            due: takes the frames that are due, in the order of the queue.
        """
        holding = Holding(self._bounds, Clock())
        while not self._context.draining.is_set():
            wait = holding.due_in()
            if wait == 0:
                await due(holding.take())
                continue
            message = await reader.next(WAKE_SECONDS if wait is None else min(wait, WAKE_SECONDS))
            if message is not None:
                await self._hold(holding, message, reader)
                while not holding.full and (more := reader.take_buffered(1)):
                    message = more[0]
                    await self._hold(holding, message, reader)

    async def _hold(self, holding: Holding, message: Message, reader: QueueReader) -> None:
        place = read_place(message.headers)
        if place is None:
            await self.bury_unreadable(topology.DELIVER, message.seq, message.payload, "the message names no lane and sequence")
            await reader.ack([message.seq])
            return
        wanted = await self._wanted(place)
        if wanted is None:  # the frame stays in the queue
            return
        if not wanted:
            self._context.telemetry.count("loader_events_repeated_total", place.events, connection=self._connection)
            await reader.ack([message.seq])
            return
        holding.add(Held(message, place))

    async def bury_unreadable(self, stream: str, seq: int, payload: bytes, why: str, events: int = 1) -> None:
        """Makes a dead letter of a whole message, unless the limit of letters is reached (TooManyDeadError)."""
        self._limit.weigh_unreadable(events, why)
        letter = DeadLetter(
            stage="loader",
            site=self._site,
            connection=self._connection,
            reason=DeadReason.FRAME_UNREADABLE,
            detail=why,
            body=payload,
            at=now(),
            origin=f"{stream}:{seq}",
        )
        msg_id = f"loader.{self._connection}.{stream}.{seq}"
        await bury(
            publisher=self._context.broker.publisher, stage="loader", name=self._connection, letters=[letter], msg_id=msg_id
        )
        self._context.telemetry.count("loader_events_dead_total", connection=self._connection, reason=DeadReason.FRAME_UNREADABLE)
        log.error("a frame cannot be read, it is in the dead letters", extra={"connection": self._connection, "error": why})
