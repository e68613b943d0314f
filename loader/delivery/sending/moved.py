"""What a connection leaves behind when it comes from a destination that takes events one by one: calls that wait, frames that are half sent.

The calls in RETRY become rows set aside, one message for each frame, with all of its events that wait. They are tried at once, like
rows of a table that works again. Of a frame that is half sent and still in the queue, only the other events are loaded
(`Accounts.begun_of`). So each event goes either to the former destination or to the present one.

Rows are stored first, then the account is noted, then the calls are removed: a loader that is killed in between finds the rows and
makes none again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence

import msgspec

from loader.delivery.sending.job import Item, Source, frame_of, user_of
from loader.queue.account import Accounts
from loader.queue.aside import Aside, put_aside
from loader.queue.retries import WaitingCall
from shared.errors import Permanent
from shared.events.frame import decode_frame
from shared.events.headers import Place, is_live
from shared.events.outcome import DeadReason
from shared.jetstream import topology
from shared.jetstream.publisher import Publisher
from shared.jetstream.queue_reader import QueueReader
from shared.streams.ended import Counts
from shared.streams.waiting import CALLS

Frame = tuple[str, int]
"""Lane and sequence."""


class Calls:
    """Turns the calls of one connection into rows."""

    def __init__(
        self,
        connection_queue: str,
        epoch: int,
        reader: QueueReader,
        publisher: Publisher,
        accounts: Accounts,
        unreadable: Callable[[str, int, bytes, str], Awaitable[None]],
    ) -> None:
        self._queue = connection_queue
        self._epoch = epoch
        self._reader = reader
        self._publisher = publisher
        self._accounts = accounts
        self._unreadable = unreadable

    async def turn(self, calls: Sequence[WaitingCall], asides: Iterable[Aside]) -> None:
        """Turns all of them; call it before anything is loaded.

        Args:
            asides: rows that wait already.

        Raises:
            Fenced, NotConnected, Transient, QueueFull: begin again; nothing is lost or doubled by it.
        """
        if not calls and not self._accounts.stored.cuts:
            return
        waiting = list(asides)
        there = {(aside.place.lane, aside.place.seq) for aside in waiting if aside.table == CALLS}
        early = {_frame(text): int(bits, 16) for text, bits in self._accounts.stored.early.items()}
        places: defaultdict[Frame, dict[int, tuple[int, int]]] = defaultdict(dict)
        """By frame and index of an event: the message that holds it, and its position there. The newest message counts."""
        held: Counter[Frame] = Counter()
        for call in calls:
            position = 0
            for seq, bits in call.held:
                frame = call.lane, seq
                held[frame] |= bits
                for index in _indexes(bits):
                    if not early.get(frame, 0) >> index & 1:
                        places[frame][index] = call.seq, position
                    position += 1
        lost = 0
        for (lane, seq), events in places.items():
            if events and (lane, seq) not in there:
                lost += await self._put(lane, seq, dict(sorted(events.items())))
        await self._note(held, {(aside.place.lane, aside.place.seq) for aside in waiting if aside.table != CALLS}, lost)
        await self._reader.remove([call.seq for call in calls])

    async def _put(self, lane: str, seq: int, events: dict[int, tuple[int, int]]) -> int:
        """Stores the events of a frame as rows set aside; returns how many cannot be read."""
        sources: dict[int, Source | None] = {}
        items: list[Item] = []
        for index, (message, position) in events.items():
            if message not in sources:
                sources[message] = await self._read(lane, message)
            source = sources[message]
            if source is not None and position < len(source.frame.heads):
                items.append(Item(source, position, seq, index, user=user_of(source.frame.heads[position])))
        if items:
            bits = sum(1 << item.number for item in items)
            place = Place(lane, seq, len(items))
            await put_aside(
                publisher=self._publisher,
                queue=self._queue,
                epoch=self._epoch,
                run=seq,
                table=CALLS,
                place=place,
                frame=frame_of(items),
                bits=bits,
            )
        return len(events) - len(items)

    async def _read(self, lane: str, message: int) -> Source | None:
        payload = await self._reader.payload(message)
        try:
            return Source(lane, decode_frame(payload))
        except Permanent as exc:
            await self._unreadable(topology.RETRY, message, payload, str(exc))
            return None

    async def _note(self, held: Counter[Frame], kept: set[Frame], lost: int) -> None:
        """Notes that calls are rows: whatever ended of them is forgotten, and what was never noted as taken from the queue is."""
        stored = self._accounts.stored
        begun = dict(stored.begun)
        taken: Counter[bool] = Counter()
        for (lane, seq), bits in held.items():
            if seq > stored.through.get(lane, 0):
                name = f"{lane}:{seq}"
                before = int(begun.get(name, "0"), 16)
                taken[is_live(lane)] += (bits & ~before).bit_count()
                begun[name] = f"{before | bits:x}"
        dead = {str(DeadReason.FRAME_UNREADABLE): lost} if lost else {}
        counts = stored.counts.plus(Counts(live=taken[True], replayed=taken[False], dead=dead))
        early = {text: bits for text, bits in stored.early.items() if _frame(text) in kept}
        await self._accounts.note(msgspec.structs.replace(stored, counts=counts, begun=begun, early=early, cuts={}))


def _frame(text: str) -> Frame:
    lane, _, seq = text.rpartition(":")
    return lane, int(seq)


def _indexes(bits: int) -> list[int]:
    return [index for index in range(bits.bit_length()) if bits >> index & 1]
