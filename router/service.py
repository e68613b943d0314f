"""The router's process: it waits for the lease of every site of the project, and routes a site while it holds its lease.

Any number of routers may run. One router holds each site. If it dies, another takes the site over within the time of a lease; if
it drains, at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from router.alerts.keeper import keep_alerts
from router.archive.archiver import Archiver
from router.archive.older import Older
from router.forgetting.work import keep_forgetting
from router.forwarding.removed import keep_removed
from router.forwarding.shard import ShardView
from router.layouts import Layouts
from router.problems.copy import keep_copied
from router.replay.runs import keep_runs
from router.room.dead import keep_dead_room
from router.room.measured import keep_measured
from router.room.shed import keep_room
from router.rules.compiled import SiteRules, compile_project
from router.settings import RouterSettings
from router.shards.balance import is_for_another, keep_balanced
from router.shards.gauges import Parts, ShardTelemetry
from router.shards.keeper import keep_shards
from router.site import SiteRouter
from shared.archive.place import archive_of
from shared.errors import ConfigError, Problem
from shared.events.shards import shard_of
from shared.jetstream.lease import Lease
from shared.project.archive import ArchiveOptions, LocalArchive
from shared.project.snapshot import ConfigSnapshot
from shared.service import ServiceContext
from shared.settings import read_settings
from shared.tasks import first_of, task_group, together
from shared.threads import ThreadGate
from shared.workers import Workers, keep_on

THREADS = 2
"""For packing archives."""
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
    try:
        default = settings.archive
    except ValueError as exc:
        raise ConfigError([Problem("PENSTOCK_ROUTER_ARCHIVE_PERIOD", str(exc))]) from exc
    if settings.alerts_period < 0.2:
        told = f"expected at least 200ms, got {settings.alerts_period:g}s"
        raise ConfigError([Problem("PENSTOCK_ROUTER_ALERTS_PERIOD", told)])
    context.health.write_to(lambda: _folders_of(settings, archived_sites(context.config.current, default)))
    gate = ThreadGate(THREADS, "archive")
    layouts, parts = Layouts(context.health), Parts()
    older = Older(gate, lambda: archived_sites(context.config.current, default), health=context.health)
    shards: dict[str, _Site] = {}

    def make(key: str, rules: SiteRules) -> _Site:
        shards[key] = _Site(context=context, settings=settings, key=key, rules=rules, older=older, layouts=layouts, parts=parts)
        return shards[key]

    sites: Workers[SiteRules] = Workers(
        context,
        what="site",
        prefix="router",
        lease_seconds=float(settings.lease),
        wanted=lambda snapshot: {
            shard.key(site): rules
            for site, rules in compile_project(snapshot, context.forgotten).items()
            for shard in layouts.shards(site)
        },
        make=make,
        in_order=True,
        stagger_seconds=STAGGER_SECONDS,
        moved=layouts.changed,
    )
    archives: Workers[ArchiveOptions] = Workers(
        context,
        what="archive",
        prefix="archive",
        lease_seconds=float(settings.lease),
        wanted=lambda snapshot: archived_sites(snapshot, default),
        make=lambda site, options: Archiver(context, gate, site, options),
        in_order=True,
        stagger_seconds=STAGGER_SECONDS,
    )
    try:
        async with task_group() as group:
            keepers = [
                group.create_task(keep_on(context.health, name, work), name=name)
                for name, work in _beside(context, settings, layouts=layouts, older=older, gate=gate, shards=shards).items()
            ]
            await together(_route(context, layouts, sites), archives.run())
            for keeper in keepers:
                keeper.cancel()
    except BaseExceptionGroup as exc:
        raise first_of(exc) from exc
    finally:
        gate.close()


def _beside(
    context: ServiceContext,
    settings: RouterSettings,
    *,
    layouts: Layouts,
    older: Older,
    gate: ThreadGate,
    shards: Mapping[str, _Site],
) -> dict[str, Callable[[], Awaitable[None]]]:
    """Returns what a router does beside its sites, by name."""
    default = settings.archive
    return {
        "shed-events": lambda: keep_room(context, lambda: archived_sites(context.config.current, default)),
        "dead-room": lambda: keep_dead_room(context),
        "measured": lambda: keep_measured(context, settings.nats_monitor),
        "removed": lambda: keep_removed(context),
        "alerts": lambda: keep_alerts(context, settings),
        "runs": lambda: keep_runs(context, older),
        "wishes": lambda: older.wishes.follow(context.broker),
        "forget": lambda: keep_forgetting(
            context=context,
            gate=gate,
            lease_seconds=float(settings.lease),
            archived=lambda: archived_sites(context.config.current, default),
            place=lambda: archive_place(context.config.current, default),
        ),
        "problems": lambda: keep_copied(context),
        "shards": lambda: keep_shards(context, layouts),
        "layouts": lambda: layouts.follow(context.broker),
        "balance": lambda: keep_balanced(context, layouts, shards),
    }


async def _route(context: ServiceContext, layouts: Layouts, sites: Workers[SiteRules]) -> None:
    # a router that knew nothing of a site's shards would route all of it
    loading, draining = asyncio.ensure_future(layouts.load(context.broker)), asyncio.ensure_future(context.draining.wait())
    try:
        await asyncio.wait({loading, draining}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        loading.cancel()
        draining.cancel()
    if not context.draining.is_set():
        loading.result()  # raises what `load` raised
        await sites.run()


def _folders_of(settings: RouterSettings, archives: Mapping[str, ArchiveOptions]) -> dict[str, str]:
    """Returns the folders that this process writes to, and folders that the operator wants watched, by purpose."""
    named = {f"{folder} (PENSTOCK_ROUTER_DISKS)": folder for folder in settings.disks}
    places = {each.path for each in archives.values() if isinstance(each, LocalArchive)}
    return named | {f"the archive {path}": str(Path(path).expanduser()) for path in places}


def archived_sites(snapshot: ConfigSnapshot, default: ArchiveOptions | None) -> dict[str, ArchiveOptions]:
    """Returns where each archived site of a project is archived."""
    found = {site: archive_of(snapshot.project, site, default) for site in snapshot.project.sites}
    return {site: options for site, options in found.items() if options is not None}


def archive_place(snapshot: ConfigSnapshot, default: ArchiveOptions | None) -> ArchiveOptions | None:
    """Returns where a project archives; None: it does not say. Its sites do not matter."""
    archive = snapshot.project.archive
    return default if archive is None or archive == "off" else archive


class _Site:
    """The worker of one site, or of one of its shards: makes a new router each time it gets the lease."""

    def __init__(
        self,
        *,
        context: ServiceContext,
        settings: RouterSettings,
        key: str,
        rules: SiteRules,
        older: Older,
        layouts: Layouts,
        parts: Parts,
    ) -> None:
        self._older = older
        self._context = context
        self._settings = settings
        self._rules = rules
        self._changed = asyncio.Event()
        self._key = key
        self._part = f"site {key}"
        self.holds = False
        """Whether this process has its lease."""
        self._leaving = asyncio.Event()
        self._view = ShardView(context.broker, layouts, rules.site, shard_of(key))
        self._telemetry = context.telemetry if key == rules.site else ShardTelemetry(context.telemetry, parts, key)

    def change(self, definition: SiteRules) -> bool:
        """Takes new rules, which come into force soon."""
        self._rules = definition
        self._changed.set()
        return True

    def give_up(self) -> None:
        """Ends the work on it in order; after a moment this process asks for the lease again (`Holding`)."""
        self._leaving.set()

    async def work(self, lease: Lease, ending: asyncio.Event) -> None:
        if self._view.shard.of > 1 and await is_for_another(self._context.broker, self._key, self._context.instance):
            return
        self._context.health.bad(self._part, "filling its window of message ids")
        done = self._leaving = asyncio.Event()
        rules = self._rules
        router = SiteRouter(
            self._context.broker,
            rules,
            self._telemetry,
            self._settings,
            epoch=lease.epoch,
            on_ready=lambda: self._context.health.good(self._part),
            older=self._older,
            view=self._view,
            check_lease=lease.check,
            on_held=self._tell_held,
        )
        try:
            async with task_group() as group:
                helpers = [
                    group.create_task(_set_after(ending, done)),
                    group.create_task(self._follow(router, rules, done)),
                ]
                self.holds = True
                await router.run(done)
                for helper in helpers:
                    helper.cancel()
        except BaseExceptionGroup as exc:
            raise first_of(exc) from exc
        finally:
            self.holds = False

    def _tell_held(self, connection: str, why: str) -> None:
        shard = self._view.shard
        part = f"connection {connection}: shards" + (f" ({shard} of its site)" if shard.of > 1 else "")
        if why:
            self._context.health.warn(part, why)
        else:
            self._context.health.good(part)

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
