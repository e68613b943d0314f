"""Shows the accounts of connections and sites that left the project as metrics, and keeps their number bounded.

One of the routers does this (a lease). No router works on a removed site, so this one hands over the accounts of its connections,
under the site's lease, once the site's last router has ended (`shared/streams/removed.py`).
"""

from __future__ import annotations

import logging
import time
from typing import Final

from msgspec.structs import replace

from router.forwarding.account import removed_of
from router.forwarding.keeper import look_while_held
from router.forwarding.state import SiteState, StateKeeper, read_states
from shared.events.outcome import DropReason
from shared.events.shards import Shard, shard_of, site_of
from shared.jetstream.broker import Broker
from shared.jetstream.lease import hold
from shared.project.snapshot import ConfigSnapshot, current_snapshot, replaced_revision
from shared.service import ServiceContext
from shared.streams.ended import add_reasons
from shared.streams.removed import (
    KEPT,
    RemovedBalance,
    count_removed,
    fold,
    list_removed,
    note_removed,
    read_older,
    read_removed,
)
from shared.streams.waiting import look_ahead
from shared.tasks import timeout
from shared.telemetry.metrics import Telemetry

LEASE = "keeper.removed"
METRIC: Final = "account_removed_events"
PERIOD_SECONDS = 2.0
AGAIN_SECONDS = 60.0
"""A final account is looked at again after this time: a router that does not know the new project yet may send one more frame."""
LEASE_PATIENCE_SECONDS = 10.0
SHOWN_SITES = 100
OTHERS = "(others)"

log = logging.getLogger(__name__)


async def keep_removed(context: ServiceContext) -> None:
    """Keeps the accounts for ever, while this process holds the lease for it."""
    while True:
        async with hold(context.broker, LEASE, context.instance) as lease:
            keeper = Keeper(context.broker, context.telemetry, context.instance)
            try:
                await look_while_held(lease, "accounts of removed connections", PERIOD_SECONDS, keeper.run_once)
            finally:
                context.telemetry.forget(METRIC)  # the next holder shows them


class Keeper:
    """The knowledge of the lease's holder."""

    def __init__(self, broker: Broker, telemetry: Telemetry, instance: str) -> None:
        self._broker = broker
        self._telemetry = telemetry
        self._instance = instance
        self._settled: dict[str, RemovedBalance] = {}
        self._older = RemovedBalance()
        self._known = -1
        self._revision = -1
        self._sites: dict[str, tuple[int, int]] = {}
        """By removed site: the number of events it accepted, and how many of these wait in EVENTS."""
        self._again_at = 0.0

    async def run_once(self) -> None:
        """Looks at all accounts that may have changed, and shows them.

        Raises:
            NotConnected, Transient, Conflict, ConfigError: call it again.
        """
        snapshot = await current_snapshot(self._broker)
        now = time.monotonic()
        if now >= self._again_at or snapshot.revision != self._revision:
            self._settled.clear()
            await self._look_at_sites(snapshot)
            self._revision, self._known, self._again_at = snapshot.revision, -1, now + AGAIN_SECONDS
        count = await count_removed(self._broker)
        if count == self._known and len(self._settled) == count:
            return
        older = await read_older(self._broker)
        found: list[RemovedBalance] = []
        for removed in await list_removed(self._broker):
            known = self._settled.get(removed.queue)
            found.append(known or await read_removed(self._broker, removed))
            if found[-1].settled:
                self._settled[removed.queue] = found[-1]
        for balance in found[: max(0, len(found) - KEPT)]:
            if balance.settled or balance.queue in older.queues:
                await fold(self._broker, balance)
                self._settled.pop(balance.queue, None)
                log.info(
                    "the account of a removed connection is added to the sum of the older ones",
                    extra={"connection": balance.connection, "queue": balance.queue, "events": balance.received},
                )
        older, kept = await read_older(self._broker), await list_removed(self._broker)
        queues = {each.queue for each in kept} - set(older.queues)
        self._known = len(kept)
        self._show([*([older.sum] if older.queues else []), *(each for each in found if each.queue in queues)])

    async def _look_at_sites(self, snapshot: ConfigSnapshot) -> None:
        gone = {
            name: state
            for name, state in (await read_states(self._broker, damaged=True)).items()
            if site_of(name) not in snapshot.project.every_site
        }
        self._sites = {}
        for name, state in gone.items():
            if state.accounts and all(_is_older(name, state, snapshot) for name in state.accounts):
                try:
                    async with timeout(LEASE_PATIENCE_SECONDS), hold(self._broker, f"router.{name}", self._instance):
                        await self._hand_over(site_of(name), shard_of(name))
                except TimeoutError:  # its router is still ending
                    self._revision = -1
            site, ended = site_of(name), bool(state.until) and state.position + 1 >= state.until
            waiting = 0 if ended else (await look_ahead(self._broker, site, state.position)).events
            before, waited = self._sites.get(site, (0, 0))
            self._sites[site] = (before + state.accepted, max(waited, waiting))

    async def _hand_over(self, site: str, shard: Shard) -> None:
        """Hands over the accounts of a removed site, or of one of its shards; the caller holds its lease."""
        keeper = StateKeeper(self._broker, site, shard)
        state = await keeper.load()
        if state is None:
            return
        for name, account in state.accounts.items():
            owed = state.behind[name].owed if name in state.behind else 0
            removed = removed_of(site, name, account, state.accepted)
            dropped = add_reasons(removed.dropped, {DropReason.REMOVED.value: owed} if owed else {})
            await note_removed(self._broker, replace(removed, dropped=dropped), part=shard.lane)
        await keeper.save(replace(state, accounts={}, behind={}, connections=[], lives={}))

    def _show(self, found: list[RemovedBalance]) -> None:
        telemetry = self._telemetry
        telemetry.forget(METRIC)  # nothing is awaited until all gauges are set again
        for each in found:
            amounts = {
                ("received", ""): each.received,
                ("replayed", ""): each.replayed,
                ("made", ""): each.made,
                ("delivered", ""): each.delivered,
                ("waiting", ""): each.waiting,
                **{("dropped", reason): amount for reason, amount in each.dropped.items()},
                **{("dead", reason): amount for reason, amount in each.dead.items()},
            }
            for (fate, reason), amount in amounts.items():
                telemetry.gauge(
                    METRIC, amount,
                    site=each.site, connection=each.connection, incarnation=each.incarnation, fate=fate, reason=reason,
                )  # fmt: skip
        sites = sorted(self._sites.items())
        shown, others = sites[:SHOWN_SITES], [amounts for _, amounts in sites[SHOWN_SITES:]]
        if others:
            shown.append((OTHERS, (sum(each for each, _ in others), sum(each for _, each in others))))
        for site, (accepted, unrouted) in shown:
            for fate, amount in (("accepted", accepted), ("unrouted", unrouted)):
                telemetry.gauge(METRIC, amount, site=site, connection="", incarnation="", fate=fate, reason="")


def _is_older(name: str, state: SiteState, snapshot: ConfigSnapshot) -> bool:
    """Whether a connection began before the revision that lacks its site; else a later revision has the site again."""
    return replaced_revision(state.accounts[name].queue.partition(".")[2]) < snapshot.revision
