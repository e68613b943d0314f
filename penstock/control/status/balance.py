"""The accounts of every site and connection, from the stored counts and the queues, and whether they balance.

Router and loader store their counts with their positions; waiting events are counted in the queues. Three equations must hold
whenever nothing moves. Events that the router received have ended there or are owed. Events that it forwarded were taken by the
loader or wait, before functions or in the queue. Events that the loader took, and events that functions made of them, have ended or are
set aside. Together: accepted + made = delivered + dropped + dead + waiting.
"""

from __future__ import annotations

import asyncio

import msgspec

from router.forwarding.account import Account
from router.forwarding.state import SiteState
from router.shards.summed import read_site_state
from shared.events.outcome import DropReason
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.project.snapshot import ConfigSnapshot
from shared.streams.ended import Counts, Ended, Pending, decode_ended, ended_key
from shared.streams.waiting import (
    NO_FUNCTIONS,
    InFunctions,
    SetAside,
    Waiting,
    look_ahead,
    look_aside,
    look_at_functions,
    look_at_queue,
)

TRIES = 20
TRY_SECONDS = 0.25


class Balance(msgspec.Struct, frozen=True, kw_only=True):
    """One connection's events since it began."""

    connection: str
    site: str
    received: int
    replayed: int
    made: int
    """By functions, less the events that wait for another attempt."""
    delivered: int
    dropped: dict[str, int]
    dead: dict[str, int]
    waiting: dict[str, int]
    """In `events` (the connection is behind), `functions`, `queue` and `aside`."""
    exact: bool = True
    """False: too many events wait to count all."""
    settled: bool = True
    """False: the values are of different moments, so the counts may still be too low."""
    problems: list[str] = []

    @property
    def all_waiting(self) -> int:
        """Events that wait anywhere."""
        return sum(self.waiting.values())


class SiteBalance(msgspec.Struct, frozen=True, kw_only=True):
    """One site's events. `unrouted` wait in EVENTS, the oldest since `oldest_at` (epoch)."""

    site: str
    accepted: int
    unrouted: int
    exact: bool = True
    oldest_at: float | None = None


class View(msgspec.Struct, frozen=True, kw_only=True):
    """All values of one connection. `steady`: the loader wrote nothing meanwhile."""

    state: SiteState
    ended: Ended
    queue: Waiting
    aside: SetAside
    functions: InFunctions = NO_FUNCTIONS
    steady: bool = True


async def read_view(broker: Broker, site: str, queue: str, state: SiteState | None = None) -> View:
    """Reads one connection: the state first and the queues last, so that no event is seen twice that moves forward.

    Raises:
        NotConnected: the broker does not answer.
    """
    found = state or await read_site_state(broker, site)
    stats = Bucket(broker, topology.STATS_BUCKET)
    entry = await stats.get(ended_key(queue))
    functions = await look_at_functions(broker, queue)
    waiting, aside = await look_at_queue(broker, queue), await look_aside(broker, queue)
    return View(
        state=found,
        ended=decode_ended(entry.value if entry else None),
        queue=waiting,
        aside=aside,
        functions=functions,
        steady=await stats.get(ended_key(queue)) == entry,
    )


async def read_site(broker: Broker, site: str, state: SiteState | None = None) -> SiteBalance:
    """Reads one site.

    Raises:
        NotConnected: the broker does not answer.
    """
    found = state or await read_site_state(broker, site)
    ahead = await look_ahead(broker, site, found.position)
    return SiteBalance(site=site, accepted=found.accepted, unrouted=ahead.events, exact=ahead.exact, oldest_at=ahead.oldest_at)


