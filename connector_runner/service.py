"""The runner as a service: one worker for every enabled feed and every enabled sync of the applied project.

Every replica tries for each; the lease decides which one has it. Without feeds and syncs it only watches the project.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from connector_runner.feeds.definition import Definition, definitions
from connector_runner.feeds.worker import FeedWorker
from connector_runner.programs.folders import sweep
from connector_runner.settings import PREFIX, ConnectorSettings
from connector_runner.syncs.attempt import Definition as SyncDefinition
from connector_runner.syncs.worker import SyncWorker
from connector_runner.syncs.worker import definitions as sync_definitions
from shared.errors import ConfigError, Problem
from shared.service import ServiceContext
from shared.settings import read_settings
from shared.tasks import together
from shared.workers import Workers

log = logging.getLogger(__name__)


async def main(context: ServiceContext) -> None:
    """Follows the feeds, and runs the syncs, of the project until the service drains.

    Raises:
        ConfigError: a setting is wrong.
    """
    settings = read_settings(ConnectorSettings, PREFIX)
    if settings.lease < 2:
        raise ConfigError([Problem(f"{PREFIX}LEASE", f"expected at least 2s, got {settings.lease:g}s")])
    feeds: Workers[Definition] = Workers(
        context,
        what="feed",
        prefix="feed",
        lease_seconds=float(settings.lease),
        wanted=definitions,
        make=lambda name, definition: FeedWorker(context, name, definition),
    )
    if left := await asyncio.to_thread(sweep):
        log.warning("folders of connectors that were killed with their runner are removed", extra={"folders": left})
    cache = cache_folder(settings.cache_dir)
    context.health.write_to(lambda: {"the cache of connectors": str(cache)})
    syncs: Workers[SyncDefinition] = Workers(
        context,
        what="sync",
        prefix="sync",
        lease_seconds=float(settings.lease),
        wanted=sync_definitions,
        make=lambda name, definition: SyncWorker(context, name, definition, cache),
    )
    feeds.bear("meanwhile the other feeds and syncs go on", syncs)
    await together(feeds.run(), syncs.run())


def cache_folder(setting: str) -> Path:
    """Returns the folder of installed connectors, as an absolute path; `setting` may be empty."""
    return Path(setting or Path.home() / ".cache" / "penstock" / "connectors").absolute()
