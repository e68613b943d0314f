"""The state of a site with shards as one: the sum of its shards', for people and alerts."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from router.forwarding.account import Account
from router.forwarding.state import Mark, SiteState, StateKeeper, state_key
from shared.events.shards import Layout, Shard, read_layout, shard_of, site_of
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.streams.ended import add_reasons


async def read_site_state(broker: Broker, site: str) -> SiteState:
    """Returns the state of a site, of all its shards together; an empty one if it was never routed.

    Raises:
        NotConnected: the broker does not answer.
        msgspec.MsgspecError: a state cannot be read.
    """
    layout = await read_layout(broker, site)
    if layout is None:
        return await StateKeeper(broker, site).load() or SiteState()
    return await read_summed(broker, site, layout)


async def read_summed(broker: Broker, site: str, layout: Layout) -> SiteState:
    """As `read_site_state`, of a site with a known layout."""
    keys = {state_key(site, shard): shard for shard in layout.shards}
    entries = await Bucket(broker, topology.STATE_BUCKET).get_many(list(keys))
    states = {
        keys[key]: msgspec.json.decode(entry.value, type=SiteState) for key, entry in entries.items() if entry.value is not None
    }
    for shard in layout.shards:
        own = layout.next_range(shard, 1)
        if shard not in states and own is not None:  # no router has begun it
            states[shard] = SiteState(
                incarnation=layout.incarnation, position=own.first - 1, at_seconds=own.at_seconds, until=layout.until(shard)
            )
    return add_up(states)


def summed_of(states: Mapping[str, SiteState], site: str) -> SiteState | None:
    """Returns the state of a site out of the states of all sites and shards, by name; None: it was never routed. Pure."""
    mine = {shard_of(name): state for name, state in states.items() if site_of(name) == site}
    return add_up(mine) if mine else None


def has_ended(state: SiteState) -> bool:
    """Whether a shard has handed out its last frame. Pure."""
    return bool(state.until) and state.position + 1 >= state.until


def add_up(states: Mapping[Shard, SiteState]) -> SiteState:
    """Returns the sum of the states of a site's shards. The position is that of the shard that is furthest back. Pure."""
    if len(states) == 1:
        return next(iter(states.values()))
    every = list(states.values())
    moving = [state for state in every if not has_ended(state)] or every
    last = min(moving, key=lambda state: state.position)
    accepted = sum(state.accepted for state in every)
    accounts: dict[str, Account] = {}
    behind: dict[str, Mark] = {}
    for state in every:
        for name, account in state.accounts.items():
            mine = _settled(account, state.accepted)
            accounts[name] = _both(accounts[name], mine) if name in accounts else mine
        for name, mark in state.behind.items():
            behind[name] = _first(behind[name], mark) if name in behind else mark
    for name, account in accounts.items():
        if account.left is None:  # then its events are counted from all that the site accepted
            without = sum(state.accepted for state in every if name not in state.accounts)
            accounts[name] = replace(account, absent=account.absent + without)
    return replace(
        last,
        accepted=accepted,
        accounts=accounts,
        behind=behind,
        connections=sorted({name for state in every for name in state.connections or ()}),
        lives={},
    )


def _settled(account: Account, accepted: int) -> Account:
    """Returns an account with all that the shard accepted while the connection was not there as absent."""
    return account if account.left is None else replace(account, absent=account.absent + accepted - account.left, left=None)


def _both(one: Account, other: Account) -> Account:
    return Account(
        queue=one.queue,
        absent=one.absent + other.absent,
        left=None,
        began=min(one.began, other.began),
        backfilled=one.backfilled + other.backfilled,
        forwarded=one.forwarded + other.forwarded,
        dropped=add_reasons(one.dropped, other.dropped),
        dead=add_reasons(one.dead, other.dead),
    )


def _first(one: Mark, other: Mark) -> Mark:
    first, second = (one, other) if one.seq <= other.seq else (other, one)
    return replace(
        first, owed=one.owed + other.owed, why=first.why or second.why, at_seconds=min(one.at_seconds, other.at_seconds)
    )
