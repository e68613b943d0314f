"""The forwarders of one site: begins and ends them as the rules say, and says which of their state must be stored.

A new connection begins with the next frame, or, with `backfill`, at a frame of the past: then it is behind from the start and
catches up. The set of connections that have begun is stored, so that a router that takes over takes none of them for new.

A disabled connection may still be owed frames from before. Its cursor is *parked* here. When the connection is enabled again, it
catches up with these frames, and leaves out frames that came while it was disabled.

A connection is running (`_forwarders`), parked (`_parked`), removed or unknown. It changes between two frames of the site only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from msgspec.structs import replace

from router.archive.older import Older
from router.forwarding.account import Account, RunningAccount, removed_of
from router.forwarding.catch_up import run_forwarder
from router.forwarding.forwarder import Forwarder
from router.forwarding.front import Cursor, Front
from router.forwarding.send import QueueWriter
from router.forwarding.shard import ShardView
from router.forwarding.state import Life, Mark
from router.forwarding.turns.turn import Turns
from router.rules.compiled import ConnectionRules, SiteRules
from router.settings import RouterSettings
from router.window.dedupe import Window
from router.window.history import first_from, first_since
from shared.events.headers import live_lane
from shared.events.outcome import DropReason
from shared.jetstream.broker import Broker
from shared.streams.removed import note_removed
from shared.streams.rewind import Answer, Rewinds
from shared.tasks import timeout
from shared.telemetry.metrics import Telemetry

STUCK_SECONDS = 5.0  # for which a full forwarder that sends nothing may hold up its neighbours while the broker is there
FINISH_SECONDS = 2.0  # for sending the rest when a connection is disabled or removed

log = logging.getLogger(__name__)


class Forwarders:
    """All forwarders of a site, by connection.

    Args:
        group: owns the forwarders' tasks.
        new_window: makes an empty window like the site's own; None: the site does not look for repeats.
        on_moved: called when a forwarder has come further.
        older, view, on_held: as of the site's router.
        newest: the newest sequence of EVENTS when this router began; no earlier one sent a frame behind it.
    """

    def __init__(
        self,
        broker: Broker,
        front: Front,
        sender: QueueWriter,
        telemetry: Telemetry,
        settings: RouterSettings,
        *,
        group: asyncio.TaskGroup,
        new_window: Callable[[], Window] | None,
        on_moved: Callable[[], None],
        older: Older | None = None,
        view: ShardView | None = None,
        newest: int = 0,
        on_held: Callable[[str, str], None] = lambda _name, _why: None,
    ) -> None:
        self._older, self._view, self._newest, self._on_held = older, view, newest, on_held
        self._broker, self._front, self._sender, self._telemetry = broker, front, sender, telemetry
        self._settings, self._group, self._new_window, self._on_moved = settings, group, new_window, on_moved
        self._forwarders: dict[str, Forwarder] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._parked: dict[str, Cursor] = {}
        self._unsent: dict[str, int] = {}  # events that removed connections never got
        self._begun: set[str] = set()
        self._accounts: dict[str, RunningAccount] = {}
        self._lives: dict[str, Life] = {}
        self._asked: dict[str, Rewinds] = {}
        self.turns = Turns(broker, self._forwarders, view=view, lives=lambda: self._lives, on_moved=on_moved)

    async def begin(
        self,
        rules: SiteRules,
        behind: Mapping[str, Mark],
        begun: Collection[str] | None,
        accounts: Mapping[str, Account],
        lives: Mapping[str, Life],
        *,
        again: bool = False,
    ) -> None:
        """Starts a forwarder for every connection; one that was behind begins at its old place.

        Args:
            begun: connections that got frames before; None: all.
            accounts: the accounts so far.
            lives: where connections began.
            again: the queues were lost. Each connection reads all frames again from its beginning; loaders know which they have.

        Raises:
            NotConnected: the broker does not answer where a new connection asks for the past.
        """
        self._fresh = begun is None  # no connection ever got a frame
        self._begun, self._lives = set(rules.connections if begun is None else begun), dict(lives)
        if begun is None and not self._front.seq:
            self._lives = {name: Life(first=1, queue=rules.connections[name].queue) for name in self._begun}
        self._begun -= self._added_again(rules)
        self._accounts = {name: RunningAccount(stored) for name, stored in accounts.items()}
        for name, mark in behind.items():
            cursor = Cursor(mark.seq, mark.at_seconds, -mark.owed, gaps=list(mark.gaps), counted=mark.counted)
            if name in rules.disabled or (name in rules.connections and name in self._begun):
                self._parked[name] = cursor
            else:
                self._discard(name, cursor)
        for name in rules.disabled & self._accounts.keys():
            self._park(name, self._parked.get(name))
        await self._hand_over_removed(rules)
        for connection in rules.connections.values():
            if again and connection.name in self._begun:
                await self._read_all_again(connection.name)
            await self._start(connection)
        self._fresh = False
        self._note_begun(rules)

    async def apply(self, rules: SiteRules) -> None:
        """Ends, changes and starts forwarders; call it between two frames.

        Raises:
            NotConnected: the broker does not answer where a new connection asks for the past.
        """
        again = self._added_again(rules)
        for name in [name for name in self._forwarders if name not in rules.connections or name in again]:
            await self._end(name, keep=name in rules.disabled)
        self._begun -= again
        stay = rules.connections.keys() | rules.disabled
        for name in [name for name in self._parked if name in again or name not in stay]:
            self._discard(name, self._parked.pop(name))
        await self._hand_over_removed(rules)
        for name, connection in rules.connections.items():
            if name in self._forwarders:
                self._forwarders[name].rules = self._spread(connection)
            else:
                await self._start(connection)
        self._note_begun(rules)

    async def ask(self, connection: str, rewinds: Rewinds) -> None:
        """Notes a loader's request and reads again from its sequence; call it between two frames.

        Raises:
            NotConnected: the broker does not answer.
        """
        self._asked[connection] = rewinds
        await self._rewind(connection)
        self._on_moved()

    def answers(self) -> dict[str, Answer]:
        """Returns by connection how far the requested rewinds are."""
        found: dict[str, Answer] = {}
        for name, forwarder in self._forwarders.items():
            rewind = self._asked[name].lanes.get(forwarder.lane) if name in self._asked else None
            if rewind is not None and rewind.number == forwarder.rewind:
                sent = {forwarder.lane: forwarder.rewind} if forwarder.place().seq > rewind.last else {}
                found[name] = Answer(begun={forwarder.lane: (forwarder.rewind, self._lives[name].again)}, sent=sent)
        return found

    @property
    def lives(self) -> dict[str, Life]:
        """Where connections began, and how often they were rewound."""
        return dict(self._lives)

    @property
    def begun(self) -> list[str]:
        """The connections that have begun to get frames."""
        return sorted(self._begun)

    def accepting(self) -> Iterator[Forwarder]:
        """Returns the forwarders that must be offered the next frame."""
        return (forwarder for forwarder in self._forwarders.values() if forwarder.accepting)

    async def make_room(self) -> None:
        """Waits until every accepting forwarder can take a frame; lets one fall behind that cannot in time."""
        for forwarder in self._forwarders.values():
            while forwarder.accepting and forwarder.is_full:
                refuses = forwarder.behind or forwarder.blocked
                if refuses or (not await forwarder.wait_moved(STUCK_SECONDS) and self._broker.nc.is_connected):
                    forwarder.fall_behind()

    def fall_behind(self) -> None:
        """Makes every forwarder read EVENTS itself from its place on."""
        for forwarder in self._forwarders.values():
            forwarder.fall_behind(full=False)

    async def finish(self) -> None:
        """Lets every forwarder send its frames in memory, unless its queue is full, and ends them all."""
        for forwarder in self._forwarders.values():
            await forwarder.wait_idle()
            if not forwarder.idle and not forwarder.behind:
                forwarder.fall_behind()
        for task in self._tasks.values():
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks.values())

    def progress(self, stored: Cursor) -> tuple[Cursor, dict[str, Mark]]:
        """Returns the position up to which every frame is in every queue, and marks of the connections that are short of it.

        The position is a cursor whose `seq` is the last finished frame. Live forwarders hold it back, but it never goes back
        behind `stored`: a forwarder that has just gone live may be short of that, and then has a mark.
        """
        position = Cursor(self._front.seq, self._front.at_seconds, self._front.events)
        places = {name: forwarder.place() for name, forwarder in self._forwarders.items()}
        for name, place in places.items():
            if not self._forwarders[name].behind and place.seq <= position.seq:
                position = Cursor(place.seq - 1, place.at_seconds, place.events_before)
        if position.seq < stored.seq:
            position = stored
        behind = {name: place.mark(position) for name, place in places.items() if place.seq <= position.seq}
        behind.update({name: cursor.mark(position) for name, cursor in self._parked.items()})
        return position, behind

    def accounts(self, position: Cursor) -> dict[str, Account]:
        """Returns each connection's account, up to its mark if it has one, else up to the position."""
        accepted = self._front.accepted(position.events_before)
        found: dict[str, Account] = {}
        for name, account in self._accounts.items():
            place = self._forwarders[name].place().seq if name in self._forwarders else position.seq + 1
            found[name] = account.settle(min(place, position.seq + 1), accepted)
        return found

    async def _hand_over_removed(self, rules: SiteRules) -> None:
        """Hands over the accounts of connections that left, also if a new one came under the same name."""
        for name, account in list(self._accounts.items()):
            new = rules.connections.get(name)
            if (new is None and name not in rules.disabled) or (new is not None and new.queue != account.queue):
                ended = account.end(self._unsent.pop(name, 0))
                removed = removed_of(self._sender.site, name, ended, self._front.accepted(self._front.events))
                await note_removed(self._broker, removed, self._sender.shard.lane, incarnation=self._sender.incarnation)
                del self._accounts[name]
                self._begun.discard(name)
                self._telemetry.forget(connection=name)

    def _added_again(self, rules: SiteRules) -> set[str]:
        """Returns the connections that were removed and added again since they began."""
        return {
            name
            for name, connection in rules.connections.items()
            if name in self._lives and self._lives[name].queue not in ("", connection.queue)
        }

    def _note_begun(self, rules: SiteRules) -> None:
        self._begun = set(rules.connections) | (self._begun & rules.disabled)
        self._lives = {name: life for name, life in self._lives.items() if name in self._begun}

    async def _start(self, connection: ConnectionRules) -> None:
        name = connection.name
        cursor = self._unpark(name)
        if name not in self._begun:
            if cursor is None and connection.backfill_seconds and not self.turns.is_late(connection):
                cursor = await self._backfill(connection)
            if cursor is None and self._view and self._view.may_hold_back(self._front.seq + 1):
                cursor = Cursor(self._front.seq + 1, self._front.at_seconds, self._front.events)
            self._lives[name] = Life(first=cursor.seq if cursor is not None else self._front.seq + 1, queue=connection.queue)
        life = self._lives.get(name, Life())
        self._lives[name] = replace(life, queue=connection.queue, gaps=self._closed(life.gaps))
        account = self._accounts.setdefault(name, RunningAccount(Account(queue=connection.queue)))
        account.join(self._front.accepted(self._front.events), self._front.seq)
        self._run(self._spread(connection), cursor)
        await self._rewind(name)

    def _spread(self, connection: ConnectionRules) -> ConnectionRules:
        since = max(self._front.seq, self._newest) + 1
        return self.turns.spread(connection, is_new=self._fresh or connection.name not in self._begun, since=since)

    def _run(self, connection: ConnectionRules, cursor: Cursor | None) -> None:
        name, life = connection.name, self._lives[connection.name]
        forwarder = self._forwarders[name] = Forwarder(
            connection,
            self._front,
            self._sender,
            self._telemetry,
            lane=live_lane(self._sender.incarnation, self._sender.site, life.first, shard=self._sender.shard.lane),
            rewind=life.rewind,
            account=self._accounts[name],
            max_frames=self._settings.pending_frames,
            max_bytes=int(self._settings.pending_bytes),
            cursor=cursor,
            on_moved=self._on_moved,
            view=self._view,
            may_send=self.turns.check,
            on_held=self._on_held,
        )
        running = run_forwarder(forwarder, self._broker, self._new_window, self._older)
        self._tasks[name] = self._group.create_task(running, name=f"forward-{name}")

    async def _read_all_again(self, name: str) -> None:
        life = self._lives.get(name, Life())
        place = self._parked.get(name) or Cursor(self._front.seq + 1, self._front.at_seconds, self._front.events)
        first = await first_from(self._broker, self._sender.site, life.first, self._older)
        if first is not None and first[0] < place.seq:
            self._parked[name] = Cursor(*first, place.events_before, [*life.gaps], max(place.seq - 1, place.counted))

    async def _rewind(self, name: str) -> None:
        """Reads frames of a connection again, if its loader asks for a rewind that has not begun."""
        asked, forwarder = self._asked.get(name), self._forwarders.get(name)
        if forwarder is None or asked is None or asked.queue != forwarder.rules.queue:
            return
        rewind = asked.lanes.get(forwarder.lane)
        if rewind is None or rewind.number <= forwarder.rewind:
            return
        first = await first_from(self._broker, self._sender.site, rewind.first, self._older)
        await self._cancel(name)
        place = forwarder.place()
        forwarder.account.forget(place.seq)
        forwarder.account.settle(place.seq, self._front.accepted(place.events_before))
        life = self._lives[name]
        cursor: Cursor | None = place
        if first is not None and first[0] < place.seq:
            counted = max(place.seq - 1, place.counted)
            cursor = Cursor(*first, place.events_before, [*life.gaps], counted)
        elif place.seq > self._front.seq:
            cursor = None
        again = min(cursor.seq, place.seq) if cursor is not None else place.seq
        self._lives[name] = replace(life, rewind=rewind.number, again=again)
        log.warning("connection reads again", extra={"connection": name, "seq": again, "until": place.seq})
        self._run(forwarder.rules, cursor)

    async def _cancel(self, name: str) -> None:
        (task := self._tasks.pop(name)).cancel()
        await asyncio.wait([task])

    async def _end(self, name: str, *, keep: bool) -> None:
        """Lets a forwarder send its frames in memory, for a bounded time; keeps the place of a connection that is only disabled."""
        forwarder = self._forwarders[name]
        try:
            async with timeout(FINISH_SECONDS):
                await forwarder.wait_idle()
        except TimeoutError:
            log.warning("connection ends with frames left", extra={"connection": name})
        await self._cancel(name)
        del self._forwarders[name]
        self._telemetry.gauge("router_connection_stopped", 0, connection=name)
        cursor = None if forwarder.idle else forwarder.place()
        if keep:
            self._park(name, cursor)
            return
        self._accounts[name].leave(self._front.accepted(self._front.events), forwarder.place().seq)
        if cursor is not None:
            self._discard(name, cursor)

    def _park(self, name: str, cursor: Cursor | None) -> None:
        """Notes that a connection is disabled from the next frame on, if that is new, and which frames it is owed from before."""
        account, next_seq = self._accounts[name], self._front.seq + 1
        if account.takes:
            account.leave(self._front.accepted(self._front.events), next_seq if cursor is None else cursor.seq)
            life = self._lives.get(name, Life())
            self._lives[name] = replace(life, gaps=[*life.gaps, (next_seq, None)])
            if cursor is not None:
                cursor.gaps.append((next_seq, None))
        if cursor is not None:
            cursor.disabled_at = self._front.events
            self._parked[name] = cursor

    async def _backfill(self, connection: ConnectionRules) -> Cursor | None:
        """Returns the place in the past where a new connection begins; None: EVENTS has no frame there."""
        if self._view is not None and not self._view.has_past(self._front.seq):
            return None
        first = await first_since(self._broker, self._sender.site, time.time() - connection.backfill_seconds, self._older)
        if first is not None and first[0] <= self._front.seq:
            log.info("connection begins in the past", extra={"connection": connection.name, "seq": first[0]})
            # these events were never counted, so events that expire before they are read are not missed
            return Cursor(*first, self._front.events)
        return None

    def _unpark(self, name: str) -> Cursor | None:
        """Returns the place where a connection stopped: it was disabled, or was behind when the router stopped."""
        cursor = self._parked.pop(name, None)
        if cursor is not None:
            cursor.gaps = self._closed(cursor.gaps)
            if cursor.disabled_at is not None:
                cursor.events_before += self._front.events - cursor.disabled_at
                cursor.disabled_at = None
        return cursor

    def _closed(self, gaps: Sequence[tuple[int, int | None]]) -> list[tuple[int, int | None]]:
        """Returns the gaps with the open one closed: the connection takes frames again."""
        return [(first, self._front.seq if last is None else last) for first, last in gaps]

    def _discard(self, name: str, cursor: Cursor) -> None:
        until = self._front.events if cursor.disabled_at is None else cursor.disabled_at
        events = self._unsent[name] = max(0, until - cursor.events_before)
        self._telemetry.count("router_events_dropped_total", events, connection=name, reason=DropReason.REMOVED)
        log.warning(
            "connection was removed before it had caught up", extra={"connection": name, "seq": cursor.seq, "events": events}
        )
