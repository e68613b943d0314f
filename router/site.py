"""The router of one site: reads its frames in order and offers each to the lanes of its connections.

One process at a time does this for a site (a lease); everything it must not forget is one stored value (`router/state.py`). After
a start it first fills its window of message ids from EVENTS, up to the stored position, and then goes on behind it. No consumer
of JetStream keeps the position: it would know when a frame was handed out, not when every connection had it.

A frame is offered at one moment, to all lanes, with nothing awaited in between; that is what lanes rely on when they join. Before
that moment the reading waits until every live lane has room, and lets those fall behind that make none.

New rules come into force between two frames. What was offered before keeps the rules it was offered under.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from nats.errors import Error as NatsError
from nats.js.errors import APIError

from router.arrival import Arrival
from router.catch_up import run_lane
from router.dedupe import Window
from router.front import Front
from router.history import judge, open_reader, remember
from router.lane import Cursor, Lane, Parcel
from router.rules import ConnectionRules, SiteRules
from router.send import FAULT_SECONDS, Pause, Sender
from router.settings import RouterSettings
from router.state import Mark, SiteState, StateKeeper
from shared import topology
from shared.errors import NotConnected, Permanent, Transient
from shared.headers import live_lane
from shared.jetstream.broker import Broker
from shared.jetstream.reader import Message
from shared.outcome import DropReason
from shared.tasks import first_of
from shared.telemetry import Telemetry

SAVE_SECONDS = 0.2
"""Between two writes of the state: what a killed router had sent since is sent again, and recognised as repeats."""
STUCK_SECONDS = 5.0
"""A lane that is full and moves nothing for so long, while the broker is there, stops holding up its neighbours."""
FINISH_SECONDS = 2.0
"""What a lane gets to send the rest when its connection is disabled or removed."""
WATCH_SECONDS = 15.0
QUIET_SECONDS = 1.0
"""When EVENTS gives nothing for so long at the start, the window is taken to be filled."""

log = logging.getLogger(__name__)


class EventsReplaced(Transient):
    """EVENTS is another stream than the one the router began with: it must begin again."""


async def look_at_events(broker: Broker) -> tuple[str, int]:
    """Returns what tells this EVENTS stream from one that was created anew under its name, and the first sequence it holds.

    Raises:
        NotConnected: the broker does not answer.
    """
    try:
        info = await broker.js.stream_info(topology.EVENTS)
    except (APIError, NatsError, OSError, TimeoutError) as exc:
        raise NotConnected(f"cannot look at the stream {topology.EVENTS}: {exc or type(exc).__name__}") from exc
    return f"{int(info.created.timestamp() * 1e6):x}" if info.created else "0", info.state.first_seq


class SiteRouter:
    """Routes one site until told to stop. Made anew for each time the lease is held.

    Args:
        epoch: of the lease; stored, for people.
        on_ready: called once the window is filled and frames flow.
    """

    def __init__(
        self,
        broker: Broker,
        rules: SiteRules,
        telemetry: Telemetry,
        settings: RouterSettings,
        *,
        epoch: int = 0,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._broker = broker
        self._rules = rules
        self._telemetry = telemetry
        self._settings = settings
        self._epoch = epoch
        self._on_ready = on_ready
        self._keeper = StateKeeper(broker, rules.site)
        self._saved = SiteState()
        self._saved_events = 0
        """`Front.events` at the stored position."""
        self._front = Front(0, 0.0)
        self._window = self._new_window() if rules.dedupe_seconds > 0 else None
        self._shortened = 0
        self._lanes: dict[str, Lane] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._parked: dict[str, Cursor] = {}
        self._between_frames = asyncio.Lock()
        self._changed = asyncio.Event()
        self._ready = False
        self._running = False

    @property
    def site(self) -> str:
        """Name of the site."""
        return self._rules.site

    async def run(self, stop: asyncio.Event) -> None:
        """Routes until `stop` is set, then sends what is collected, stores the position and returns.

        Cancelled, it ends at once and stores nothing.

        Raises:
            Fenced: another router has the site.
            EventsReplaced, NotConnected: begin again.
        """
        try:
            async with asyncio.TaskGroup() as group:
                async with self._between_frames:
                    await self._open()
                    self._group = group
                    for connection in list(self._lanes):
                        self._start_lane(connection)
                    self._running = True
                reading = group.create_task(self._read(), name=f"read-{self.site}")
                others = [
                    group.create_task(self._keep_saving(), name=f"save-{self.site}"),
                    group.create_task(self._watch_events(), name=f"watch-{self.site}"),
                ]
                await stop.wait()
                reading.cancel()
                await asyncio.wait([reading])
                async with self._between_frames:  # rules that are coming into force do so first
                    self._running = False
                for lane in self._lanes.values():
                    await lane.wait_idle()
                    if not lane.idle and not lane.behind:
                        lane.fall_behind()
                for task in [*others, *self._tasks.values()]:
                    task.cancel()
                await asyncio.wait([*others, *self._tasks.values()])
            await self._save(self._state())
        except BaseExceptionGroup as exc:
            raise first_of(exc) from exc
        finally:
            self._running = False
            self._forget_gauges()

    async def apply(self, rules: SiteRules) -> None:
        """Puts new rules in force between two frames.

        Raises:
            ValueError: the site's window changed; a router cannot change that under way, make a new one.
        """
        if rules.dedupe_seconds != self._rules.dedupe_seconds:
            raise ValueError(f"site {self.site}: the dedupe window changed from {self._rules.dedupe_seconds:g} s")
        async with self._between_frames:
            if not self._running:
                return
            self._rules = rules
            for name in [name for name in self._lanes if name not in rules.connections]:
                await self._end_lane(name, keep=name in rules.disabled)
            for name in [name for name in self._parked if name not in rules.connections and name not in rules.disabled]:
                self._discard(name, self._parked.pop(name))
            for name, connection in rules.connections.items():
                if name in self._lanes:
                    self._lanes[name].rules = connection
                else:
                    self._add_lane(connection, self._unpark(name))
                    self._start_lane(name)
            self._changed.set()

    # -- start

    async def _open(self) -> None:
        incarnation, first_kept = await look_at_events(self._broker)
        stored = await self._keeper.load()
        if stored is not None and stored.incarnation not in ("", incarnation):
            self._report_replaced(stored)
            stored = None
        state = stored or SiteState()
        if state.position and first_kept > state.position + 1:
            log.error(
                "EVENTS no longer holds everything since the position; frames of the site among these are lost",
                extra={"site": self.site, "first": state.position + 1, "last": first_kept - 1},
            )
        self._saved = SiteState(
            epoch=self._epoch,
            incarnation=incarnation,
            position=state.position,
            at_seconds=state.at_seconds,
            behind=state.behind,
        )
        # a router that believes to hold the site fails from here on
        await self._save(self._saved)
        self._front = Front(state.position, state.at_seconds)
        self._sender = Sender(self._broker.publisher, self.site, live_lane(incarnation), incarnation)
        for name, mark in state.behind.items():
            cursor = Cursor(mark.seq, mark.at_seconds, -mark.owed, list(mark.gaps))
            if name in self._rules.connections or name in self._rules.disabled:
                self._parked[name] = cursor
            else:
                self._discard(name, cursor)
        for name, connection in self._rules.connections.items():
            self._add_lane(connection, self._unpark(name))
        log.info(
            "site is routed from here",
            extra={"site": self.site, "position": state.position, "epoch": self._epoch, "behind": sorted(state.behind)},
        )

    def _report_replaced(self, stored: SiteState) -> None:
        log.error(
            "EVENTS was created anew; frames of the old stream that were not routed are lost",
            extra={"site": self.site, "position": stored.position, "behind": sorted(stored.behind)},
        )
        for name, mark in stored.behind.items():
            self._telemetry.count("router_events_dropped_total", mark.owed, connection=name, reason=DropReason.EXPIRED)

    def _new_window(self) -> Window:
        return Window(self._rules.dedupe_seconds, self._settings.dedupe_max_ids)

    # -- lanes

    def _add_lane(self, connection: ConnectionRules, cursor: Cursor | None) -> None:
        self._lanes[connection.name] = Lane(
            connection,
            self._front,
            self._sender,
            self._telemetry,
            max_frames=self._settings.pending_frames,
            max_bytes=int(self._settings.pending_bytes),
            cursor=cursor,
            on_moved=self._changed.set,
        )

    def _start_lane(self, name: str) -> None:
        new_window = self._new_window if self._window is not None else None
        self._tasks[name] = self._group.create_task(run_lane(self._lanes[name], self._broker, new_window), name=f"lane-{name}")

    async def _end_lane(self, name: str, *, keep: bool) -> None:
        """Lets a lane send what it holds, for a bounded time; what is left is kept for a connection that is only disabled."""
        lane = self._lanes[name]
        try:
            async with asyncio.timeout(FINISH_SECONDS):
                await lane.wait_idle()
        except TimeoutError:
            log.warning("connection ends with frames left", extra={"connection": name})
        task = self._tasks.pop(name)
        task.cancel()
        await asyncio.wait([task])
        del self._lanes[name]
        if lane.idle:
            return
        cursor = lane.place()
        if keep:
            cursor.gaps.append((self._front.seq + 1, None))
            self._parked[name] = cursor
        else:
            self._discard(name, cursor)

    def _unpark(self, name: str) -> Cursor | None:
        """Returns where a connection left off that was disabled, or that was behind when the router stopped."""
        cursor = self._parked.pop(name, None)
        if cursor is not None:
            cursor.gaps = [(first, self._front.seq if last is None else last) for first, last in cursor.gaps]
        return cursor

    def _discard(self, name: str, cursor: Cursor) -> None:
        log.warning(
            "connection was removed before it had caught up",
            extra={"connection": name, "seq": cursor.seq, "events": self._front.events - cursor.events_before},
        )

    # -- reading

    async def _read(self) -> None:
        position = self._front.seq
        reader = open_reader(self._broker, self.site, position + 1, self._saved.at_seconds, self._window)
        log_at = time.monotonic() + 5
        async with reader:
            if self._window is None or not position:
                self._note_ready()
            while True:
                message = await reader.next(None if self._ready else QUIET_SECONDS)
                if message is None:
                    if self._broker.nc.is_connected:
                        self._note_ready()
                    continue
                if message.seq <= position:
                    remember(self._window, message)
                    if message.seq == position or message.waiting == 0:
                        self._note_ready()
                    elif time.monotonic() > log_at:
                        log_at = time.monotonic() + 5
                        log.info("filling the window of message ids", extra={"site": self.site, "frames_left": message.waiting})
                    continue
                self._note_ready()
                async with self._between_frames:
                    await self._route(message)
                # lanes begin to send while the next frame is looked at
                await asyncio.sleep(0)

    async def _route(self, message: Message) -> None:
        lanes = self._lanes.values()
        arrival: Arrival | None = None
        try:
            with_heads = any(lane.accepting and lane.rules.needs_heads for lane in lanes)
            arrival = Arrival(message.seq, message.at_seconds, message.payload, with_heads=with_heads)
            judge(self._window, arrival)
            await self._make_room()
            # from here to the end of `_offer` nothing is awaited
            parcels = [(lane, lane.prepare(arrival)) for lane in lanes if lane.accepting]
        except Permanent as exc:
            await self._sender.bury_frame(self._telemetry, message.seq, message.at_seconds, message.payload, str(exc))
            parcels = []
        self._offer(message, arrival, parcels)
        self._report(message)

    def _offer(self, message: Message, arrival: Arrival | None, parcels: list[tuple[Lane, Parcel | None]]) -> None:
        total, repeated = (0, ()) if arrival is None else (len(arrival), arrival.repeated)
        self._front.advance(message.seq, message.at_seconds, total, repeated)
        for lane, parcel in parcels:
            if parcel is not None:
                lane.take(parcel)
        self._changed.set()

    async def _make_room(self) -> None:
        for lane in self._lanes.values():
            while lane.accepting and lane.is_full:
                if lane.behind or lane.blocked or (not await lane.wait_moved(STUCK_SECONDS) and self._broker.nc.is_connected):
                    lane.fall_behind()

    def _note_ready(self) -> None:
        if not self._ready:
            self._ready = True
            self._on_ready()

    def _report(self, message: Message) -> None:
        self._telemetry.count("router_frames_total", site=self.site)
        self._telemetry.gauge("router_lag_frames", message.waiting, site=self.site)
        self._telemetry.gauge("router_oldest_seconds", max(0.0, time.time() - message.at_seconds), site=self.site)
        if self._window is not None:
            self._telemetry.gauge("router_dedupe_ids", len(self._window), site=self.site)
            if self._window.shortened != self._shortened:
                self._telemetry.count("router_dedupe_shortened_total", self._window.shortened - self._shortened, site=self.site)
                self._shortened = self._window.shortened
                log.warning("window of message ids is full and forgets early", extra={"site": self.site})

    def _forget_gauges(self) -> None:
        for lane in self._lanes.values():
            self._telemetry.gauge("router_connection_stopped", 0, connection=lane.name)
        self._telemetry.gauge("router_lag_frames", 0, site=self.site)
        self._telemetry.gauge("router_oldest_seconds", 0, site=self.site)

    # -- state

    def _state(self) -> SiteState:
        """Returns what is true now: the position is held back by lanes that are live, the others have marks."""
        position = Cursor(self._front.seq, self._front.at_seconds, self._front.events)
        places = {name: lane.place() for name, lane in self._lanes.items()}
        for name, place in places.items():
            if not self._lanes[name].behind and place.seq <= position.seq:
                position = Cursor(place.seq - 1, place.at_seconds, place.events_before)
        if position.seq < self._saved.position:
            # a lane that has just gone live may be short of what is stored; it keeps a mark until it is not
            position = Cursor(self._saved.position, self._saved.at_seconds, self._saved_events)
        behind = {name: self._mark(place, position) for name, place in places.items() if place.seq <= position.seq}
        behind.update({name: self._mark(cursor, position) for name, cursor in self._parked.items()})
        self._saved_events = position.events_before
        return SiteState(
            epoch=self._epoch,
            incarnation=self._saved.incarnation,
            position=position.seq,
            at_seconds=position.at_seconds,
            behind=behind,
        )

    @staticmethod
    def _mark(place: Cursor, position: Cursor) -> Mark:
        return Mark(
            seq=place.seq,
            at_seconds=place.at_seconds,
            owed=max(0, position.events_before - place.events_before),
            gaps=list(place.gaps),
        )

    async def _keep_saving(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            state = self._state()
            if state != self._saved:
                await self._save(state)
            await asyncio.sleep(SAVE_SECONDS)

    async def _save(self, state: SiteState) -> None:
        pause = Pause(FAULT_SECONDS)
        while True:
            try:
                await self._keeper.save(state)
                self._saved = state
                return
            except Transient as exc:
                log.warning("state cannot be stored yet", extra={"site": self.site, "error": str(exc)})
                await asyncio.sleep(pause.next())

    async def _watch_events(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                incarnation, _ = await look_at_events(self._broker)
            except NotConnected:
                continue
            if incarnation != self._saved.incarnation:
                raise EventsReplaced(f"site {self.site}: EVENTS was created anew")
