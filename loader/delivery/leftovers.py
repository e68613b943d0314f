"""Waiting events of a removed connection: counts them, logs them and takes them away.

A queue's name has the incarnation of its connection (`shared/project/snapshot.py`), so its events can never reach a later
connection of that name; sweeping frees the room. The sweeper holds the lease of the connection's name, so no loader of the former
connection is at work. It counts every event once, as loaded or as dropped, in the account of the connection, which outlives it
(`shared/streams/removed.py`). It empties a queue in portions, so a large one on a slow broker is emptied however often that is
cut short. It notes a portion in the account, and counts it in the metric, before it takes the portion away. So if it is killed in
between, or gets no answer, it counts nothing twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import NamedTuple

import msgspec
from nats.js.errors import NotFoundError

from loader.delivery.destinations import Destinations
from loader.delivery.moving.former import Former
from loader.queue.epochs import read_offset
from loader.watch.stop import forget_notes, stop_key
from shared.errors import Conflict, Transient
from shared.events.headers import Place, is_live, read_place
from shared.events.outcome import DropReason
from shared.jetstream import lease as leases
from shared.jetstream import topology
from shared.jetstream.broker import Broker, asking
from shared.jetstream.kv import Bucket
from shared.project.snapshot import ConfigSnapshot, replaced_revision
from shared.service import ServiceContext
from shared.streams.ended import Counts, Ended, decode_ended, ended_key
from shared.streams.waiting import FUNCTIONS_STAGE, NOTES_OF_FUNCTIONS, frames_in
from shared.tasks import timeout

LEASE_PATIENCE_SECONDS = 30.0
AGAIN_SECONDS = 60.0
"""A router that does not know the new project yet may send one more frame."""
SOON_SECONDS = 5.0
PORTION = 1000
"""How many frames of a queue are counted and taken away together."""

_DELIVER, _FUNCTIONS = topology.deliver_subject(""), topology.functions_subject("")
_RETRY, _RETRY_FUNCTIONS = (topology.retry_subject(stage, "") for stage in ("loader", FUNCTIONS_STAGE))
_PREFIXES = (
    (topology.DELIVER, _DELIVER),
    (topology.FUNCTIONS, _FUNCTIONS),
    (topology.RETRY, _RETRY),
    (topology.RETRY, _RETRY_FUNCTIONS),
)
AGAIN = "RETRY.functions"
"""Stands in `Ended.swept` for the messages of RETRY that wait for functions."""

log = logging.getLogger(__name__)


class Left(NamedTuple):
    """A waiting message: its sequence, the place of its frame, and which of that frame's events it holds, as bits."""

    seq: int
    place: Place
    bits: int


