"""The router's process: it waits for the lease of every site of the project, and routes a site while it holds its lease.

Any number of routers may run. One router holds each site. If it dies, another takes the site over within the time of a lease; if
it drains, at once.
"""

from __future__ import annotations

import asyncio

from router.forwarding.removed import keep_removed
from router.room.dead import keep_dead_room
from router.room.shed import keep_room
from router.rules.compiled import SiteRules, compile_project
from router.settings import RouterSettings
from router.site import SiteRouter
from shared.errors import ConfigError, Problem
from shared.jetstream.lease import Lease
from shared.service import ServiceContext
from shared.settings import read_settings
from shared.tasks import first_of, task_group
from shared.workers import Workers

STAGGER_SECONDS = 0.1
"""How long a router waits, for each site that it has, before it asks for another; so the others get some."""


async def serve(context: ServiceContext) -> None:
    """Runs until the service drains.

    Raises:
        ConfigError: a setting is wrong.
    """
    settings = read_settings(RouterSettings, "PENSTOCK_ROUTER_")
    if settings.lease < 2:
        raise ConfigError([Problem("PENSTOCK_ROUTER_LEASE", f"expected at least 2s, got {settings.lease:g}s")])
    sites: Workers[SiteRules] = Workers(
        context,
        what="site",
        prefix="router",
        lease_seconds=float(settings.lease),
        wanted=compile_project,
        make=lambda site, rules: _Site(context, settings, site, rules),
        in_order=True,
        stagger_seconds=STAGGER_SECONDS,
    )
    try:
        async with task_group() as group:
            keepers = [
                group.create_task(keep_room(context), name="shed-events"),
                group.create_task(keep_dead_room(context), name="dead-room"),
                group.create_task(keep_removed(context), name="removed"),
            ]
            await sites.run()
            for keeper in keepers:
                keeper.cancel()
    except BaseExceptionGroup as exc:
        raise first_of(exc) from exc


class _Site:
    """The worker of one site: makes a new router each time it gets the lease."""

    def __init__(self, context: ServiceContext, settings: RouterSettings, site: str, rules: SiteRules) -> None:
        self._context = context
        self._settings = settings
        self._rules = rules
        self._changed = asyncio.Event()
        self._part = f"site {site}"

    def change(self, definition: SiteRules) -> bool:
        """Takes new rules, which come into force soon."""
        self._rules = definition
        self._changed.set()
        return True

    async def work(self, lease: Lease, ending: asyncio.Event) -> None:
        self._context.health.bad(self._part, "filling its window of message ids")
        done = asyncio.Event()
        rules = self._rules
        router = SiteRouter(
            self._context.broker,
            rules,
            self._context.telemetry,
            self._settings,
            epoch=lease.epoch,
            on_ready=lambda: self._context.health.good(self._part),
        )
        try:
            async with task_group() as group:
                helpers = [
                    group.create_task(_set_after(ending, done)),
                    group.create_task(self._follow(router, rules, done)),
                ]
                await router.run(done)
                for helper in helpers:
                    helper.cancel()
        except BaseExceptionGroup as exc:
            raise first_of(exc) from exc

    async def _follow(self, router: SiteRouter, rules: SiteRules, done: asyncio.Event) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._rules.dedupe_seconds != rules.dedupe_seconds:
                done.set()
                return
            await router.apply(self._rules)


async def _set_after(first: asyncio.Event, then: asyncio.Event) -> None:
    await first.wait()
    then.set()
