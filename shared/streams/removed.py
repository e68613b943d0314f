"""The accounts of connections that left the project: the fate of all their events, for as long as people may ask.

When a connection is removed, its router stores its counts once (`Removed`). The loader's counts stay where they are
(`shared/streams/ended.py`); when a loader takes the waiting events away, it counts them there as dropped. Both have the name of
the connection's queue as key, so each incarnation has its own account. The newest `KEPT` accounts stay separate. Older ones are
added up in one value, so no event ever leaves the books. A router shows them as metrics (`router/forwarding/removed.py`).
"""

from __future__ import annotations

import contextlib

import msgspec

from shared.errors import Conflict, Transient
from shared.events.outcome import DropReason
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.identity import identify
from shared.jetstream.kv import Bucket
from shared.streams.ended import Ended, add_reasons, decode_ended, ended_key
from shared.streams.waiting import NO_FUNCTIONS, InFunctions, SetAside, Waiting, look_aside, look_at_functions, look_at_queue

KEPT = 20
OLDER_KEY = "removed.older"
OLDER = "(older)"
"""The name for all connections whose accounts are added up."""

_PREFIX = "router."


class Removed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The router's counts when a connection left. `dropped` includes events that it no longer sent (`removed`)."""

    site: str
    connection: str
    queue: str
    at: float
    """Epoch seconds."""
    received: int = 0
    forwarded: int = 0
    dropped: dict[str, int] = {}
    dead: dict[str, int] = {}
    parts: list[str] = []
    """The shards of its site that are in the counts (`shared/events/shards.py`); empty: the only one."""


