"""The runner as a service: one worker for every enabled feed of the applied project.

Every replica tries for every feed; the lease decides which one follows it. Without feeds it only watches the project.
"""

from __future__ import annotations

from connector_runner.feeds.definition import Definition, definitions
from connector_runner.feeds.worker import FeedWorker
from connector_runner.settings import PREFIX, ConnectorSettings
from shared.errors import ConfigError, Problem
from shared.service import ServiceContext
from shared.settings import read_settings
from shared.workers import Workers


async def main(context: ServiceContext) -> None:
    """Follows the feeds of the project until the service drains.

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
    feeds.bear("meanwhile the other feeds go on")
    await feeds.run()
