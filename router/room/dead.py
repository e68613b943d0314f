"""Room for dead letters: each stage and site has a share of DEAD, so that no sender evicts the letters of others.

DEAD refuses letters when it is full. When it is nearly full, one of the routers (a lease) evicts the oldest letters of the
largest holders. Any client with a public key can cause letters of the edge, so these have half of the room; all other letters
have the other half, and each half may use free room of the other. Within a half the largest subjects (`dead.<stage>.<site or
connection>`) go down to one level; smaller ones lose nothing. Evicted letters are counted.

The sizes come from the headers of all messages. Reading them takes seconds for a full stream, once for a tenth of its room.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from router.forwarding.keeper import look_while_held
from shared.events.headers import EVENTS
from shared.jetstream import topology
from shared.jetstream.broker import Broker, asking
from shared.jetstream.lease import hold
from shared.jetstream.reader import StreamReader
from shared.service import ServiceContext
from shared.streams.dead_log import LostLetters
from shared.streams.fill import read_fill

LEASE = "keeper.dead"
PERIOD_SECONDS = 1.0
SHORT_RATIO = 0.8
TARGET_RATIO = 0.7
BLOCK_BYTES = 64 * 1024
"""Messages are added up to blocks of this size: the list of a stream's small messages would not fit into memory."""
MESSAGE_BYTES = 100
"""The broker's bytes of a message beside its payload, about."""
QUIET_SECONDS = 5.0

_EDGE = topology.dead_subject("ingest", "")

log = logging.getLogger(__name__)


class Block(NamedTuple):
    """Consecutive messages of a subject."""

    last_seq: int
    size: int
    letters: int


def shares(sizes: Mapping[str, int], target: int) -> dict[str, int]:
    """Returns how many bytes of each subject may stay, so that all together take no more than the target. Pure."""
    edge = {subject: size for subject, size in sizes.items() if subject.startswith(_EDGE)}
    others = {subject: size for subject, size in sizes.items() if subject not in edge}
    edge_room = max(target // 2, target - sum(others.values()))
    edge_room = min(edge_room, sum(edge.values()))
    return {**_level(edge, edge_room), **_level(others, target - edge_room)}


def _level(sizes: Mapping[str, int], room: int) -> dict[str, int]:
    """Lowers the largest holders to one level."""
    left = dict(sorted(sizes.items(), key=lambda each: each[1]))
    kept: dict[str, int] = {}
    for number, (subject, size) in enumerate(left.items()):
        kept[subject] = min(size, room // (len(left) - number))
        room -= kept[subject]
    return kept


async def keep_dead_room(context: ServiceContext) -> None:
    """Evicts for ever, while this process holds the lease for it."""
    while True:
        async with hold(context.broker, LEASE, context.instance) as lease:
            lost = LostLetters(context.telemetry, context.health)

            async def look(lost: LostLetters = lost) -> None:
                lost.refresh()
                await DeadRoom(context.broker, lost).run_once()

            await look_while_held(lease, topology.DEAD, PERIOD_SECONDS, look)
        lost.forget()


class DeadRoom:
    """One look at DEAD."""

    def __init__(self, broker: Broker, lost: LostLetters) -> None:
        self._broker = broker
        self._lost = lost

    async def run_once(self) -> int:
        """Evicts letters beyond the shares; returns their number.

        Raises:
            NotConnected: the broker does not answer.
        """
        fill = await read_fill(self._broker, topology.DEAD)
        if fill.unit != "bytes" or fill.ratio < SHORT_RATIO:
            return 0
        blocks = await self._blocks()
        sizes = {subject: sum(block.size for block in some) for subject, some in blocks.items()}
        # the broker's count and ours differ a little for each message
        target = int(TARGET_RATIO * fill.limit * min(1.0, sum(sizes.values()) / max(1, fill.held)))
        evicted = 0
        for subject, share in shares(sizes, target).items():
            excess, last_seq, letters = sizes[subject] - share, 0, 0
            for block in blocks[subject]:
                if excess <= 0:
                    break
                excess, last_seq, letters = excess - block.size, block.last_seq, letters + block.letters
            if last_seq:
                await self._evict(subject, last_seq, letters)
                evicted += letters
        return evicted

    async def _blocks(self) -> dict[str, list[Block]]:
        """Returns the blocks of every subject, oldest first."""
        last = (await self._last_seq()) or 0
        blocks: defaultdict[str, list[Block]] = defaultdict(list)
        async with StreamReader(self._broker, topology.DEAD, headers_only=True, pull_messages=512) as reader:
            while reader.last_seq < last:
                message = await reader.next(QUIET_SECONDS)
                if message is None:
                    break
                size = int(message.headers.get("Nats-Msg-Size", "0")) + MESSAGE_BYTES
                letters = int(message.headers.get(EVENTS, "1"))
                some = blocks[message.subject]
                if some and some[-1].size < BLOCK_BYTES:
                    some[-1] = Block(message.seq, some[-1].size + size, some[-1].letters + letters)
                else:
                    some.append(Block(message.seq, size, letters))
                if message.waiting == 0:
                    break
        return blocks

    async def _last_seq(self) -> int:
        with asking(f"cannot look at the stream {topology.DEAD}"):
            return int((await self._broker.js.stream_info(topology.DEAD)).state.last_seq)

    async def _evict(self, subject: str, last_seq: int, letters: int) -> None:
        with asking(f"cannot clear the stream {topology.DEAD}"):
            await self._broker.js.purge_stream(topology.DEAD, subject=subject, seq=last_seq + 1)
        _, stage, name = subject.split(".", 2)
        self._lost.note("evicted", stage, name, letters)