class RemovedBalance(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The account of one removed connection: `received` + `replayed` + `made` = `delivered` + `dropped` + `dead` + `waiting`."""

    site: str = ""
    connection: str = OLDER
    queue: str = ""
    at: float = 0.0
    received: int = 0
    replayed: int = 0
    made: int = 0
    """By functions."""
    delivered: int = 0
    dropped: dict[str, int] = {}
    dead: dict[str, int] = {}
    waiting: int = 0
    """Until a loader takes it away."""
    exact: bool = True
    pending: bool = False
    """Whether a load was cut off and its destination has not yet said if it has that load."""
    problems: list[str] = []

    @property
    def incarnation(self) -> str:
        """The incarnation, which tells it from others of its name."""
        return self.queue.partition(".")[2]

    @property
    def settled(self) -> bool:
        """Whether it is final."""
        return not self.waiting and not self.pending and not self.problems


class Older(msgspec.Struct, frozen=True, kw_only=True):
    """The value of `OLDER_KEY`: the sum, and the latest queues in it."""

    sum: RemovedBalance = RemovedBalance()
    queues: list[str] = []


def removed_key(queue: str) -> str:
    """Returns the key of a router's stored counts in the bucket `stats`."""
    return f"{_PREFIX}{queue}"


async def note_removed(broker: Broker, removed: Removed, part: str = "", *, incarnation: str = "") -> None:
    """Stores a router's counts; counts that are stored for the same queue already stay.

    Args:
        part: the shard of the site. Counts of different shards are added up.
        incarnation: of the EVENTS stream whose frames the router counted, if it counted them itself.

    Raises:
        NotConnected, Transient: they may not be stored. EVENTS is another one: the broker lost its store, and the loader's counts
            with it, so what the router counted would look like lost events.
    """
    if incarnation and (await identify(broker, topology.EVENTS)).incarnation != incarnation:
        raise Transient(f"site {removed.site}: EVENTS was created again")
    bucket, key = Bucket(broker, topology.STATS_BUCKET), removed_key(removed.queue)
    if part:
        removed = msgspec.structs.replace(removed, parts=[part])
    while True:
        with contextlib.suppress(Conflict):
            await bucket.put(key, msgspec.json.encode(removed), revision=0)
            return
        entry = await bucket.get(key)
        if entry is None or not entry.value:
            continue
        stored = msgspec.json.decode(entry.value, type=Removed)
        if part in (stored.parts or [""]):
            return
        with contextlib.suppress(Conflict):
            await bucket.put(key, msgspec.json.encode(_with_part(stored, removed, part)), revision=entry.revision)
            return


def _with_part(stored: Removed, other: Removed, part: str) -> Removed:
    return msgspec.structs.replace(
        stored,
        received=stored.received + other.received,
        forwarded=stored.forwarded + other.forwarded,
        dropped=add_reasons(stored.dropped, other.dropped),
        dead=add_reasons(stored.dead, other.dead),
        parts=[*(stored.parts or [""]), part],
    )


def add_up(
    removed: Removed, ended: Ended, queue: Waiting, aside: SetAside, functions: InFunctions = NO_FUNCTIONS
) -> RemovedBalance:
    """Returns the account of a connection, from its parts. Pure.

    A router that is killed, or runs out of time, may have sent frames that it did not note as sent: the frames' headers say how
    many events were sent. It counted these events as dropped, because it still owed them; or they came after its stored place.
    """
    counts = ended.counts
    before = functions.frames
    begun, begun_again = (ended.begun_events(replayed=replayed) for replayed in (False, True))
    live = counts.live + queue.events - queue.replayed - begun + before.events - before.replayed
    by_frames = max(ended.sent, ended.pending.sent if ended.pending is not None else 0)
    sent = max(removed.forwarded, by_frames, live if queue.frames or before.frames else 0)
    more = sent - removed.forwarded
    unsent = removed.dropped.get(DropReason.REMOVED, 0)
    dropped = {**removed.dropped, DropReason.REMOVED.value: max(0, unsent - more)} if unsent else removed.dropped
    received = removed.received + max(0, more - unsent)
    set_aside = aside.events - sum(int(bits, 16).bit_count() for bits in ended.early.values())
    exact = queue.exact and aside.exact and before.exact and functions.again.exact
    problems = []
    if exact and ended.pending is None:
        passed = sent + sum(dropped.values()) + sum(removed.dead.values())
        equations = (
            ("the router received {} events and ended {}", received, passed),
            ("the router forwarded {} events, the loader took, or has waiting, {}", sent, live),
            (
                "the loader took {} events and ended, or set aside, {}",
                counts.live + counts.replayed + counts.made,
                counts.total + set_aside,
            ),
        )
        problems = [words.format(left, right) for words, left, right in equations if left != right]
    return RemovedBalance(
        site=removed.site,
        connection=removed.connection,
        queue=removed.queue,
        at=removed.at,
        received=received,
        replayed=counts.replayed + queue.replayed - begun_again + before.replayed,
        made=counts.made + functions.again.events,
        delivered=counts.delivered,
        dropped=add_reasons(add_reasons(dropped, counts.dropped), counts.functions_dropped),
        dead=add_reasons(add_reasons(removed.dead, counts.dead), counts.functions_dead),
        waiting=functions.events
        + queue.events
        - begun
        - begun_again
        + set_aside
        + (max(0, sent - live) if ended.pending is not None else 0),
        exact=exact,
        pending=ended.pending is not None,
        problems=problems,
    )


async def read_older(broker: Broker) -> Older:
    """Returns the sum of the older accounts.

    Raises:
        NotConnected: the broker does not answer.
    """
    entry = await Bucket(broker, topology.STATS_BUCKET).get(OLDER_KEY)
    return msgspec.json.decode(entry.value, type=Older) if entry and entry.value else Older()


async def count_removed(broker: Broker) -> int:
    """Returns the number of separate accounts.

    Raises:
        NotConnected: the broker does not answer.
    """
    return len(await Bucket(broker, topology.STATS_BUCKET).keys(_PREFIX))


async def list_removed(broker: Broker) -> list[Removed]:
    """Returns the routers' counts of removed connections, the oldest first.

    Raises:
        NotConnected: the broker does not answer.
    """
    entries = await Bucket(broker, topology.STATS_BUCKET).entries(_PREFIX)
    found = [msgspec.json.decode(entry.value, type=Removed) for entry in entries if entry.value]
    return sorted(found, key=lambda each: each.at)


async def read_removed(broker: Broker, removed: Removed) -> RemovedBalance:
    """Returns the account of a removed connection.

    Raises:
        NotConnected: the broker does not answer.
    """
    entry = await Bucket(broker, topology.STATS_BUCKET).get(ended_key(removed.queue))
    ended = decode_ended(entry.value if entry else None)
    functions = await look_at_functions(broker, removed.queue)  # before the queue, to which they go
    queue, aside = await look_at_queue(broker, removed.queue), await look_aside(broker, removed.queue)
    return add_up(removed, ended, queue=queue, aside=aside, functions=functions)


async def read_all_removed(broker: Broker) -> list[RemovedBalance]:
    """Returns the accounts of all removed connections, the oldest first; before them the sum of the older ones, if there is one.

    Raises:
        NotConnected: the broker does not answer.
    """
    older = await read_older(broker)
    found = [await read_removed(broker, each) for each in await list_removed(broker) if each.queue not in older.queues]
    return [older.sum, *found] if older.queues else found


async def fold(broker: Broker, balance: RemovedBalance) -> None:
    """Adds an account to the sum of the older ones, and removes it. If a process dies in between, the next call removes it.

    Raises:
        Conflict: another router did so meanwhile.
        NotConnected, Transient: it may not be done.
    """
    bucket = Bucket(broker, topology.STATS_BUCKET)
    entry = await bucket.get(OLDER_KEY)
    older = msgspec.json.decode(entry.value, type=Older) if entry and entry.value else Older()
    if balance.queue not in older.queues:
        total = RemovedBalance(
            at=balance.at,
            received=older.sum.received + balance.received,
            replayed=older.sum.replayed + balance.replayed,
            made=older.sum.made + balance.made,
            delivered=older.sum.delivered + balance.delivered,
            dropped=add_reasons(older.sum.dropped, balance.dropped),
            dead=add_reasons(older.sum.dead, balance.dead),
        )
        value = msgspec.json.encode(Older(sum=total, queues=[*older.queues, balance.queue][-2 * KEPT :]))
        await bucket.put(OLDER_KEY, value, revision=entry.revision if entry else 0)
    for key in (
        ended_key(balance.queue),
        removed_key(balance.queue),
    ):  # this one last: its presence says that there is more to do
        stored = await bucket.get(key)
        if stored is not None:
            await bucket.remove(stored.revision)
