"""The fate of events taken from a connection's queue, counted so that no crash loses or doubles a count.

Before a load is committed, it is noted as pending with its counts. Afterwards the destination's ledger, or the load plan, tells
whether it was committed. So a successor adds a pending load that was committed, and forgets one that was not: its frames come
again. A count has the sequence up to which it goes, so frames that come again although they are counted are not counted twice.

Each load costs one write: the end of a load is written with the next one, or within a second.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from loader.contract.warehouse import LoadPlan
from loader.queue.aside import Aside
from loader.rows.batch import ShapedBatch
from shared.errors import Conflict, Fenced
from shared.events.headers import ends, is_live
from shared.events.outcome import DeadReason
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.streams.ended import Counts, Ended, Pending, counts_of_frame, decode_ended, ended_key
from shared.telemetry.metrics import Telemetry


@dataclass(slots=True)
class Outcome:
    """The fate of a delivery's events, by sequence and index; events whose rows are all in are left out."""

    dead: dict[tuple[int, int], str] = field(default_factory=dict)
    aside: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    """By sequence, as bits: the events with a row set aside."""
    tables: Sequence[str] = ()
    """Tables of the load that is committed, or about to be."""


@dataclass(frozen=True, slots=True)
class Share:
    """A chunk as the account sees it.

    `source` and `through`: the lane and its last sequence, or the table and the message of RETRY. `unreadable`: events of frames
    that are dead whole. `sent`: how many events the router had sent with its last frame. `waiting`: returns the events of a frame
    with rows set aside already, because an earlier delivery was cut off. `aside`: set for rows that were aside, with the events
    of the frame that still wait for another table (`others`).
    """

    source: str
    through: int
    live: bool = True
    unreadable: int = 0
    sent: int = 0
    waiting: Callable[[int], int] = lambda _: 0
    aside: Aside | None = None
    others: Callable[[], int] = lambda: 0


def share_of_lane(lane: str, through: int, unreadable: int, waiting: Callable[[int], int] = lambda _: 0, sent: int = 0) -> Share:
    """Returns the share of frames taken from the queue."""
    live = is_live(lane)
    return Share(source=lane, through=through, live=live, unreadable=unreadable, sent=sent if live else 0, waiting=waiting)


def share_of_aside(aside: Aside, others: Callable[[], int]) -> Share:
    """Returns the share of rows that were set aside."""
    return Share(f"aside.{aside.table}", aside.seq, aside=aside, others=others)


