"""A forwarder: puts a site's frames into one connection's queue, strictly in order, however slow the connection is.

The promise is this. *A writer that puts frame S into a connection's queue knows that every frame before S that the connection
wants is in the queue already.* A forwarder keeps it by sending one frame at a time, the next only after the broker has the one
before. A router that takes over keeps it by starting at a stored position up to which it was kept. So any two routers, even if
one wakes up after its lease was taken, can only repeat each other. Repeats carry the same lane and sequence, by which the loader
recognises them.

A forwarder is *live* or *behind*. Live: the site's reading offers it each frame, and it holds a few of them in memory. Behind: it
has a cursor, and reads EVENTS itself (`router/forwarding/catch_up.py`). It falls behind when its memory is full and its queue
takes no more, so that the site's reading never waits for it. Then it drops the frames in memory, and its cursor is stored with
the site's position.

`accepting` and `behind` together mean joining: the cursor is close to the front, and the forwarder collects new frames meanwhile.
When the cursor reaches the frame after which collecting began, the forwarder is live. No frame is lost or taken twice on the way:
`accepting` changes only between two frames of the front, and nothing is awaited in between.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from router.forwarding.account import RunningAccount
from router.forwarding.broken import letters_of
from router.forwarding.front import Cursor, Front
from router.forwarding.send import FAULT_SECONDS, FULL_SECONDS, QueueWriter
from router.forwarding.shard import ShardView
from router.rules.arrival import Arrival
from router.rules.compiled import ConnectionRules
from router.rules.match import Matched, match
from router.trace import sending
from shared.backoff import Backoff
from shared.errors import Permanent, QueueFull, Transient
from shared.events.dead import DeadLetter
from shared.events.headers import Place
from shared.events.outcome import DeadReason, DropReason
from shared.tasks import timeout
from shared.telemetry.metrics import Telemetry

log = logging.getLogger(__name__)


class ShardsChange(QueueFull):
    """A frame must wait for the connection's other shards, because their number changes; says for which."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """The part of one frame that goes to a connection: `events` of the frame's `total`, perhaps none, and the letters of events that the
    site's tracking plan buries. `events_before`: `Front.events` before the frame."""

    seq: int
    at_seconds: float
    events_before: int
    payload: bytes
    events: int
    total: int
    revision: int
    trace: Mapping[str, str] = field(default_factory=dict)
    drops: Mapping[DropReason, int] = field(default_factory=dict)
    through_functions: bool = False
    letters: Sequence[DeadLetter] = ()

    @property
    def held_bytes(self) -> int:
        """Its size in memory, about."""
        return len(self.payload) + sum(letter.held_bytes for letter in self.letters)


