"""The loader as a service: one `ConnectionLoader` for every enabled connection of the applied project, one `SyncLoader` for every sync.

Every replica of this service tries for every connection and sync; the lease decides which one loads it. If the definition of a
connection, its site or its destination changes, the connection stops where it is and starts again; the others do not notice.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from loader.delivery.connection import ConnectionLoader
from loader.delivery.destinations import Destinations
from loader.delivery.flow import Definition
from loader.delivery.leftovers import Sweeper
from loader.forgetting.work import keep_forgetting
from loader.settings import PREFIX, LoaderSettings
from loader.syncs.definition import LEASES
from loader.syncs.definition import Definition as SyncDefinition
from loader.syncs.definition import definitions as sync_definitions
from loader.syncs.removed import sweep_removed
from loader.syncs.worker import SyncLoader
from loader.watch.balance import keep_balanced
from shared.errors import ConfigError, Problem
from shared.project.shards import connection_of_shard
from shared.project.snapshot import ConfigSnapshot
from shared.scratch import Scratch
from shared.service import ServiceContext
from shared.settings import read_settings
from shared.syncs.naming import known_as
from shared.tasks import task_group, together
from shared.threads import ThreadGate
from shared.workers import Workers, keep_on

THREADS = 8
_LOCAL = ("duckdb", "local")
"""Types of destinations whose `path` is on the disk of the loader."""


async def main(context: ServiceContext) -> None:
    """Loads every connection of the project until the service drains.

    Raises:
        ConfigError: a setting is wrong.
    """
    settings = read_settings(LoaderSettings, PREFIX)
    lease_seconds = float(settings.lease)
    claimed = {name.strip() for name in settings.claim.split(",")}
    if lease_seconds < 2:
        raise ConfigError([Problem(f"{PREFIX}LEASE", f"expected at least 2s, got {lease_seconds:g}s")])
    gate = ThreadGate(THREADS, "loader")
    scratch = Scratch(Path(settings.scratch_dir) if settings.scratch_dir else None, int(settings.scratch_max_bytes))
    await gate.run(scratch.clean)
    home = settings.scratch_dir or tempfile.gettempdir()
    context.health.write_to(lambda: {"scratch": home, **_folders_of(context.config.current)})
    destinations = Destinations(context.telemetry, scratch)
    sweeper = Sweeper(context, destinations)
    loaders: dict[str, ConnectionLoader] = {}

    def make(name: str, definition: Definition) -> ConnectionLoader:
        loaders[name] = ConnectionLoader(
            context=context,
            name=name,
            definition=definition,
            destinations=destinations,
            gate=gate,
            sweeper=sweeper,
            claims=bool({name, connection_of_shard(name)} & claimed),
            stuck_seconds=float(settings.stuck),
        )
        return loaders[name]

    connections: Workers[Definition] = Workers(
        context,
        what="connection",
        prefix="loader",
        lease_seconds=lease_seconds,
        wanted=definitions,
        make=make,
    )
    syncs: Workers[SyncDefinition] = Workers(
        context,
        what="sync",
        prefix=LEASES,
        lease_seconds=lease_seconds,
        wanted=sync_definitions,
        make=lambda name, definition: SyncLoader(
            context=context,
            name=name,
            definition=definition,
            destinations=destinations,
            gate=gate,
            claims=known_as(name) in claimed,
        ),
    )
    connections.bear("meanwhile the others load", syncs)
    try:
        async with task_group() as group:
            sweeping = [
                group.create_task(keep_on(context.health, name, work), name=name)
                for name, work in {
                    "sweep-removed": lambda: sweeper.sweep_removed(lease_seconds),
                    "sweep-removed-syncs": lambda: sweep_removed(context, lease_seconds),
                    "forget": lambda: keep_forgetting(context, destinations, lease_seconds),
                    "balance": lambda: keep_balanced(context, loaders),
                }.items()
            ]
            await together(connections.run(), syncs.run())
            for task in sweeping:
                task.cancel()
    finally:
        await gate.run(scratch.close)
        gate.close()


def _folders_of(snapshot: ConfigSnapshot) -> dict[str, str]:
    """Returns the folders of this machine that destinations write to, by purpose."""
    found = {
        name: options.get("path") for name, options in snapshot.project.destinations.items() if options.get("type") in _LOCAL
    }
    return {f"destination {name}": str(Path(path).expanduser()) for name, path in found.items() if isinstance(path, str)}


def definitions(snapshot: ConfigSnapshot) -> dict[str, Definition]:
    """Returns the definitions of all enabled connections."""
    project = snapshot.project
    return {
        name: Definition(
            connection, project.every_site[connection.site], project.destinations[connection.destination], snapshot.queue_of(name)
        )
        for name, connection in project.connections.items()
        if connection.enabled
    }