class Accounts:
    """The account of one connection, as long as this process holds it."""

    def __init__(
        self, broker: Broker, queue: str, connection: str, telemetry: Telemetry, destination: str = "", address: str = ""
    ) -> None:
        self._bucket = Bucket(broker, topology.STATS_BUCKET)
        self._key = ended_key(queue)
        self._connection = connection
        self._telemetry = telemetry
        self._destination = destination
        self._address = address
        self._ended = Ended()
        self._moved_from: Ended | None = None
        self._revision = 0
        self._dirty = False
        self._changing = asyncio.Lock()

    @property
    def last_load_at(self) -> float | None:
        """The time of the last commit (epoch)."""
        return self._ended.last_load_at

    @property
    def counted(self) -> Mapping[str, int]:
        """By source, the sequence up to which events are counted."""
        return self._ended.through

    @property
    def counted_lanes(self) -> dict[str, int]:
        """The same of lanes alone."""
        return {source: seq for source, seq in self._ended.through.items() if not source.startswith("aside.")}

    @property
    def counts(self) -> Counts:
        """All counts so far."""
        return self._ended.counts

    @property
    def stored(self) -> Ended:
        """The account as it is stored."""
        return self._ended

    @property
    def begun(self) -> int:
        """Events that are done with the queue, while others of their frame are not."""
        return self._ended.begun_events(replayed=False) + self._ended.begun_events(replayed=True)

    @property
    def early(self) -> int:
        """Events that are counted although rows of them are set aside."""
        return sum(int(bits, 16).bit_count() for bits in self._ended.early.values())

    @property
    def moved_from(self) -> Ended | None:
        """The counted sequences, if the connection's last load went to another destination; None: it went to this one."""
        return self._moved_from

    def begun_of(self, lane: str, seq: int) -> int:
        """Returns as bits the events of a frame of the queue that need nothing more of it."""
        return int(self._ended.begun.get(f"{lane}:{seq}", "0"), 16)

    def is_elsewhere(self, ended: Ended) -> bool:
        """Whether the last load went to another destination than the present one."""
        return bool(ended.address) and (ended.destination, ended.address) != (self._destination, self._address)

    async def read(self, committed: Callable[[Ended, Pending], Awaitable[bool]]) -> bool:
        """Reads the counts, and decides whether a pending load counts. Returns whether there is one that does not: its frames come again.

        Raises:
            NotConnected: the broker does not answer, or `committed` cannot say.
        """
        entry = await self._bucket.get(self._key)
        self._revision = entry.revision if entry else 0
        self._ended = decode_ended(entry.value if entry else None)
        self._dirty = False  # from a former session; its counts must not be written without the pending load
        found, pending = self._ended, self._ended.pending
        counts = pending is not None and (not pending.tables or await committed(found, pending))
        if pending is not None and counts:
            self._settle(pending, self._ended.last_load_at)
        self._moved_from = found if self.is_elsewhere(found) else None
        self._ended = msgspec.structs.replace(self._ended, pending=None, destination=self._destination, address=self._address)
        self.export()
        return pending is not None and not counts

    def note_moved(self, is_here: Callable[[str], bool]) -> None:
        """Notes whether counted events were loaded into another destination.

        Args:
            is_here: returns whether any part of a lane is, or was, in the present destination.
        """
        live = [source for source in self._ended.through if is_live(source)]
        if self._ended.counts.delivered and not self._ended.moved and not all(map(is_here, live)):
            self._ended = msgspec.structs.replace(self._ended, moved=True)
            self._dirty = True

    def keep_asides(self, waiting: Iterable[Aside]) -> None:
        """Forgets notes of rows that no longer wait."""
        held = list(waiting)
        tables = {f"aside.{aside.table}" for aside in held}
        frames = {frame_of(aside) for aside in held}
        through = {
            source: seq for source, seq in self._ended.through.items() if not source.startswith("aside.") or source in tables
        }
        early = {
            frame: bits
            for frame, bits in self._ended.early.items()
            if frame in frames or int(frame.rpartition(":")[2]) > through.get(frame.rpartition(":")[0], 0)
        }
        self._ended = msgspec.structs.replace(self._ended, through=through, early=early)

    def pending(self, share: Share, batch: ShapedBatch, outcome: Outcome, plan: LoadPlan) -> Pending:
        """Returns the counts of a delivery, to add when it is done."""
        counts, early = self._count(share, batch, outcome, plan.lane)
        if share.through <= self._ended.through.get(share.source, 0):
            # they come again although they are counted; so do events whose row is now set aside
            counts, early = Counts(), {f"{plan.lane}:{seq}": f"{bits:x}" for seq, bits in outcome.aside.items() if bits}
        return Pending(
            lane=plan.lane,
            last=plan.last,
            tables=sorted(outcome.tables),
            source=share.source,
            through=share.through,
            counts=counts,
            early=early,
            sent=share.sent,
        )

    async def expect(self, pending: Pending) -> None:
        """Notes a load before it is committed.

        Raises:
            Fenced: another loader has the connection; do not load.
            NotConnected, Transient: it may not be noted; do not load.
        """
        async with self._changing:
            await self._write(msgspec.structs.replace(self._ended, pending=pending))

    async def expect_aside(self, share: Share, lane: str, bits: Mapping[int, int]) -> None:
        """Notes counted events before their rows are set aside: after a kill in between they must not be counted again.

        Args:
            bits: the events, by sequence of their frame.

        Raises:
            Fenced, NotConnected, Transient: as `expect`.
        """
        if share.aside is not None or share.through > self._ended.through.get(share.source, 0):
            return
        async with self._changing:
            early = dict(self._ended.early)
            for seq, each in bits.items():
                frame = f"{lane}:{seq}"
                early[frame] = f"{int(early.get(frame, '0'), 16) | each:x}"
            await self._write(msgspec.structs.replace(self._ended, early=early))

    async def done(self, pending: Pending, at: float) -> None:
        """Notes that a delivery is done; acknowledge none of its messages before this returns.

        Raises:
            Fenced, NotConnected, Transient: as `expect`.
        """
        async with self._changing:
            expected = self._ended.pending
            self._settle(pending, at if pending.tables else self._ended.last_load_at)
            if expected == pending:
                self._dirty = True
            else:
                if expected is not None and expected.source != pending.source:  # of the present load
                    self._ended = msgspec.structs.replace(self._ended, pending=expected)
                await self._write(self._ended)
            self.export()

    async def note(self, ended: Ended) -> None:
        """Notes the fate of events that are sent one by one; acknowledge none of their messages before this returns.

        Args:
            ended: the whole account, made from `stored`.

        Raises:
            Fenced, NotConnected, Transient: as `expect`.
        """
        async with self._changing:
            await self._write(ended)
            self.export()

    async def flush(self) -> None:
        """Writes counts that only this process has.

        Raises:
            Fenced, NotConnected, Transient: as `expect`.
        """
        async with self._changing:
            if self._dirty:
                await self._write(self._ended)

    def export(self) -> None:
        """Shows the counts as metrics."""
        name, counts = self._connection, self._ended.counts
        self._telemetry.gauge("account_delivered_events", counts.delivered, connection=name)
        for stage, dead, dropped in (
            ("loader", counts.dead, counts.dropped),
            ("functions", counts.functions_dead, counts.functions_dropped),
        ):
            for reason, amount in dead.items():
                self._telemetry.gauge("account_dead_events", amount, connection=name, stage=stage, reason=reason)
            for reason, amount in dropped.items():
                self._telemetry.gauge("account_dropped_events", amount, connection=name, stage=stage, reason=reason)
        if self._ended.last_load_at is not None:
            self._telemetry.gauge("loader_last_load_seconds", self._ended.last_load_at, connection=name)

    def _settle(self, pending: Pending, at: float | None) -> None:
        ended = msgspec.structs.replace(self._ended, pending=pending).settled()
        self._ended = msgspec.structs.replace(ended, through=_newest(ended.through), last_load_at=at)

    async def _write(self, ended: Ended) -> None:
        try:
            self._revision = await self._bucket.put(self._key, msgspec.json.encode(ended), revision=self._revision)
        except Conflict as exc:
            raise Fenced(f"another loader has written the account {self._key}; leaving the connection to it") from exc
        self._dirty = False
        self._ended = ended

    def _count(self, share: Share, batch: ShapedBatch, outcome: Outcome, lane: str) -> tuple[Counts, dict[str, str]]:
        dead = defaultdict[int, int](int)
        for seq, index in outcome.dead:
            dead[seq] |= 1 << index
        if share.aside is not None:
            return self._count_aside(share.aside, share.others(), outcome)
        reasons: Counter[str] = Counter(outcome.dead.values())
        dropped = {str(reason): amount for reason, amount in batch.dropped.items() if amount}
        delivered = batch.events - len(outcome.dead) - sum(dropped.values())
        early: dict[str, str] = {}
        for seq in {seq for seq, _ in batch.frames}:
            frame = f"{lane}:{seq}"
            sent = self.begun_of(lane, seq)
            aside = (outcome.aside.get(seq, 0) | share.waiting(seq)) & ~sent
            # dead by rows that were set aside in a delivery that was cut off
            before = int(self._ended.early.get(frame, "0"), 16) & ~sent
            delivered -= ((aside | before) & ~dead[seq]).bit_count()
            if before or aside & dead[seq]:
                early[frame] = f"{(before | dead[seq]) & aside:x}"
        if share.unreadable:
            reasons[DeadReason.FRAME_UNREADABLE] += share.unreadable
        taken = batch.events + share.unreadable
        counts = Counts(
            live=taken if share.live else 0,
            replayed=0 if share.live else taken,
            delivered=delivered,
            dead={str(reason): amount for reason, amount in reasons.items()},
            dropped=dropped,
        )
        for _, each in batch.frames:
            if each.taken >= 0:
                counts = counts.plus(counts_of_frame(each, live=share.live))
        return counts, early

    def _count_aside(self, aside: Aside, others: int, outcome: Outcome) -> tuple[Counts, dict[str, str]]:
        before = int(self._ended.early.get(frame_of(aside), "0"), 16)
        places = [place for place in range(aside.bits.bit_length()) if aside.bits >> place & 1]
        reasons: Counter[str] = Counter()
        dead = 0
        for (_, index), reason in outcome.dead.items():
            bit = 1 << places[index]
            dead |= bit
            if not before & bit:
                reasons[str(reason)] += 1
        delivered = aside.bits & ~others & ~before & ~dead
        kept = others
        if aside.place.seq > self._ended.through.get(aside.place.lane, 0):  # the frame comes again and counts these itself
            delivered, kept = 0, -1
        early = {frame_of(aside): f"{(before | dead) & kept:x}"} if before | dead else {}
        return Counts(delivered=delivered.bit_count(), dead=dict(reasons)), early


KEPT_SOURCES = 64
"""Lanes of replays end; only the newest few can still come again."""


def _newest(through: dict[str, int]) -> dict[str, int]:
    lanes = [source for source in through if not source.startswith("aside.") and ends(source)]
    for lane in lanes[:-KEPT_SOURCES]:
        del through[lane]
    return through


def frame_of(aside: Aside) -> str:
    """Returns the name of the frame that rows came from."""
    return f"{aside.place.lane}:{aside.place.seq}"
