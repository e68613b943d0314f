"""The stored state of a site's router: one value of the bucket `state` per site, written by compare-and-set.

One value has the position and the marks of the connections that are behind, so no write can move the position past a frame that a
connection still needs. A router that takes over a site writes at once; from then on every write of the former router fails, and
it stops.
"""

from __future__ import annotations

import asyncio
import contextlib

import msgspec

from router.forwarding.account import Account
from shared.errors import Conflict, Fenced, Transient
from shared.events.shards import WHOLE, Shard, Split
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """The place of a connection that has not got all frames up to the position.

    Every frame before `seq` is in its queue; `at_seconds` is not later than that frame's time. `owed` counts the events from
    there to the position, as they were accepted. `gaps` are ranges of sequences, ends included, in which the connection was
    disabled. Frames up to `counted` were in its queue once: they are read again for a destination that went back, and do not
    count again. `why`: why it does not come further, such as an archive that cannot be read.
    """

    seq: int
    at_seconds: float
    owed: int = 0
    gaps: list[tuple[int, int | None]] = []
    counted: int = 0
    why: str = ""


class Life(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A connection since it was added. `first`: the sequence at which it began, 0 if unknown; `queue`: of its incarnation;
    `rewind`: see `shared/streams/rewind.py`, and `again`: the sequence it began at; `gaps`: all ranges of sequences in which it
    was disabled. `splits`: of its shards (`router/rules/spread.py`), empty if it has none; `turned`: the last of their turns that is over
    (`router/forwarding/turns/turn.py`).
    """

    first: int = 0
    queue: str = ""
    rewind: int = 0
    again: int = 0
    gaps: list[tuple[int, int | None]] = []
    splits: list[Split] = []
    turned: tuple[int, int] = (0, 0)


class SiteState(msgspec.Struct, frozen=True, kw_only=True):
    """Every frame of `incarnation` of EVENTS up to `position` is in the queue of every connection that wants it, but for
    `behind`.

    `at_seconds` is not later than the time of the next frame. `accepted` counts the site's events up to the position, `accounts`
    their fate, for each connection up to its own place. `epoch` names the lease that wrote it, for people. `connections` have
    begun to get frames, so a connection that is not among them is new; None: no router has noted them yet. `lives` says more
    about them. `queues` and `functions` are the identities of the streams DELIVER and FUNCTIONS that got the frames: a stream that was
    created again has another.

    Of a shard (`shared/events/shards.py`): the frames up to `position` that are its own, or of no shard any more. `paused`: the change
    of the number of shards for which it stopped last. `until`: its frames end before this sequence; 0: they do not.
    """

    version: int = 1
    epoch: int = 0
    incarnation: str = ""
    position: int = 0
    at_seconds: float = 0.0
    behind: dict[str, Mark] = {}
    connections: list[str] | None = None
    accepted: int = 0
    accounts: dict[str, Account] = {}
    lives: dict[str, Life] = {}
    queues: str = ""
    functions: str = ""
    paused: int = 0
    until: int = 0


SHED_KEY = "shed.events"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(SiteState).decode


def state_key(site: str, shard: Shard = WHOLE) -> str:
    """The key of a site, or of one of its shards, in the bucket `state`."""
    return f"router.{shard.key(site)}"


async def read_states(broker: Broker, *, damaged: bool = False) -> dict[str, SiteState]:
    """Returns the state of every site that was ever routed, and of every shard, by name (`Shard.key`).

    Args:
        damaged: leaves out states that cannot be read, or are of a later version.

    Raises:
        NotConnected: the broker does not answer.
        msgspec.MsgspecError: a state cannot be read.
    """
    prefix = state_key("")
    found: dict[str, SiteState] = {}
    for entry in await Bucket(broker, topology.STATE_BUCKET).entries(prefix):
        with contextlib.suppress(*([msgspec.MsgspecError] if damaged else [])):
            if entry.value:
                found[entry.key.removeprefix(prefix)] = _decode(entry.value)
    return found


class _Shed(msgspec.Struct, frozen=True):
    incarnation: str
    before: int


async def note_shed(broker: Broker, incarnation: str, before: int) -> None:
    """Remembers that frames before a sequence are removed although they are young, after every reader had passed them.

    Raises:
        NotConnected, Transient: it may not be written.
    """
    await Bucket(broker, topology.STATE_BUCKET).put(SHED_KEY, _encode(_Shed(incarnation, before)))


async def shed_before(broker: Broker, incarnation: str) -> int:
    """Returns the sequence before which frames were shed; 0 if none were.

    Raises:
        NotConnected: the broker does not answer.
    """
    entry = await Bucket(broker, topology.STATE_BUCKET).get(SHED_KEY)
    if entry is None or not entry.value:
        return 0
    shed = msgspec.json.decode(entry.value, type=_Shed)
    return shed.before if shed.incarnation == incarnation else 0


class StateKeeper:
    """Reads and writes the state of one site, or shard; knows the revision it expects to replace."""

    def __init__(self, broker: Broker, site: str, shard: Shard = WHOLE) -> None:
        self._bucket = Bucket(broker, topology.STATE_BUCKET)
        self._key = state_key(site, shard)
        self._revision = 0
        self._unsure: bytes | None = None
        """The last write without an answer: it may have succeeded."""

    async def load(self) -> SiteState | None:
        """Returns the state, None if the site was never routed.

        Raises:
            NotConnected: the broker does not answer.
        """
        entry = await self._bucket.get(self._key)
        if entry is None or entry.value is None:
            return None
        self._revision = entry.revision
        return _decode(entry.value)

    async def save(self, state: SiteState) -> None:
        """Replaces the value that `load` or `save` saw last.

        Raises:
            Fenced: another router wrote in between.
            NotConnected, Transient: it may not be written; save again.
        """
        value = _encode(state)
        try:
            self._revision = await self._put(value)
        except Conflict as exc:
            raise Fenced(f"another router has written the state {self._key}; leaving the site to it") from exc
        except (Transient, asyncio.CancelledError):
            self._unsure = value
            raise
        self._unsure = None

    async def _put(self, value: bytes) -> int:
        try:
            return await self._bucket.put(self._key, value, revision=self._revision)
        except Conflict:
            if self._unsure is None:
                raise
            entry = await self._bucket.get(self._key)
            # the epoch in the value is of one holder only: equal bytes are our own write, whose answer was lost
            if entry is None or entry.value != self._unsure:
                raise
            return await self._bucket.put(self._key, value, revision=entry.revision)
