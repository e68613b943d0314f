"""The router of one site: reads its frames in order and offers each to the forwarders of its connections.

One process at a time does this for a site (a lease), and stores its state in one value (`router/forwarding/state.py`). After a
start it first fills its window of message ids from EVENTS, up to the stored position, and then goes on behind it. No consumer of
JetStream keeps the position: it would know when a frame was handed out, not when every connection had it.

It offers a frame to all forwarders at one moment, with nothing awaited in between; joining forwarders rely on this. Before that
moment it waits until every live forwarder has room, and lets one fall behind that makes none.

New rules come into force between two frames. Frames that were offered before keep the rules of that time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from functools import partial

import msgspec

from router.archive.older import Older
from router.catalogue.keep import CatalogueKeeper
from router.forwarding.account import expire_all, export
from router.forwarding.forwarder import Forwarder, Parcel
from router.forwarding.forwarders import Forwarders
from router.forwarding.front import Cursor, Front
from router.forwarding.lag import watch_lag
from router.forwarding.send import FAULT_SECONDS, QueueWriter
from router.forwarding.shard import ShardView
from router.forwarding.state import SiteState, StateKeeper, shed_before
from router.problems.reported import Patience, report
from router.reading import Reading
from router.replay.again import send_replays_again
from router.rules.arrival import Arrival
from router.rules.compiled import SiteRules
from router.rules.match import Matched
from router.settings import RouterSettings
from router.trace import traced
from router.window.dedupe import Window
from router.window.history import mark_repeats
from shared.backoff import Backoff
from shared.errors import NotConnected, Permanent, Transient
from shared.events.headers import live_lane, trace_of
from shared.events.shards import WHOLE
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.identity import identify
from shared.jetstream.kv import Bucket
from shared.jetstream.reader import Message
from shared.streams.rewind import PATTERN as REWINDS
from shared.streams.rewind import Answer, answer_key, connection_of, decode_rewinds
from shared.tasks import first_of, task_group
from shared.telemetry.metrics import Telemetry

SAVE_SECONDS = 0.2  # between two writes of the state: after a kill, frames sent since are sent again, and recognised as repeats
WATCH_SECONDS = 15.0

log = logging.getLogger(__name__)


class QueuesReplaced(Transient):
    """DELIVER or FUNCTIONS was replaced by another stream: the frames must be sent again."""


class EventsReplaced(Transient):
    """EVENTS was replaced by another stream: the router must begin again."""


class SiteRouter:
    """Routes one site until told to stop. A new one is made each time the lease is taken.

    Args:
        epoch: of the lease; stored, for people.
        on_ready: called once the window is filled and frames flow.
        older: reads frames that EVENTS has no longer.
        view: of the shard that it routes; None: it routes the whole site, for ever.
        check_lease: raises Fenced if another router may hold the lease by now.
        on_held: called with a connection and why its frames wait for its other shards, or nothing.
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
        older: Older | None = None,
        view: ShardView | None = None,
        check_lease: Callable[[], None] = lambda: None,
        on_held: Callable[[str, str], None] = lambda _name, _why: None,
    ) -> None:
        self._older, self._on_held = older, on_held
        self._view = view
        self._shard = WHOLE if view is None else view.shard
        self._check_lease = check_lease
        self._broker, self._rules = broker, rules
        self._telemetry, self._settings, self._epoch = telemetry, settings, epoch
        self._on_ready = on_ready
        self._keeper = StateKeeper(broker, rules.site, self._shard)
        self._catalogue = CatalogueKeeper(broker, rules.site, rules.forgotten, view)
        self._saved = SiteState()
        self._saved_events = 0
        """`Front.events` at the stored position."""
        self._front = Front(0, 0.0)
        self._reading: Reading | None = None
        self._forwarders: Forwarders | None = None
        self._between_frames, self._saving = asyncio.Lock(), asyncio.Lock()
        self._changed = asyncio.Event()
        self._answered: dict[str, Answer] = {}
        self._patience = Patience()

    @property
    def site(self) -> str:
        """Name of the site."""
        return self._rules.site

    async def run(self, stop: asyncio.Event) -> None:
        """Routes until `stop` is set, then sends collected frames, stores the position and returns.

        Cancelled, it ends at once and stores nothing.

        Raises:
            Fenced: another router has the site.
            EventsReplaced, NotConnected: begin again.
        """
        try:
            async with task_group() as group:
                async with self._between_frames:
                    forwarders = self._forwarders = await self._open(group)
                front_reading = self._reading = self._new_reading(forwarders)
                reading = group.create_task(front_reading.run(), name=f"read-{self.site}")
                others = [
                    group.create_task(front_reading.follow_layout(), name=f"layout-{self.site}"),
                    group.create_task(self._keep_saving(forwarders), name=f"save-{self.site}"),
                    group.create_task(self._watch_events(), name=f"watch-{self.site}"),
                    group.create_task(self._watch_lag(), name=f"lag-{self.site}"),
                    group.create_task(self._catalogue.run(), name=f"catalogue-{self.site}"),
                    group.create_task(self._watch_rewinds(forwarders), name=f"rewind-{self.site}"),
                    group.create_task(
                        send_replays_again(self._broker, self.site, self._older, self._view), name=f"replays-{self.site}"
                    ),
                ]
                await stop.wait()
                reading.cancel()
                await asyncio.wait([reading])
                async with self._between_frames:  # new rules come into force first
                    self._forwarders = None
                await forwarders.finish()
                for task in others:
                    task.cancel()
                await asyncio.wait(others)
            await self._save(self._state(forwarders))
            await self._catalogue.write()
        except BaseExceptionGroup as exc:
            raise first_of(exc) from exc
        finally:
            self._forwarders = None
            self._telemetry.forget(site=self.site)  # the next holder of the site shows them
            for name in self._saved.accounts:
                self._telemetry.forget(connection=name)

    async def apply(self, rules: SiteRules) -> None:
        """Puts new rules in force between two frames.

        Raises:
            ValueError: the site's window changed; make a new router, because this one cannot change it.
        """
        if rules.dedupe_seconds != self._rules.dedupe_seconds:
            raise ValueError(f"site {self.site}: the dedupe window changed from {self._rules.dedupe_seconds:g} s")
        async with self._between_frames:
            if self._forwarders is not None:
                self._rules = rules
                self._catalogue.change(rules.catalog)
                await self._forwarders.apply(rules)
                if self._forwarders.turns.take_new():
                    await self._save_changes(self._forwarders)
                self._changed.set()

    # -- start

    async def _open(self, group: asyncio.TaskGroup) -> Forwarders:
        events = await identify(self._broker, topology.EVENTS)
        incarnation, first_kept = events.incarnation, events.first_seq
        queues, functions = await self._identify_queues()
        if self._view is not None:
            self._view.check(incarnation)
        stored = await self._keeper.load()
        accepted, accounts = (stored.accepted, stored.accounts) if stored is not None else (0, {})
        if stored is not None and stored.incarnation not in ("", incarnation):
            accounts = expire_all(stored, self._telemetry, self.site)
            stored = None
        state = stored or self._first_state()
        if state.position and first_kept > max(state.position + 1, await shed_before(self._broker, incarnation)):
            # a site without traffic looks the same as one that no router worked on for longer than EVENTS keeps frames
            log.warning(
                "EVENTS no longer holds everything since the position; frames the site had there, if any, are lost",
                extra={"site": self.site, "first": state.position + 1, "last": first_kept - 1},
            )
        self._saved = SiteState(
            epoch=self._epoch,
            incarnation=incarnation,
            position=state.position,
            at_seconds=state.at_seconds,
            behind=state.behind,
            connections=state.connections,
            accepted=accepted,
            accounts=accounts,
            lives=state.lives,
            queues=queues,
            functions=functions,
            paused=state.paused,
            until=state.until,
        )
        # a former router that still believes to hold the site fails from here on
        await self._save(self._saved)
        self._front = Front(state.position, state.at_seconds, accepted=accepted)
        lane = live_lane(incarnation, self.site, shard=self._shard.lane)
        self._sender = QueueWriter(self._broker, self.site, lane, incarnation, shard=self._shard)
        await self._catalogue.open(incarnation, state.position, self._rules.catalog)
        where = {"site": self._shard.key(self.site), "position": state.position}
        log.info("site is routed from here", extra={**where, "epoch": self._epoch, "behind": [*state.behind]})
        forwarders = Forwarders(
            broker=self._broker,
            front=self._front,
            sender=self._sender,
            telemetry=self._telemetry,
            settings=self._settings,
            group=group,
            new_window=self._new_window if self._rules.dedupe_seconds > 0 else None,
            on_moved=self._changed.set,
            older=self._older,
            view=self._view,
            newest=events.last_seq,
            on_held=self._on_held,
        )
        # a site that was never routed begins with its first frame: every connection gets all frames
        begun = state.connections if state.position or stored is not None else None
        lost = state.queues not in ("", queues) or state.functions not in ("", functions)
        if lost:
            log.error("queues were created again; the router reads their events again", extra={"site": self.site})
        await forwarders.begin(
            rules=self._rules, behind=state.behind, begun=begun, accounts=accounts, lives=state.lives, again=lost
        )
        if forwarders.turns.take_new():
            await self._save_changes(forwarders)
        return forwarders

    async def _identify_queues(self) -> tuple[str, str]:
        """Returns the incarnations of DELIVER and FUNCTIONS."""
        return (
            (await identify(self._broker, topology.DELIVER)).incarnation,
            (await identify(self._broker, topology.FUNCTIONS)).incarnation,
        )

    def _first_state(self) -> SiteState:
        """Returns the state of a site that was never routed, or of a new shard: it begins where the shards before end."""
        own = self._view.next_range(1) if self._view is not None else None
        if own is None or own.first == 1:
            return SiteState()
        return SiteState(position=own.first - 1, at_seconds=own.at_seconds, connections=[])

    def _new_window(self) -> Window:
        return Window(self._rules.dedupe_seconds, self._settings.dedupe_max_ids)

    # -- reading

    def _new_reading(self, forwarders: Forwarders) -> Reading:
        return Reading(
            broker=self._broker,
            site=self.site,
            front=self._front,
            new_window=self._new_window if self._rules.dedupe_seconds > 0 else None,
            between_frames=self._between_frames,
            route=partial(self._route, forwarders=forwarders),
            fall_behind=forwarders.fall_behind,
            on_moved=self._changed.set,
            on_ready=self._on_ready,
            view=self._view,
            paused=self._saved.paused,
            check_lease=self._check_lease,
        )

    async def _route(self, message: Message, forwarders: Forwarders) -> None:
        arrival: Arrival | None = None
        try:
            with_heads = self._rules.gate is not None or any(each.rules.needs_heads for each in forwarders.accepting())
            arrival = Arrival(message.seq, message.at_seconds, message.payload, with_heads=with_heads)
            with traced(self._telemetry, f"route events.{self.site}", trace_of(message.headers), arrival):
                mark_repeats(self._window, arrival)
                if self._rules.gate is not None:
                    await report(self._sender, self._telemetry, self._rules, arrival=arrival, patience=self._patience)
                await forwarders.make_room()
                # from here to the end of `_offer` nothing is awaited
                prepared = [(forwarder, *forwarder.prepare(arrival)) for forwarder in forwarders.accepting()]
        except Permanent as exc:
            await self._sender.bury_frame(
                telemetry=self._telemetry, seq=message.seq, at_seconds=message.at_seconds, payload=message.payload, why=str(exc)
            )
            prepared = []
            for forwarder in forwarders.accepting():
                forwarder.account.bury(message.seq, 0 if arrival is None else len(arrival))
        self._offer(message, arrival, prepared)
        if self._reading is not None:
            self._reading.report(self._telemetry)

    def _offer(self, message: Message, arrival: Arrival | None, prepared: list[tuple[Forwarder, Matched, Parcel | None]]) -> None:
        if arrival is not None:
            self._catalogue.note(arrival)
        total, repeated = (0, ()) if arrival is None else (len(arrival), arrival.repeated)
        self._front.advance(message.seq, message.at_seconds, total, repeated)
        for forwarder, matched, parcel in prepared:
            forwarder.take(message.seq, matched, parcel)
        self._changed.set()

    @property
    def _window(self) -> Window | None:
        return self._reading.window if self._reading is not None else None

    # -- state

    def _state(self, forwarders: Forwarders) -> SiteState:
        stored = Cursor(self._saved.position, self._saved.at_seconds, self._saved_events)
        position, behind = forwarders.progress(stored)
        self._saved_events = position.events_before
        return SiteState(
            epoch=self._epoch,
            incarnation=self._saved.incarnation,
            position=position.seq,
            at_seconds=position.at_seconds,
            behind=behind,
            connections=forwarders.begun,
            accepted=self._front.accepted(position.events_before),
            accounts=forwarders.accounts(position),
            lives=forwarders.lives,
            queues=self._saved.queues,
            functions=self._saved.functions,
            paused=self._reading.paused if self._reading is not None else self._saved.paused,
            until=self._view.until() if self._view is not None else 0,
        )

    async def _keep_saving(self, forwarders: Forwarders) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._save_changes(forwarders)
            await self._answer(forwarders)
            await asyncio.sleep(SAVE_SECONDS)

    async def _answer(self, forwarders: Forwarders) -> None:
        """Tells loaders how far their rewinds are; the state that it tells of is stored first."""
        for name, answer in forwarders.answers().items():
            if self._answered.get(name) != answer and self._saved.lives.get(name) == forwarders.lives[name]:
                with contextlib.suppress(Transient):
                    await Bucket(self._broker, topology.STATE_BUCKET).put(
                        answer_key(name, self._shard.lane), msgspec.json.encode(answer)
                    )
                    self._answered[name] = answer

    async def _save_changes(self, forwarders: Forwarders) -> None:
        async with self._saving:
            if (state := self._state(forwarders)) != self._saved:
                await self._save(state)

    async def _save(self, state: SiteState) -> None:
        pause = Backoff(*FAULT_SECONDS)
        while True:
            try:
                await self._keeper.save(state)
                self._saved = state
                return export(self._telemetry, self.site, state)
            except Transient as exc:
                log.warning("state cannot be stored yet", extra={"site": self.site, "error": str(exc)})
                await asyncio.sleep(pause.next())

    async def _watch_lag(self) -> None:
        await watch_lag(broker=self._broker, telemetry=self._telemetry, site=self.site, front=self._front, view=self._view)

    async def _watch_rewinds(self, forwarders: Forwarders) -> None:
        async for entry in Bucket(self._broker, topology.STATE_BUCKET).watch(REWINDS):
            async with self._between_frames:
                if self._forwarders is not None:  # else it ends
                    await forwarders.ask(connection_of(entry.key), decode_rewinds(entry.value))

    async def _watch_events(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                incarnation = (await identify(self._broker, topology.EVENTS)).incarnation
                queues = await self._identify_queues()
            except NotConnected:
                continue
            if incarnation != self._saved.incarnation:
                raise EventsReplaced(f"site {self.site}: EVENTS was created again")
            if queues != (self._saved.queues, self._saved.functions):
                raise QueuesReplaced(f"site {self.site}: DELIVER or FUNCTIONS was created again")
