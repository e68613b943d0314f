"""Reads the frames of a site, or of one of its shards, in order, and hands out each.

First it fills the window of message ids from the frames before; then it goes on behind them. A shard reads all frames of its site and
takes what is its own (`shared/events/shards.py`). It stops while the number of shards changes, and ends before the frames of other
shards; when its turn comes again it begins there, and all connections go on behind the shards before (`router/forwarding/shard.py`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from nats.errors import Error as NatsError
from nats.js.errors import APIError, NotFoundError

from router.archive.older import LongReader
from router.forwarding.front import Front
from router.forwarding.shard import ShardView
from router.window.dedupe import Window
from router.window.history import open_reader, remember
from shared.events.shards import Range
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.reader import Message
from shared.telemetry.metrics import Telemetry

QUIET_SECONDS = 1.0
"""Without a frame at the start: then the window counts as filled."""

log = logging.getLogger(__name__)


class Reading:
    """The reading of one site, or shard, for one holder of its lease.

    Args:
        front: how far it has come.
        new_window: makes an empty window of message ids; None: the site does not look for repeats.
        between_frames: held while a frame is handed out.
        route: takes a frame.
        fall_behind: makes every connection read for itself from the next frame on.
        on_moved: called when the front has passed frames that are not handed out, or the reading has stopped for a change.
        on_ready: called once the window is filled.
        view: of the shard; None: the site has no shards.
        paused: the change of shards for which it had stopped.
        check_lease: raises Fenced if another router may have the lease by now.
    """

    def __init__(
        self,
        *,
        broker: Broker,
        site: str,
        front: Front,
        new_window: Callable[[], Window] | None,
        between_frames: asyncio.Lock,
        route: Callable[[Message], Awaitable[None]],
        fall_behind: Callable[[], None],
        on_moved: Callable[[], None],
        on_ready: Callable[[], None],
        view: ShardView | None = None,
        paused: int = 0,
        check_lease: Callable[[], None] = lambda: None,
    ) -> None:
        self._broker = broker
        self._site = site
        self._front = front
        self._new_window = new_window
        self.window = new_window() if new_window is not None else None
        self._between_frames = between_frames
        self._route = route
        self._fall_behind = fall_behind
        self._on_moved = on_moved
        self._on_ready = on_ready
        self._view = view
        self.paused = paused
        """The change of shards for which it stopped last."""
        self._check_lease = check_lease
        self._reader: LongReader | None = None
        self._ready = False
        self._shortened = 0

    async def run(self) -> None:
        """Reads for ever."""
        while True:
            await self._stop_for_change()
            own = self._next_range(self._front.seq + 1)
            if own is None:
                self._note_ready()
                self._on_moved()
                await self._view_changed()
                continue
            if own.begins:
                async with self._between_frames:
                    self._front.advance(own.first - 1, max(self._front.at_seconds, own.at_seconds), 0, ())
                    self._fall_behind()
                self._on_moved()
            await self._read(own)
            self.window = self._new_window() if self._new_window is not None else None

    async def follow_layout(self) -> None:
        """Ends the wait for a frame when shards change; for ever."""
        while True:
            await self._view_changed()
            if self._reader is not None:
                self._reader.nudge()

    def report(self, telemetry: Telemetry) -> None:
        """Counts a frame that was handed out, and shows the window."""
        telemetry.count("router_frames_total", site=self._site)
        window = self.window
        if window is None:
            return
        telemetry.gauge("router_dedupe_ids", len(window), site=self._site)
        if window.shortened > self._shortened:
            telemetry.count("router_dedupe_shortened_total", window.shortened - self._shortened, site=self._site)
            log.warning("window of message ids is full and forgets early", extra={"site": self._site})
        self._shortened = window.shortened

    async def _view_changed(self) -> None:
        if self._view is None:
            await asyncio.Event().wait()
        else:
            await self._view.changed()

    def _next_range(self, seq: int) -> Range | None:
        return Range(seq, None, 0.0, begins=False) if self._view is None else self._view.next_range(seq)

    async def _stop_for_change(self) -> None:
        while self._view is not None and (change := self._view.stops(self.paused)):
            if change != self.paused:
                log.info("shard stops for a change of their number", extra={"site": self._site, "shard": str(self._view.shard)})
                self.paused = change
                self._on_moved()
            await self._view.changed()

    async def _read(self, own: Range) -> None:
        """Reads a range of the shard's frames up to its end, if it has one by then."""
        log_at = time.monotonic() + 5
        async with open_reader(
            broker=self._broker, site=self._site, seq=own.first, at_seconds=self._front.at_seconds, window=self.window
        ) as reader:
            self._reader = reader
            if self.window is None or own.first == 1:
                self._note_ready()
            while True:
                await self._stop_for_change()
                message = await reader.next(None if self._ready and self._end_of(own) is None else QUIET_SECONDS)
                if message is None:
                    if self._broker.nc.is_connected:
                        self._note_ready()
                    if (end := self._end_of(own)) is not None and await self._has_read_all():
                        return await self._pass(end - 1, self._front.at_seconds)
                    continue
                if message.seq < own.first:
                    self._remember(message)
                    if message.seq == own.first - 1 or message.waiting == 0:
                        self._note_ready()
                    elif time.monotonic() > log_at:
                        log_at = time.monotonic() + 5
                        log.info("filling the window of message ids", extra={"site": self._site, "frames_left": message.waiting})
                    continue
                self._note_ready()
                mine: Message | None = message
                # A frozen router that wakes must not hand out frames that came since: another number of shards may count for them. What
                # it had received before it froze is from before any later change.
                self._check_lease()
                if self._view is not None and self._view.layout is not None:
                    end = self._end_of(own)
                    if end is not None and message.seq >= end:
                        return await self._pass(end - 1, self._front.at_seconds)
                    mine = self._view.cut(message)
                if mine is None:
                    await self._pass(message.seq, message.at_seconds)
                    continue
                async with self._between_frames:
                    await self._route(mine)
                # forwarders begin to send while the next frame is looked at
                await asyncio.sleep(0)

    def _end_of(self, own: Range) -> int | None:
        """Returns where a range ends by now."""
        now = self._next_range(own.first)
        return own.end if now is None else now.end

    async def _pass(self, seq: int, at_seconds: float) -> None:
        """Notes that frames up to a sequence are not this shard's, or are handed out."""
        async with self._between_frames:
            if seq > self._front.seq:
                self._front.advance(seq, at_seconds, 0, ())
        self._on_moved()

    async def _has_read_all(self) -> bool:
        """Asks EVENTS whether it has a frame of the site behind the front."""
        try:
            last = (await self._broker.js.get_last_msg(topology.EVENTS, topology.events_filter(self._site))).seq or 0
        except NotFoundError:
            last = 0
        except (APIError, NatsError, OSError, TimeoutError):
            return False
        return last <= self._front.seq

    def _remember(self, message: Message) -> None:
        if self._view is None or self._view.layout is None:
            remember(self.window, message)
        else:
            self._view.remember(self.window, message)

    def _note_ready(self) -> None:
        if not self._ready:
            self._ready = True
            self._on_ready()
