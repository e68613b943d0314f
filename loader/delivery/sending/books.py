"""The fate of each event, noted while frames are being sent, so that no event with a noted answer is sent again.

One value of the bucket `stats` has all notes (`shared/streams/ended.py`): the counts, the sequence up to which each lane has
ended, and the ended events of later frames. It is written as a whole, a few times a second, by compare-and-set, and only then are
its messages acknowledged to the broker. So after a kill only the calls are sent again that were not answered, or answered since
the last write.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from loader.delivery.sending.job import Item, Job, bits_by_frame
from loader.queue.account import Accounts
from shared.events.headers import is_live
from shared.streams.ended import NOTHING, Counts

WRITE_SECONDS = 0.025
"""The shortest time between two writes."""

Acknowledge = Callable[[Sequence[int], Sequence[int]], Awaitable[None]]
"""Acknowledges messages of the queue, and of RETRY; those of RETRY are gone when it returns."""


@dataclass(slots=True, eq=False)
class OpenChunk:
    """Frames of one lane whose events are being sent. `left`: events that have not ended and are not in RETRY."""

    lane: str
    seqs: list[int]
    acks: list[int]
    left: int
    sent: int
    """How many events the router had sent with the last of the frames."""
    oldest_at: float
    functions: Counts = NOTHING
    """What functions did to its frames: counted when it is at its end."""

    @property
    def last(self) -> int:
        """Sequence of its last frame."""
        return self.seqs[-1]


class Books:
    """The account of one connection while its events are sent.

    Args:
        accounts: read already.
        acknowledge: called after each write, with the messages that it covers.
        finished: called for each chunk that has ended.
    """

    def __init__(self, accounts: Accounts, acknowledge: Acknowledge, finished: Callable[[OpenChunk], None]) -> None:
        self._accounts = accounts
        self._acknowledge = acknowledge
        self._finished = finished
        stored = accounts.stored
        self._begun = _read(stored.begun)
        self._early = _read(stored.early)
        self._cuts = {lane: list(cuts) for lane, cuts in stored.cuts.items()}
        self._through = dict(stored.through)
        self._sent = stored.sent
        self._delivered = self._live = self._replayed = 0
        self._dead: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._functions = NOTHING
        self._chunks: deque[OpenChunk] = deque()
        self._acks: list[int] = []
        self._retried: list[tuple[int, dict[int, int], str]] = []
        """Messages of RETRY that have ended, with their events: acknowledged after the next write."""
        self._changed = asyncio.Event()
        self._writing = asyncio.Lock()
        self._closing = False
        self._delivered_at = stored.last_load_at

    @property
    def open_events(self) -> int:
        """Number of begun events that have not ended."""
        return sum(chunk.left for chunk in self._chunks)

    def begun(self, lane: str, seq: int) -> int:
        """Returns as bits the events of a queued frame that are done with the queue."""
        return self._begun.get((lane, seq), 0)

    def early(self, lane: str, seq: int) -> int:
        """Returns as bits the ended events of a frame that a message of RETRY still holds."""
        return self._early.get((lane, seq), 0)

    def through(self, lane: str) -> int:
        """Returns the sequence up to which a lane has ended."""
        return self._through.get(lane, 0)

    def cuts(self, lane: str) -> Sequence[int]:
        """Returns the last sequences of the planned chunks of a lane that have not ended."""
        return self._cuts.get(lane, ())

    def keep_waiting(self, held: Mapping[tuple[str, int], int]) -> None:
        """Forgets ended events of messages that have left RETRY; `held`: by frame the events in the present messages."""
        kept = {frame: left for frame, bits in self._early.items() if (left := bits & held.get(frame, 0))}
        if kept != self._early:
            self._early = kept
            self._changed.set()

    def open(self, chunk: OpenChunk) -> None:
        """Takes a chunk in; the caller then sends its events."""
        self._chunks.append(chunk)
        self._settle()

    async def plan(self, chunk: OpenChunk) -> None:
        """Notes where a chunk ends, before its events are sent: a successor makes the same calls from the same frames.

        Raises:
            Fenced, NotConnected, Transient: it may not be noted; do not send.
        """
        if chunk.last not in self._cuts.setdefault(chunk.lane, []):
            self._cuts[chunk.lane].append(chunk.last)
            await self.write()

    def delivered(self, job: Job, items: Sequence[Item]) -> None:
        """Notes events that arrived."""
        self._delivered += len(items)
        self._delivered_at = time.time()
        self._end(job, items)

    def dead(self, job: Job, items: Sequence[Item], reason: str) -> None:
        """Notes events that are dead letters."""
        self._dead[reason] += len(items)
        self._end(job, items)

    def dropped(self, job: Job, items: Sequence[Item], reason: str) -> None:
        """Notes dropped events."""
        self._dropped[reason] += len(items)
        self._end(job, items)

    def set_aside(self, job: Job, items: Sequence[Item]) -> None:
        """Notes events that now wait in RETRY."""
        if job.waiting is None:
            self._leave(job, items)

    def taken(self, lane: str, seq: int, bits: int) -> None:
        """Notes events of a queued frame that already wait in RETRY."""
        self._begun[lane, seq] = self._begun.get((lane, seq), 0) | bits
        if is_live(lane):
            self._live += bits.bit_count()
        else:
            self._replayed += bits.bit_count()
        self._changed.set()

    def unreadable_retry(self, lane: str, frames: Sequence[tuple[int, int]], reason: str) -> None:
        """Notes the events of a message of RETRY that is a dead letter as a whole."""
        for seq, bits in frames:
            self._dead[reason] += bits.bit_count()
            self._early[lane, seq] = self._early.get((lane, seq), 0) | bits
        self._changed.set()

    def unreadable(self, lane: str, seq: int, events: int, reason: str) -> None:
        """Notes a frame that is a dead letter as a whole."""
        self._dead[reason] += events
        self._begun[lane, seq] = (1 << events) - 1
        if is_live(lane):
            self._live += events
        else:
            self._replayed += events
        self._changed.set()

    def retried(self, seq: int, lane: str, bits: dict[int, int]) -> None:
        """Notes that a message of RETRY has no waiting event left."""
        self._retried.append((seq, bits, lane))
        self._changed.set()

    async def keep(self) -> None:
        """Writes until `close`.

        Raises:
            Fenced, NotConnected, Transient: not known to be written.
        """
        while not self._closing:
            await self._changed.wait()
            await self.write()
            if not self._closing:
                await asyncio.sleep(WRITE_SECONDS)
        await self.write()

    async def write(self) -> None:
        """Writes the notes.

        Raises:
            Fenced, NotConnected, Transient: not known to be written.
        """
        async with self._writing:
            await self._write_alone()

    def close(self) -> None:
        """Lets `keep` write a last time and return."""
        self._closing = True
        self._changed.set()

    def _end(self, job: Job, items: Sequence[Item]) -> None:
        if job.waiting is None:
            self._leave(job, items)
            return
        for seq, bits in bits_by_frame(items).items():
            self._early[job.lane, seq] = self._early.get((job.lane, seq), 0) | bits
        self._changed.set()

    def _leave(self, job: Job, items: Sequence[Item]) -> None:
        lane, count = job.lane, len(items)
        for seq, bits in bits_by_frame(items).items():
            self._begun[lane, seq] = self._begun.get((lane, seq), 0) | bits
        if is_live(lane):
            self._live += count
        else:
            self._replayed += count
        chunk = job.chunk
        if isinstance(chunk, OpenChunk):
            chunk.left -= count
            if not chunk.left:
                self._settle()
        self._changed.set()

    def _settle(self) -> None:
        """Closes the chunks at the front that have ended."""
        while self._chunks and not self._chunks[0].left:
            chunk = self._chunks.popleft()
            self._through[chunk.lane] = max(chunk.last, self._through.get(chunk.lane, 0))
            if is_live(chunk.lane):
                self._sent = max(self._sent, chunk.sent)
            for seq in chunk.seqs:
                self._begun.pop((chunk.lane, seq), None)
            cuts = [cut for cut in self._cuts.pop(chunk.lane, []) if cut > chunk.last]
            if cuts:
                self._cuts[chunk.lane] = cuts
            self._acks += chunk.acks
            self._functions = self._functions.plus(chunk.functions)
            self._finished(chunk)
            self._changed.set()

    async def _write_alone(self) -> None:
        self._changed.clear()
        stored = self._accounts.stored
        counts = Counts(
            live=self._live,
            replayed=self._replayed,
            delivered=self._delivered,
            dead=dict(self._dead),
            dropped=dict(self._dropped),
        ).plus(self._functions)
        self._functions = NOTHING
        self._live = self._replayed = self._delivered = 0
        self._dead.clear()
        self._dropped.clear()
        acks, retried = self._acks, self._retried
        self._acks, self._retried = [], []
        ended = msgspec.structs.replace(
            stored,
            counts=stored.counts.plus(counts),
            through=dict(self._through),
            early=_written(self._early),
            begun=_written(self._begun),
            cuts={lane: list(cuts) for lane, cuts in self._cuts.items()},
            sent=self._sent,
            last_load_at=self._delivered_at,
        )
        await self._accounts.note(ended)
        await self._acknowledge(acks, [seq for seq, _, _ in retried])
        for _, bits, lane in retried:
            for seq, each in bits.items():
                left = self._early.get((lane, seq), 0) & ~each
                if left:
                    self._early[lane, seq] = left
                else:
                    self._early.pop((lane, seq), None)
        if retried:
            self._changed.set()


def _read(bits: dict[str, str]) -> dict[tuple[str, int], int]:
    found: dict[tuple[str, int], int] = {}
    for frame, text in bits.items():
        lane, _, seq = frame.rpartition(":")
        found[lane, int(seq)] = int(text, 16)
    return found


def _written(bits: dict[tuple[str, int], int]) -> dict[str, str]:
    return {f"{lane}:{seq}": f"{each:x}" for (lane, seq), each in bits.items() if each}
