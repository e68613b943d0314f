"""What waits for a connection that is gone: counted, logged and taken away.

A queue bears the incarnation of its connection (`shared/project/snapshot.py`), so nothing in it can reach a later connection of the
name; here it only stops taking room. It is done under the lease of the connection's name, when no loader of the former connection
can be at work any more: every event is counted once, as loaded or as dropped, in the account of the connection, which outlives it
(`shared/streams/removed.py`). The account notes what is about to be taken away, before it is, so that whoever is killed in between counts
nothing twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from typing import NamedTuple

import msgspec
from nats.js.errors import NotFoundError

from loader.delivery.destinations import Destinations
from loader.delivery.former import Former
from loader.queue.epochs import read_offset
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
from shared.streams.waiting import frames_in
from shared.tasks import timeout

LEASE_PATIENCE_SECONDS = 30.0
AGAIN_SECONDS = 60.0
"""A router that has not heard of the new project yet may send a frame more."""
SOON_SECONDS = 5.0

_PREFIXES = ((topology.DELIVER, "deliver."), (topology.RETRY, "retry.loader."))

log = logging.getLogger(__name__)


class Left(NamedTuple):
    """A message that waits: its sequence, the place of its frame, and which of that frame's events it holds, as bits."""

    seq: int
    place: Place
    bits: int


class Sweeper:
    """Sweeps for this process."""

    def __init__(self, context: ServiceContext, destinations: Destinations) -> None:
        self._context = context
        self._destinations = destinations
        self._former: dict[str, Former] = {}

    async def sweep_removed(self, lease_seconds: float) -> None:
        """Takes away what waits for connections that are not in the project, now and after every change, for ever."""
        context = self._context
        while True:
            snapshot, again = context.config.current, AGAIN_SECONDS
            try:
                for name in sorted({queue.partition(".")[0] for queue in await _leftovers(context.broker, snapshot)}):
                    if name in snapshot.project.connections:  # its own loader does it, which holds the lease
                        continue
                    held = leases.hold(context.broker, f"loader.{name}", context.instance, lease_seconds)
                    with contextlib.suppress(TimeoutError):
                        async with timeout(LEASE_PATIENCE_SECONDS), held as lease:
                            await self.sweep(name, lease.epoch)
            except Transient as exc:
                log.warning("what waits for connections that were removed is not taken away yet", extra={"error": str(exc)})
                again = SOON_SECONDS
            with contextlib.suppress(TimeoutError):
                async with timeout(again):
                    await context.config.changed(snapshot)

    async def keep_swept(self, name: str, epoch: int) -> None:
        """Does so for former connections of a name that is in the project, for ever; for whoever loads it, and holds its lease."""
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

    async def sweep(self, name: str, epoch: int) -> None:
        """Takes away what waits for former connections of a name; the caller holds the lease of it, under `epoch`.

        Raises:
            NotConnected, Transient: not everything could be taken away; sweep again.
        """
        for queue in await _leftovers(self._context.broker, self._context.config.current):
            if queue.partition(".")[0] == name:
                await self._sweep_queue(name, queue, epoch)

    async def _sweep_queue(self, name: str, queue: str, epoch: int) -> None:
        broker = self._context.broker
        bucket = Bucket(broker, topology.STATS_BUCKET)
        entry = await bucket.get(ended_key(queue))
        before = decode_ended(entry.value if entry else None)
        ended = await self._decide(name, queue, before, epoch)
        found, last = {}, {}
        for stream, prefix in _PREFIXES:
            found[stream], last[stream] = await _look(broker, stream, prefix + queue)
        after = msgspec.structs.replace(
            count_leftovers(ended, found[topology.DELIVER], found[topology.RETRY]), swept={**ended.swept, **last}
        )
        try:
            await bucket.put(ended_key(queue), msgspec.json.encode(after), revision=entry.revision if entry else 0)
        except Conflict as exc:
            raise Transient(f"the account of {queue} was written meanwhile") from exc
        for stream, prefix in _PREFIXES:
            if last[stream]:
                await _purge(broker, stream, prefix + queue, last[stream])
        reason = DropReason.REMOVED
        events = after.counts.dropped.get(reason, 0) - before.counts.dropped.get(reason, 0)
        if events:
            self._context.telemetry.count("loader_events_dropped_total", events, connection=name, reason=reason)
            log.warning(
                "events of a connection that was removed are dropped",
                extra={"connection": name, "queue": queue, "events": events},
            )

    async def _decide(self, name: str, queue: str, ended: Ended, epoch: int) -> Ended:
        """Returns the account without a load that is pending: it counts if its destination has it."""
        pending = ended.pending
        if pending is None:
            return ended
        former = self._former.setdefault(queue, Former(self._context, name, self._destinations))
        offset = await read_offset(self._context.broker, name)
        committed = not pending.tables or await former.has(ended, pending, epoch + offset)
        del self._former[queue]
        return ended.settled() if committed else msgspec.structs.replace(ended, pending=None)


