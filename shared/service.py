"""The life of a service: start, run, drain, stop.

`run_service` sets the process up (uvloop, logs, signals, garbage collector), opens what every service needs (broker, topology,
project, telemetry, the admin page) and calls the service's `main` with a `ServiceContext`. The first SIGTERM or SIGINT sets
`context.draining`: `main` finishes its work and returns. After three quarters of the drain period, or at a second signal, `main`
is cancelled. At the end of the period the process ends in any case.

`/live` answers 200 while the loop turns, `/ready` 200 when every part is, else 503, with reasons and warnings, `/metrics` in
Prometheus' form; on an admin address, apart from every public one.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import msgspec
import uvloop
from aiohttp import web
from nats.errors import Error as NatsError

from shared.clock import Clock
from shared.errors import UNREADABLE, ConfigError, Problem
from shared.forget.ids import Forgotten
from shared.forget.listing import follow_forgotten
from shared.jetstream import topology
from shared.jetstream.address import parse_address, without_password
from shared.jetstream.broker import Broker, connect
from shared.project.snapshot import ConfigWatcher, watch_config
from shared.settings import ServiceSettings, read_settings
from shared.streams.fill import watch_fill
from shared.streams.reports import keep_report
from shared.tasks import task_group, timeout
from shared.telemetry import logs
from shared.telemetry.health import Health
from shared.telemetry.metrics import Telemetry
from shared.warnings.writer import WarningsWriter

EXIT_CONFIG = 78
"""Exit code for wrong settings (sysexits.h EX_CONFIG): a supervisor need not try again at once."""

PATIENCE_SECONDS = 3.0
"""How long a service that can do without the broker waits for it at the start."""

LOOK_SECONDS = 5.0
"""How often a service looks whether all streams are there."""

ROUTER = "router"
"""The service that makes streams where each service is a user of the broker by its own name."""
ROUTER_SECONDS = 10.0
"""How long such a user leaves it to a router, before it asks for what the broker denies."""

_M_ARENA_MAX = -8
"""malloc.h of glibc."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServiceContext:
    """The argument of a service's `main`."""

    name: str
    instance: str
    """Unique to this process, for people and for message ids."""
    settings: ServiceSettings
    broker: Broker
    config: ConfigWatcher
    telemetry: Telemetry
    health: Health
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    clock: Clock = field(default_factory=Clock)
    forgotten: Forgotten = field(default_factory=Forgotten)
    """Ids whose events every stage leaves out."""


Main = Callable[[ServiceContext], Awaitable[None]]


def run_service(name: str, main: Main, *, needs_broker: bool = True) -> None:
    """Runs a service until it is told to stop, and exits the process.

    Args:
        needs_broker: False: if the broker is away at the start and the last good project is in the cache folder, `main` is called
            without a broker, and the service connects later.
    """
    try:
        settings = read_settings(ServiceSettings)
    except ConfigError as exc:
        sys.stderr.write(f"{name}: {exc}\n")
        raise SystemExit(EXIT_CONFIG) from exc
    logs.configure(name, settings.log_level, settings.log_format)
    wrong: list[ConfigError] = []
    try:
        uvloop.run(_live(name, settings, main, needs_broker))
    except* ConfigError as failures:  # a group, because `main` runs beside other tasks
        wrong.extend(_leaves(failures))
    if wrong:
        log.error("cannot start", extra={"error": "; ".join(str(each) for each in wrong)})
        raise SystemExit(EXIT_CONFIG)


def _leaves(group: BaseExceptionGroup[ConfigError]) -> Iterator[ConfigError]:
    for each in group.exceptions:
        if isinstance(each, BaseExceptionGroup):
            yield from _leaves(each)
        else:
            yield each