class Sweeper:
    """The sweeper of this process."""

    def __init__(self, context: ServiceContext, destinations: Destinations) -> None:
        self._context = context
        self._destinations = destinations
        self._former: dict[str, Former] = {}

    async def sweep_removed(self, lease_seconds: float) -> None:
        """Takes away waiting events of connections that are not in the project, now and after every change, for ever."""
        context = self._context
        while True:
            snapshot, again = context.config.current, AGAIN_SECONDS
            try:
                for name in sorted({queue.partition(".")[0] for queue in await _leftovers(context.broker, snapshot)}):
                    if name in snapshot.project.connections:  # its own loader sweeps it, under its lease
                        continue
                    await self._sweep_under_lease(name, snapshot, lease_seconds)
                if snapshot.revision:
                    for prefix in (stop_key(""), *NOTES_OF_FUNCTIONS):
                        await forget_notes(context.broker, prefix, partial(_is_gone, snapshot))
            except Transient as exc:
                log.warning("what waits for connections that were removed is not taken away yet", extra={"error": str(exc)})
                again = SOON_SECONDS
            with contextlib.suppress(TimeoutError):
                async with timeout(again):
                    await context.config.changed(snapshot)

    async def _sweep_under_lease(self, name: str, snapshot: ConfigSnapshot, lease_seconds: float) -> None:
        context = self._context
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with timeout(LEASE_PATIENCE_SECONDS):
                    held = leases.hold(context.broker, f"loader.{name}", context.instance, lease_seconds)
                    lease = await stack.enter_async_context(held)
            except TimeoutError:  # its last loader is still at work
                return

            def goes_on() -> bool:
                # a connection that is added under the name needs the lease
                return not lease.lost.is_set() and context.config.current is snapshot

            await self.sweep(name, lease.epoch, goes_on)

    async def keep_swept(self, name: str, epoch: int) -> None:
        """Sweeps former connections of a name that is in the project, for ever; called by the holder of its lease."""
        while True:
            again = AGAIN_SECONDS
            try:
                await self.sweep(name, epoch)
            except Transient as exc:
                log.warning(
                    "what waits for a former connection is not taken away yet", extra={"connection": name, "error": str(exc)}
                )
                again = SOON_SECONDS
            await asyncio.sleep(again)

    async def sweep(self, name: str, epoch: int, goes_on: Callable[[], bool] = lambda: True) -> None:
        """Takes away waiting events of former connections of a name; the caller holds its lease, under `epoch`.

        Args:
            goes_on: asked before each portion.

        Raises:
            NotConnected, Transient: some events could not be taken away; sweep again.
        """
        for queue in await _leftovers(self._context.broker, self._context.config.current):
            if queue.partition(".")[0] == name:
                await self._sweep_queue(name, queue, epoch, goes_on)

    async def _sweep_queue(self, name: str, queue: str, epoch: int, goes_on: Callable[[], bool]) -> None:
        counted: list[int] = []
        try:
            while goes_on() and await self._sweep_portion(name, queue, epoch, counted.append):
                pass
        finally:
            if events := sum(counted):
                log.warning(
                    "events of a connection that was removed are dropped",
                    extra={"connection": name, "queue": queue, "events": events},
                )

    async def _sweep_portion(self, name: str, queue: str, epoch: int, counted: Callable[[int], None]) -> bool:
        """Counts and takes away the oldest frames, and all rows set aside; returns whether there may be more frames."""
        broker = self._context.broker
        bucket = Bucket(broker, topology.STATS_BUCKET)
        entry = await bucket.get(ended_key(queue))
        before = decode_ended(entry.value if entry else None)
        ended = await self._decide(name, queue, before, epoch)
        # an event may have rows of several tables here and counts once, so all rows go together
        asides, last_aside = await _look(broker, topology.RETRY, _RETRY + queue)
        # before the queue is looked at, to which they may go meanwhile
        before_functions, last_before = await _look(broker, topology.FUNCTIONS, _FUNCTIONS + queue, PORTION)
        again, last_again = await _look(broker, topology.RETRY, _RETRY_FUNCTIONS + queue, PORTION)
        frames, last_frame = await _look(broker, topology.DELIVER, _DELIVER + queue, PORTION)
        if len(frames) >= PORTION:  # those in the queue are older
            before_functions, last_before = [], 0
        more = max(len(frames), len(before_functions), len(again)) >= PORTION
        seen = {topology.DELIVER: last_frame, topology.FUNCTIONS: last_before, topology.RETRY: last_aside, AGAIN: last_again}
        swept = {**ended.swept, **{stream: last for stream, last in seen.items() if last}}
        found = [each for each in frames if each.seq > ended.swept.get(topology.DELIVER, 0)]
        found += [each for each in before_functions if each.seq > ended.swept.get(topology.FUNCTIONS, 0)]
        counted_again = count_again(ended, again)
        after = msgspec.structs.replace(count_leftovers(counted_again, found, asides, more=more), swept=swept)
        try:
            await bucket.put(ended_key(queue), msgspec.json.encode(after), revision=entry.revision if entry else 0)
        except Conflict as exc:
            raise Transient(f"the account of {queue} was written meanwhile") from exc
        reason = DropReason.REMOVED
        events = after.counts.dropped.get(reason, 0) - before.counts.dropped.get(reason, 0)
        if events:
            self._context.telemetry.count("loader_events_dropped_total", events, connection=name, reason=reason)
            counted(events)
        if last_aside:
            await _purge(broker, topology.RETRY, _RETRY + queue, last_aside)
        if last_again:
            await _purge(broker, topology.RETRY, _RETRY_FUNCTIONS + queue, last_again)
        if last_before:
            await _purge(broker, topology.FUNCTIONS, _FUNCTIONS + queue, last_before)
        if last_frame:
            await _purge(broker, topology.DELIVER, _DELIVER + queue, last_frame)
        return more

    async def _decide(self, name: str, queue: str, ended: Ended, epoch: int) -> Ended:
        """Returns the account with the pending load decided: it counts if its destination has it."""
        pending = ended.pending
        if pending is None:
            return ended
        former = self._former.setdefault(queue, Former(self._context, name, self._destinations))
        offset = await read_offset(self._context.broker, name)
        committed = not pending.tables or await former.has(ended, pending, epoch + offset)
        del self._former[queue]
        return ended.settled() if committed else msgspec.structs.replace(ended, pending=None)


