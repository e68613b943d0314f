"""Shares the shards of a site out evenly among the routers: a router that has two more than another gives one up.

Each router notes every few seconds how many it has, under a key that expires. A router that joins has none, and gets some; the window
of a shard that moves is filled again from EVENTS. Sites themselves do not move: only shards exist to be shared.

All routers wait for the lease of a shard that is given up. A note that expires says whom it is for; another one that gets it gives it back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from hashlib import blake2s
from typing import Protocol

from router.layouts import Layouts
from shared.errors import Transient
from shared.events.shards import Shard
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.service import ServiceContext

LOOK_SECONDS = 2.0
NOTED_SECONDS = 6.0
GIVEN_SECONDS = 5.0

log = logging.getLogger(__name__)


class Holding(Protocol):
    """The work on one shard in this process."""

    @property
    def holds(self) -> bool:
        """Whether this process has its lease."""
        ...

    def give_up(self) -> None:
        """Ends the work in order; after a moment this process asks for the lease again, as the others do meanwhile."""
        ...


async def keep_balanced(context: ServiceContext, layouts: Layouts, shards: Mapping[str, Holding]) -> None:
    """Looks for ever, while any site has shards.

    Args:
        shards: what this process works on or wants to, by name (`Shard.key`).
    """
    me = name_of(context.instance)
    while True:
        sites = [site for site, layout in layouts.known.items() if layout.present > 1]
        if not sites:
            await layouts.changed()
            continue
        for site in sites:
            layout = layouts.known[site]
            names = [Shard(number, layout.present).key(site) for number in range(layout.present)]
            mine = [name for name in names if name in shards and shards[name].holds]
            if names[0] in shards:  # else the site left the project
                try:
                    others = await _note(context.broker, site, me, len(mine))
                except Transient as exc:
                    log.debug("shares cannot be noted", extra={"site": site, "error": str(exc)})
                    continue
                if gives(me, len(mine), others):
                    to = min(others, key=lambda name: (others[name], name))
                    log.info("gives a shard to another router", extra={"site": site, "shard": mine[-1], "to": to})
                    with suppress(Transient):
                        bucket = Bucket(context.broker, topology.LEASE_BUCKET)
                        await bucket.put(f"keeper.given.{mine[-1]}", to.encode(), ttl_seconds=GIVEN_SECONDS)
                        shards[mine[-1]].give_up()
        await asyncio.sleep(LOOK_SECONDS)


def name_of(instance: str) -> str:
    """Returns the name of a router in these notes."""
    return blake2s(instance.encode(), digest_size=8).hexdigest()


async def is_for_another(broker: Broker, shard: str, me: str) -> bool:
    """Whether a shard, by name, was given up a moment ago for another router.

    Raises:
        NotConnected: the broker does not answer.
    """
    entry = await Bucket(broker, topology.LEASE_BUCKET).get(f"keeper.given.{shard}")
    return entry is not None and bool(entry.value) and entry.value != me.encode()


def gives(me: str, mine: int, others: Mapping[str, int]) -> bool:
    """Whether a router gives a shard up: it has most of all, and two more than another. Pure.

    Args:
        others: the number of shards of the other routers, by name.
    """
    if not others or mine < min(others.values()) + 2:
        return False
    return all((mine, me) > (count, name) for name, count in others.items())


async def _note(broker: Broker, site: str, me: str, count: int) -> dict[str, int]:
    bucket, prefix = Bucket(broker, topology.LEASE_BUCKET), f"keeper.shares.{site}."
    await bucket.put(prefix + me, str(count).encode(), ttl_seconds=NOTED_SECONDS)
    entries = await bucket.entries(prefix)
    return {
        entry.key.removeprefix(prefix): int(entry.value)
        for entry in entries
        if entry.value and entry.value.isdigit() and not entry.key.endswith(me)
    }