async def _live(name: str, settings: ServiceSettings, main: Main, needs_broker: bool) -> None:
    draining, begun = asyncio.Event(), asyncio.Event()
    task: asyncio.Task[None] | None = None

    def stop() -> None:
        if draining.is_set() or not begun.is_set():
            log.warning("second signal, stopping now" if begun.is_set() else "stopping before it began, it holds nothing")
            if task is not None:
                task.cancel()
            return
        log.info("draining")
        draining.set()
        if task is not None:
            seconds = float(settings.drain_period)
            asyncio.get_running_loop().call_later(seconds * 0.75, task.cancel)
            asyncio.get_running_loop().call_later(seconds, os._exit, 1)

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    task = asyncio.create_task(
        _serve(name=name, settings=settings, main=main, draining=draining, begun=begun, needs_broker=needs_broker), name=name
    )
    with contextlib.suppress(asyncio.CancelledError):
        await task
    log.info("stopped")


async def _serve(
    name: str, settings: ServiceSettings, main: Main, draining: asyncio.Event, begun: asyncio.Event, needs_broker: bool
) -> None:
    instance = f"{name}-{socket.gethostname()}-{os.getpid()}"
    health = Health()
    telemetry = Telemetry(name, settings, instance)
    try:
        async with (
            admin_server(settings, health, telemetry) as port,
            connect(settings.nats_url, instance, wait=False) as broker,
            watch_config(broker, settings.cache_dir, health) as config,
            follow_forgotten(broker) as (forgotten, complete),
        ):
            if settings.cache_dir is not None:
                cache = settings.cache_dir
                health.write_to(lambda: {"the last good project": cache})
            health.look_before_report(lambda: _say_connected(health, broker, settings))
            late = await _wait_for_broker(broker, None if needs_broker or not config.loaded.is_set() else PATIENCE_SECONDS)
            if not late:
                await _ensure_topology(broker, name, settings, health)
                health.good("streams")
                await complete.wait()
            context = ServiceContext(
                name=name,
                instance=instance,
                settings=settings,
                broker=broker,
                config=config,
                telemetry=telemetry,
                health=health,
                draining=draining,
                forgotten=forgotten,
            )
            health.good("service")
            log.info("started", extra={"instance": instance, "admin_port": port, "pid": os.getpid()})
            async with task_group() as group:
                tasks = [
                    group.create_task(_watch_broker(context)),
                    group.create_task(_keep_topology(context, missing=late)),
                    group.create_task(_warn(context)),
                    group.create_task(watch_fill(broker, health, telemetry, settings.events_when_short)),
                    group.create_task(keep_report(broker, health, name, instance), name="health-report"),
                ]
                if late:
                    log.warning("the broker is away, going on with the last good project")
                _calm_memory()
                begun.set()
                try:
                    await main(context)
                finally:
                    for task in tasks:
                        task.cancel()
    finally:
        telemetry.shutdown()


async def _wait_for_broker(broker: Broker, seconds: float | None) -> bool:
    """Waits for the first connection; returns whether it is still missing after `seconds`."""
    try:
        async with timeout(seconds):
            await broker.connected.wait()
    except TimeoutError:
        return True
    return False


def _say_connected(health: Health, broker: Broker, settings: ServiceSettings) -> None:
    if broker.denied:
        remedy = "allow it in the broker's users.conf, then restart the service"
        health.warn("permissions", f"the broker denies this service: {broker.denied}; {remedy}")
    else:
        health.good("permissions")
    if broker.nc.is_connected:
        health.good("broker")
    else:
        health.bad("broker", f"no connection to {without_password(settings.nats_url)}: {broker.trouble or 'no answer yet'}")


async def _ensure_topology(broker: Broker, name: str, settings: ServiceSettings, health: Health) -> None:
    may_make = name == ROUTER or parse_address(settings.nats_url).user != name
    while True:
        await broker.connected.wait()
        if not may_make:
            await _leave_it_to_a_router(broker, health)
        try:
            return await topology.ensure(broker, settings.topology(), widen=may_make)
        except Exception as exc:  # noqa: BLE001  # whatever the broker says at start, it may pass: no leader yet, no room yet
            if health.problems.get("streams") != (why := f"cannot be prepared: {exc}"):
                log.error("streams cannot be prepared", extra={"error": str(exc)})
            health.bad("streams", why)
            await asyncio.sleep(1)