def count_leftovers(ended: Ended, frames: Iterable[Left], asides: Iterable[Left]) -> Ended:
    """Returns an account with what waits counted as dropped: each event once, and none that is counted already. Pure.

    Args:
        frames: of the queue, in their order.
        asides: rows set aside.
    """
    through = dict(ended.through)
    live = replayed = removed = 0
    sent = ended.sent
    for left in frames:
        place = left.place
        if left.seq <= ended.swept.get(topology.DELIVER, 0) or place.seq <= through.get(place.lane, 0):
            continue
        through[place.lane] = place.seq
        frame = f"{place.lane}:{place.seq}"
        early, started = (int(bits.get(frame, "0"), 16) for bits in (ended.early, ended.begun))
        removed += place.events - (early | started).bit_count()
        begun = started.bit_count()
        if is_live(place.lane):
            live, sent = live + place.events - begun, max(sent, place.total)
        else:
            replayed += place.events - begun
    waiting: dict[str, int] = {}
    for left in asides:
        frame, bits = f"{left.place.lane}:{left.place.seq}", left.bits
        if left.place.seq > ended.through.get(left.place.lane, 0):  # its frame stands in the queue, but for what is begun
            bits &= int(ended.begun.get(frame, "0"), 16)
        if bits and left.seq > ended.swept.get(topology.RETRY, 0):
            waiting[frame] = waiting.get(frame, 0) | bits
    removed += sum((bits & ~int(ended.early.get(frame, "0"), 16)).bit_count() for frame, bits in waiting.items())
    dropped = {DropReason.REMOVED.value: removed} if removed else {}
    counts = ended.counts.plus(Counts(live=live, replayed=replayed, dropped=dropped))
    return msgspec.structs.replace(ended, counts=counts, through=through, early={}, begun={}, cuts={}, sent=sent)


async def _leftovers(broker: Broker, snapshot: ConfigSnapshot) -> list[str]:
    """Returns the queues of connections that are gone, and not of a later project, which hold something or have a load that is pending."""
    if not snapshot.revision:
        return []

    def is_gone(queue: str) -> bool:
        name, _, incarnation = queue.partition(".")
        known = name in snapshot.project.connections and snapshot.queue_of(name) == queue
        return not known and replaced_revision(incarnation) < snapshot.revision

    found: set[str] = set()
    for stream, prefix in _PREFIXES:
        with asking(f"cannot list the queues of {stream}"):
            info = await broker.js.stream_info(stream, subjects_filter=f"{prefix}>")
        found |= {queue for subject in info.state.subjects or {} if is_gone(queue := subject.removeprefix(prefix))}
    stats, prefix = Bucket(broker, topology.STATS_BUCKET), ended_key("")
    for key in await stats.keys(prefix):
        queue = key.removeprefix(prefix)
        # a loader notes that a load is done with the next one; where there was none its frames are acknowledged
        if is_gone(queue) and (entry := await stats.get(key)) is not None and decode_ended(entry.value).pending is not None:
            found.add(queue)
    return sorted(found)


async def _look(broker: Broker, stream: str, subject: str) -> tuple[list[Left], int]:
    """Returns the messages of a subject that hold a frame, and the sequence of the last message, 0 if there is none."""
    found: list[Left] = []
    seq = 0
    with asking(f"cannot read {subject}"):
        while True:
            try:
                message = await broker.js.get_msg(stream, seq + 1, subject=subject, next=True)
            except NotFoundError:
                return found, seq
            seq = message.seq or seq + 1
            headers = message.headers or {}
            place = read_place(headers)
            if place is not None:
                found += [Left(seq, place._replace(seq=each), bits) for each, bits in frames_in(headers, place)]


async def _purge(broker: Broker, stream: str, subject: str, last: int) -> None:
    """Takes the messages of a subject away, up to one of them."""
    with asking(f"cannot empty {subject}"):
        await broker.js.purge_stream(stream, subject=subject, seq=last + 1)
