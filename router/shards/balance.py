"""Shares the shards of sites out among the routers (`shared/events/shares.py`); sites themselves do not move. The window of a shard
that moves is filled again from EVENTS.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Protocol

from router.layouts import Layouts
from shared.errors import Transient
from shared.events.shards import Shard
from shared.events.shares import LOOK_SECONDS, Shares
from shared.jetstream.broker import Broker
from shared.service import ServiceContext

PREFIX = "keeper"

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
    shares = Shares(context.broker, PREFIX, context.instance)
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
                    if to := await shares.turn(site, len(mine)):
                        log.info("gives a shard to another router", extra={"site": site, "shard": mine[-1], "to": to})
                        await shares.give(mine[-1], to)
                        shards[mine[-1]].give_up()
                except Transient as exc:
                    log.debug("shares cannot be noted", extra={"site": site, "error": str(exc)})
        await asyncio.sleep(LOOK_SECONDS)


async def is_for_another(broker: Broker, shard: str, instance: str) -> bool:
    """Whether a shard, by name, was given up a moment ago for another router.

    Raises:
        NotConnected: the broker does not answer.
    """
    return await Shares(broker, PREFIX, instance).is_for_another(shard)
