"""The router's process: for every site of the project it waits for the site's lease, and routes the site while it holds it.

Any number of routers may run; each site is with one of them, and moves to another within the time of a lease when that one dies,
at once when it is drained.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from router.lanes.removed import keep_removed
from router.room.dead import keep_dead_room
from router.room.shed import keep_room
from router.rules.compiled import SiteRules, compile_project
from router.settings import RouterSettings
from router.site import SiteRouter
from shared.errors import ConfigError, Fenced, PenstockError, Problem
from shared.jetstream.lease import Lease, hold
from shared.project.snapshot import ConfigSnapshot
from shared.service import ServiceContext
from shared.settings import read_settings
from shared.tasks import first_of, task_group, together

AGAIN_SECONDS = 1.0
STAGGER_SECONDS = 0.1
"""A router that has sites already waits so long for each before it asks for another, so that others get some."""

log = logging.getLogger(__name__)


async def serve(context: ServiceContext) -> None:
    """Runs until the service drains.

    Raises:
        ConfigError: a setting is wrong.
    """
    settings = read_settings(RouterSettings, "PENSTOCK_ROUTER_")
    if settings.lease < 2:
        raise ConfigError([Problem("PENSTOCK_ROUTER_LEASE", f"expected at least 2s, got {settings.lease:g}s")])
    await _Router(context, settings).run()


class _Router:
    """All sites of one process."""

    def __init__(self, context: ServiceContext, settings: RouterSettings) -> None:
        self._context = context
        self._settings = settings
        self._rules: dict[str, SiteRules] = {}
        self._sites: dict[str, _Site] = {}
        self._held: set[str] = set()

    async def run(self) -> None:
        context = self._context
        try:
            async with task_group() as group:
                following = group.create_task(self._follow(group), name="follow-config")
                keepers = [
                    group.create_task(keep_room(context), name="shed-events"),
                    group.create_task(keep_dead_room(context), name="dead-room"),
                    group.create_task(keep_removed(context), name="removed"),
                ]
                await context.draining.wait()
                following.cancel()
                for keeper in keepers:
                    keeper.cancel()
                for site in self._sites.values():
                    site.stop.set()
        except BaseExceptionGroup as exc:
            raise first_of(exc) from exc

    async def _follow(self, group: asyncio.TaskGroup) -> None:
        snapshot: ConfigSnapshot | None = None
        while True:
            if snapshot is None:
                await self._context.config.loaded.wait()
                snapshot = self._context.config.current
            else:
                snapshot = await self._context.config.changed(snapshot)
            try:
                rules = compile_project(snapshot)
            except ConfigError as exc:
                log.error(
                    "project cannot be routed, the last good one stays", extra={"revision": snapshot.revision, "error": str(exc)}
                )
                self._context.health.bad("project", f"revision {snapshot.revision} cannot be routed: {exc}")
                continue
            self._context.health.good("project")
            for name in [name for name in self._sites if name not in rules]:
                self._sites.pop(name).stop.set()
            for name, site_rules in rules.items():
                if name in self._sites:
                    self._sites[name].change(site_rules)
                else:
                    site = self._sites[name] = _Site(self._context, self._settings, site_rules, self._held)
                    group.create_task(site.run(), name=f"site-{name}")


class _Site:
    """One site: takes its lease again and again, and makes a router for each time."""

    def __init__(self, context: ServiceContext, settings: RouterSettings, rules: SiteRules, held: set[str]) -> None:
        self._context = context
        self._settings = settings
        self._rules = rules
        self._changed = asyncio.Event()
        self._held = held
        self._part = f"site {rules.site}"
        self._free = asyncio.Event()
        self._free.set()
        self.stop = asyncio.Event()

    def change(self, rules: SiteRules) -> None:
        """Puts new rules in force, soon."""
        self._rules = rules
        self._changed.set()

    async def run(self) -> None:
        """Until told to stop, or the site leaves the project."""
        site = self._rules.site
        with contextlib.suppress(_StoppedError):
            await together(self._route_again_and_again(site), self._raise_when_stopped())
        self._context.health.good(self._part)

    async def _raise_when_stopped(self) -> None:
        await self.stop.wait()
        # only waiting for the lease is cut short; a router that has the site ends in order
        await self._free.wait()
        raise _StoppedError

    async def _route_again_and_again(self, site: str) -> None:
        while not self.stop.is_set():
            failure = ""
            await asyncio.sleep(STAGGER_SECONDS * len(self._held))
            try:
                async with hold(
                    self._context.broker, f"router.{site}", self._context.instance, float(self._settings.lease)
                ) as lease:
                    self._free.clear()
                    self._held.add(site)
                    await self._route(lease)
            except Fenced as exc:
                log.warning("site is left to another router", extra={"site": site, "error": str(exc)})
            except PenstockError as exc:
                failure = str(exc)
                log.error("routing of a site failed, beginning again", extra={"site": site, "error": failure})
            except Exception as exc:  # a defect, or a state of a later version: the other sites of this process go on
                failure = f"{type(exc).__name__}: {exc}"
                log.exception("routing of a site failed, beginning again", extra={"site": site})
            finally:
                self._held.discard(site)
                self._context.health.good(self._part)
                self._free.set()
            if failure:
                self._context.health.bad(self._part, f"begins again after a failure: {failure}")
            if not self.stop.is_set():
                await asyncio.sleep(AGAIN_SECONDS)
            # another router may have the site by now
            self._context.health.good(self._part)

    async def _route(self, lease: Lease) -> None:
        """Routes while the lease lasts; ends in order when told to stop, and at once when the lease is lost."""
        self._context.health.bad(self._part, "filling its window of message ids")
        ending = asyncio.Event()
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
                    group.create_task(self._end_when_stopped(ending)),
                    group.create_task(self._follow(router, rules, ending)),
                    group.create_task(self._raise_when_lost(lease)),
                ]
                await router.run(ending)
                for helper in helpers:
                    helper.cancel()
        except BaseExceptionGroup as exc:
            raise first_of(exc) from exc

    async def _raise_when_lost(self, lease: Lease) -> None:
        await lease.lost.wait()
        raise Fenced(f"the lease {lease.name} is lost")

    async def _end_when_stopped(self, ending: asyncio.Event) -> None:
        await self.stop.wait()
        ending.set()

    async def _follow(self, router: SiteRouter, rules: SiteRules, ending: asyncio.Event) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._rules.dedupe_seconds != rules.dedupe_seconds:
                ending.set()
                return
            await router.apply(self._rules)


class _StoppedError(Exception):
    """The site was told to stop."""