async def _keep_topology(context: ServiceContext, *, missing: bool) -> None:
    """Ensures the topology after each reconnection: a broker that comes back may have lost its store, or be another one.

    A stream may also be deleted while the link stands, so it looks from time to time.
    """
    broker, again = context.broker, asyncio.Event()
    forget = broker.on_reconnect(again.set)
    try:
        while True:
            if not missing:
                with contextlib.suppress(TimeoutError):
                    async with timeout(LOOK_SECONDS):
                        await again.wait()
                if not again.is_set():
                    lacking = await _lacking(broker)
                    if not lacking:
                        continue
                    log.warning("the broker lacks streams; making them", extra={"streams": ", ".join(lacking)})
            again.clear()
            missing = False
            await _ensure_topology(broker, context.name, context.settings, context.health)
            context.health.good("streams")
    finally:
        forget()


async def _leave_it_to_a_router(broker: Broker, health: Health) -> None:
    with contextlib.suppress(TimeoutError):
        async with timeout(ROUTER_SECONDS):
            while lacking := await _lacking(broker):
                if not health.problems.get("streams"):
                    log.info("waits for a router to make streams", extra={"streams": ", ".join(lacking)})
                    health.bad("streams", f"waits for a router to make {', '.join(lacking)}")
                await asyncio.sleep(0.25)


async def _lacking(broker: Broker) -> list[str]:
    """Returns the streams that the broker lacks; none, if it does not say."""
    try:
        return await topology.missing(broker) if broker.nc.is_connected else []
    except (NatsError, OSError, TimeoutError, *UNREADABLE):
        return []  # the link tells when it is back


async def _warn(context: ServiceContext) -> None:
    writer = WarningsWriter(
        context.broker,
        context.telemetry,
        service=context.name,
        instance=context.instance,
        project=lambda: context.config.current.project,
        period_seconds=max(0.1, float(context.settings.warnings_period)),
    )
    await writer.run()


async def _watch_broker(context: ServiceContext) -> None:
    revision = -1
    while True:
        _say_connected(context.health, context.broker, context.settings)
        if context.config.current.revision != revision:
            revision = context.config.current.revision
            context.telemetry.gauge("config_revision", revision)
        await asyncio.sleep(1)


def _calm_memory() -> None:
    # Decoded events are short-lived and acyclic; the cyclic collector would walk everything that lives for nothing.
    gc.collect()
    gc.freeze()
    # Each thread that ever builds a batch keeps a heap of its own otherwise: a quarter of the loader's memory under load.
    with contextlib.suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)
    gc.set_threshold(100_000, 50, 1_000)


@contextlib.asynccontextmanager
async def admin_server(settings: ServiceSettings, health: Health, telemetry: Telemetry) -> AsyncIterator[int]:
    """Serves /live, /ready and /metrics; yields the port.

    Raises:
        ConfigError: the address cannot be bound.
    """

    async def live(_: web.Request) -> web.Response:
        return web.Response(text="live\n")

    async def ready(_: web.Request) -> web.Response:
        report = health.report()
        return web.Response(
            body=msgspec.json.encode(report), status=200 if report.ready else 503, content_type="application/json"
        )

    async def metrics(_: web.Request) -> web.Response:
        report = health.report()
        telemetry.gauge("service_ready", int(report.ready))
        telemetry.gauge("service_warnings", len(report.warnings))
        # of a thousand connections it takes a second or two
        body = await asyncio.to_thread(telemetry.exposition)
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    app = web.Application()
    app.router.add_get("/live", live)
    app.router.add_get("/ready", ready)
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site: web.BaseSite
    if settings.admin_fd is not None:
        site = web.SockSite(runner, socket.socket(fileno=settings.admin_fd))
    else:
        site = web.TCPSite(runner, settings.admin_host, settings.admin_port)
    try:
        try:
            await site.start()
        except OSError as exc:
            where = f"{settings.admin_host}:{settings.admin_port}"
            raise ConfigError([Problem("PENSTOCK_ADMIN_PORT", f"cannot listen on {where}: {exc.strerror}")]) from exc
        yield int(runner.addresses[0][1])
    finally:
        with contextlib.suppress(TimeoutError):
            async with timeout(2):
                await runner.cleanup()