class Forwarder:
    """The forwarder of one connection. Its task is `router.forwarding.catch_up.run_forwarder`; the site's reading calls `prepare` and `take`."""

    def __init__(
        self,
        rules: ConnectionRules,
        front: Front,
        sender: QueueWriter,
        telemetry: Telemetry,
        *,
        lane: str,
        rewind: int = 0,
        account: RunningAccount | None = None,
        max_frames: int,
        max_bytes: int,
        cursor: Cursor | None = None,
        on_moved: Callable[[], None] = lambda: None,
        view: ShardView | None = None,
        may_send: Callable[[Forwarder, int], Awaitable[None]] | None = None,
        on_held: Callable[[str, str], None] = lambda _name, _why: None,
    ) -> None:
        self._may_send = may_send
        """Raises ShardsChange while a frame must wait for the connection's other shards."""
        self._on_held, self._held = on_held, ""
        self.view = view
        """Of the site's shard; None: it has none."""
        self.rules = rules
        self.front = front
        self.sender = sender
        self.telemetry = telemetry
        self.lane = lane
        """The lane of all frames that it sends."""
        self.rewind = rewind
        self.account = account or RunningAccount()
        self.cursor = cursor
        """Its place while it is behind; None: it is live."""
        self.accepting = cursor is None
        self.join_after = 0
        """While joining: the last frame that the cursor must bring; later ones are collected."""
        self._join_events = 0
        self.blocked = False
        """True: the queue refused the last frame."""
        self._pending: deque[Parcel] = deque()
        self._pending_bytes = 0
        self.max_frames = max_frames
        """The most frames in memory."""
        self._max_bytes = max_bytes
        self._wake = asyncio.Event()
        self._moved = asyncio.Event()
        self._on_moved = on_moved
        telemetry.gauge("router_connection_stopped", int(self.behind), connection=self.name)

    @property
    def name(self) -> str:
        """Name of the connection."""
        return self.rules.name

    @property
    def behind(self) -> bool:
        """Whether it reads EVENTS itself."""
        return self.cursor is not None

    @property
    def idle(self) -> bool:
        """Whether every offered frame is in the queue."""
        return self.cursor is None and not self._pending

    @property
    def is_full(self) -> bool:
        """Whether another frame would exceed the memory."""
        return len(self._pending) >= self.max_frames or self._pending_bytes >= self._max_bytes

    def is_counted(self, seq: int) -> bool:
        """Whether a frame was in the queue once, and is only sent again."""
        return self.cursor is not None and seq <= self.cursor.counted

    def place(self) -> Cursor:
        """Returns the first frame that may not be in the queue."""
        if self.cursor is not None:
            return self.cursor
        if self._pending:
            first = self._pending[0]
            return Cursor(first.seq, first.at_seconds, first.events_before)
        return Cursor(self.front.seq + 1, self.front.at_seconds, self.front.events)

    # -- called by the site's reading

    def prepare(self, arrival: Arrival) -> tuple[Matched, Parcel | None]:
        """Decides which events of the next front the connection gets. Counts nothing yet.

        Raises:
            Permanent: the frame is damaged inside.
        """
        matched = match(self.rules, arrival)
        if arrival.repeated and DropReason.DUPLICATE in matched.drops:
            sample = f"messageId {arrival.ids[arrival.repeated[0]]}"
            self.telemetry.show("router_events_dropped_total", sample, connection=self.name, reason=DropReason.DUPLICATE)
        return matched, self.parcel(arrival, matched)

    def parcel(self, arrival: Arrival, matched: Matched) -> Parcel | None:
        """Wraps the events that passed, and the letters of events that the tracking plan buries."""
        events = len(arrival) if matched.indexes is None else len(matched.indexes)
        if not events and not matched.dead:
            return None
        payload = arrival.payload_of(matched.indexes) if events else b""
        return Parcel(
            seq=arrival.seq,
            at_seconds=arrival.at_seconds,
            events_before=self.front.events,
            payload=payload,
            events=events,
            total=len(arrival),
            revision=self.rules.revision,
            trace=arrival.trace,
            drops=matched.drops,
            through_functions=self.rules.through_functions,
            letters=letters_of(arrival, matched.dead, site=self.sender.site, connection=self.name, lane=self.lane)
            if matched.dead
            else (),
        )

    def take(self, seq: int, matched: Matched, parcel: Parcel | None) -> None:
        """Counts the dropped events of a frame and collects the rest; the caller has looked at `accepting` and `is_full`."""
        self.count_drops(seq, matched)
        if parcel is None:
            return
        self._pending.append(parcel)
        self._pending_bytes += parcel.held_bytes
        self._wake.set()

    def fall_behind(self, *, full: bool = True) -> None:
        """Forgets the collected frames; they will be read from EVENTS again. `full`: because the queue is."""
        place = self.place()
        self._forget()
        self.account.forget(place.seq)
        self.accepting = False
        if self.cursor is None:
            self.cursor = place
            self.telemetry.gauge("router_connection_stopped", 1, connection=self.name)
            if full:
                log.warning("connection is stopped, its queue is full", extra={"connection": self.name, "seq": place.seq})
        self._wake.set()

    async def wait_moved(self, timeout_seconds: float) -> bool:
        """Waits until one more frame is in the queue, or the queue refuses one; False: neither happened within the time."""
        self._moved.clear()
        try:
            async with timeout(timeout_seconds):
                await self._moved.wait()
        except TimeoutError:
            return False
        return True

    async def wait_idle(self) -> None:
        """Waits until it has sent all frames in memory; returns at once if it is behind or its queue is full."""
        while self.cursor is None and self._pending and not self.blocked:
            await self.wait_moved(1.0)

    # -- called by the lane's task

    def hold(self, why: str) -> None:
        """Notes that frames must wait for the connection's other shards, and for whom; empty: they need not.

        The forwarder falls behind at once, so that the site's position goes on and its state holds the reason.
        """
        if why and self.cursor is None:
            self.fall_behind(full=False)
        if self.cursor is not None and self.cursor.why != why:
            self.cursor.why = why
            self.note_moved()
        if self._held != why:
            self._held = why
            self._on_held(self.name, why)

    def collect(self) -> None:
        """Begins to join: collects every offered frame from the next one on."""
        self.accepting = True
        self.join_after = self.front.seq
        self._join_events = self.front.events

    def go_live(self) -> None:
        """Ends being behind. Counts frames that the cursor passed and never met: EVENTS no longer has them."""
        cursor = self.cursor
        if cursor is None:
            return
        missing = (self._join_events if self.accepting else self.front.events) - cursor.events_before
        if missing > 0:
            self.telemetry.count("router_events_dropped_total", missing, connection=self.name, reason=DropReason.EXPIRED)
            self.account.drop(cursor.seq - 1, {DropReason.EXPIRED: missing})
            log.error(
                "events are lost: EVENTS did not keep them for long enough", extra={"connection": self.name, "events": missing}
            )
        self.cursor = None
        self.accepting = True
        self.telemetry.gauge("router_connection_stopped", 0, connection=self.name)
        log.info("connection has caught up", extra={"connection": self.name, "seq": cursor.seq})

    async def send_pending(self) -> None:
        """Sends collected frames. Ends only when it falls behind."""
        while self.cursor is None:
            if not self._pending:
                self._wake.clear()
                await self._wake.wait()
                continue
            parcel = self._pending[0]
            sent = await self.send(parcel)
            # falling behind while the frame was under way put the cursor on it
            cursor: Cursor | None = self.cursor
            if cursor is None:
                self._pending.popleft()
                self._pending_bytes -= parcel.held_bytes
            elif sent and cursor.seq == parcel.seq:
                self.account.drop(parcel.seq, parcel.drops)
                cursor.seq += 1
                cursor.events_before += parcel.total
            self.note_moved()

    def note_moved(self) -> None:
        """Tells waiting tasks that the forwarder has come further."""
        self._moved.set()
        self._on_moved()

    async def send(self, parcel: Parcel) -> bool:
        """Puts a parcel into the queue, however long it takes. False: the forwarder fell behind, and the parcel may not be in."""
        subject = f"{'functions' if parcel.through_functions else 'deliver'}.{self.name}"
        with sending(self.telemetry, subject, parcel.trace, parcel.events) as trace:
            return await self._send(parcel, trace)

    async def _send(self, parcel: Parcel, trace: Mapping[str, str]) -> bool:
        was_behind = self.behind
        full, fault = Backoff(*FULL_SECONDS), Backoff(*FAULT_SECONDS)
        counts = not self.is_counted(parcel.seq)
        is_in, has_ended = False, not parcel.events
        while True:
            try:
                if not has_ended:
                    is_in, has_ended = await self._put(parcel, trace, counts=counts), True
                if parcel.letters and counts:
                    # last, so that they are buried once, however long the queue is full
                    await self.sender.bury_events(
                        telemetry=self.telemetry, seq=parcel.seq, connection=self.name, letters=parcel.letters
                    )
                    self.account.bury(parcel.seq, len(parcel.letters), DeadReason.TRACKING_PLAN)
                self.blocked = False
                self._count_sent(parcel, is_in=is_in, counts=counts)
                return True
            except ShardsChange as exc:
                self.hold(str(exc))
                pause = full.next()
            except QueueFull:
                self.blocked = True
                self._moved.set()
                pause = full.next()
            except Transient as exc:
                log.warning("frame cannot be queued yet", extra={"connection": self.name, "seq": parcel.seq, "error": str(exc)})
                pause = fault.next()
            if self.behind and not was_behind:
                return False
            await asyncio.sleep(pause)

    async def _put(self, parcel: Parcel, trace: Mapping[str, str], *, counts: bool) -> bool:
        """Puts the events of a parcel into the queue; False: into the dead letters, for ever. Raises as `try_send`."""
        if self.rules.spread is not None and self._may_send is not None:
            await self._may_send(self, parcel.seq)
            if self._held:
                self.hold("")
        total = self.account.sent + parcel.events if counts else 0
        place = Place(lane=self.lane, seq=parcel.seq, events=parcel.events, total=total, rewind=self.rewind)
        try:
            await self.sender.try_send(
                queue=self.rules.queue,
                revision=parcel.revision,
                place=place,
                payload=parcel.payload,
                trace=trace,
                through_functions=parcel.through_functions,
            )
        except Permanent as exc:
            await self.sender.bury_frame(
                telemetry=self.telemetry,
                seq=parcel.seq,
                at_seconds=parcel.at_seconds,
                payload=parcel.payload,
                why=str(exc),
                connection=self.name,
            )
            return False
        return True

    def _count_sent(self, parcel: Parcel, *, is_in: bool, counts: bool) -> None:
        if is_in:
            self.telemetry.count("router_events_forwarded_total", parcel.events, connection=self.name)
        if counts and is_in:
            self.account.forward(parcel.seq, parcel.events)
        elif counts and parcel.events:
            self.account.bury(parcel.seq, parcel.events)

    def count_drops(self, seq: int, matched: Matched) -> None:
        """Counts the dropped events of a frame."""
        self.account.drop(seq, matched.drops)
        drops: Mapping[DropReason, int] = matched.drops
        for reason, amount in drops.items():
            self.telemetry.count("router_events_dropped_total", amount, connection=self.name, reason=reason)
        if matched.errors:
            self.telemetry.count("router_filter_errors_total", matched.errors, connection=self.name)

    def _forget(self) -> None:
        self._pending.clear()
        self._pending_bytes = 0