def balance_of(connection: str, site: str, view: View) -> Balance:
    """Adds up the values; a pending load may or may not be done."""
    balance, pending = (
        _balance(connection=connection, site=site, view=view, counts=view.ended.counts, early=view.ended.early),
        view.ended.pending,
    )
    settled = view.steady
    if pending is not None:
        replay = pending.counts.replayed > 0  # no equation holds for replays: only the queue tells whether it is taken
        if balance.problems or (replay and not _waits(view.queue, pending)):
            early = {**view.ended.early, **pending.early}
            balance = _balance(
                connection=connection, site=site, view=view, counts=view.ended.counts.plus(pending.counts), early=early
            )
        settled = settled and not (replay and view.queue.frames)
    return msgspec.structs.replace(balance, settled=settled and not balance.problems)


def _waits(queue: Waiting, pending: Pending) -> bool:
    """Whether a pending load is still in the queue, where the oldest comes first."""
    oldest = queue.oldest
    return oldest is not None and oldest.lane == pending.source and oldest.seq <= pending.through


async def settle_balance(broker: Broker, site: str, connection: str, queue: str) -> Balance:
    """Reads one connection again and again until its counts are settled or nothing moves.

    Raises:
        NotConnected: the broker does not answer.
    """
    before: View | None = None
    for _ in range(TRIES):
        view = await read_view(broker, site, queue)
        balance = balance_of(connection, site, view)
        if balance.settled:
            return balance
        if view == before and view.ended.pending is None:
            return balance
        before = view
        await asyncio.sleep(TRY_SECONDS)
    return balance


async def read_balances(broker: Broker, snapshot: ConfigSnapshot) -> tuple[list[SiteBalance], list[Balance]]:
    """Reads everything, waiting for each connection to come to rest.

    Raises:
        NotConnected: the broker does not answer.
    """
    project = snapshot.project
    sites = [await read_site(broker, name) for name in project.every_site]
    connections = [
        await settle_balance(broker, each.site, name, snapshot.queue_of(name)) for name, each in project.connections.items()
    ]
    return sites, connections


def _balance(connection: str, site: str, view: View, counts: Counts, early: dict[str, str]) -> Balance:
    account = view.state.accounts.get(connection, Account())
    owed = view.state.behind[connection].owed if connection in view.state.behind else 0
    received = account.received(view.state.accepted)
    elsewhere = account.dropped.get(DropReason.OTHER_SHARD, 0)
    aside = view.aside.events - sum(int(bits, 16).bit_count() for bits in early.values())
    begun, begun_again = (view.ended.begun_events(replayed=replayed) for replayed in (False, True))
    before, again = view.functions
    live = view.queue.events - view.queue.replayed - begun + before.events - before.replayed
    equations = (
        ("the router received {} events and ended, or owes, {}", received, account.ended + owed, True),
        (
            "the router forwarded {} events, the loader took, or has waiting, {}",
            account.forwarded,
            counts.live + live,
            view.queue.exact and before.exact,
        ),
        (
            "the loader took {} events and ended, or set aside, {}",
            counts.live + counts.replayed + counts.made,
            counts.total + aside,
            view.aside.exact,
        ),
    )
    return Balance(
        connection=connection,
        site=site,
        received=received - elsewhere,
        replayed=counts.replayed + view.queue.replayed - begun_again + before.replayed,
        made=counts.made + again.events,
        delivered=counts.delivered,
        dropped={
            reason: amount
            for reason, amount in _both(_both(account.dropped, counts.dropped), counts.functions_dropped).items()
            if reason != DropReason.OTHER_SHARD
        },
        dead=_both(_both(account.dead, counts.dead), counts.functions_dead),
        waiting={
            "events": owed,
            "functions": view.functions.events,
            "queue": view.queue.events - begun - begun_again,
            "aside": aside,
        },
        exact=view.queue.exact and view.aside.exact and before.exact and again.exact,
        problems=[words.format(left, right) for words, left, right, exact in equations if exact and left != right],
    )


def _both(one: dict[str, int], two: dict[str, int]) -> dict[str, int]:
    return {reason: one.get(reason, 0) + two.get(reason, 0) for reason in sorted({*one, *two})}
