"""Shares the shards of connections out among the loaders (`shared/events/shares.py`); connections themselves do not move."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Protocol

from shared.errors import Transient
from shared.events.shares import LOOK_SECONDS, Shares
from shared.project.shards import connection_of_shard, shard_name
from shared.project.snapshot import ConfigSnapshot
from shared.service import ServiceContext

PREFIX = "loader-share"

log = logging.getLogger(__name__)


class Holding(Protocol):
    """The work on one shard in this process."""

    @property
    def holds(self) -> bool:
        """Whether this process has its lease."""
        ...

    def give_up(self) -> None:
        """Ends the work; after a moment this process asks for the lease again, as the others do meanwhile."""
        ...


async def keep_balanced(context: ServiceContext, loaders: Mapping[str, Holding]) -> None:
    """Looks for ever, while any connection has shards.

    Args:
        loaders: what this process works on or wants to, by connection.
    """
    shares = Shares(context.broker, PREFIX, context.instance)
    while True:
        snapshot = context.config.current
        groups = shared_connections(snapshot)
        if not groups:
            await context.config.changed(snapshot)
            continue
        for connection, names in groups.items():
            mine = [name for name in names if name in loaders and loaders[name].holds]
            try:
                if to := await shares.turn(connection, len(mine)):
                    log.info("gives a shard to another loader", extra={"connection": mine[-1], "to": to})
                    await shares.give(mine[-1], to)
                    loaders[mine[-1]].give_up()
            except Transient as exc:
                log.debug("shares cannot be noted", extra={"connection": connection, "error": str(exc)})
        await asyncio.sleep(LOOK_SECONDS)


def shared_connections(snapshot: ConfigSnapshot) -> dict[str, list[str]]:
    """Returns the shards that get events now, by connection; connections with one are left out. Pure."""
    connections = snapshot.project.connections
    return {
        name: [shard_name(name, number) for number in range(connection.shards)]
        for name, connection in connections.items()
        if connection.shards > 1
        and connection.enabled
        and shard_name(name, 1) in connections
        and connection_of_shard(name) == name
    }