def count_leftovers(ended: Ended, frames: Iterable[Left], asides: Iterable[Left], *, more: bool = False) -> Ended:
    """Returns an account with waiting events counted as dropped: each once, and none that is counted already. Pure.

    Args:
        frames: the frames of the queue, and behind them those before functions, in their order.
        asides: all rows set aside.
        more: whether further frames wait.
    """
    through = dict(ended.through)
    live = replayed = removed = made = 0
    sent = ended.sent
    for left in frames:
        place = left.place
        if place.seq <= through.get(place.lane, 0):
            continue
        through[place.lane] = place.seq
        frame = f"{place.lane}:{place.seq}"
        early, started = (int(bits.get(frame, "0"), 16) for bits in (ended.early, ended.begun))
        done, begun = (early | started).bit_count(), started.bit_count()
        removed += max(0, place.events - done)
        made += max(0, done - place.events)  # functions made more of it, and all of that ended
        if is_live(place.lane):
            live, sent = live + place.events - begun, max(sent, place.total)
        else:
            replayed += place.events - begun
    waiting: dict[str, int] = {}
    for left in asides:
        frame, bits = f"{left.place.lane}:{left.place.seq}", left.bits
        if left.place.seq > ended.through.get(
            left.place.lane, 0
        ):  # its frame is in the queue, and counted there, except for begun events
            bits &= int(ended.begun.get(frame, "0"), 16)
        if bits and left.seq > ended.swept.get(topology.RETRY, 0):
            waiting[frame] = waiting.get(frame, 0) | bits
    removed += sum((bits & ~int(ended.early.get(frame, "0"), 16)).bit_count() for frame, bits in waiting.items())
    dropped = {DropReason.REMOVED.value: removed} if removed else {}
    counts = ended.counts.plus(Counts(live=live, replayed=replayed, made=made, dropped=dropped))
    kept = {
        name: {frame: bits for frame, bits in value.items() if more and not _is_counted(frame, through)}
        for name, value in (("early", ended.early), ("begun", ended.begun))
    }
    cuts = ended.cuts if more else {}
    return msgspec.structs.replace(ended, counts=counts, through=through, cuts=cuts, sent=sent, **kept)


def count_again(ended: Ended, again: Iterable[Left]) -> Ended:
    """Returns an account in which events that waited for another attempt of functions are dropped; they were counted nowhere. Pure."""
    events = sum(left.place.events for left in again if left.seq > ended.swept.get(AGAIN, 0))
    if not events:
        return ended
    more = Counts(made=events, dropped={DropReason.REMOVED.value: events})
    return msgspec.structs.replace(ended, counts=ended.counts.plus(more))


def _is_counted(frame: str, through: Mapping[str, int]) -> bool:
    lane, _, seq = frame.rpartition(":")
    return int(seq) <= through.get(lane, 0)


def _is_gone(snapshot: ConfigSnapshot, queue: str) -> bool:
    """Says whether a queue is of a connection that was removed, and not of a project that this loader has not heard of."""
    name, _, incarnation = queue.partition(".")
    known = name in snapshot.project.connections and snapshot.queue_of(name) == queue
    return not known and replaced_revision(incarnation) < snapshot.revision


async def _leftovers(broker: Broker, snapshot: ConfigSnapshot) -> list[str]:
    """Returns the queues of removed connections (not of a later project's) that hold messages or have a pending load."""
    if not snapshot.revision:
        return []
    is_gone = partial(_is_gone, snapshot)
    found: set[str] = set()
    for stream, prefix in _PREFIXES:
        with asking(f"cannot list the queues of {stream}"):
            info = await broker.js.stream_info(stream, subjects_filter=f"{prefix}>")
        queues = {subject.removeprefix(prefix) for subject in info.state.subjects or {}}
        # `loader/syncs/removed.py` takes those of syncs
        found |= {queue for queue in queues if not queue.startswith(topology.sync_queue("")) and is_gone(queue)}
    stats, prefix = Bucket(broker, topology.STATS_BUCKET), ended_key("")
    for key in await stats.keys(prefix):
        queue = key.removeprefix(prefix)
        # a loader notes with the next load that a load is done; if there was none, its frames are acknowledged
        if is_gone(queue) and (entry := await stats.get(key)) is not None and decode_ended(entry.value).pending is not None:
            found.add(queue)
    return sorted(found)


async def _look(broker: Broker, stream: str, subject: str, most: int | None = None) -> tuple[list[Left], int]:
    """Returns the messages of a subject that hold a frame, at most so many, and the sequence of the last one looked at (0: none)."""
    found: list[Left] = []
    seq = 0
    with asking(f"cannot read {subject}"):
        while most is None or len(found) < most:
            try:
                message = await broker.js.get_msg(stream, seq + 1, subject=subject, next=True)
            except NotFoundError:
                return found, seq
            seq = message.seq or seq + 1
            headers = message.headers or {}
            place = read_place(headers)
            if place is not None:
                found += [Left(seq, place._replace(seq=each), bits) for each, bits in frames_in(headers, place)]
    return found, seq


async def _purge(broker: Broker, stream: str, subject: str, last: int) -> None:
    """Removes the messages of a subject, up to one of them."""
    with asking(f"cannot empty {subject}"):
        await broker.js.purge_stream(stream, subject=subject, seq=last + 1)
